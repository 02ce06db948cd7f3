"""The routes of requests. What an operator looks at: `pages`."""

from fastapi import APIRouter, Request
from fastapi.responses import RedirectResponse, Response

from aps.service.access import Identified
from aps.service.requests import Requests
from aps.service.wire import RequestState, encode

HEAD = "aps.head"  # in the scope of a GET that was a HEAD

router = APIRouter()


@router.get("/requests/{id}", include_in_schema=False)
async def request_state(request: Request, id: str, role: Identified) -> Response:
    """Where a request stands, or how it ended. The document: `openapi`."""
    return _json(_requests(request).state(id, role, told=HEAD not in request.scope))


@router.delete("/requests/{id}", include_in_schema=False)
async def cancel_request(request: Request, id: str, role: Identified) -> Response:
    """End a request. What it did not use is given back. The document: `openapi`."""
    return _json(_requests(request).cancel(id, role))


@router.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    """To the page that documents the service."""
    return RedirectResponse("/docs")


def _requests(request: Request) -> Requests:
    requests: Requests = request.app.state.requests
    return requests


def _json(state: RequestState) -> Response:
    return Response(encode(state), media_type="application/json")

"""Every "no" on the wire: one JSON shape, one status for each reason."""

import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from aps.driver import DriverError
from aps.service.schemas import Error, ErrorAnswer

log = logging.getLogger(__name__)

STATUS = {
    "exceeds_context": 400,
    "exceeds_kv_cache": 400,
    "exceeds_kv_share": 400,
    "exceeds_burst": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "unknown_tenant": 404,
    "body_too_slow": 408,
    "body_too_large": 413,
    "invalid": 422,
    "over_rate": 429,
    "tenant_queue_full": 429,
    "tenant_queue_tokens_full": 429,
    "cancelled": 409,
    "conflict": 409,
    "backend_failed": 502,
    "queue_full": 503,
    "queue_tokens_full": 503,
    "draining": 503,
    "deadline_expired": 504,
}

# The rest of a late body must not be taken for a request; after a 500 the server ends the connection.
ENDS_CONNECTION = (408, 500)

# What the OpenAPI document says about each status of POST /infer.
MEANING = {
    400: "It can never be admitted: the reason, the burst, and the largest `max_tokens` that would do.",
    401: "No key, or one that is not known.",
    403: "The key does not allow it.",
    404: "No such tenant.",
    408: "The body did not arrive in time.",
    409: "It was cancelled by another request.",
    413: "The body is larger than the service takes.",
    422: "The body is wrong; `field` names what.",
    429: "The tenant is over its rate or its queue is full. `Retry-After` is computed.",
    500: "The service itself failed.",
    502: "The backend failed.",
    503: "The service is overloaded or draining. `Retry-After` is computed.",
    504: "The deadline passed before it started.",
}


DRAINING_RETRY_S = 1.0  # of the caller's clock; nobody knows when a draining service is back


class Refusal(Exception):
    """An answer that is no. Raised anywhere below a route; becomes the error's JSON."""

    def __init__(self, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status = STATUS[reason]
        self.error = Error(reason=reason, message=message, **details)


def draining() -> Refusal:
    """503 for a request that the end of the service cuts off."""
    return Refusal("draining", "the service stopped before this request ended", retry_after_s=DRAINING_RETRY_S)


def response(status: int, error: Error) -> Response:
    """The error as a response; with `retry_after_s`, a `Retry-After` of whole seconds, at least 1."""
    headers = {}
    if error.retry_after_s is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after_s)))
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="aps"'
    if status in ENDS_CONNECTION:
        headers["connection"] = "close"
    body = ErrorAnswer(error=error).model_dump_json(exclude_none=True)
    return Response(body, status, headers, media_type="application/json")


def invalid(error: ValidationError) -> Refusal:
    """The refusal for a body that does not fit its schema: the first thing wrong, by the field's name."""
    first = error.errors(include_url=False, include_context=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    if first["type"] == "json_invalid":
        return Refusal("invalid", f"the body is not JSON: {first['msg']}", field="body")
    message = first["msg"].removeprefix("Value error, ")
    if not field:
        return Refusal("invalid", message, field="prompt" if "prompt" in message else "body")
    return Refusal("invalid", f"{field}: {message}{_got(first['input'])}", field=field)


def install(app: FastAPI) -> None:
    """Give `app` the one error shape, for its own refusals and for the framework's."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(DriverError, _driver_failed)
    app.add_exception_handler(Exception, _crashed)


async def _refused(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return response(refusal.status, refusal.error)


async def _framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    answer = response(
        error.status_code, Error(reason=reason, message=f"{request.method} {request.url.path}: {error.detail}")
    )
    answer.headers.update(error.headers or {})
    return answer


async def _validation(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    return response(422, Error(reason="invalid", message=f"{field}: {first['msg']}", field=field))


async def _gone(_: Request, __: Exception) -> Response:
    """Nobody reads this; 499 is what others log for a client that hung up."""
    return Response(status_code=499)


async def _driver_failed(_: Request, error: Exception) -> Response:
    log.error("%s", error, exc_info=error.__cause__)
    return response(500, Error(reason="driver_failed", message="the service has failed and must be started again"))


async def _crashed(_: Request, __: Exception) -> Response:
    return response(500, Error(reason="internal", message="the service failed; its log says how"))


def _got(value: object) -> str:
    if value is None or isinstance(value, dict):
        return ""
    text = repr(value)
    return f", got {text if len(text) <= 60 else text[:57] + '...'}"

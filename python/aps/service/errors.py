"""Every "no" on the wire: one JSON shape, one status for each reason."""

import logging
import math
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match
from starlette.types import Scope

from aps.driver import DRAINING_RETRY_S, DriverError
from aps.service.wire import Error, ErrorAnswer, encode
from aps.service.wording import given, must_be, shown
from aps.verdicts import REASONS

log = logging.getLogger(__name__)

STATUS = {
    "exceeds_context": 400,
    "exceeds_kv_cache": 400,
    "exceeds_max_request": 400,
    "exceeds_kv_share": 400,
    "exceeds_burst": 400,
    "exceeds_queue": 400,
    "exceeds_tenant_queue": 400,
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "unknown_tenant": 404,
    "unknown_request": 404,
    "unknown_key": 404,
    "body_too_slow": 408,
    "head_too_slow": 408,
    "cancelled": 409,
    "conflict": 409,
    "body_too_large": 413,
    "invalid": 422,
    "over_request_rate": 429,
    "over_rate": 429,
    "tenant_queue_full": 429,
    "tenant_queue_tokens_full": 429,
    "head_too_large": 431,
    "driver_failed": 500,
    "internal": 500,
    "backend_failed": 502,
    "too_many_connections": 503,
    "queue_full": 503,
    "queue_tokens_full": 503,
    "pending_full": 503,
    "bodies_full": 503,
    "draining": 503,
    "store_unavailable": 503,
    "deadline_expired": 504,
}

# Those with which the scheduler is not asked; the others it counts itself, `draining` by who says it.
OWN = (
    *(reason for reason in STATUS if reason not in {*REASONS, "cancelled", "backend_failed"}),
    "not_found",
    "method_not_allowed",
)

# The rest of what was late or large must not be taken for a request; after a 500 the server ends the connection.
ENDS_CONNECTION = (408, 413, 431, 500)
CUTS_BODY = "bodies_full"  # so does this reason, of a body that has not come whole

# What the OpenAPI document says about each status of POST /infer.
MEANING = {
    400: "It can never be admitted: the reason, the burst, and the largest `max_tokens` that would do; "
    "or what came is no HTTP (`bad_request`).",
    401: "No key, or one that is not known.",
    403: "The key does not allow it.",
    404: "No such tenant.",
    408: "The head or the body did not arrive in time.",
    409: "It was cancelled by another request.",
    413: "The body is larger than the service takes.",
    422: "The body is wrong; `field` names what.",
    429: "The tenant is over one of its rates or its queue is full. `Retry-After` says when to try again.",
    431: "The head is larger than the service takes.",
    500: "The service itself failed.",
    502: "The backend failed.",
    503: "The service is overloaded or draining. `Retry-After` says when to try again.",
    504: "The deadline passed before it started.",
}

METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")

JSON = (b"content-type", b"application/json")
Headers = list[tuple[bytes, bytes]]


class Refusal(Exception):
    """An answer that is no. Raised anywhere below a route; becomes the error's JSON."""

    def __init__(self, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.status = STATUS[reason]
        self.error = Error(reason=reason, message=message, **details)

    def charged(self, tokens: float) -> "Refusal":
        """This, of a request that was admitted and has cost so much."""
        self.error.charge = tokens
        return self


def draining() -> Refusal:
    """503 for a request that the end of the service cuts off."""
    return Refusal("draining", "the service stopped before this request ended", retry_after_s=DRAINING_RETRY_S)


def internal(error: BaseException) -> Refusal:
    """500 for what nobody foresaw. It is logged; the caller does not learn what it was."""
    if isinstance(error, DriverError):
        log.error("%s", error, exc_info=error.__cause__)
        return Refusal("driver_failed", "the service has failed and must be started again")
    log.error("a request failed", exc_info=error)
    return Refusal("internal", "the service failed; its log says how")


def headers_of(status: int, error: Error) -> Headers:
    """With `retry_after_s`, a `Retry-After` of whole seconds, at least 1."""
    headers = [JSON]
    if error.retry_after_s is not None:
        headers.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
    if status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="aps"'))
    if status in ENDS_CONNECTION or error.reason == CUTS_BODY:
        headers.append((b"connection", b"close"))
    return headers


def response(scope: Scope, status: int, error: Error) -> Response:
    """The error as a response of the framework's, to be sent; it is counted."""
    scope["app"].state.traffic.refused[error.reason] += 1
    answer = Response(encode(ErrorAnswer(error)), status)
    answer.raw_headers += headers_of(status, error)
    return answer


def install(app: FastAPI) -> None:
    """Give `app` the one error shape, for its own refusals and for the framework's."""
    app.add_exception_handler(Refusal, _refused)
    app.add_exception_handler(HTTPException, _framework)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(DriverError, _driver_failed)
    app.add_exception_handler(Exception, _crashed)


async def _refused(request: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return response(request.scope, refusal.status, refusal.error)


async def _framework(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    reason = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    message = f"{request.method} {request.url.path}: {error.detail}"
    answer = response(request.scope, error.status_code, Error(reason=reason, message=message))
    answer.headers.update(error.headers or {})
    if error.status_code == 405:
        answer.headers["allow"] = ", ".join(_allowed(request))
    return answer


def _allowed(request: Request) -> list[str]:
    """The methods that the path takes. The framework names those of its first route alone; routes are asked, for not
    every kind of them has a list."""
    return [
        method
        for method in METHODS
        for asked in ("GET" if method == "HEAD" else method,)
        if any(route.matches({**request.scope, "method": asked})[0] is Match.FULL for route in request.app.routes)
    ]


async def _validation(request: Request, error: Exception) -> Response:
    """Of a parameter of the query: bodies are read by those who want them, and any path is a string."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = str(first["loc"][-1])
    operation = request.app.openapi()["paths"][request.scope["route"].path]["get"]
    schema = next(found["schema"] for found in operation["parameters"] if found["name"] == field)
    message = must_be(field, given(schema), shown(first["input"]))
    return response(request.scope, 422, Error(reason="invalid", message=message, field=field))


async def _gone(_: Request, __: Exception) -> Response:
    """Nobody reads this; 499 is what others log for a client that hung up."""
    return Response(status_code=499)


async def _driver_failed(request: Request, error: Exception) -> Response:
    refusal = internal(error)
    return response(request.scope, refusal.status, refusal.error)


async def _crashed(request: Request, _: Exception) -> Response:
    return response(request.scope, 500, Error(reason="internal", message="the service failed; its log says how"))

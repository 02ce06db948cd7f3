"""What a client may make the service hold and wait for: the size of a body, and the time that it takes to send."""

import asyncio

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aps.service.errors import Refusal, draining, response


class BodyLimit:
    """ASGI middleware. Answers 413 to a request whose body is larger than `max_bytes`, declared or sent."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app, self._max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if not declared.isdigit() or int(declared[:20]) > self._max_bytes:
            refusal = self._too_large()
            await response(refusal.status, refusal.error)(scope, receive, send)
            return
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise self._too_large()
            return message

        await self._app(scope, counted, send)

    def _too_large(self) -> Refusal:
        return Refusal("body_too_large", f"the body must be at most {self._max_bytes} bytes")


class BodyReader:
    """Reads bodies, each within `seconds` (wall), else 408; `stop` ends the wait for all that are not complete: 503."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._stopped = False
        self._reading: set[asyncio.Timeout] = set()

    async def read(self, request: Request) -> bytes:
        """The body. A Refusal when it does not come in time."""
        try:
            async with asyncio.timeout(0.0 if self._stopped else self._seconds) as limit:
                self._reading.add(limit)
                try:
                    return await request.body()
                finally:
                    self._reading.discard(limit)
        except TimeoutError:
            if self._stopped:
                raise draining() from None
            raise Refusal("body_too_slow", f"the body must arrive within {self._seconds:g} s") from None

    def stop(self) -> None:
        """Wait no longer."""
        self._stopped = True
        for limit in self._reading:
            limit.reschedule(asyncio.get_running_loop().time())

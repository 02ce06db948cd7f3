"""What a client may make the service hold and wait for: the size of a body, and the time that it takes to send."""

import asyncio

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aps.service.errors import Headers, Refusal, draining, response
from aps.service.pending import Pending


class BodyLimit:
    """ASGI middleware. Answers 413 to a request whose body is larger than `max_bytes`, declared or sent; 503 where
    `pending` has no room for it."""

    def __init__(self, app: ASGIApp, max_bytes: int, pending: Pending) -> None:
        self._app, self._max_bytes, self._pending = app, max_bytes, pending

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if declared(scope["headers"]) > self._max_bytes:
            refusal = too_large(self._max_bytes)
            await response(scope, refusal.status, refusal.error)(scope, receive, send)
            return
        seen = held = 0

        async def counted() -> Message:
            nonlocal seen, held
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise too_large(self._max_bytes)
            held = self._pending.read(seen, held)
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._pending.forget(held)


class BodyReader:
    """Reads bodies of at most `max_bytes`, each within `seconds` (wall), else 413, 408; 503 where `pending` has no
    room. `stop` ends the wait for all that are not complete: 503."""

    def __init__(self, max_bytes: int, seconds: float, pending: Pending) -> None:
        self._max_bytes, self._seconds, self._pending = max_bytes, seconds, pending
        self._stopped = False
        self._reading: set[asyncio.Timeout] = set()

    async def read(self, headers: Headers, receive: Receive) -> bytes:
        """The body. A Refusal when it is too large, there is no room, or it does not come in time; ClientDisconnect.

        A body that has come with its head, as most do, is there without waiting: then no timer is set.
        """
        call = receive()
        try:
            call.send(None)  # type: ignore[attr-defined]
        except StopIteration as arrived:
            message: Message = arrived.value
            if not message.get("more_body", message["type"] != "http.request"):
                body: bytes = message.get("body", b"")
                self.check(body)
                return body
        else:
            call.close()  # type: ignore[attr-defined]
            message = {"type": "http.request", "more_body": True}
        length = declared(headers)
        if length > self._max_bytes:
            raise too_large(self._max_bytes)
        self._pending.check_body(length)
        try:
            async with asyncio.timeout(0.0 if self._stopped else self._seconds) as limit:
                self._reading.add(limit)
                try:
                    return await self._rest(message, receive)
                finally:
                    self._reading.discard(limit)
        except TimeoutError:
            if self._stopped:
                raise draining() from None
            raise Refusal("body_too_slow", f"the body must arrive within {self._seconds:g} s") from None

    def check(self, body: bytes | bytearray) -> None:
        """Refusal, 413: it is too large."""
        if len(body) > self._max_bytes:
            raise too_large(self._max_bytes)

    async def _rest(self, message: Message, receive: Receive) -> bytes:
        body, held = bytearray(), 0
        try:
            while True:
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                body += message.get("body", b"")
                self.check(body)
                held = self._pending.read(len(body), held)
                if not message.get("more_body", False):
                    return bytes(body)
                message = await receive()
        finally:
            self._pending.forget(held)

    def stop(self) -> None:
        """Wait no longer."""
        self._stopped = True
        for limit in self._reading:
            if not limit.expired():
                limit.reschedule(asyncio.get_running_loop().time())


def declared(headers: Headers) -> int:
    """The length that the headers declare; beyond every limit when it is no number."""
    value = next((value for name, value in headers if name == b"content-length"), b"0")
    return int(value[:20]) if value.isdigit() else 1 << 64


def too_large(max_bytes: int) -> Refusal:
    """413."""
    return Refusal("body_too_large", f"the body must be at most {max_bytes} bytes")

"""ASGI middleware: a body larger than the limit is refused before it is held in memory."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aps.service.errors import Refusal, response


class BodyLimit:
    """Answers 413 to a request whose body is larger than `max_bytes`, declared or sent."""

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

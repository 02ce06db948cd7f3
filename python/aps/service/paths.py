"""Paths and queries that are no text. Whoever decodes them puts the same letter in place of every wrong byte, so that
two ids are one; and no store keeps a NUL."""

from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Receive, Scope, Send

from aps.service.errors import Refusal, response

LONGEST = 100  # bytes of them in a message


class TextPaths:
    """ASGI middleware. Answers 400 to a request whose path or query, percent-decoded, is not UTF-8 or has a NUL."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            for field, raw in (("path", scope.get("raw_path") or b""), ("query", scope["query_string"])):
                if not _is_text(raw):
                    refusal = _refusal(field, raw)
                    await response(scope, refusal.status, refusal.error)(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def _refusal(field: str, raw: bytes) -> Refusal:
    got = repr(raw[:LONGEST].decode("latin-1"))
    return Refusal("bad_request", f"the {field} must be percent-encoded UTF-8 without NUL, got {got}", field=field)


def _is_text(raw: bytes) -> bool:
    try:
        return raw.isascii() and "\0" not in unquote_to_bytes(raw).decode()
    except UnicodeDecodeError:
        return False

"""The id by which a caller, the log and the audit speak of one HTTP request: the caller's `x-request-id`, or ours."""

import re
import secrets

from starlette.types import Message, Scope, Send

HEADER = "x-request-id"
ALLOWED = re.compile(r"[\w.:-]{1,64}", re.ASCII)


def given(value: str | None) -> str | None:
    """The caller's, where it sent one that can stand in a head and in a line of the log."""
    return value if value is not None and ALLOWED.fullmatch(value) else None


def made() -> str:
    """A new one."""
    return secrets.token_hex(8)


def naming(scope: Scope, send: Send) -> Send:
    """A `send` whose answer has the request's id; `scope["state"]` has it too. Administration always has one: its log
    and its audit speak of it."""
    name = HEADER.encode()
    id = next((given(value.decode("latin-1")) for key, value in scope["headers"] if key == name), None)
    if id is None and scope["path"].startswith("/admin/"):
        id = made()
    if id is None:
        return send
    scope.setdefault("state", {})["request_id"] = id
    line = (name, id.encode())

    async def named(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], line]}
        await send(message)

    return named

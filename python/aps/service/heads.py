"""The head of an answer as the lines that are sent, each ended by CR LF: `POST /infer` makes its own at once."""

from collections.abc import Iterable

from starlette.types import Send

from aps.service.errors import Headers

JSON = b"content-type: application/json\r\n"


def lines_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Of pairs, as ASGI has them. They must be well-formed."""
    return b"".join([b"%b: %b\r\n" % pair for pair in headers])


def pairs_of(lines: bytes) -> Headers:
    """For ASGI."""
    pairs = (line.partition(b": ") for line in lines.split(b"\r\n")[:-1])
    return [(name, value) for name, _, value in pairs]


async def send_whole(send: Send, status: int, lines: bytes, body: bytes) -> None:
    """An answer, by any ASGI server; lines: without its length."""
    headers = [*pairs_of(lines), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

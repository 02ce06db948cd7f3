"""A small HTTP/1.1 client on one connection, for as many of them as one process can hold."""

import asyncio
import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

ABORT = struct.pack("ii", 1, 0)  # SO_LINGER: closing resets the connection


def message(fields: Mapping[str, Any], port: int, *, key: str | None = None) -> bytes:
    """A whole POST /infer."""
    return request("POST", "/infer", port, fields, key=key)


def request(
    method: str, path: str, port: int, fields: Mapping[str, Any] | None = None, *, key: str | None = None
) -> bytes:
    """A whole request. fields: its body; None: it has none. key: the bearer's."""
    body = b"" if fields is None else json.dumps(fields).encode()
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    head += "" if key is None else f"Authorization: Bearer {key}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection:
    """One connection to a service on this machine. Make it with `open`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, whole: bytes) -> tuple[int, dict[str, Any]]:
        """Send a message; status and JSON of the answer."""
        self._writer.write(whole)
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        return int(head[9:12]), json.loads(await self._reader.readexactly(length))

    async def first_token(self, whole: bytes) -> int:
        """Send a message that streams, and read on to its first token; the status."""
        self._writer.write(whole)
        head = await self._reader.readuntil(b"\r\n\r\n")
        if (status := int(head[9:12])) == 200:
            await self._reader.readuntil(b"data: ")
        return status

    def vanish(self, abort: bool) -> None:
        """Be gone; abort: by a reset, else by an ordinary close, with what has come unread."""
        if abort:
            self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
        self._writer.transport.abort()

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        await self._writer.wait_closed()

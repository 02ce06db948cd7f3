"""A client of raw bytes, and the requests that tests send by it."""

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tests.serving import Service

BODY = b'{"tenant_id": "x", "prompt_tokens": 5, "max_tokens": 2}'
HEAD = b"POST /infer HTTP/1.1\r\nhost: x\r\n"
WHOLE = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
LONG_BODY = b'{"tenant_id": "x", "prompt_tokens": 3000, "max_tokens": 2}'
LONG = HEAD + b"content-length: %d\r\n\r\n" % len(LONG_BODY) + LONG_BODY


@contextmanager
def connected(service: Service, *parts: bytes) -> Iterator[socket.socket]:
    """A connection that has sent these bytes, one write each."""
    with socket.create_connection(service.address, timeout=10) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in parts:
            client.sendall(part)
            time.sleep(0.01 if len(parts) > 1 else 0)
        yield client


def all_of(client: socket.socket) -> bytes:
    """What comes until the server closes."""
    said = b""
    try:
        while more := client.recv(65536):
            said += more
    except ConnectionResetError:  # it closed with our bytes unread
        pass
    return said


def answer_of(said: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one whole answer."""
    head, _, body = said.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    assert len(body) == int(headers["content-length"])
    return int(status.split()[1]), headers, body


def refused(said: bytes, status: int, reason: str) -> None:
    """It is this refusal, in the one shape, and the last of its connection."""
    got, headers, body = answer_of(said)
    assert (got, json.loads(body)["error"]["reason"]) == (status, reason)
    assert headers["connection"] == "close"
    assert headers["content-type"] == "application/json"

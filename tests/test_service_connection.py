"""Clients that are slow, large, many or malformed, over raw sockets; and the short cuts that `connection` takes."""

import asyncio
import gc
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest
import uvicorn
from starlette.types import Message

from aps.backends.simulated import SimulatedBackend
from aps.driver import Driver
from aps.scheduler import Scheduler
from aps.service.app import create_app
from aps.service.server import listen
from aps.tenants import Tenant
from tests.serving import Service, serving, until

BODY = b'{"tenant_id": "x", "prompt_tokens": 5, "max_tokens": 2}'
HEAD = b"POST /infer HTTP/1.1\r\nhost: x\r\n"
WHOLE = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving((Tenant("x", rate=1e6, burst=1e6),), max_header_bytes=2048) as running:
        yield running


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


# Malformed


@pytest.mark.parametrize(
    "bytes_",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /infer HTTP/1.1\r\nhost x\r\n\r\n",
        b"POST /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n",
        HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
        HEAD + b"content-length: -1\r\n\r\n",
        HEAD + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"x: a\rb\r\n\r\n",
        HEAD + b"x\x00y: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS where there is none
    ],
    ids=repr,
)
def test_what_is_no_http_is_400(service: Service, bytes_: bytes) -> None:
    with connected(service, bytes_) as client:
        refused(all_of(client), 400, "bad_request")
    assert service.infer(tenant_id="x", prompt_tokens=1, max_tokens=1).status_code == 200


@pytest.mark.parametrize("path", ["/requests/%0d%0aset-cookie:a=b", "/tenants/%0d%0aset-cookie:a=b/status"])
def test_nothing_that_a_client_says_gets_into_a_head(service: Service, path: str) -> None:
    with connected(service, f"GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n".encode()) as client:
        status, headers, _ = answer_of(all_of(client))
    assert (status, "set-cookie" in headers) == (404, False)
    reply = service.infer(tenant_id="x\r\nset-cookie: a=b\r\n\r\n", prompt_tokens=1)
    assert (reply.status_code, "set-cookie" in reply.headers) == (404, False)


# Large


def test_a_head_that_is_too_large_is_431(service: Service) -> None:
    with connected(service, HEAD + b"x: " + b"y" * 4096 + b"\r\ncontent-length: 0\r\n\r\n") as client:
        refused(all_of(client), 431, "head_too_large")
    many = b"".join(b"x%d: y\r\n" % n for n in range(400))
    with connected(service, HEAD + many + b"content-length: 0\r\n\r\n") as client:
        refused(all_of(client), 431, "head_too_large")


def test_a_head_that_never_ends_is_431(service: Service) -> None:
    with connected(service, HEAD, *[b"x%d: " % n + b"y" * 600 + b"\r\n" for n in range(4)]) as client:
        refused(all_of(client), 431, "head_too_large")


def test_a_large_body_in_pieces_does_not_count_as_head(service: Service) -> None:
    body = json.dumps({"tenant_id": "x", "prompt": "y" * 200_000, "max_tokens": 1}).encode()
    head = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    with connected(service, head, body[:70_000], body[70_000:]) as client:
        status, _, said = answer_of(all_of(client))
    assert (status, json.loads(said)["prompt_tokens"]) == (200, -(-200_000 // 4))


# Slow


@pytest.mark.parametrize("parts", [(b"",), (b"POST /inf",), (HEAD,), (WHOLE, b"POST /inf")], ids=repr)
def test_a_head_that_does_not_come_is_408(parts: tuple[bytes, ...]) -> None:
    with serving((Tenant("x"),), header_s=0.3) as slow, connected(slow, *parts) as client:
        began = time.monotonic()
        said = all_of(client)
        assert time.monotonic() - began < 5
        if len(parts) > 1:  # the first was answered
            said = said[said.rindex(b"HTTP/1.1") :]
        refused(said, 408, "head_too_slow")


def test_an_idle_connection_is_closed() -> None:
    with serving((Tenant("x"),), keep_alive_s=0.5) as slow, connected(slow, WHOLE) as client:
        assert answer_of(all_of(client))[0] == 200


# Many


def test_connections_beyond_the_most_are_503() -> None:
    with serving((Tenant("x"),), max_connections=2) as few:
        with connected(few, WHOLE) as first, connected(few, WHOLE):
            assert answer_of(first.recv(65536))[0] == 200
            until(lambda: len(few.server.server_state.connections) == 2)
            with connected(few) as third:
                said = all_of(third)
                refused(said, 503, "too_many_connections")
                assert answer_of(said)[1]["retry-after"] == "1"
        until(lambda: few.client.get("/health").status_code == 200)


def test_connections_that_come_and_go_leave_nothing(service: Service) -> None:
    def clients(count: int) -> None:
        for _ in range(count):
            with connected(service, HEAD + b"content-length: 100\r\n\r\n{"):
                pass

    def left() -> int:
        return len(service.server.server_state.connections) + len(service.server.server_state.tasks)

    before = left()
    clients(100)
    until(lambda: left() <= before)
    gc.collect()
    assert service.driver.outstanding == 0


# Answers


def test_requests_in_one_write_are_answered_in_order(service: Service) -> None:
    bodies = [BODY.replace(b'"prompt_tokens": 5', b'"prompt_tokens": %d' % n) for n in (40, 3, 20)]
    whole = b"".join(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body for body in bodies)
    with connected(service, whole + b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") as client:
        said = all_of(client)
    answers = [json.loads(part.partition(b"\r\n\r\n")[2]) for part in said.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert [answer["prompt_tokens"] for answer in answers[:3]] == [40, 3, 20]
    assert answers[3]["live"] is True


@pytest.mark.parametrize("head", [HEAD + b"connection: close\r\n", HEAD.replace(b"1.1", b"1.0")])
def test_a_connection_that_is_to_end_ends(service: Service, head: bytes) -> None:
    with connected(service, head + b"content-length: %d\r\n\r\n" % len(BODY) + BODY) as client:
        status, headers, _ = answer_of(all_of(client))
    assert (status, headers["connection"]) == (200, "close")


def test_a_client_that_asks_before_it_sends_its_body(service: Service) -> None:
    head = HEAD + b"connection: close\r\nexpect: 100-continue\r\ncontent-length: %d\r\n\r\n" % len(BODY)
    with connected(service, head) as client:
        assert client.recv(65536).startswith(b"HTTP/1.1 100 ")
        client.sendall(BODY)
        assert answer_of(all_of(client))[0] == 200


@pytest.mark.parametrize("body", [BODY, b"{", BODY.replace(b'"x"', b'"y"'), BODY.replace(b": 5", b": 2000000")])
def test_an_answer_at_once_is_the_one_that_uvicorn_sends(service: Service, body: bytes) -> None:
    """The same head, line by line, but for the date."""
    with connected(service, HEAD + b"content-length: %d\r\n\r\n" % len(body) + body) as client:
        ours = client.recv(65536)
    stock = asyncio.run(by_stock_uvicorn(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body))
    assert kept(ours) == kept(stock)


def kept(said: bytes) -> tuple[int, list[tuple[str, str]]]:
    status, headers, _ = answer_of(said)
    assert headers.pop("date")
    varies = ("content-length", "x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens")
    return status, [(name, "" if name in varies else value) for name, value in headers.items()]


async def by_stock_uvicorn(request: bytes) -> bytes:
    """The same application on another server, which has none of our connections."""
    backend = SimulatedBackend("reference", time_scale=100.0)
    driver = Driver(Scheduler((Tenant("x", rate=1e6, burst=1e6),), devices=backend.devices), backend)
    config = uvicorn.Config(create_app(driver), http="httptools", log_level="warning", server_header=False, ws="none")
    server = uvicorn.Server(config)
    listener = listen("127.0.0.1", 0)
    serving = asyncio.create_task(server._serve([listener]))  # without its signal handlers
    try:
        while not server.started:
            await asyncio.sleep(0.01)
        reader, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        body = await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
        writer.close()
        await writer.wait_closed()
        return head + body
    finally:
        server.should_exit = True
        await serving


async def test_on_any_other_asgi_server_too() -> None:
    """Without a connection of ours, and in process."""
    backend = SimulatedBackend("reference", time_scale=100.0)
    driver = Driver(Scheduler((Tenant("x"),), devices=backend.devices), backend)
    transport = httpx.ASGITransport(create_app(driver))
    async with driver, httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        fields = {"tenant_id": "x", "prompt_tokens": 5, "max_tokens": 3}
        answers = await asyncio.gather(*(client.post("/infer", json=fields) for _ in range(5)))
        assert [answer.status_code for answer in answers] == [200] * 5
        reply = await client.post("/infer", json=fields | {"stream": True})
        assert reply.text.endswith("data: [DONE]\n\n")


async def test_a_disconnect_is_heard_on_any_other_asgi_server() -> None:
    backend = SimulatedBackend("reference", time_scale=1.0)
    driver = Driver(Scheduler((Tenant("x"),), devices=backend.devices), backend)
    app = create_app(driver)
    async with driver:
        gone = asyncio.Event()
        messages: list[Message] = [{"type": "http.request", "body": b'{"tenant_id": "x", "prompt_tokens": 30000}'}]

        async def receive() -> Message:
            if messages:
                return messages.pop()
            await gone.wait()
            await asyncio.sleep(0)
            return {"type": "http.disconnect"}

        async def send(_: object) -> None:
            pass

        scope = {"type": "http", "path": "/infer", "method": "POST", "headers": []}
        task = asyncio.create_task(app(scope, receive, send))
        while not driver.outstanding:
            await asyncio.sleep(0.01)
        gone.set()
        await asyncio.wait_for(task, 5)
        assert driver.outstanding == 0

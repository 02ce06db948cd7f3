"""Answers as they are on the wire: their order, and the short cuts that `connection` takes."""

import asyncio
import json
import re
from collections.abc import Iterator

import httpx
import pytest
import uvicorn
from starlette.types import Message

from aps.backends.simulated import SimulatedBackend
from aps.driver import Driver
from aps.policy import Limits
from aps.scheduler import Scheduler
from aps.service.access import Access
from aps.service.app import create_app
from aps.service.keys import digest_of
from aps.service.server import listen
from aps.tenants import Tenant
from tests.raw_client import BODY, HEAD, all_of, answer_of, connected
from tests.serving import Service, serving, until


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving((Tenant("x", rate=1e6, burst=1e6),), max_header_bytes=2048) as running:
        yield running


def test_requests_in_one_write_are_answered_in_order(service: Service) -> None:
    bodies = [BODY.replace(b'"prompt_tokens": 5', b'"prompt_tokens": %d' % n) for n in (40, 3, 20)]
    whole = b"".join(HEAD + b"content-length: %d\r\n\r\n" % len(body) + body for body in bodies)
    with connected(service, whole + b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") as client:
        said = all_of(client)
    answers = [json.loads(part.partition(b"\r\n\r\n")[2]) for part in said.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert [answer["prompt_tokens"] for answer in answers[:3]] == [40, 3, 20]
    assert answers[3]["live"] is True


def test_requests_in_one_write_have_their_own_heads_and_bodies() -> None:
    keys = {name: f"aps_{name * 43}" for name in "xyz"}
    access = Access({name: [digest_of(key.encode())] for name, key in keys.items()})

    def asked(name: str, **fields: object) -> bytes:
        body = json.dumps({"prompt_tokens": 5, "max_tokens": 2} | fields).encode()
        head = HEAD + b"authorization: Bearer %b\r\n" % keys[name].encode()
        return head + b"content-length: %d\r\n\r\n" % len(body) + body

    for first in ({}, {"stream": True}):
        with serving(map(Tenant, "xyz"), access=access) as own:
            whole = asked("x", **first) + asked("y") + asked("z", stream=True) + asked("y")
            with connected(own, whole + b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n") as client:
                said = all_of(client)
            assert re.findall(rb'"tenant_id":"(.)"', said) == [b"x", b"y", b"z", b"y"]
            assert said.count(b"HTTP/1.1 200 OK") == 5


def test_a_thousand_bad_requests_in_one_write_are_answered_one_after_the_other(service: Service) -> None:
    bad = HEAD + b"content-length: 1\r\n\r\n{"
    with connected(service, bad * 1500 + HEAD + b"connection: close\r\ncontent-length: 1\r\n\r\n{") as client:
        said = all_of(client)
    assert said.count(b"HTTP/1.1 422 ") == 1501


def test_what_the_scheduler_has_seen_says_what_is_left_of_the_rates() -> None:
    """By status, as docs/http.md has it."""
    tenants = (Tenant("x", rate=1.0, burst=40_000.0, max_in_flight=1, max_queued=1), Tenant("y", max_in_flight=1))
    with serving(tenants, time_scale=1.0, limits=Limits(max_queued=2)) as own:
        seen = {}

        def ask(status: int, **fields: object) -> None:
            reply = own.infer(**{"tenant_id": "x", "prompt_tokens": 10, "max_tokens": 10} | fields)
            assert reply.status_code == status, reply.text
            seen[status] = "x-ratelimit-remaining-tokens" in reply.headers

        ask(404, tenant_id="z")
        ask(422, bid=11)
        ask(400, max_tokens=50_000)
        ask(200, max_tokens=1)
        ask(202, wait=False, max_tokens=30_000)  # it runs until the end
        until(lambda: not own.driver.scheduler.waiting)
        ask(504, deadline_s=0.01)
        ask(202, wait=False)
        ask(429)
        for waiting in (1, 2):
            assert own.infer(tenant_id="y", prompt_tokens=1, max_tokens=20_000, wait=False).status_code == 202
            until(lambda waiting=waiting: own.driver.scheduler.waiting == waiting)  # type: ignore[misc]
        ask(503)
    no = {404: False, 422: False}
    assert seen == no | dict.fromkeys((200, 202, 400, 429, 503, 504), True)


def test_a_request_that_waits_takes_no_task() -> None:
    with serving((Tenant("x"),), time_scale=1.0) as slow:
        body = b'{"tenant_id": "x", "prompt_tokens": 30000}'
        with connected(slow, HEAD + b"content-length: %d\r\n\r\n" % len(body) + body):
            until(lambda: slow.driver.outstanding == 1)
            assert len(slow.server.server_state.tasks) == 0
        until(lambda: slow.driver.outstanding == 0)


@pytest.mark.parametrize("head", [HEAD + b"connection: close\r\n", HEAD.replace(b"1.1", b"1.0")])
def test_a_connection_that_is_to_end_ends(service: Service, head: bytes) -> None:
    with connected(service, head + b"content-length: %d\r\n\r\n" % len(BODY) + BODY) as client:
        status, headers, _ = answer_of(all_of(client))
    assert (status, headers["connection"]) == (200, "close")


def test_a_stream_over_http_1_0_has_no_chunks(service: Service) -> None:
    body = BODY.replace(b"}", b', "stream": true}')
    head = HEAD.replace(b"1.1", b"1.0") + b"content-length: %d\r\n\r\n" % len(body)
    with connected(service, head + body) as client:
        head, _, events = all_of(client).partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head
    assert b"connection: close" in head
    assert events.startswith(b"data: {")
    assert events.endswith(b"}\n\ndata: [DONE]\n\n")


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
    varies = ("content-length", "x-request-id", "x-ratelimit-reset-tokens", "x-ratelimit-remaining-tokens")
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

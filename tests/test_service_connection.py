"""Clients that are slow, large, many or malformed, over raw sockets; and the short cuts that `connection` takes."""

import asyncio
import gc
import json
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import suppress

import pytest
import uvloop

from aps.backends.simulated import SimulatedBackend
from aps.driver import Driver
from aps.scheduler import Scheduler
from aps.service.app import create_app
from aps.service.connection import PIECE, Connection
from aps.service.draining import Drain
from aps.service.lingering import MOST_BYTES
from aps.service.server import Server, config, listen
from aps.tenants import Tenant
from tests.raw_client import BODY, HEAD, LONG, WHOLE, all_of, answer_of, connected, refused
from tests.serving import Service, serving, until


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving((Tenant("x", rate=1e6, burst=1e6),), max_header_bytes=2048) as running:
        yield running


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


WISH = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\n"


@pytest.mark.parametrize(
    "parts",
    [
        (WHOLE.replace(HEAD, HEAD + WISH),),
        tuple(WHOLE.replace(HEAD, HEAD + WISH).partition(b"\r\n\r\n")),
        (HEAD + WISH + b"transfer-encoding: chunked\r\n\r\n", b"%x\r\n" % len(BODY), BODY + b"\r\n0\r\n\r\n"),
    ],
    ids=["whole", "in parts", "chunked"],
)
def test_who_would_rather_speak_http_2_is_answered(
    service: Service, parts: tuple[bytes, ...], caplog: pytest.LogCaptureFixture
) -> None:
    last = WHOLE.replace(HEAD, HEAD + b"connection: close\r\n")
    with connected(service, *parts, WHOLE.replace(HEAD, HEAD + WISH) + last) as client:
        said = all_of(client)
    assert said.count(b"HTTP/1.1 200 OK\r\n") == said.count(b"HTTP/1.1") == said.count(b'"tenant_id":"x"') == 3
    assert not caplog.records


def test_who_wants_a_proxy_is_refused(service: Service) -> None:
    with connected(service, b"CONNECT example.org:443 HTTP/1.1\r\nhost: example.org\r\n\r\n") as client:
        refused(all_of(client), 400, "bad_request")


def test_the_last_of_a_connection_that_would_speak_a_websocket_is_answered_and_it_ends(service: Service) -> None:
    head = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: upgrade, close\r\nupgrade: websocket\r\n\r\n"
    with connected(service, head) as client:
        status, headers, _ = answer_of(all_of(client))
    assert (status, headers["connection"]) == (200, "close")


def test_a_head_that_is_too_large_is_431(service: Service) -> None:
    with connected(service, HEAD + b"x: " + b"y" * 4096 + b"\r\ncontent-length: 0\r\n\r\n") as client:
        refused(all_of(client), 431, "head_too_large")
    many = b"".join(b"x%d: y\r\n" % n for n in range(400))
    with connected(service, HEAD + many + b"content-length: 0\r\n\r\n") as client:
        refused(all_of(client), 431, "head_too_large")


def test_a_head_that_never_ends_is_431(service: Service) -> None:
    with connected(service, HEAD, *[b"x%d: " % n + b"y" * 600 + b"\r\n" for n in range(4)]) as client:
        refused(all_of(client), 431, "head_too_large")


def test_a_body_before_the_next_head_does_not_count_as_head(service: Service) -> None:
    body = BODY + b" " * 3000
    whole = HEAD + b"content-length: %d\r\n\r\n" % len(body) + body
    with connected(service, whole + WHOLE[:10], WHOLE[10:]) as client:
        said = b""
        while said.count(b'"tenant_id"') < 2:
            more = client.recv(65536)
            assert more, said
            said += more
    assert said.count(b"HTTP/1.1 200 OK") == 2


def test_trailers_are_no_headers(service: Service) -> None:
    chunks = b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)
    head = HEAD + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    with connected(service, head + chunks + b"authorization: Bearer x\r\n\r\n") as client:
        assert answer_of(all_of(client))[0] == 200
    with connected(service, head + chunks, *[b"x%d: " % n + b"y" * 600 + b"\r\n" for n in range(4)]) as client:
        refused(all_of(client), 431, "head_too_large")


def test_a_chunked_body_over_its_limit_is_413_at_once() -> None:
    with serving((Tenant("x"),), max_body_bytes=5000, body_s=30) as small:
        head = HEAD + b"transfer-encoding: chunked\r\n\r\n"
        with connected(small, head + b"%x\r\n%b\r\n" % (5001, b" " * 5001)) as client:
            refused(all_of(client), 413, "body_too_large")


def test_a_large_body_in_pieces_does_not_count_as_head(service: Service) -> None:
    body = json.dumps({"tenant_id": "x", "prompt": "y" * 200_000, "max_tokens": 1}).encode()
    head = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    with connected(service, head, body[:70_000], body[70_000:]) as client:
        status, _, said = answer_of(all_of(client))
    assert (status, json.loads(said)["prompt_tokens"]) == (200, -(-200_000 // 4))


@pytest.mark.parametrize("behind", [b"", WHOLE, b"POST /inf"])
def test_what_comes_behind_a_large_head_does_not_make_it_small(service: Service, behind: bytes) -> None:
    large = HEAD + b"x: " + b"y" * 3000 + b"\r\ncontent-length: %d\r\n\r\n" % len(BODY) + BODY
    with connected(service, large + behind) as client:
        refused(all_of(client), 431, "head_too_large")
    with connected(service, WHOLE + large + behind) as client:
        first, last = all_of(client).split(b"HTTP/1.1 431")
    assert answer_of(first)[0] == 200
    refused(b"HTTP/1.1 431" + last, 431, "head_too_large")


@pytest.mark.parametrize("size", [2048, 2049])
def test_the_largest_head(service: Service, size: int) -> None:
    lines = b"content-length: %d\r\nconnection: close\r\nhost: x\r\n" % len(BODY)
    fill = b"x: " + b"y" * (size - len(b"/infer") - len(lines) - len(b"x: \r\n")) + b"\r\n"
    with connected(service, b"POST /infer HTTP/1.1\r\n" + lines + fill + b"\r\n" + BODY) as client:
        assert answer_of(all_of(client))[0] == (200 if size == 2048 else 431)


@pytest.mark.parametrize("head", [HEAD, b"GET /health HTTP/1.1\r\nhost: x\r\n"])
@pytest.mark.parametrize("endless", [b"0\r\nx: ", b"5;x="])
def test_what_has_no_end_is_cut_off(service: Service, head: bytes, endless: bytes) -> None:
    sent = 0
    with connected(service, head + b"transfer-encoding: chunked\r\n\r\n" + endless) as client:
        with suppress(OSError):
            while sent < 50_000_000:
                sent += client.send(b"y" * 10_000)
        assert b"HTTP/1.1 500" not in all_of(client)
    assert sent < MOST_BYTES + 10_000_000  # the rest is what the system buffers


@pytest.mark.parametrize("first", [b"", LONG])
def test_few_requests_are_taken_in_ahead(first: bytes) -> None:
    """And yet all are answered."""
    small, count = b"GET /x HTTP/1.1\r\n\r\n", 10_000
    with serving((Tenant("x"),), time_scale=10.0) as own, connected(own) as client:
        sender = threading.Thread(target=client.sendall, args=(first + small * count,))
        sender.start()
        until(lambda: bool(own.server.server_state.connections))
        (connection,) = own.server.server_state.connections
        assert isinstance(connection, Connection)
        most, said = 0, b""
        while said.count(b"HTTP/1.1 404 ") < count:
            said += (more := client.recv(65536))
            assert more
            most = max(most, len(connection.pipeline))
        sender.join()
    assert most <= PIECE // len(small) + 1


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


def test_half_a_head_behind_a_request_is_408_too() -> None:
    with serving((Tenant("x"),), header_s=0.3) as slow, connected(slow, WHOLE) as client:
        assert answer_of(client.recv(65536))[0] == 200
        client.sendall(WHOLE + b"POST /inf")
        said = all_of(client)
    assert said.startswith(b"HTTP/1.1 200 OK")
    refused(said[said.rindex(b"HTTP/1.1") :], 408, "head_too_slow")


def test_what_is_wrong_with_the_next_request_is_said_after_the_answer_to_one_that_waits() -> None:
    with serving((Tenant("x"),), time_scale=5.0) as slow:
        no_path = b"GET http://x HTTP/1.1\r\nhost: x\r\n\r\n"
        for wrong in (b"\x00\x01\r\n\r\n", b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n", no_path):
            for parts in ((LONG, wrong), (LONG + wrong,), (LONG, WHOLE[:10], b"\x00")):
                with connected(slow, *parts) as client:
                    first, last = all_of(client).split(b"HTTP/1.1 400 Bad Request")
                assert answer_of(first)[0] == 200
                refused(b"HTTP/1.1 400 Bad Request" + last, 400, "bad_request")
        assert slow.driver.outstanding == 0


def test_a_head_whose_rest_waits_unread_behind_a_request_is_not_slow() -> None:
    with serving((Tenant("x"),), time_scale=1.0, header_s=0.3) as slow:
        with connected(slow, LONG, WHOLE + WHOLE[:10], WHOLE[10:]) as client:
            said = b""
            while said.count(b"HTTP/1.1 200 OK") < 3:
                said += (more := client.recv(65536))
                assert more, said


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
                until(lambda: len(few.server.server_state.connections) == 2)  # it is not waited for
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


def test_a_closed_connection_leaves_nothing_for_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        with serving((Tenant("x"),)) as own:
            with connected(own, WHOLE) as client:
                assert answer_of(client.recv(65536))[0] == 200
                (gone,) = map(weakref.ref, own.server.server_state.connections)
                until(lambda: gone()._idle_after is not None)  # type: ignore[union-attr]
            until(lambda: not own.server.server_state.connections)
            until(lambda: gone() is None)
    finally:
        gc.enable()


@pytest.mark.parametrize("first", [b"", b', "stream": true'])
def test_a_client_that_sends_two_and_hangs_up_is_no_error(first: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """On the loop that `aps serve` runs on, which does not let a closed connection be written to."""

    def asked(more: bytes) -> bytes:
        body = b'{"tenant_id": "x", "prompt_tokens": 30000%b}' % more
        return HEAD + b"content-length: %d\r\n\r\n" % len(body) + body

    async def main() -> None:
        backend = SimulatedBackend("reference", time_scale=1.0)
        driver = Driver(Scheduler((Tenant("x"),), devices=backend.devices), backend)
        app = create_app(driver)
        server = Server(config(app), Drain(driver, app.state.bodies, app.state.requests, print), 1.0)
        listener = listen("127.0.0.1", 0)
        serving = asyncio.create_task(server._serve([listener]))
        while not server.started:
            await asyncio.sleep(0.01)
        _, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(asked(first) + asked(b""))
        while not driver.outstanding:
            await asyncio.sleep(0.01)
        writer.close()
        while driver.outstanding or server.server_state.connections or server.server_state.tasks:
            await asyncio.sleep(0.01)
        server.should_exit = True
        await serving

    with caplog.at_level("ERROR"):
        uvloop.run(main())
    assert not caplog.records

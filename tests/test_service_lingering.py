"""Clients that still send when they are refused and the connection ends: they get the whole answer."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import uvloop

from aps.service import lingering
from aps.service.connection import Connection
from aps.tenants import Tenant
from tests.raw_client import HEAD, WHOLE, all_of, connected, refused
from tests.serving import Service, serving, until

LARGE = 1 << 23  # bytes, more than both ends of a connection buffer
CHUNKED = HEAD + b"transfer-encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module", params=[None, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    loop: Callable[[], asyncio.AbstractEventLoop] | None = request.param
    with serving((Tenant("x"),), loop=loop, max_header_bytes=2048) as running:
        yield running


@pytest.mark.parametrize(
    ("head", "status", "reason"),
    [
        (HEAD + b"content-length: %d\r\n\r\n" % LARGE, 413, "body_too_large"),
        (b"PUT /health HTTP/1.0\r\ncontent-length: %d\r\n\r\n" % LARGE, 413, "body_too_large"),
        (CHUNKED + b"%x\r\n" % LARGE, 413, "body_too_large"),
        (HEAD + b"x: ", 431, "head_too_large"),
        (b"\x00", 400, "bad_request"),
        (WHOLE + HEAD + b"content-length: %d\r\n\r\n" % LARGE, 413, "body_too_large"),
    ],
    ids=["413", "413 of HTTP 1.0", "413 of chunks", "431", "400", "413 behind a request"],
)
def test_who_sends_much_before_it_reads_gets_the_whole_answer(
    service: Service, head: bytes, status: int, reason: str
) -> None:
    with connected(service, head) as client:
        client.sendall(b"y" * LARGE)
        said = b""
        while more := client.recv(65536):  # no reset
            said += more
    refused(said[said.rindex(b"HTTP/1.1") :], status, reason)
    assert said.count(b"HTTP/1.1") == 1 + (head[: len(WHOLE)] == WHOLE)
    until(lambda: not service.server.server_state.connections)


@pytest.mark.parametrize("sends", [b"{", b""])
def test_who_sends_too_slowly_gets_the_whole_answer(sends: bytes) -> None:
    head = HEAD + b"content-length: 9\r\n\r\n"
    with serving((Tenant("x"),), body_s=0.2) as slow, connected(slow, head + sends) as client:
        said = b""
        while b"}}" not in said:
            said += client.recv(65536)
        for _ in range(3):  # the first would have been answered by a reset
            client.sendall(b"1")
            time.sleep(0.05)
        assert client.recv(65536) == b""
    refused(said, 408, "body_too_slow")


def test_it_reads_so_much_at_most(service: Service) -> None:
    sent = 0
    with connected(service, HEAD + b"content-length: %d\r\n\r\n" % (1 << 40)) as client:
        with suppress(OSError):
            while sent < 10 * lingering.MOST_BYTES:
                sent += client.send(b"y" * 65536)
    assert lingering.MOST_BYTES < sent < 2 * lingering.MOST_BYTES  # some of it the system had in its buffers
    until(lambda: not service.server.server_state.connections)


def test_it_waits_so_long_at_most(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aps.service.connection.LONGEST_S", 0.2)
    with connected(service, HEAD + b"content-length: %d\r\n\r\n" % LARGE) as client:
        refused(all_of(client), 413, "body_too_large")
        until(lambda: not service.server.server_state.connections)


def test_what_came_behind_the_last_request_is_not_kept_meanwhile() -> None:
    large = HEAD + b"content-length: 2000\r\n\r\n" + b" " * 2000
    with serving((Tenant("x"),), max_body_bytes=1024) as own, connected(own, large + WHOLE * 300) as client:
        refused(all_of(client), 413, "body_too_large")
        (connection,) = own.server.server_state.connections
        assert isinstance(connection, Connection)
        assert isinstance(connection.transport, lingering.LingeringTransport) and connection.transport.lingers
        until(lambda: not connection._behind, within_s=2.0)


def test_the_end_of_the_service_waits_for_none(caplog: pytest.LogCaptureFixture) -> None:
    with serving((Tenant("x"),)) as own, connected(own, CHUNKED) as client:
        until(lambda: own.server.server_state.tasks)
        (connection,) = own.server.server_state.connections
        assert isinstance(connection, Connection)
        own.server.should_exit = True
        until(lambda: not connection.cycle.keep_alive)
        client.sendall(b"%x\r\n" % LARGE + b"y" * (1 << 20) + b"y")
        refused(all_of(client), 413, "body_too_large")
        until(lambda: not own.server.server_state.connections)
    assert not caplog.records


def test_the_end_of_the_service_waits_for_none_that_lingers(caplog: pytest.LogCaptureFixture) -> None:
    with serving((Tenant("x"),)) as own, connected(own, CHUNKED + b"zz\r\n") as client:
        refused(all_of(client), 400, "bad_request")
        own.server.should_exit = True
        until(lambda: not own.server.server_state.connections, within_s=2.0)  # the server would cancel it after 5
    assert not caplog.records


def test_a_client_that_has_reset_its_connection_is_no_error(service: Service) -> None:
    def reset(_: object) -> None:
        raise OSError(107, "Transport endpoint is not connected")

    with connected(service, HEAD + b"content-length: 9\r\n\r\n") as client:
        until(lambda: service.server.server_state.tasks)
        (connection,) = service.server.server_state.connections
        assert isinstance(connection, Connection)
        made = asyncio.run_coroutine_threadsafe(_closed(connection, reset), service.loop)
        assert made.result(5)
        assert client.recv(1) == b""
    until(lambda: not service.server.server_state.connections)


async def _closed(connection: Connection, write_eof: Callable[[object], None]) -> bool:
    """Whether it is closing once it was told to, when its transport fails so."""
    wrapped = connection.transport
    inner = wrapped._transport

    class Broken:
        def __getattr__(self, name: str) -> object:
            return getattr(inner, name)

        def write_eof(self) -> None:
            write_eof(self)

    wrapped._transport = Broken()  # type: ignore[assignment]
    wrapped.close()
    return wrapped.is_closing()

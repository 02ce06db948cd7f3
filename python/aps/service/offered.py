"""A request that its connection offers to whoever answers without being awaited: no task, no event, no future."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Protocol

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from aps.service.errors import ENDS_CONNECTION
from aps.service.heads import send_whole

if TYPE_CHECKING:
    from aps.service.connection import Connection


class Taker(Protocol):
    """Who takes the requests of one method and URL."""

    method: bytes
    url: bytes

    def take(self, request: "Offered", body: bytes) -> None:
        """`answer` this whole request or have it `run`, now or later; `connection.watch` who hangs up until then."""


class _Nobody:
    """In place of the event of a cycle that nobody awaits."""

    def set(self) -> None:
        pass


class Offered(RequestResponseCycle):
    """uvicorn's cycle of a request for a taker. headers: the request's. What a task needs is there once it is `run`.

    Only the newest request of a connection, and while none before it waits, is one of these.
    """

    response_started = response_complete = disconnected = False
    more_body = True
    message_event = _Nobody()  # type: ignore[assignment]

    def __init__(self, connection: "Connection", taker: Taker, keep_alive: bool) -> None:
        self.connection, self.taker = connection, taker
        self.scope, self.headers = connection.scope, connection.headers
        self.expects = connection.expect_100_continue
        self.keep_alive = keep_alive
        self.body: bytes | bytearray = b""  # type: ignore[assignment]

    def forget_head(self) -> None:
        """Nobody will look at the headers: what is free early is used again while it is in the processor's cache."""
        self.headers = []

    def answer(self, status: int, lines: bytes, body: bytes) -> None:
        """Send a whole answer in one piece, or wait in a task until it can be sent. lines: see `heads`; with a
        `connection: close` where the status ends it, without a length.

        It does what uvicorn's `send` does for a start and a body, without looking at each header.
        """
        connection = self.connection
        if self.disconnected or connection.transport.is_closing():
            return
        if connection.flow.write_paused:
            self.run(partial(_answered, status, lines, body))
            return
        self.response_started = self.response_complete = True
        if status in ENDS_CONNECTION:
            self.keep_alive = False
        elif not self.keep_alive:
            lines += b"connection: close\r\n"
        connection.write_answer(status, lines, body)
        if not self.keep_alive:
            connection.transport.close()
        connection.on_response_complete()

    def run(self, app: ASGIApp) -> None:
        """Have an application answer it, in a task."""
        connection, taker = self.connection, self.taker
        connection.fill(self.scope, self.headers)
        method, path = taker.method.decode(), taker.url.decode()
        self.scope |= {"method": method, "path": path, "raw_path": taker.url, "query_string": b""}
        body, more_body = self.body, self.more_body
        super().__init__(
            scope=self.scope,
            transport=connection.transport,  # type: ignore[arg-type]
            flow=connection.flow,
            logger=connection.logger,
            access_logger=connection.access_logger,
            access_log=connection.access_log,
            default_headers=connection.server_state.default_headers,
            message_event=asyncio.Event(),
            expect_100_continue=self.expects,
            keep_alive=self.keep_alive,
            on_response=connection.on_response_complete,
        )
        self.body, self.more_body = bytearray(body), more_body
        if body:
            self.message_event.set()
        connection.start(self, app)


async def _answered(status: int, lines: bytes, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
    await send_whole(send, status, lines, body)

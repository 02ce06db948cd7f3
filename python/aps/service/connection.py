"""uvicorn's HTTP/1.1 connection with what it lacks: limits on heads, clients and their number, and two short cuts.

The only module that knows uvicorn's inside; `tests/test_service_connection.py` holds both together.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from starlette.types import Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from aps.service.config import Settings
from aps.service.errors import Headers, Refusal, headers_of
from aps.service.wire import ErrorAnswer, encode

KEY = "aps.connection"  # of the ASGI scope's state


class Connection(HttpToolsProtocol):
    """One connection. `settings` is set in the subclass that `connections` makes.

    gone: called once when the connection is lost; for the one request that is being answered.
    """

    settings: Settings

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, KEY: self}, _loop)
        self.gone: Callable[[], object] | None = None
        self._head_since: float | None = None  # the head that has not come whole
        self._head_bytes = 0
        self._stuck_since: float | None = None  # more waits to be sent than the transport likes
        self._closing_since: float | None = None
        self._idle_after: object = None  # the last request, and when it was seen to have ended
        self._idle_since = 0.0
        self._defaults: Headers = []
        self._default_lines = b""

    # What the server calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_since = self.loop.time()
        if len(self.connections) > self.settings.max_connections:
            self._end(Refusal("too_many_connections", "the service has no more connections", retry_after_s=1.0))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        gone, self.gone = self.gone, None
        if gone is not None:
            gone()
        # A request leads back to its connection: without these nothing is left for the garbage collector.
        self.cycle, self.scope, self.app_state = None, {}, {}  # type: ignore[assignment, typeddict-item]

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        cycle = self.cycle
        if cycle is None or cycle.scope is not self.scope:
            self._head_goes_on(len(data))
        elif self._head_since is not None or len(data) > self.settings.max_header_bytes:
            self._head_since, self._head_bytes = None, 0
            if sum(len(name) + len(value) + 4 for name, value in self.headers) > self.settings.max_header_bytes:
                cycle.disconnected = True
                self._refuse_head()

    def on_response_complete(self) -> None:
        """As uvicorn's, without a timer for each answer: `look` ends connections that are idle."""
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self.flow.resume_reading()
            if self.pipeline:
                self._start_asgi_task(*self.pipeline.pop())

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stuck_since = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._stuck_since = None

    def send_400_response(self, msg: str) -> None:
        self._end(Refusal("bad_request", msg))

    # Limits

    def look(self, now: float) -> None:
        """Called every second: end it if its client is too slow."""
        settings = self.settings
        if self.transport.is_closing():
            self._closing_since = self._closing_since or now
            stuck_since: float | None = self._closing_since
        else:
            stuck_since = self._stuck_since
        if self.cycle is not None and self.cycle.response_complete and not self.pipeline:
            if self._idle_after is not self.cycle:
                self._idle_after, self._idle_since = self.cycle, now
            elif now - self._idle_since > settings.keep_alive_s and self._head_since is None:
                self.transport.close()
        if stuck_since is not None and now - stuck_since > settings.send_s:
            self.transport.abort()
        elif self._head_since is not None and now - self._head_since > settings.header_s:
            self._end(Refusal("head_too_slow", f"the head must arrive within {settings.header_s:g} s"))

    def _head_goes_on(self, more: int) -> None:
        if self._head_since is None:
            self._head_since = self.loop.time()
        self._head_bytes += more
        if self._head_bytes > self.settings.max_header_bytes:
            self._refuse_head()

    def _refuse_head(self) -> None:
        self._end(Refusal("head_too_large", f"the head must be at most {self.settings.max_header_bytes} bytes"))

    def _end(self, refusal: Refusal) -> None:
        """Answer what is no request, and close."""
        self._head_since = None
        if self.transport.is_closing():
            return
        body = encode(ErrorAnswer(refusal.error))
        headers = [*headers_of(refusal.status, refusal.error), (b"content-length", b"%d" % len(body))]
        if (b"connection", b"close") not in headers:
            headers.append((b"connection", b"close"))
        self.transport.write(self._head(refusal.status, headers) + body)
        self.transport.close()

    # Answering at once

    def answer(self, send: Send, status: int, headers: Headers, body: bytes) -> bool:
        """Send a whole answer in one piece; False: it cannot be, `send` it. Headers must be well-formed.

        It does what uvicorn's `send` does for a start and a body, without looking at each header twice.
        """
        cycle = send.__self__  # type: ignore[attr-defined]
        if cycle.response_started or self.flow.write_paused:
            return False
        if cycle.disconnected:
            return True
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            headers = [*headers, (b"connection", b"close")]
        self.transport.write(self._head(status, headers) + body)
        cycle.message_event.set()
        if not cycle.keep_alive:
            self.transport.close()
        cycle.on_response()
        return True

    def _head(self, status: int, headers: Headers) -> bytes:
        defaults = self.server_state.default_headers
        if defaults is not self._defaults:  # the date changes once a second
            self._defaults = defaults
            self._default_lines = b"".join([b"%b: %b\r\n" % pair for pair in defaults])
        lines = [STATUS_LINE[status], self._default_lines]
        for name, value in headers:
            lines += (name, b": ", value, b"\r\n")
        lines.append(b"\r\n")
        return b"".join(lines)


def connections(limits: Settings) -> type[Connection]:
    """The protocol for uvicorn's `http`, with these limits."""

    class Limited(Connection):
        settings = limits

    return Limited


def connection_of(scope: Scope) -> Connection | None:
    """The connection that a request came over, when the server is ours."""
    connection: Connection | None = scope.get("state", {}).get(KEY)
    return connection

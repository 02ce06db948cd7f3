"""uvicorn's HTTP/1.1 connection with what it lacks: limits on heads, clients and their number, and a short cut for
requests that come whole.

This and `offered` alone know uvicorn's inside; `tests/test_service_connection.py` holds them together.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser
from starlette.types import ASGIApp, Message, Scope
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import HIGH_WATER_LIMIT, FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from aps.service.config import Settings
from aps.service.errors import Headers, Refusal, headers_of
from aps.service.heads import lines_of
from aps.service.lingering import LONGEST_S, LingeringTransport
from aps.service.offered import Offered, Taker
from aps.service.seldom import Seldom
from aps.service.traffic import Traffic
from aps.service.wire import ErrorAnswer, encode

KEY = "aps.connection"  # of the ASGI scope's state
UPGRADE = (b"upgrade", b"connection", b"http2-settings")  # the headers of who would rather speak another protocol
PIECE = 4096  # bytes that are parsed at once: so many that a common request is one, so few that they hold few requests


NOTHING, HEAD, REST = range(3)  # what of a request has begun to come: neither, its head, its body or trailers


class _Flow(FlowControl):
    """uvicorn's, but nothing is read while much of what has been read waits to be parsed."""

    def __init__(self, transport: asyncio.Transport, behind: bytearray) -> None:
        super().__init__(transport)
        self._behind = behind

    def resume_reading(self) -> None:
        if len(self._behind) <= HIGH_WATER_LIMIT:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """One connection. `settings`, `traffic`, `taker` and `crowded` are set in the subclass that `connections` makes.

    taker: gets the requests that it takes and that have come whole; None: all are awaited. gone: called once when the
    connection is lost; for the one request that is being answered. crowded: told of connections beyond the most.
    """

    settings: Settings
    traffic: Traffic
    taker: Taker | None
    crowded: Seldom
    transport: LingeringTransport  # type: ignore[assignment]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, {**app_state, KEY: self}, _loop)
        self.gone: Callable[[], object] | None = None
        self._part = NOTHING
        self._head_since: float | None = None  # since when a head comes
        self._unclaimed = 0  # bytes since the parser last had a whole head, something of a body, or its end
        self._behind = bytearray()  # what has been read and not parsed, while requests wait in the pipeline
        self._last: Refusal | None = None  # the last answer of this connection; it waits for those before it
        self._stuck_since: float | None = None  # more waits to be sent than the transport likes
        self._closing_since: float | None = None
        self._idle_after: object = None  # the last request, and when it was seen to have ended
        self._idle_since = 0.0
        self._defaults: Headers = []
        self._default_lines = b""
        self._begun: Offered | None = None  # the taker's, if it turns out to have come whole
        self._running: RequestResponseCycle | None = None  # the last that got a task

    # What the server calls

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.traffic.connections += 1
        self.transport = LingeringTransport(transport)
        self.flow = _Flow(transport, self._behind)
        self._head_since = self.loop.time()
        if len(self.connections) > self.settings.max_connections:
            self.transport.patient = False
            self.crowded.say()
            self._end(Refusal("too_many_connections", "the service has no more connections", retry_after_s=1.0))

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.traffic.connections -= 1
        if self._running is not None and not self._running.response_complete:  # uvicorn knows the newest request alone
            self._running.disconnected = True
            self._running.message_event.set()
        gone, self.gone = self.gone, None
        if gone is not None:
            gone()
        # A request leads back to its connection: without these nothing is left for the garbage collector.
        self.cycle, self.scope, self.app_state = None, {}, {}  # type: ignore[assignment, typeddict-item]
        self._running = self._idle_after = None
        self.pipeline.clear()
        self._behind.clear()

    def shutdown(self) -> None:
        """As uvicorn's. From now on nobody looks."""
        self.transport.patient = False
        if self.transport.lingers:
            self.transport.close()
        else:
            super().shutdown()

    @property
    def still_sends(self) -> bool:
        """Whether more may come than the requests that were answered: of one of them, behind them, or what is none."""
        return self._part != NOTHING or self._last is not None or bool(self._behind or self.pipeline)

    def data_received(self, data: bytes) -> None:
        if self._last is not None:
            return
        if len(data) > PIECE or self.pipeline:
            self._behind += data
            self._catch_up()
            if len(self._behind) > HIGH_WATER_LIMIT:
                self.flow.pause_reading()
        else:
            self._parse(data)
        begun = self._begun
        if begun is not None:
            self._begun = None
            if begun.disconnected or self.transport.is_closing():
                return
            if begun.more_body:
                begun.run(self.app)
            else:
                body, begun.body = begun.body, b""
                begun.taker.take(begun, bytes(body))

    def _catch_up(self) -> None:
        """Parse what has been read, as long as no request waits behind the one that is being answered."""
        while self._behind and not self.pipeline:
            if self.transport.is_closing():
                self._behind.clear()
                return
            piece = bytes(self._behind[:PIECE])
            del self._behind[:PIECE]
            self._parse(piece)

    def _parse(self, data: bytes) -> None:
        self._unclaimed += len(data)
        try:
            self.parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            self._go_on(data, error)
        if self._part == HEAD and self._head_since is None:
            self._head_since = self.loop.time()
        if self._unclaimed > self.settings.max_header_bytes:
            self._refuse_head()

    def _go_on(self, data: bytes, error: Exception) -> None:
        """The parser has stopped. It takes no body of a request whose client would rather speak another protocol, as
        Java's does unless it is told: there it goes on with the same head, without that wish."""
        while isinstance(error, HttpParserUpgrade) and self.parser.get_method() != b"CONNECT":  # this is no proxy
            data = self._without_upgrade() + data[error.args[0] :]
            self.parser = HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's
            try:
                self.parser.feed_data(data)
                return
            except (HttpParserError, HttpParserUpgrade) as another:
                error = another
        self.send_400_response("Invalid HTTP request received.")

    def _without_upgrade(self) -> bytes:
        parser = self.parser
        head = [line for line in self.headers if line[0] not in UPGRADE]
        if not parser.should_keep_alive():
            head.append((b"connection", b"close"))
        first = b"%b %b HTTP/%b\r\n" % (parser.get_method(), self.url, parser.get_http_version().encode())
        return first + lines_of(head) + b"\r\n"

    def on_response_complete(self) -> None:
        """As uvicorn's, without a timer for each answer: `look` ends connections that are idle."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            self._behind.clear()
            return
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        elif self._last is not None:
            self._say_last()
            return
        if self._behind:
            self._catch_up()
        if self.flow.read_paused:
            self.flow.resume_reading()

    def on_message_begin(self) -> None:
        """The least: what a scope is made of waits for the head."""
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self.scope = {}  # type: ignore[typeddict-item]
        self._part = HEAD

    def on_headers_complete(self) -> None:
        """As uvicorn's. What the taker may get waits until all that has arrived is parsed."""
        parser, taker = self.parser, self.taker
        if self._last is not None or parser.should_upgrade():  # for those see `_go_on`
            return
        if self._unclaimed + PIECE > self.settings.max_header_bytes and self._is_large():
            self._refuse_head()
            return
        if (
            taker is not None
            and self.url == taker.url
            and not self.root_path
            and (self.cycle is None or self.cycle.response_complete)
            and parser.get_method() == taker.method
            and parser.get_http_version() == "1.1"
        ):
            self.cycle = self._begun = Offered(self, taker, parser.should_keep_alive())
        else:
            self.fill(self.scope, self.headers)
            super().on_headers_complete()
            if parser.get_http_version() == "1.0":
                self.cycle.__class__ = _WithoutChunks
        self._part, self._head_since, self._unclaimed = REST, None, 0  # not before: the URL may be none
        self.headers = []  # what comes there now are trailers, which nobody reads

    def on_body(self, body: bytes) -> None:
        if self._part != REST:  # refused
            return
        self._unclaimed = 0
        cycle = self.cycle
        if cycle is self._begun:
            if not cycle.body:
                cycle.body = body  # most often the whole of it
                return
            if type(cycle.body) is bytes:
                cycle.body = bytearray(cycle.body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._part != REST:  # refused, or one that is to go on: see `_go_on`
            return
        self._part, self._unclaimed = NOTHING, 0
        begun = self._begun
        if begun is not None and self.cycle is begun:
            begun.more_body = False
        else:
            super().on_message_complete()

    def fill(self, scope: Any, headers: Headers) -> None:
        """What uvicorn puts into a scope when a request begins."""
        scope |= {
            "type": "http",
            "asgi": {"version": self.asgi_version, "spec_version": "2.3"},
            "http_version": "1.1",
            "server": self.server,
            "client": self.client,
            "scheme": self.scheme,
            "root_path": self.root_path,
            "headers": headers,
            "state": self.app_state.copy(),
        }

    def watch(self, gone: Callable[[], object]) -> None:
        """Call `gone` when the client hangs up, once; until `gone` is set to None. It is not heard behind a lot that
        the client has sent in advance."""
        self.gone = gone
        if self.flow.read_paused:  # for a large body or a next request, and one hears of the end by reading
            self.flow.resume_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def start(self, cycle: RequestResponseCycle, app: ASGIApp) -> None:
        """Have an application answer a request, in a task."""
        self._start_asgi_task(cycle, app)

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
        settings, transport = self.settings, self.transport
        if transport.is_closing():
            self._closing_since = self._closing_since or now
            if now - self._closing_since > (LONGEST_S if transport.lingers and transport.sent else settings.send_s):
                transport.abort()
            return
        if self.cycle is not None and self.cycle.response_complete and not self.pipeline:
            if self._idle_after is not self.cycle:
                self._idle_after, self._idle_since = self.cycle, now
            elif now - self._idle_since > settings.keep_alive_s and self._head_since is None:
                transport.close()
        if self._stuck_since is not None and now - self._stuck_since > settings.send_s:
            transport.abort()
        elif self._head_since is not None:
            if self.pipeline or self.flow.read_paused:  # the rest may have come long ago
                self._head_since = now
            elif now - self._head_since > settings.header_s:
                self._end(Refusal("head_too_slow", f"the head must arrive within {settings.header_s:g} s"))

    def _is_large(self) -> bool:
        head = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        return head > self.settings.max_header_bytes

    def _refuse_head(self) -> None:
        self._end(Refusal("head_too_large", f"the head must be at most {self.settings.max_header_bytes} bytes"))

    def _end(self, refusal: Refusal) -> None:
        """Answer what is no request, when those before it have their answers, and close. What comes is not read."""
        if self._last is not None or self.transport.is_closing():
            return
        self.traffic.refused[refusal.error.reason] += 1
        self._last, self._head_since = refusal, None
        self._behind.clear()
        cycle, waits = self.cycle, bool(self.pipeline)
        if cycle is not None and self._part == REST:  # it is this request's rest that is wrong
            if cycle.response_started:
                self.transport.patient = cycle.response_complete  # whoever writes it must hear that it is cut off
                self.transport.close()
                return
            cycle.disconnected = True
            cycle.message_event.set()
            if waits:
                self.pipeline.popleft()  # the newest
                self.flow.resume_reading()
        elif cycle is not None:
            waits = waits or not cycle.response_complete
        if not waits:
            self._say_last()

    def _say_last(self) -> None:
        refusal = self._last
        assert refusal is not None
        headers = headers_of(refusal.status, refusal.error)
        if (b"connection", b"close") not in headers:
            headers.append((b"connection", b"close"))
        self.write_answer(refusal.status, lines_of(headers), encode(ErrorAnswer(refusal.error)))
        self.transport.close()

    def write_answer(self, status: int, lines: bytes, body: bytes) -> None:
        """A whole answer, in one piece; lines: see `heads`, without a length."""
        defaults = self.server_state.default_headers
        if defaults is not self._defaults:  # the date changes once a second
            self._defaults, self._default_lines = defaults, lines_of(defaults)
        length = b"content-length: %d\r\n\r\n" % len(body)
        self.transport.write(b"".join((STATUS_LINE[status], self._default_lines, lines, length, body)))


class _WithoutChunks(RequestResponseCycle):
    """uvicorn's for HTTP/1.0, which knows no chunks: there the connection's end is that of a body of unknown length."""

    framed = True

    async def send(self, message: Message) -> None:  # type: ignore[override]
        if message["type"] == "http.response.start":
            self.framed = any(name == b"content-length" for name, _ in message["headers"])
            self.chunked_encoding = None if self.framed else False
        elif not self.framed:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)  # type: ignore[arg-type]


def connections(limits: Settings, seen: Traffic, short_cut: Taker | None = None) -> type[Connection]:
    """The protocol for uvicorn's `http`, with these limits, counted there; short_cut: its `taker`."""

    class Limited(Connection):
        settings = limits
        traffic = seen
        taker = short_cut
        crowded = Seldom(f"{limits.max_connections} connections are open, the most there may be: further ones get 503")

    return Limited


def connection_of(scope: Scope) -> Connection | None:
    """The connection that a request came over, when the server is ours."""
    connection: Connection | None = scope.get("state", {}).get(KEY)
    return connection

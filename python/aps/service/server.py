"""Runs the application under uvicorn; SIGTERM and SIGINT drain it within a deadline."""

import asyncio
import gc
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from aps.driver import Driver
from aps.service import supervision
from aps.service.app import Service
from aps.service.config import Settings
from aps.service.connection import Connection, connections
from aps.service.draining import Drain

SEND_BUFFER = 1 << 17  # bytes
YOUNG = 20_000  # objects made between two collections of the young ones; CPython's default is 700


class Server(uvicorn.Server):
    """A server that on its first signal refuses new requests with 503, finishes what it accepted, then stops.

    After `drain_s` wall seconds what is left is cancelled and answered, and answers that are to be fetched are waited
    for no longer; a second signal does that at once. A third ends without answers.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        drain: Drain,
        drain_s: float,
        on_hangup: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(config)
        self._on_hangup, self._hung_up = on_hangup, False
        self._drain, self._drain_s = drain, drain_s
        self._draining: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._signals = 0

    async def on_tick(self, counter: int) -> bool:
        """Called by uvicorn ten times a second."""
        if counter % 10 == 0:
            now = asyncio.get_running_loop().time()
            for connection in tuple(self.server_state.connections):
                if isinstance(connection, Connection):
                    connection.look(now)
        return await super().on_tick(counter)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)  # opens the driver
        if not self.started:
            return
        supervision.ready()
        if self._signals:
            self._stop(self._drain_s if self._signals == 1 else 0.0)
        elif self._hung_up and self._on_hangup is not None:
            self._on_hangup()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The signal handler."""
        self._signals += 1
        if self._signals > 2:
            self.should_exit = self.force_exit = True
        elif self._loop is not None and self.started:  # else startup sees to it
            self._soon(self._loop, self._stop, self._drain_s if self._signals == 1 else 0.0)

    def handle_hangup(self, sig: int, frame: FrameType | None) -> None:
        """The handler of SIGHUP: `on_hangup`, on the loop; without one as any other signal."""
        if self._on_hangup is None:
            self.handle_exit(sig, frame)
        elif self._loop is None or not self.started:
            self._hung_up = True  # startup sees to it
        else:
            self._soon(self._loop, self._on_hangup)

    def _soon(self, loop: asyncio.AbstractEventLoop, call: Callable[..., object], *arguments: float) -> None:
        if not loop.is_closed():  # else it has ended, and closes what it had open
            loop.call_soon_threadsafe(call, *arguments)

    def _stop(self, within_s: float) -> None:
        """Start to drain, in place of a drain that takes longer."""
        if self._draining is not None:
            self._draining.cancel()
        self._draining = asyncio.create_task(self._drain_within(within_s))

    async def _drain_within(self, within_s: float) -> None:
        try:
            await self._drain.within(within_s)
        finally:
            if asyncio.current_task() is self._draining:
                self.should_exit = True


def serve(
    app: Service,
    driver: Driver,
    listener: socket.socket,
    *,
    drain_s: float,
    say: Callable[[str], None],
    log_level: str,
    announce: Callable[[], None] = lambda: None,
    on_hangup: Callable[[], None] | None = None,
) -> None:
    """Serve `app` on `listener` until a signal has drained it. It has the process for itself.

    announce: called once SIGHUP has its handler. on_hangup: called on the loop at each SIGHUP; None: that drains too,
    as when a terminal is closed, unless it is ignored, as under nohup.
    """
    # What there is lives for ever and is not looked through again, and requests leave no cycles behind: collect seldom.
    gc.freeze()
    gc.set_threshold(YOUNG, 50, 100)
    gc.enable()
    drain = Drain(driver, app.state.bodies, app.state.requests, say)
    server = Server(config(app, log_level=log_level), drain, drain_s, on_hangup)
    if on_hangup is not None or signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, server.handle_hangup)
    announce()
    server.run(sockets=[listener])


def config(app: Service, *, log_level: str = "warning") -> uvicorn.Config:
    """How uvicorn serves `app`: uvloop where it is installed, httptools, the limits of the app's settings."""
    settings: Settings = app.state.settings
    return uvicorn.Config(
        app,
        loop="auto",
        http=connections(settings, app.state.traffic, app.infer),
        ws="none",
        interface="asgi3",
        lifespan="on",
        access_log=False,
        log_config=None,  # aps.service.logs has the loggers
        log_level=log_level,
        proxy_headers=False,  # nobody asks for a client's address
        server_header=False,
        timeout_graceful_shutdown=5,
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 takes a free one. OSError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Its connections inherit it: else the system would keep megabytes for a client that does not read.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        listener.bind((host, port))
        listener.listen(2048)
    except OSError:
        listener.close()
        raise
    return listener

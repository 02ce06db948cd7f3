"""A real service on a loopback port, in a thread of the test's process."""

import asyncio
import threading
import time
from asyncio import AbstractEventLoop
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import httpx

from aps.backends import Backend, SimulatedBackend
from aps.driver import Driver
from aps.policy import Limits, Policy
from aps.scheduler import Scheduler
from aps.service import usage
from aps.service.access import Access
from aps.service.app import create_app
from aps.service.config import Settings
from aps.service.draining import Drain
from aps.service.keeper import Keeper
from aps.service.logs import RequestLog
from aps.service.server import Server, config, listen
from aps.service.tenants import DEFAULT_TENANTS, STRESS_TENANTS
from aps.tenants import Tenant

if TYPE_CHECKING:
    from aps.service.tracing import Tracing


class Service:
    """What a test needs of it: its address, a client, the server, its driver and the driver's loop."""

    def __init__(
        self, address: tuple[str, int], client: httpx.Client, server: Server, driver: Driver, loop: AbstractEventLoop
    ) -> None:
        self.address, self.client, self.server, self.driver, self.loop = address, client, server, driver, loop

    @property
    def url(self) -> str:
        return f"http://{self.address[0]}:{self.address[1]}"

    def infer(self, **fields: Any) -> httpx.Response:
        return self.client.post("/infer", json=fields)

    def status(self, tenant: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get(f"/tenants/{tenant}/status").json()
        return answer


def until(true: Callable[[], object], within_s: float = 5.0) -> None:
    """Wait for it to come true."""
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.01)


@contextmanager
def serving(
    tenants: Iterable[Tenant] = DEFAULT_TENANTS + STRESS_TENANTS,
    *,
    policy: Policy | None = None,
    limits: Limits | None = None,
    time_scale: float = 100.0,
    access: Access | None = None,
    backend: Backend | None = None,
    log: RequestLog | None = None,
    tracing: "Callable[[Driver], Tracing] | None" = None,
    keep: Callable[[Driver], Keeper] | None = None,
    loop: Callable[[], AbstractEventLoop] | None = None,
    **settings: Any,
) -> Iterator[Service]:
    """Serve until the block ends.

    backend: a simulated one if None. keep: makes its keeper. loop: asyncio's own if None. settings: of `Settings`.
    """
    backend = backend or SimulatedBackend("reference", time_scale=time_scale)
    scheduler = Scheduler(tenants, policy=policy or Policy(), devices=backend.devices, limits=limits or Limits())
    driver = Driver(scheduler, backend)
    keeper = None if keep is None else keep(driver)
    app = create_app(
        driver,
        settings=Settings(**settings),
        access=access,
        log=log,
        tracing=tracing and tracing(driver),
        keeper=keeper,
    )
    if keeper is not None:
        usage.install(app, keeper.database)
    server = Server(config(app), Drain(driver, app.state.bodies, app.state.requests, lambda _: None), 1.0)
    listener = listen("127.0.0.1", 0)
    loops: list[AbstractEventLoop] = []
    started = threading.Event()

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        started.set()
        await server.serve(sockets=[listener])

    def run() -> None:
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(main())

    thread = threading.Thread(target=run)
    thread.start()
    started.wait(10)
    address: tuple[str, int] = listener.getsockname()
    try:
        with httpx.Client(base_url=f"http://{address[0]}:{address[1]}", timeout=30.0, trust_env=False) as client:
            yield Service(address, client, server, driver, loops[0])
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()

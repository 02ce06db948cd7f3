"""A real service on a loopback port, in a thread of the test's process."""

import asyncio
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from aps.backends.simulated import SimulatedBackend
from aps.driver import Driver
from aps.policy import Limits
from aps.scheduler import Scheduler
from aps.service.access import Access
from aps.service.app import create_app
from aps.service.config import Settings
from aps.service.server import listen
from aps.service.tenants import DEFAULT_TENANTS, STRESS_TENANTS
from aps.tenants import Tenant


class Service:
    """What a test needs of it: its address, a client, its driver and the driver's loop."""

    def __init__(self, url: str, client: httpx.Client, driver: Driver, loop: asyncio.AbstractEventLoop) -> None:
        self.url, self.client, self.driver, self.loop = url, client, driver, loop

    def infer(self, **fields: Any) -> httpx.Response:
        return self.client.post("/infer", json=fields)

    def status(self, tenant: str) -> dict[str, Any]:
        answer: dict[str, Any] = self.client.get(f"/tenants/{tenant}/status").json()
        return answer


@contextmanager
def serving(
    tenants: Iterable[Tenant] = DEFAULT_TENANTS + STRESS_TENANTS,
    *,
    limits: Limits | None = None,
    time_scale: float = 100.0,
    access: Access | None = None,
    **settings: Any,
) -> Iterator[Service]:
    """Serve until the block ends. settings: of `Settings`."""
    backend = SimulatedBackend("reference", time_scale=time_scale)
    driver = Driver(Scheduler(tenants, devices=backend.devices, limits=limits or Limits()), backend)
    app = create_app(driver, settings=Settings(**settings), access=access)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1))
    listener = listen("127.0.0.1", 0)
    loops: list[asyncio.AbstractEventLoop] = []
    started = threading.Event()

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        started.set()
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    started.wait(10)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        with httpx.Client(base_url=url, timeout=30.0, trust_env=False) as client:
            yield Service(url, client, driver, loops[0])
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()

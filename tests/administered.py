"""A service with keys and administration, called within the test's loop, without sockets."""

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import httpx

from aps.driver import Driver
from aps.policy import Limits, Policy
from aps.service import admin
from aps.service.access import Access
from aps.service.app import create_app
from aps.service.config import Config, Devices, Settings
from aps.service.kept import Kept, compare_with
from aps.service.keys import digest_of, hash_line
from aps.service.running import Running
from aps.service.tenancy import InStore
from aps.tenants import Tenant

ADMIN, METRICS, GOLD, FREE, OTHER = (f"aps_{letter * 43}" for letter in "amgfo")


def digest(key: str) -> bytes:
    return digest_of(key.encode())


def config(**changes: Any) -> Config:
    """Two tenants with a key each, and a key of each other role."""
    whole = Config(
        Settings(),
        Devices(time_scale=1000.0),
        Policy(),
        Limits(),
        (Tenant("gold", weight=3, rate=1000, burst=10_000), Tenant("free")),
        keys={"gold": (digest(GOLD),), "free": (digest(FREE),)},
        admin_key=digest(ADMIN),
        metrics_key=digest(METRICS),
    )
    return replace(whole, **changes)


class Administered:
    """What a test needs: a client for each key, what runs, its driver and its access."""

    def __init__(self, client: httpx.AsyncClient, running: Running, driver: Driver, access: Access) -> None:
        self._client, self.running, self.driver, self.access = client, running, driver, access

    async def call(self, method: str, path: str, key: str | None = ADMIN, **options: Any) -> httpx.Response:
        headers = dict(options.pop("headers", {})) | ({} if key is None else {"authorization": f"Bearer {key}"})
        return await self._client.request(method, path, headers=headers, **options)

    async def infer(self, key: str | None, **fields: Any) -> httpx.Response:
        return await self.call("POST", "/infer", key, json={"prompt_tokens": 10, "max_tokens": 2} | fields)

    @property
    def state(self) -> tuple[Any, ...]:
        """All that a change changes."""
        return dict(self.driver.scheduler.tenants), self.driver.scheduler.policy, self.running.config


@asynccontextmanager
async def administered(
    given: Config | None = None, load: Callable[[], Config] | None = None, kept: Kept | None = None
) -> AsyncIterator[Administered]:
    """Serve until the block ends. kept: the tenants' store, which the service follows."""
    whole = kept.config if kept is not None else given or config()
    backend = whole.devices.backend()
    driver = Driver(whole.scheduler(backend), backend)
    access = Access.of(whole)
    app = create_app(driver, settings=whole.settings, access=access)
    running = Running(
        whole, driver, access, app.state, load, None if kept is None else partial(compare_with, kept.store)
    )
    tenancy = None if kept is None else InStore(kept.store, kept.book.number, running, whole.settings.store_poll_s)
    if access.admin:
        admin.install(app, running, tenancy)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(driver)
        if tenancy is not None:
            await stack.enter_async_context(tenancy.following())
        client = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://aps"))
        yield Administered(client, running, driver, access)


__all__ = ["ADMIN", "FREE", "GOLD", "METRICS", "OTHER", "Administered", "administered", "config", "digest", "hash_line"]

"""A driver on a simulated GPU, and what keeps its books."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

from aps import Driver, Policy, Scheduler, Tenant
from aps.backends import SimulatedBackend
from aps.service.keeper import Keeper
from aps.store.database import Database
from aps.store.usage import Used, read


def keeping(database: Database, **options: Any) -> Callable[[Driver], Keeper]:
    """Keepers that have begun."""

    def keep(driver: Driver) -> Keeper:
        keeper = Keeper(database, driver, **{"interval_s": 0.05} | options)
        keeper.restore()
        return keeper

    return keep


def driver_of(*tenants: Tenant, policy: Policy | None = None) -> Driver:
    backend = SimulatedBackend("reference", time_scale=1000.0)
    return Driver(Scheduler(tenants, policy=policy or Policy(), devices=backend.devices), backend)


def ledger(database: Database, **asked: Any) -> dict[str | None, Used]:
    """What is there, by tenant."""
    with database.reading() as connection:
        return {used.tenant: used for used in read(connection, **asked)}


async def true(what: Callable[[], object], within_s: float = 20.0) -> None:
    """Wait for it to come true."""
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.01)

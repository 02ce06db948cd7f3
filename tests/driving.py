"""A driver on a loop whose time jumps, and what must be left of it in the end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import pytest

from aps import Limits, Policy, Scheduler, Tenant
from aps.backends import SimulatedBackend
from aps.driver import Driver
from tests.virtual_loop import VirtualLoop

CROWD = (Tenant("a", weight=3.0), Tenant("b", rate=300.0, burst=3000.0, over_rate="queue"), Tenant("c"))
POLICIES = {
    "continuous": Policy(),
    "micro": Policy(batching="micro"),
    "preemption": Policy(preemption="recompute", aging_horizon_s=inf, fairness_window=inf),
    "swap": Policy(preemption="swap", aging_horizon_s=inf, fairness_window=inf),
}

A, B = Tenant("a"), Tenant("b")


@asynccontextmanager
async def opened(
    loop: VirtualLoop, *tenants: Tenant, policy: Policy | None = None, limits: Limits | None = None, **options: Any
) -> AsyncIterator[Driver]:
    backend = SimulatedBackend(clock=loop.time, **options)
    scheduler = Scheduler(
        tenants or (A, B), policy=policy or Policy(), devices=backend.devices, limits=limits or Limits()
    )
    async with Driver(scheduler, backend) as driver:
        yield driver
        assert_nothing_held(driver)


def assert_nothing_held(driver: Driver) -> None:
    """Slots, KV, reservations and counters are back to zero."""
    snapshot = driver.snapshot()
    assert (snapshot.waiting, snapshot.waiting_tokens, snapshot.returning, driver.outstanding) == (0, 0, 0, 0)
    for device in snapshot.devices.values():
        assert (device.running, device.held_blocks, device.max_blocks, device.reserved) == (0, 0, 0, None)
    for name, tenant in snapshot.tenants.items():
        assert (tenant.waiting, tenant.in_flight, tenant.held_blocks) == (0, 0, 0)
        counted = driver.metrics.tenant(name)
        assert (counted.waiting, counted.outstanding, counted.admitted) == (0, 0, tenant.admitted)
        assert counted.finished == tenant.finished
        assert (counted.prompt_tokens, counted.output_tokens) == (tenant.prompt_tokens, tenant.output_tokens)
        ended = counted.finished + counted.cancelled + counted.expired + counted.dropped + counted.failed
        assert ended == counted.admitted
        assert counted.charged == pytest.approx(tenant.charged_tokens)
    times = driver.metrics.time
    assert times is not None
    for tallies in (driver.metrics.tenants, driver.metrics.bids):
        assert sum(tally.gpu_ns for tally in tallies.values()) == sum(times.busy_ns) - sum(times.left_ns)
    for i in range(len(driver.backend.devices)):
        usage = driver.backend.usage(i)
        assert usage is not None
        assert (usage.running, usage.held_blocks) == (0, 0)
    desk = driver._pump.desk
    assert not desk.named and not desk.tickets() and not desk.listeners
    assert driver.invariants(snapshot) == {"requests": 0, "slots": 0, "blocks": 0, "tokens": 0}

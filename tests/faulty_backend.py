"""A backend on a virtual clock that does what it is told to, right or wrong."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

from aps import Device, Scheduler, Tenant
from aps.backends import GeneratorBackend, Job, Progress
from aps.driver import Driver
from tests.virtual_loop import VirtualLoop

STEP_S = 0.01
ALL_IS_WELL = {"requests": 0, "slots": 0, "blocks": 0, "tokens": 0}


class Faulty(GeneratorBackend):
    """Gives a token every 10 ms. plan(device, job, start): after how many tokens that start of the job breaks, or hangs
    (a negative number); None: never. twist: what becomes of the news before they are taken."""

    def __init__(
        self,
        loop: VirtualLoop,
        *,
        devices: int = 1,
        slots: int = 4,
        plan: Callable[[int, Job, int], int | None] = lambda device, job, start: None,
        twist: Callable[[Progress], Progress] | None = None,
    ) -> None:
        names = (f"faulty{i}" for i in range(devices))
        super().__init__([Device(slots=slots, token_budget=None, name=name) for name in names], clock=loop.time)
        self.plan = plan
        self.twist = twist
        self.broken: dict[str, set[int]] = {}  # methods that raise, by device
        self.starts: dict[int, int] = {}  # of each job
        self.started_on: list[int] = []

    async def generate(self, device: int, job: Job) -> AsyncGenerator[str, None]:
        self.starts[job.handle] = start = self.starts.get(job.handle, 0) + 1
        self.started_on.append(device)
        ends = self.plan(device, job, start)
        for n in range(job.generated, 10**9):
            if ends is not None and n >= abs(ends):
                if ends >= 0:
                    raise OSError("the cable")
                await asyncio.Event().wait()
            await asyncio.sleep(STEP_S)
            yield f"{n} "

    def breaks(self, method: str, device: int) -> None:
        if device in self.broken.get(method, ()):
            raise OSError(f"no {method}")

    def ready(self, device: int) -> bool:
        self.breaks("ready", device)
        return super().ready(device)

    def health(self, device: int) -> Any:
        self.breaks("health", device)
        return super().health(device)

    def start(self, device: int, jobs: Sequence[Job], now: float) -> None:
        self.breaks("start", device if jobs else -1)
        super().start(device, jobs, now)

    def abort(self, device: int, job: Job, *, keep: bool = False) -> None:
        super().abort(device, job, keep=keep)
        self.breaks("abort", device)

    def texts(self, jobs: Sequence[Job], counts: Sequence[int]) -> Sequence[str]:
        self.breaks("texts", 0)
        return super().texts(jobs, counts)

    def tokens(self, job: Job, start: int, stop: int) -> Sequence[str]:
        if stop:
            self.breaks("tokens", 0)
        return super().tokens(job, start, stop)

    def served(self, accounts: int) -> Any:
        self.breaks("served", 0)
        return super().served(accounts)

    def take(self) -> Progress:
        news = super().take()
        return news if self.twist is None else self.twist(news)

    @property
    def running(self) -> int:
        return sum(map(len, self._running))


def driven(backend: GeneratorBackend, *tenants: Tenant, **options: Any) -> Driver:
    return Driver(Scheduler(tenants or [Tenant("a"), Tenant("b")], devices=backend.devices), backend, **options)


def assert_all_is_well(driver: Driver) -> None:
    """Nothing runs, waits or is held, and everybody agrees on it."""
    assert driver.invariants() == ALL_IS_WELL
    snapshot = driver.scheduler.snapshot(now=driver._pump.now)
    assert (snapshot.waiting, snapshot.returning, driver.outstanding) == (0, 0, 0)
    for device in snapshot.devices.values():
        assert (device.running, device.held_blocks, device.max_blocks) == (0, 0, 0)
    for tenant in snapshot.tenants.values():
        assert (tenant.in_flight, tenant.held_blocks) == (0, 0)
    assert isinstance(driver.backend, Faulty)
    assert driver.backend.running == 0
    guard = driver._pump.guard
    assert guard is not None and not guard._lost and not guard._texts

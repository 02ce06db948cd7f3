"""When timers fire changes nothing; the clock slips only when the machine cannot keep up."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from math import inf
from typing import Any

import pytest

from aps import Policy, Scheduler
from aps.backends import Progress, SimulatedBackend
from aps.driver import Driver, DriverError, Result
from tests.driving import CROWD, POLICIES, A, assert_nothing_held, opened
from tests.virtual_loop import VirtualLoop, run

# The clock: late timers, determinism


def arrivals(seed: int, n: int) -> list[tuple[float, dict[str, Any]]]:
    rng = random.Random(seed)
    times = sorted(rng.uniform(0, 20) for _ in range(n))
    return [
        (
            at,
            {
                "tenant": rng.choice("abc"),
                "prompt_tokens": rng.randint(1, 400),
                "max_tokens": rng.randint(1, 60),
                "bid": rng.randint(1, 10),
                "deadline_s": rng.choice([None, None, rng.uniform(0.5, 30)]),
            },
        )
        for at in times
    ]


def injected(policy: Policy, gpus: int, between: Callable[[random.Random], Awaitable[None]]) -> list[Result]:
    """Arrivals at given instants of a clock of our own, whatever the loop does in between."""

    async def main(loop: VirtualLoop) -> list[Result]:
        rng = random.Random(1)
        clock = 0.0
        backend = SimulatedBackend(gpus=gpus, slots=4, kv_tokens=2400, clock=lambda: clock)
        async with Driver(Scheduler(CROWD, policy=policy, devices=backend.devices), backend) as driver:
            tickets = []
            for i, (at, asked) in enumerate(arrivals(5, 120 * gpus)):
                clock = at
                await between(rng)
                tickets.append(driver.submit(**asked, id=i))
            while driver.outstanding:
                clock += rng.choice([0.001, 0.5, 20.0])
                await asyncio.sleep(1)
                driver.snapshot()  # plays what is due
            assert_nothing_held(driver)
            return [await ticket.result() for ticket in tickets]

    return run(main)


@pytest.mark.parametrize("gpus", [1, 3])
@pytest.mark.parametrize("mode", POLICIES)
def test_when_timers_fire_changes_nothing(mode: str, gpus: int) -> None:
    async def never(rng: random.Random) -> None:
        return None

    async def often(rng: random.Random) -> None:
        await asyncio.sleep(rng.choice([0, 0.01, 1]))

    late, prompt = injected(POLICIES[mode], gpus, never), injected(POLICIES[mode], gpus, often)
    assert late == prompt
    assert {"finished", "expired"} <= {r.status for r in late}
    assert any(r.queue_wait_s and r.queue_wait_s > 1 for r in late)


@pytest.mark.parametrize("epoch", [-1000.0, -1e10, 1.7e9, 1e10])
def test_the_epoch_changes_nothing(epoch: float) -> None:
    def results(epoch: float) -> list[Result]:
        async def main(loop: VirtualLoop) -> list[Result]:
            backend = SimulatedBackend(clock=loop.time, slots=2)
            async with Driver(Scheduler([A], devices=backend.devices, epoch=epoch), backend) as driver:
                tickets = [driver.submit("a", prompt_tokens=100, max_tokens=5 + i, id=i) for i in range(5)]
                await asyncio.sleep(0.7)
                tickets.append(driver.submit("a", prompt_tokens=100, max_tokens=5, id=5))
                return [await ticket.result() for ticket in tickets]

        return run(main)

    for far, near in zip(results(epoch), results(0.0), strict=True):
        # A double near 1e10 tells 2 microseconds apart.
        assert far.arrived_at - epoch == pytest.approx(near.arrived_at, abs=1e-4)
        for field in ("queue_wait_s", "ttft_s", "e2e_s"):
            assert getattr(far, field) == pytest.approx(getattr(near, field), abs=1e-4)
            assert getattr(far, field) >= 0
        assert far[:10] == near[:10] and far[-3:] == near[-3:]


@pytest.mark.parametrize("epoch", [0.0, -1000.0])
def test_at_the_end_of_time_the_driver_has_failed(epoch: float) -> None:
    async def main(loop: VirtualLoop) -> None:
        def opened() -> Driver:
            backend = SimulatedBackend(time_scale=1e4, clock=loop.time)
            return Driver(Scheduler([A], devices=backend.devices, epoch=epoch), backend)

        async with opened() as idle:
            loop.block(39_999)
            assert (await idle.infer("a", prompt_tokens=1, max_tokens=1)).status == "finished"
            loop.block(2)
            assert idle.now < epoch + 4e8
            assert isinstance(idle.failed, OverflowError)
        async with opened() as idle:
            loop.block(40_001)
            with pytest.raises(DriverError, match="clock ends 4e\\+08 s after its epoch"):
                idle.submit("a", prompt_tokens=1)
            assert isinstance(idle.failed, OverflowError)
        async with opened() as busy:
            task = asyncio.create_task(busy.infer("a", prompt_tokens=100, max_tokens=100))
            await asyncio.sleep(0)
            loop.block(40_001)
            with pytest.raises(DriverError, match="clock ends"):
                await task
            assert isinstance(busy.failed, OverflowError)

    run(main)


def test_a_blocked_loop_does_not_stretch_simulated_time() -> None:
    def burst(blocks: bool) -> tuple[list[Result], float]:
        async def main(loop: VirtualLoop) -> tuple[list[Result], float]:
            async with opened(loop, time_scale=10.0) as driver:
                tickets = [driver.submit("a", prompt_tokens=200 + i, max_tokens=5 + i, id=i) for i in range(60)]
                rng = random.Random(2)
                while driver.outstanding:
                    await asyncio.sleep(0.01)
                    if blocks:
                        loop.block(rng.choice([0.0, 0.05, 0.3]))
                assert driver.metrics.slipped_s == 0
                return [await ticket.result() for ticket in tickets], loop.time()

        return run(main)

    assert burst(True)[0] == burst(False)[0]


def test_a_blocked_loop_on_real_time() -> None:
    async def burst(block: bool) -> list[Result]:
        began = inf  # the clock stands until all have been submitted
        backend = SimulatedBackend(time_scale=50.0, clock=lambda: max(0.0, time.monotonic() - began))
        async with Driver(Scheduler([A], devices=backend.devices), backend) as driver:
            tickets = [driver.submit("a", prompt_tokens=100, max_tokens=10 + i, id=i) for i in range(40)]
            began = time.monotonic()
            if block:
                await asyncio.sleep(0.01)
                time.sleep(0.05)
            return [await ticket.result() for ticket in tickets]

    assert asyncio.run(burst(True)) == asyncio.run(burst(False))


class SlowSteps(SimulatedBackend):
    """As if the machine took so many wall seconds for each step that it plays."""

    def __init__(self, loop: VirtualLoop, step_wall_s: float, **options: Any) -> None:
        super().__init__(clock=loop.time, **options)
        self.loop = loop
        self.step_wall_s = step_wall_s

    def take(self) -> Progress:
        self.loop.block(self.step_wall_s)
        return super().take()


def test_when_the_machine_cannot_keep_up_the_clock_slips_and_the_loop_lives() -> None:
    def played(step_wall_s: float) -> tuple[list[Result], int, float, float]:
        async def main(loop: VirtualLoop) -> tuple[list[Result], int, float, float]:
            backend = SlowSteps(loop, step_wall_s, time_scale=1000.0)
            async with Driver(Scheduler([A], devices=backend.devices), backend) as driver:
                tickets = [driver.submit("a", prompt_tokens=1, max_tokens=100, id=i) for i in range(32)]
                turns = 0
                while driver.outstanding:
                    await asyncio.sleep(1e-4)
                    turns += 1
                assert_nothing_held(driver)
                return [await ticket.result() for ticket in tickets], turns, driver.metrics.slipped_s, loop.time()

        return run(main)

    # A step is some 10 simulated milliseconds: 10 us of wall time at this scale. The slow machine takes 30 ms.
    fast, slow = played(0.0), played(0.03)
    assert slow[0] == fast[0]
    assert {r.status for r in slow[0]} == {"finished"}
    steps = 200  # two batches of 16, each of 100 tokens
    assert fast[2] == 0 and fast[3] < 0.1
    assert slow[3] == pytest.approx(steps * 0.03, rel=0.05)
    assert slow[1] >= steps / 4 - 1  # a turn of the loop every 0.1 s: four steps
    assert slow[2] == pytest.approx(1000 * slow[3] - (slow[0][-1].arrived_at + slow[0][-1].e2e_s), rel=0.05)

"""The driver row: what a request costs from `infer` to its result, without HTTP, with 10,000 in flight on one core.

A round asks for all of them at once, each in a task of its own, and waits for the last. Every request passes submit,
next_batch, progress and settle, with buckets, fairness window, KV and metrics in force. The simulated device has many
slots and steps of a millisecond whatever they compute, so that it does not limit and requests end in bulk. Beside it
the least that asyncio can do: a task a request that waits for a future, and somebody who resolves all of them.
"""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace

import aps
from aps.backends import SimulatedBackend
from aps.profiles import REFERENCE
from aps_core.step_time import ReferenceModel
from loadtests.micro.request_rows import BURST, RATE
from loadtests.micro.rows import BY_NAME, Row
from loadtests.micro.timing import Timed, measure

IN_FLIGHT = 10_000
TENANTS = 100
SLOTS = 1024
STEP_S = 1e-3
PROMPT, OUTPUT = (16, 512), (1, 4)  # tokens, uniform


def fast_device() -> SimulatedBackend:
    """Each step takes STEP_S: the speed-up rises with the batch as fast as its work."""
    model = ReferenceModel(prefill_rate=1e15, decode_rate=1 / STEP_S, speedup=65_536.0, speedup_batch=65_536)
    profile = replace(REFERENCE, name="fast", step_time=model)
    return SimulatedBackend(profile, slots=SLOTS, kv_tokens=SLOTS * (PROMPT[1] + OUTPUT[1] + 16), token_budget=0)


class Bare:
    """A task, a future and a wake-up a request."""

    def __init__(self, loop: asyncio.AbstractEventLoop, in_flight: int) -> None:
        self.loop = loop
        self.in_flight = in_flight

    def __call__(self) -> Timed:
        loop = self.loop
        futures: list[asyncio.Future[None]] = []

        async def one() -> None:
            future = loop.create_future()
            futures.append(future)
            await future

        async def everybody() -> None:
            tasks = [loop.create_task(one()) for _ in range(self.in_flight)]
            await asyncio.sleep(0)
            for future in futures:
                future.set_result(None)
            for task in tasks:
                await task

        def timed() -> int:
            loop.run_until_complete(everybody())
            return self.in_flight

        return timed


class Driven:
    """`driver.infer` in a task a request; of so many tenants, with bids up to that."""

    def __init__(self, loop: asyncio.AbstractEventLoop, in_flight: int, tenants: int, bids: int) -> None:
        self.loop = loop
        rng = random.Random(7)
        self.asked = [
            (f"tenant-{rng.randrange(tenants)}", rng.randint(*PROMPT), rng.randint(*OUTPUT), rng.randint(1, bids))
            for _ in range(in_flight)
        ]
        backend = fast_device()
        roster = [aps.Tenant(f"tenant-{number}", rate=RATE, burst=BURST) for number in range(tenants)]
        self.driver = aps.Driver(aps.Scheduler(roster, devices=backend.devices), backend)
        self.finished = 0
        loop.run_until_complete(self.driver.__aenter__())

    def __call__(self) -> Timed:
        loop, driver, asked = self.loop, self.driver, self.asked
        self.finished += len(asked)

        async def everybody() -> None:
            tasks = [
                loop.create_task(driver.infer(tenant, prompt_tokens=prompt, max_tokens=most, bid=bid))
                for tenant, prompt, most, bid in asked
            ]
            for task in tasks:
                await task

        def timed() -> int:
            loop.run_until_complete(everybody())
            return len(asked)

        return timed

    def check(self) -> None:
        """Every request was admitted, started and settled, and nothing is left."""
        snapshot = self.driver.snapshot()
        rows = snapshot.tenants.values()
        found = tuple(sum(getattr(row, name) for row in rows) for name in ("admitted", "started", "finished"))
        apart = self.driver.invariants(snapshot)
        if found != (self.finished,) * 3 or any(apart.values()):
            raise AssertionError(f"admitted, started, finished: {found} of {self.finished}; {apart}")

    def close(self) -> None:
        self.loop.run_until_complete(self.driver.__aexit__(None, None, None))


def call(quick: bool) -> Iterator[Row]:
    import uvloop

    in_flight, rounds = (500, 2) if quick else (IN_FLIGHT, 31)
    loop = uvloop.new_event_loop()
    try:
        ours, alike = Driven(loop, in_flight, TENANTS, 10), Driven(loop, in_flight, 1, 1)
        costs = measure({"ours": ours, "alike": alike, "bare": Bare(loop, in_flight)}, rounds)
        for driven in (ours, alike):
            driven.check()
            driven.close()
    finally:
        loop.close()
    note = f"{1e9 / costs['ours']:,.0f} requests/s against {1e9 / costs['bare']:,.0f}, {in_flight:,} in flight, "
    note += f"{TENANTS} tenants, {OUTPUT[0]}-{OUTPUT[1]} output tokens, uvloop, {rounds} rounds; "
    note += f"{costs['bare'] / costs['alike']:.3f} when all are of one tenant with one bid, and end as they came"
    yield BY_NAME["driver.call"].judge(costs["ours"], costs["bare"], note)

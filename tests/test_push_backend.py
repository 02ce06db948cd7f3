"""The Backend protocol fits an engine whose news come by themselves: tasks that make tokens, some of which break."""

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aps import Device, Scheduler, Tenant
from aps.backends import FAILED, FINISHED, FIRST_STEP, FIRST_TOKEN, Backend, Health, Job, Progress, Usage
from aps.driver import Driver, Result
from tests.driving import assert_nothing_held
from tests.virtual_loop import VirtualLoop, run


class PushBackend(Backend):
    """Each job is a task that makes a token every 10 ms, or breaks after `breaks_after` of them."""

    devices = (Device(slots=3, token_budget=None, name="far"),)
    profile = "test"
    simulated = False
    time_scale = 1.0

    def __init__(self, clock: Callable[[], float], breaks_after: int = 10**9, began_early_s: float = 0.0) -> None:
        self.clock = clock
        self.began_early_s = began_early_s
        self.breaks_after = breaks_after
        self.wake: Callable[[], None] = lambda: None
        self.tasks: dict[int, asyncio.Task[None]] = {}
        self.written: dict[int, list[str]] = {}
        self.news: list[Progress] = []
        self.done = np.zeros((2, 8), dtype=np.int64)

    async def open(self, now: float, wake: Callable[[], None]) -> None:
        self.wake = wake

    async def close(self) -> None:
        for task in self.tasks.values():
            task.cancel()

    def now(self) -> float:
        return self.clock()

    def ready(self, device: int) -> bool:
        return True

    def start(self, device: int, jobs: Sequence[Job], now: float) -> None:
        for job in jobs:
            self.written[job.handle] = []
            self.tasks[job.handle] = asyncio.get_running_loop().create_task(self.generate(device, job))

    async def generate(self, device: int, job: Job) -> None:
        for n in range(1, job.max_tokens + 1):
            await asyncio.sleep(0.01)
            flags = (FIRST_STEP | FIRST_TOKEN) * (n == 1) + FINISHED * (n == job.max_tokens)
            if n > self.breaks_after:
                n, flags = n - 1, FAILED
            self.written[job.handle].append(f"{n} ")
            self.done[:, job.account] += (job.prompt_tokens * (n == 1), 1)
            row = [np.array([x], dtype=np.int64) for x in (job.handle, job.prompt_tokens, n, flags)]
            ended = flags & (FINISHED | FAILED) > 0
            at = self.now()
            self.news.append(Progress(device, at, at - self.began_early_s, row[0], row[1], row[2], row[3], ended))
            self.wake()
            if ended:
                return

    def abort(self, device: int, job: Job, *, keep: bool = False) -> None:
        self.tasks[job.handle].cancel()
        self.news = [news for news in self.news if news.handles[0] != job.handle]

    def next_event_at(self) -> float:
        return self.news[0].at if self.news else inf

    def take(self) -> Progress:
        return self.news.pop(0)

    def tokens(self, job: Job, start: int, stop: int) -> Sequence[str]:
        return self.written[job.handle][start:stop]

    def count_tokens(self, text: str) -> int | None:
        return len(text.split())

    def served(self, accounts: int) -> NDArray[np.int64]:
        return self.done[:, :accounts].copy()

    def usage(self, device: int) -> Usage | None:
        return Usage(0, 0.0, 0.0, 0.0, 0, 0, 0, 0)

    def health(self, device: int) -> Health:
        return Health(True)


def driven(loop: VirtualLoop, **options: Any) -> Driver:
    backend: Backend = PushBackend(loop.time, **options)
    return Driver(Scheduler([Tenant("a"), Tenant("b")], devices=backend.devices), backend)


def test_requests_run_and_join_whenever_there_is_room() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with driven(loop) as driver:
            tickets = [driver.submit("ab"[i % 2], prompt_tokens=10, max_tokens=10) for i in range(7)]
            tokens = [token async for token in driver.stream("a", prompt_tokens=10, max_tokens=3)]
            assert tokens == ["1 ", "2 ", "3 "]
            results = [await ticket.result() for ticket in tickets]
            assert {(r.status, r.output_tokens, r.text) for r in results} == {("finished", 10, "1 2 3 4 5 6 7 8 9 10 ")}
            ends = sorted(r.e2e_s for r in results)
            assert ends == pytest.approx([0.1] * 3 + [0.2] * 3 + [ends[-1]], abs=1e-3)
            assert loop.time() == pytest.approx(0.3, abs=0.08)
            assert_nothing_held(driver)

    run(main)


def test_no_wait_is_negative_whatever_a_backend_says_of_its_steps() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with driven(loop, began_early_s=5.0) as driver:
            await asyncio.sleep(1)
            result = await driver.infer("a", prompt_tokens=10, max_tokens=3)
            assert result.queue_wait_s == 0.0
            assert driver.metrics.tenants["a"].queue_wait.largest == 0.0

    run(main)


def test_what_the_backend_loses_is_failed_and_settled_to_what_it_used() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with driven(loop, breaks_after=4) as driver:
            tickets = [driver.submit("a", prompt_tokens=10, max_tokens=4 + i) for i in range(6)]
            results: list[Result] = [await ticket.result() for ticket in tickets]
            assert [r.status for r in results] == ["finished"] + ["failed"] * 5
            assert {(r.output_tokens, r.charge) for r in results} == {(4, 14.0)}
            assert results[1].reason == "backend_failed"
            assert driver.metrics.tenants["a"].failed == 5
            assert_nothing_held(driver)

    run(main)


def test_cancels_reach_it() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with driven(loop) as driver:
            tasks = [asyncio.create_task(driver.infer("a", prompt_tokens=10, max_tokens=20, id=i)) for i in range(9)]
            await asyncio.sleep(0.055)
            for task in tasks[::2]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            assert [isinstance(r, Result) for r in results] == [False, True] * 4 + [False]
            assert_nothing_held(driver)
            assert driver.metrics.tenants["a"].output_tokens == 5 * 2 + 20 * 4  # two of the first three had 5 tokens

    run(main)

"""After a backend has hung, failed, lied or jumped in time, nothing is astray and memory is back where it was."""

import asyncio
import gc
import logging
import sys
from collections.abc import Callable
from contextlib import suppress
from itertools import count, cycle, pairwise

import pytest

from aps import Tenant, UnfinishedError
from aps.backends import Job, Progress
from aps.driver import Driver
from tests.faulty_backend import Faulty, assert_all_is_well, driven
from tests.test_lying_backends import LIES
from tests.virtual_loop import VirtualLoop, run

REQUESTS = 120  # a round; half of them are streams
ROUNDS = 4
LEAST = REQUESTS // 2  # blocks: what leaks an object for every other request is found
HARMLESS_LIES = ("more than max_tokens", "fewer than before", "of nobody", "of a negative number", "short")


def hangs(backend: Faulty) -> None:
    backend.plan = lambda device, job, start: -3 if start == 1 and job.max_tokens % 3 else None


def fails(backend: Faulty) -> None:
    def plan(device: int, job: Job, start: int) -> int | None:
        return 3 if start <= job.max_tokens % 4 else None  # at 3 times it is given up

    backend.plan = plan


def lies(backend: Faulty) -> None:
    twists, turns = cycle(LIES[lie][0] for lie in HARMLESS_LIES), count()

    def twist(news: Progress) -> Progress:
        return next(twists)(news) if len(news.handles) and next(turns) % 5 == 0 else news

    backend.twist = twist


def jumps(backend: Faulty) -> None:
    honest, looks = backend._clock, count()
    backend._clock = lambda: honest() + (-500.0, 0.0, 300.0)[next(looks) // 50 % 3]


def faults(kind: str) -> Callable[[Driver], int]:
    return lambda driver: driver.metrics.faults[kind]


def started_again(driver: Driver) -> int:
    return sum(tally.retried for tally in driver.metrics.tenants.values())


KINDS: dict[str, tuple[Callable[[Faulty], None], Callable[[Driver], int]]] = {  # and what counts that it happened
    "hangs": (hangs, faults("no_progress")),
    "fails": (fails, started_again),
    "lies": (lies, faults("false_counts")),
    "jumps in time": (jumps, faults("clock_went_back")),
}


async def ask(driver: Driver, n: int) -> None:
    """A request, whatever becomes of it."""
    tenant, prompt_tokens, max_tokens = "ab"[n % 3 == 0], 5 + n % 7, 5 + n % 12
    if n % 2:
        await driver.infer(tenant, prompt_tokens=prompt_tokens, max_tokens=max_tokens)
        return
    with suppress(UnfinishedError):
        async for _ in driver.stream(tenant, prompt_tokens=prompt_tokens, max_tokens=max_tokens):
            pass


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_back_where_it_was(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    breaks, counted = KINDS[kind]
    caplog.set_level(logging.CRITICAL, "aps")  # pytest keeps every record

    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop, devices=2, slots=4)
        tenants = Tenant("a"), Tenant("b", rate=500.0, burst=500.0, over_rate="queue")
        async with driven(backend, *tenants, stall_s=2.0) as driver:
            breaks(backend)
            blocks = []
            for _ in range(ROUNDS):
                before = counted(driver)
                await asyncio.gather(*(ask(driver, n) for n in range(REQUESTS)))
                assert counted(driver) > before
                await asyncio.sleep(200.0)  # devices have rested, the sliding window has passed
                assert_all_is_well(driver)
                desk = driver._pump.desk
                assert (desk.tickets(), desk.named, desk.listeners) == ([], {}, 0)
                backend.starts.clear()
                backend.started_on.clear()
                gc.collect()
                blocks.append(sys.getallocatedblocks())
            added = [after - before for before, after in pairwise(blocks)]
            assert min(added) < LEAST, added
            assert driver.failed is None

    run(main)

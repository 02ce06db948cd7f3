"""Backends whose news cannot be so: who is concerned is started again or ends, everybody else goes on."""

import asyncio
from collections.abc import Callable

import numpy as np
import pytest

from aps.backends import FAILED, FINISHED, Progress
from tests.faulty_backend import ALL_IS_WELL, STEP_S, Faulty, assert_all_is_well, driven
from tests.virtual_loop import VirtualLoop, run

Twist = Callable[[Progress], Progress]


def changed(news: Progress, at: int, **numbers: int) -> Progress:
    """Other numbers for one of the requests."""
    columns = {name: getattr(news, name).copy() for name in numbers}
    for name, column in columns.items():
        column[at] = numbers[name]
    return news._replace(**columns)


def once(when: Callable[[Progress], bool], twist: Twist) -> Twist:
    done = False

    def apply(news: Progress) -> Progress:
        nonlocal done
        if done or not when(news):
            return news
        done = True
        return twist(news)

    return apply


def has(generated: int) -> Callable[[Progress], bool]:
    return lambda news: bool((news.generated == generated).any())


def appended(news: Progress, row: tuple[int, int, int, int]) -> Progress:
    columns = (np.insert(column, 0, value) for column, value in zip(news[3:7], row, strict=True))
    handles, computed, generated, flags = columns
    return news._replace(handles=handles, computed=computed, generated=generated, flags=flags)


LIES: dict[str, tuple[Twist, str, str, int]] = {
    "more than max_tokens": (lambda n: changed(n, -1, generated=21), "too_many_tokens", "finished", 0),
    "far more": (lambda n: changed(n, -1, generated=2**40), "too_many_tokens", "finished", 0),
    "fewer than before": (lambda n: changed(n, -1, generated=3), "false_counts", "finished", 1),
    "below none": (lambda n: changed(n, -1, generated=-1), "false_counts", "finished", 1),
    "computed beyond the prefill": (lambda n: changed(n, -1, computed=11), "false_counts", "finished", 1),
    "computed less": (lambda n: changed(n, -1, computed=9), "false_counts", "finished", 1),
    "of nobody": (lambda n: appended(n, (2**55 + 99_999, 10, 1, 0)), "unknown_request", "finished", 0),
    "of a negative number": (lambda n: appended(n, (-5, 10, 1, 0)), "unknown_request", "finished", 0),
    "twice": (lambda n: appended(n, (int(n.handles[-1]), 10, 7, 0)), "unknown_request", "finished", 0),
    "of another device": (lambda n: n._replace(device=1), "unknown_request", "finished", 0),
    "of a device that is not there": (lambda n: n._replace(device=9), "unknown_request", "finished", 0),
    "wrong number of ends": (lambda n: n._replace(ended=len(n.handles)), "", "finished", 0),
    "too many ends": (lambda n: n._replace(ended=99), "", "finished", 0),
    "floats": (lambda n: n._replace(computed=n.computed.astype(float)), "raised", "finished", 1),
    "short": (lambda n: n._replace(flags=n.flags[:0]), "raised", "finished", 1),
    "no array": (lambda n: n._replace(handles=[1, 2]), "raised", "finished", 1),  # type: ignore[arg-type]
    "none": (lambda n: n._replace(generated=None), "raised", "finished", 1),  # type: ignore[arg-type]
    "both ends": (lambda n: changed(n, -1, flags=FINISHED | FAILED)._replace(ended=1), "", "finished", 1),
    "an early end": (lambda n: changed(n, -1, flags=FINISHED)._replace(ended=1), "unknown_request", "finished", 0),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_backend_that_lies(lie: str) -> None:
    twist, fault, status, retries = LIES[lie]

    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop, devices=2, slots=1, twist=once(has(7), twist))
        async with driven(backend) as driver:
            first = driver.submit("a", prompt_tokens=10, max_tokens=20)
            others = [driver.submit("b", prompt_tokens=10, max_tokens=20) for _ in range(3)]
            while not all(ticket.done for ticket in (first, *others)):
                await asyncio.sleep(STEP_S / 3)
                assert driver.invariants() == ALL_IS_WELL
            result = await first.result()
            assert (result.status, first.retries) == (status, retries)
            early = lie == "an early end"
            assert result.output_tokens == (7 if early else 20)
            assert {(await ticket.result()).status for ticket in others} == {"finished"}
            assert set(driver.metrics.faults) == ({fault} if fault else set())
            assert (
                driver.scheduler.snapshot(now=driver._pump.now).tenants["a"].charged_tokens == 10 + result.output_tokens
            )
            await asyncio.sleep(1)
            assert_all_is_well(driver)

    run(main)

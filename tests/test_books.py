"""What is counted of tenants: exact charges, GPU time, and cuts that lose nothing and count nothing twice."""

import asyncio
import time
import timeit
from typing import NamedTuple

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from aps import Policy
from aps.cuts import COUNTS, Cut
from aps.driver import Driver
from aps.metrics import Metrics, Tally
from aps.tickets import Result, Ticket
from aps_core.tickets import Desk
from tests.driving import CROWD, POLICIES, opened
from tests.twins import books as twin
from tests.virtual_loop import VirtualLoop, run

DEVICES = 3
NAMES = ("a", "b", "c")
EPOCH = 1000.0


class Verdict(NamedTuple):
    status: str
    reason: str
    id: int | None
    bid: int


def desk_of(epoch: float = 0.0) -> tuple[Metrics, Desk[Ticket]]:
    metrics = Metrics(lambda accounts: np.zeros((1, accounts), np.int64))
    return metrics, Desk(metrics, Ticket, Result, DEVICES, epoch)


class Pair(NamedTuple):
    ticket: Ticket
    request: twin.Request


class BooksMachine(RuleBasedStateMachine):
    """The desk and its books against the twin: requests come, run on devices, are displaced and lost, and end."""

    waiting = Bundle("waiting")
    running = Bundle("running")

    def __init__(self) -> None:
        super().__init__()
        self.metrics, self.desk = desk_of(EPOCH)
        self.twin = twin.Books(DEVICES)
        self.ns = 0
        self.handles = 0
        self.answers: list[Result] = []
        self.cuts: list[Cut] = []

    @property
    def now(self) -> float:
        return EPOCH + self.ns * 1e-9

    @rule(ns=st.one_of(st.integers(1, 50), st.integers(1, 10**10)))
    def pass_time(self, ns: int) -> None:
        self.ns += ns

    def enter(self, verdict: Verdict, name: str, prompt: int, most: int) -> Ticket:
        return self.desk.enter(verdict, name, None, prompt, most, None, None, self.now)

    @rule(target=waiting, name=st.sampled_from(NAMES), bid=st.integers(1, 10), prompt=st.integers(1, 99))
    def admit(self, name: str, bid: int, prompt: int) -> Pair:
        self.handles += 1
        ticket = self.enter(Verdict("admitted", "admitted", self.handles, bid), name, prompt, 10)
        return Pair(ticket, self.twin.admit(name, bid, prompt))

    @rule(name=st.sampled_from(NAMES), bid=st.integers(1, 10), reason=st.sampled_from(("over_rate", "queue_full")))
    def refuse(self, name: str, bid: int, reason: str) -> None:
        ticket = self.enter(Verdict("throttled", reason, None, bid), name, 5, 5)
        assert ticket.answer is not None and ticket.answer.charge == 0.0
        self.twin.refuse(name, bid, reason)

    @rule(target=running, pair=consumes(waiting), device=st.integers(0, DEVICES - 1))
    def start(self, pair: Pair, device: int) -> Pair:
        self.desk.start([pair.ticket.handle], device, "continuous", self.now)
        self.twin.start([pair.request], device, self.ns)
        return pair

    @rule(target=waiting, pair=consumes(running), lost=st.booleans())
    def displace(self, pair: Pair, lost: bool) -> Pair:
        if lost:
            self.desk.lose(pair.ticket, self.now)
        else:
            self.desk.displace(pair.ticket, pair.ticket.generated, pair.ticket.prompt_tokens, self.now)
        self.twin.stop(pair.request, self.ns)
        return pair

    @rule(pair=consumes(running), output=st.integers(1, 10), premium=st.floats(1, 1e6))
    def finish(self, pair: Pair, output: int, premium: float) -> None:
        charge = (pair.request.prompt_tokens + output) * premium
        self.desk.finish([pair.ticket], np.array([output]), np.array([charge]), [""], self.now)
        self.twin.end(pair.request, "finished", pair.request.prompt_tokens, output, charge, self.ns)
        self.answered(pair)

    @rule(
        pair=st.one_of(consumes(running), consumes(waiting)),
        how=st.sampled_from(("cancelled", "expired", "rejected", "failed")),
        used=st.tuples(st.integers(0, 9), st.integers(0, 9), st.floats(0, 1e5)),
    )
    def end(self, pair: Pair, how: str, used: tuple[int, int, float]) -> None:
        self.desk.end(pair.ticket, how, how, self.now, *used)
        self.twin.end(pair.request, "dropped" if how == "rejected" else how, *used, self.ns)
        self.answered(pair)

    def answered(self, pair: Pair) -> None:
        assert pair.ticket.answer is not None
        self.answers.append(pair.ticket.answer)

    @rule()
    def cut(self) -> None:
        found = self.metrics.cut(self.now)
        self.cuts.append(found)
        wanted = self.twin.cut(self.ns)
        assert {name: list(row.values()) for name, row in found.rows()} == {
            name: numbers for name, (numbers, _) in wanted.items()
        }
        assert found.refused == {name: refused for name, (_, refused) in wanted.items() if refused}
        whole = Cut.together(self.cuts)
        rows = dict(whole.rows())
        for name, tally in self.metrics.tenants.items():
            numbers = rows.get(name, dict.fromkeys(COUNTS, 0))
            assert numbers == {count: getattr(tally, count) for count in COUNTS}
            assert whole.refused.get(name, {}) == tally.refused
        assert sum(row["charged_micro"] for row in rows.values()) == sum(
            round(answer.charge * 1e6) for answer in self.answers
        )

    @invariant()
    def same(self) -> None:
        self.metrics.advance(self.now)
        for device in range(DEVICES):
            self.twin.hand_out(device, self.ns)
        times = self.metrics.time
        assert times is not None
        assert (times.busy_ns, times.left_ns) == (self.twin.busy, self.twin.left)
        assert all(left < max(1, most) for left, most in zip(times.left_ns, self.twin.most, strict=True))
        for name, label in self.twin.tenants.items():
            self.assert_same(label, self.metrics.tenants[name])
        for bid, label in self.twin.bids.items():
            self.assert_same(label, self.metrics.bids[bid])
        for tallies in (self.metrics.tenants.values(), self.metrics.bids.values()):
            assert sum(tally.gpu_ns for tally in tallies) == sum(times.busy_ns) - sum(times.left_ns)

    def assert_same(self, label: twin.Label, tally: Tally) -> None:
        assert label.numbers() == [getattr(tally, count) for count in COUNTS]
        assert label.refused == tally.refused
        assert tally.charged == tally.charged_micro / 1e6
        off = sum(changes * most for changes, most in zip(self.twin.changes, self.twin.most, strict=True))
        assert abs(tally.gpu_ns - label.exact_ns) <= off


TestBooks = BooksMachine.TestCase
TestBooks.settings = settings(max_examples=50, stateful_step_count=50, deadline=None)


def test_charges_are_rounded_once_half_to_even() -> None:
    metrics, desk = desk_of()
    tally = metrics.tenant("a")

    def charged(charge: float) -> int:
        before = tally.charged_micro
        ticket = desk.enter(Verdict("admitted", "admitted", 1, 5), "a", None, 1, 1, None, None, 0.0)
        desk.end(ticket, "cancelled", "cancelled", 0.0, charge=charge)
        assert ticket.answer is not None
        more = tally.charged_micro - before
        assert ticket.answer.charge == more / 1e6 or tally.charged_micro == 2**63 - 1
        return more

    assert charged(0.1 * 3) == 300_000  # 0.30000000000000004
    assert (charged(0.5e-6), charged(1.5e-6), charged(2.5e-6)) == (0, 2, 2)
    assert charged(1e300) == 2**53
    for _ in range(1024):
        charged(1e300)
    assert tally.charged_micro == 2**63 - 1  # and not below 0


def cut_of(rows: dict[str, list[int]], refused: dict[str, dict[str, int]]) -> Cut:
    return Cut(list(rows), np.array(list(rows.values()), np.int64).reshape(len(rows), len(COUNTS)), refused)


tables = st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 2**50), min_size=10, max_size=10))
reasons = st.dictionaries(
    st.sampled_from("abcd"), st.dictionaries(st.sampled_from(("over_rate", "draining")), st.integers(1, 9), min_size=1)
)


@given(st.lists(st.tuples(tables, reasons), max_size=5))
def test_cuts_add_up(parts: list[tuple[dict[str, list[int]], dict[str, dict[str, int]]]]) -> None:
    sums: dict[str, list[int]] = {}
    refused: dict[str, dict[str, int]] = {}
    for rows, reasons in parts:
        for name, row in rows.items():
            sums[name] = [a + b for a, b in zip(sums.get(name, [0] * 10), row, strict=True)]
        for name, counts in reasons.items():
            for reason, count in counts.items():
                refused.setdefault(name, {}).setdefault(reason, 0)
                refused[name][reason] += count
    cuts = [cut_of(rows, reasons) for rows, reasons in parts]
    whole = Cut.together(cuts)
    assert {name: list(row.values()) for name, row in whole.rows()} == sums and whole.refused == refused
    assert bool(whole) == bool(sums)
    step: Cut = Cut.together([])
    for cut in cuts:
        step = Cut.together((step, cut))
    assert dict(step.rows()) == dict(whole.rows()) and step.refused == refused


# A driver's


@pytest.mark.parametrize("name", POLICIES)
def test_cuts_of_a_driver_are_what_was_answered_and_what_devices_did(name: str) -> None:
    """Requests of all kinds, cancelled ones too; every cut at an instant when things run."""

    async def main(loop: VirtualLoop) -> None:
        rng = np.random.default_rng(7)
        policy = POLICIES[name]
        policy = Policy(**{**{field: getattr(policy, field) for field in policy.__slots__}, "bid_premium": 0.1})
        async with opened(loop, *CROWD, policy=policy, gpus=2, slots=3) as driver:
            tickets, cuts = [], []
            for turn in range(60):
                for _ in range(int(rng.integers(4))):
                    tickets.append(
                        driver.submit(
                            str(rng.choice(["a", "b", "c"])),
                            prompt_tokens=int(rng.integers(1, 400)),
                            max_tokens=int(rng.integers(1, 80)),
                            bid=int(rng.integers(1, 11)),
                            deadline_s=None if turn % 3 else 2.0,
                        )
                    )
                if tickets and turn % 4 == 0:
                    driver.cancel(tickets[-1].id)
                await asyncio.sleep(float(rng.random()))
                cuts.append(driver.cut())
            removed = CROWD[2]
            driver.remove_tenant(removed.name)
            await driver.drain()
            cuts.append(driver.cut())
            assert not driver.cut()
            whole = Cut.together(cuts)
            assert_counted(driver, whole, [await ticket.result() for ticket in tickets])
            assert "c" in cuts[-1].names  # of a tenant that is gone

    run(main)


def assert_counted(driver: Driver, whole: Cut, results: list[Result]) -> None:
    rows = dict(whole.rows())
    for name, tally in driver.metrics.tenants.items():
        own = [result for result in results if result.tenant == name]
        row = rows[name]
        assert row == {count: getattr(tally, count) for count in COUNTS}
        assert whole.refused.get(name, {}) == tally.refused
        assert row["charged_micro"] == sum(round(result.charge * 1e6) for result in own)
        assert row["output_tokens"] == sum(result.output_tokens for result in own)
        assert row["admitted"] == sum(result.verdict.status == "admitted" for result in own)
    times = driver.metrics.time
    assert times is not None
    assert sum(row["gpu_ns"] for row in rows.values()) == sum(times.busy_ns) - sum(times.left_ns)
    assert all(0 <= left < 3 for left in times.left_ns)


def test_gpu_time_is_the_time_that_the_devices_were_busy() -> None:
    """Where no request leaves in the middle of a step."""

    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, gpus=2, slots=2) as driver:
            for i in range(20):
                driver.submit("ab"[i % 2], prompt_tokens=50 + 7 * i, max_tokens=5 + i)
            await driver.drain()
            busy = sum(usage.busy_s for device in range(2) if (usage := driver.backend.usage(device)))
            assert sum(tally.gpu_s for tally in driver.metrics.tenants.values()) == pytest.approx(busy, abs=1e-8)
            assert sum(tally.gpu_s for tally in driver.metrics.bids.values()) == pytest.approx(busy, abs=1e-8)

    run(main)


def test_a_long_request_is_counted_as_it_runs() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            ticket = driver.submit("a", prompt_tokens=64, max_tokens=2000)
            for second in range(1, 4):
                await asyncio.sleep(1)
                (row,) = [row for _, row in driver.cut().rows()]
                assert row["gpu_ns"] == pytest.approx(1e9, abs=1e3) and row["finished"] == 0
                assert driver.metrics.tenants["a"].gpu_s == pytest.approx(second, abs=1e-6)
            driver.cancel(ticket.id)

    run(main)


def test_a_failed_driver_still_tells_what_it_counted() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            driver.submit("a", prompt_tokens=64, max_tokens=2000)
            await asyncio.sleep(1)
            driver._player.stop(OSError("the cable"))
            ((name, row),) = driver.cut().rows()
            assert (name, row["admitted"], row["failed"]) == ("a", 1, 1) and row["gpu_ns"] > 9e8
            assert not driver.cut()

    with pytest.raises(Exception, match="failed"):
        run(main)


def test_a_cut_costs_what_the_active_tenants_cost() -> None:
    metrics, _ = desk_of()
    tallies = [metrics.tenant(f"tenant-{i}") for i in range(10_000)]
    for tally in tallies:
        metrics.turned_away(tally, 5, "over_rate")
    assert len(metrics.cut(0.0).names) == 10_000

    def once() -> None:
        for tally in tallies[::1000]:
            metrics.turned_away(tally, 5, "over_rate")
        assert len(metrics.cut(0.0).names) == 10

    assert min(timeit.repeat(once, number=20, repeat=5, timer=time.thread_time)) / 20 < 500e-6  # 10 us here

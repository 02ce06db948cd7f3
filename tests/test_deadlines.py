"""The deadline wheel: agreement with a sorted dictionary, order at one instant, wake-ups that are never late."""

import gc
import math
import random

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from aps_core.deadlines import DeadlineWheel
from aps_core.request_table import RequestTable
from tests.twins.clock import to_seconds_up
from tests.twins.deadlines import Deadlines

TICK = 2**20
# Nanoseconds: within a tick, round a tick, round the first slot of each level of the wheel, far.
DELAYS = st.one_of(
    st.integers(1, 4),
    st.integers(0, 3 * TICK),
    st.builds(
        lambda level, digit, tick, ns: max(0, digit * TICK * 64**level + tick * TICK + ns),
        st.integers(0, 3),
        st.integers(0, 64),
        st.integers(-2, 2),
        st.integers(-2, 2),
    ),
    st.integers(0, 10**17),
)


class Wheel(RuleBasedStateMachine):
    handles = Bundle("handles")

    @initialize(epoch=st.sampled_from([0.0, 1.7e9, -3e9]), now=st.one_of(st.just(0), DELAYS))
    def start(self, epoch: float, now: int) -> None:
        self.table = RequestTable()
        self.wheel, self.twin = DeadlineWheel(self.table, epoch), Deadlines(epoch)
        self.number, self.at = 0, 0
        self.expire(now)

    def seconds(self, ns: int) -> float:
        return self.twin.clock.epoch + ns * 1e-9

    @rule(target=handles, delay=DELAYS, tenant=st.integers(0, 3), later=st.booleans())
    def add(self, delay: int, tenant: int, later: bool) -> int:
        """Later arrivals may have lower numbers here: the number has to decide, not the order of calls."""
        self.number += 1
        number = self.number if later else 10**6 - self.number
        handle = self.table.allocate(tenant, number)
        deadline_at = self.seconds(self.at + delay)
        try:
            self.twin.add(handle, tenant, number, deadline_at)
        except ValueError:
            with pytest.raises(ValueError, match="deadline_at must be"):
                self.wheel.add(handle, deadline_at)
        else:
            self.wheel.add(handle, deadline_at)
        return handle

    @rule(handle=handles, delay=DELAYS)
    def add_again(self, handle: int, delay: int) -> None:
        tenant, number = (self.table.column(name)[self.table.row_of(handle)] for name in ("tenant", "number"))
        deadline_at = self.seconds(self.at + delay)
        try:
            self.twin.add(handle, tenant, number, deadline_at)
        except ValueError:
            with pytest.raises(ValueError, match="deadline"):
                self.wheel.add(handle, deadline_at)
        else:
            self.wheel.add(handle, deadline_at)

    @rule(handle=handles)
    def discard(self, handle: int) -> None:
        try:
            self.twin.discard(handle)
        except ValueError:
            with pytest.raises(ValueError, match="has no deadline"):
                self.wheel.discard(handle)
        else:
            self.wheel.discard(handle)

    @rule(handle=consumes(handles))
    def free(self, handle: int) -> None:
        if handle in self.twin.keys:
            with pytest.raises(ValueError, match="discard it first"):
                self.table.free(handle)
            self.twin.discard(handle)
            self.wheel.discard(handle)
        self.table.free(handle)
        with pytest.raises(KeyError):
            self.wheel.add(handle, self.seconds(self.at + 10))

    @rule(delay=DELAYS)
    def expire(self, delay: int) -> None:
        now = self.seconds(self.at + delay)
        if now - self.twin.clock.epoch > 4e8:
            with pytest.raises(ValueError, match="now must be"):
                self.wheel.expire(now)
            return
        assert self.wheel.expire(now) == self.twin.expire(now)
        self.at = max(self.at + delay, self.twin.clock.last_ns)

    @rule()
    def wake(self) -> None:
        now = self.wheel.next_wakeup()
        if now - self.twin.clock.epoch <= 4e8:
            assert self.wheel.expire(now) == self.twin.expire(now)
            self.at = max(self.at, self.twin.clock.last_ns)

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "wheel"):
            return
        assert self.wheel.count == len(self.twin.keys)
        wakeup, next_ns = self.wheel.next_wakeup(), self.twin.next_ns()
        if next_ns is None:
            assert wakeup == math.inf
        else:
            assert round((wakeup - self.twin.clock.epoch) * 1e9) > self.twin.clock.last_ns
            assert wakeup <= to_seconds_up(next_ns, self.twin.clock.epoch)


TestWheel = Wheel.TestCase


@pytest.mark.parametrize("spread", [1e-9, 1e-6, 1e-3, 1.0, 1e3, 1e8])
def test_waking_when_told_expires_all_in_time_and_order(spread: float) -> None:
    randomly = random.Random(7)
    table = RequestTable()
    wheel = DeadlineWheel(table)
    deadlines = {}
    for number in range(2000):
        handle = table.allocate(randomly.randrange(3), number)
        deadlines[handle] = 1e-9 + randomly.randrange(500) / 500 * spread
        wheel.add(handle, deadlines[handle])
    tenant, number_of = table.column("tenant"), table.column("number")
    expected = sorted(
        deadlines, key=lambda h: (round(deadlines[h] * 1e9), tenant[table.row_of(h)], number_of[table.row_of(h)])
    )
    expired: list[int] = []
    wakeups = 0
    while wheel.count:
        now = wheel.next_wakeup()
        gone = wheel.expire(now)
        assert all(now <= to_seconds_up(round(deadlines[handle] * 1e9), 0.0) for handle in gone)
        expired += gone
        wakeups += 1
    assert expired == expected
    assert wakeups <= 9 * 500


def test_one_leap_over_everything_keeps_order() -> None:
    randomly = random.Random(8)
    table = RequestTable()
    wheel = DeadlineWheel(table)
    instants = [10 ** randomly.uniform(-9, 8.5) for _ in range(3000)]
    handles = [table.allocate(0, number) for number in range(3000)]
    for handle, instant in zip(handles, instants, strict=True):
        wheel.add(handle, instant)
    order = sorted(range(3000), key=lambda i: (round(instants[i] * 1e9), i))
    assert wheel.expire(3.9e8) == [handles[i] for i in order]
    assert wheel.count == 0 and wheel.next_wakeup() == math.inf


def test_the_table_may_grow_under_the_wheel() -> None:
    table = RequestTable()
    wheel = DeadlineWheel(table)
    handles = []
    for number in range(5000):
        handles.append(table.allocate(0, number))
        wheel.add(handles[-1], 1.0 + number % 3)
    for handle in handles[::2]:
        wheel.discard(handle)
    left = [handle for second in range(3) for i, handle in enumerate(handles) if i % 2 and i % 3 == second]
    assert wheel.expire(3.0) == left


def test_a_deadline_is_met_to_the_nanosecond() -> None:
    table = RequestTable()
    wheel = DeadlineWheel(table)
    handle = table.allocate()
    wheel.add(handle, 5.000000001)
    wheel.expire(4.9999)
    assert wheel.expire(5.0) == []
    assert wheel.next_wakeup() == pytest.approx(5.000000001, abs=1e-12)
    assert wheel.expire(5.000000001) == [handle]


@pytest.mark.parametrize("instant", [math.nan, math.inf, -math.inf, 9.0, 10.5, 10.0 + 4.1e8])
def test_bad_instants_change_nothing(instant: float) -> None:
    table = RequestTable()
    wheel = DeadlineWheel(table, 10.0)
    first, second = table.allocate(), table.allocate()
    wheel.add(first, 12.0)
    assert wheel.expire(11.0) == []
    with pytest.raises(ValueError, match="deadline_at must be"):
        wheel.add(second, instant)
    with pytest.raises(ValueError, match="now must"):
        wheel.expire(instant)
    assert wheel.count == 1
    assert wheel.expire(12.0) == [first]


def test_a_deadline_is_after_now() -> None:
    table = RequestTable()
    wheel = DeadlineWheel(table)
    handle = table.allocate()
    wheel.expire(2.0)
    with pytest.raises(ValueError, match=r"deadline_at must be after now, 2.0, not 2.0"):
        wheel.add(handle, 2.0)
    wheel.add(handle, 2.0 + 1e-9)
    with pytest.raises(ValueError, match="has a deadline already"):
        wheel.add(handle, 3.0)


def test_handles_are_checked() -> None:
    table, other = RequestTable(), RequestTable()
    wheel = DeadlineWheel(table)
    stale = table.allocate()
    table.free(stale)
    for handle in (stale, other.allocate(), 0, -1, 2**63 - 1, -(2**63)):
        with pytest.raises(KeyError):
            wheel.add(handle, 1.0)
        with pytest.raises(KeyError):
            wheel.discard(handle)
    with pytest.raises(ValueError, match="has no deadline"):
        wheel.discard(table.allocate())


def test_a_table_has_one_wheel_and_outlives_its_name() -> None:
    wheel = DeadlineWheel(RequestTable())
    gc.collect()
    assert wheel.next_wakeup() == math.inf
    table = RequestTable()
    DeadlineWheel(table)
    with pytest.raises(ValueError, match="has a deadline wheel already"):
        DeadlineWheel(table)
    with pytest.raises(TypeError):
        DeadlineWheel(None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="epoch"):
        DeadlineWheel(RequestTable(), math.nan)

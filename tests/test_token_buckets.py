"""Token buckets: agreement with the twin to the last bit, exact instants, refused arguments."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aps_core.token_buckets import TokenBuckets
from tests.twins.token_buckets import TokenBuckets as Twin

SLOTS = 4
EPOCHS = st.sampled_from([0.0, 1.7e9, -12.25, -1e10])
LIMITS = st.one_of(
    st.just((math.inf, math.inf)),
    st.tuples(st.sampled_from([1.0, 10.0, 1e3, 1 / 3, 1e6]), st.sampled_from([1.0, 10.0, 100.0, 1e6, 0.1])),
    st.tuples(st.floats(1e-6, 1e18), st.floats(1e-12, 1e18)),
)
AMOUNTS = st.one_of(st.integers(0, 200).map(float), st.floats(0.0, 1e3), st.floats(0.0, 1e18))
STEPS = st.one_of(
    st.just(0.0), st.integers(0, 1000).map(lambda ns: ns * 1e-9), st.floats(0.0, 100.0), st.floats(0, 1e6)
)
SLOT = st.integers(0, SLOTS - 1)
BAD_AMOUNTS = [math.nan, math.inf, -math.inf, -1.0, -5e-324, 1.1e18]
BAD_LIMITS = [
    (math.nan, 1.0),
    (1.0, math.nan),
    (0.0, 1.0),
    (0.99e-6, 1.0),
    (1.0, 0.0),
    (-1.0, 1.0),
    (1.0, -1.0),
    (math.inf, 1.0),
    (1.0, math.inf),
    (-math.inf, -math.inf),
    (1e19, 1.0),
    (1.0, 1e19),
]


class Buckets(RuleBasedStateMachine):
    @initialize(epoch=EPOCHS, limits=st.lists(LIMITS, min_size=SLOTS, max_size=SLOTS))
    def start(self, epoch: float, limits: list[tuple[float, float]]) -> None:
        self.now = epoch
        self.buckets, self.twin = TokenBuckets(SLOTS, epoch), Twin(SLOTS, epoch)
        for slot, (rate, burst) in enumerate(limits):
            self.both("add", slot, rate, burst, step=0.0)

    def both(self, method: str, *arguments: Any, step: float) -> Any:
        self.now += step
        answer = getattr(self.buckets, method)(*arguments, self.now)
        assert answer == getattr(self.twin, method)(*arguments, self.now)
        return answer

    @rule(slot=SLOT, limits=LIMITS, step=STEPS)
    def add(self, slot: int, limits: tuple[float, float], step: float) -> None:
        self.both("add", slot, *limits, step=step)

    @rule(slot=SLOT, limits=LIMITS, step=STEPS)
    def set_limits(self, slot: int, limits: tuple[float, float], step: float) -> None:
        self.both("set_limits", slot, *limits, step=step)

    @rule(slot=SLOT, step=STEPS)
    def level(self, slot: int, step: float) -> None:
        self.both("level", slot, step=step)

    @rule(slot=SLOT, amount=AMOUNTS, step=STEPS)
    def take(self, slot: int, amount: float, step: float) -> None:
        self.both("take", slot, amount, step=step)

    @rule(slot=SLOT, amount=AMOUNTS, step=STEPS)
    def overdraw(self, slot: int, amount: float, step: float) -> None:
        self.both("overdraw", slot, amount, step=step)

    @rule(slot=SLOT, amount=AMOUNTS, step=STEPS)
    def give_back(self, slot: int, amount: float, step: float) -> None:
        self.both("give_back", slot, amount, step=step)

    @rule(slot=SLOT, amount=AMOUNTS, step=STEPS)
    def time_until(self, slot: int, amount: float, step: float) -> None:
        self.both("time_until", slot, amount, step=step)

    @rule(slot=SLOT, amount=AMOUNTS)
    def wait_for(self, slot: int, amount: float) -> None:
        """Waiting as long as told is enough."""
        wait = self.both("time_until", slot, amount, step=0.0)
        if wait < 1e7:
            assert self.both("take", slot, amount, step=wait)

    @rule(takes=st.lists(st.tuples(SLOT, AMOUNTS), max_size=20), step=STEPS, into=st.booleans())
    def take_many(self, takes: list[tuple[int, float]], step: float, into: bool) -> None:
        self.now += step
        slots, amounts = [slot for slot, _ in takes], [amount for _, amount in takes]
        out = np.ones(len(takes), np.bool_) if into else None
        taken = self.buckets.take_many(np.array(slots, np.int32), np.array(amounts, np.float64), self.now, out=out)
        assert out is None or taken is out
        assert taken.tolist() == self.twin.take_many(slots, amounts, self.now)

    @invariant()
    def levels(self) -> None:
        if hasattr(self, "buckets"):
            for slot in range(SLOTS):
                assert self.buckets.level(slot, self.now).hex() == self.twin.level(slot, self.now).hex()


TestBuckets = Buckets.TestCase


@given(rate=st.floats(1.0, 1e12), burst=st.floats(1.0, 1e9), share=st.floats(0.001, 1.0), start=st.integers(0, 10**12))
def test_the_wait_ends_at_the_first_nanosecond(rate: float, burst: float, share: float, start: int) -> None:
    now = start * 1e-9
    buckets = TokenBuckets(1)
    buckets.add(0, rate, burst, now)
    buckets.overdraw(0, burst, now)
    amount = burst * share
    wait = buckets.time_until(0, amount, now)
    ns = round((now + wait) * 1e9)
    twin = Twin(1)
    twin.add(0, rate, burst, now)
    twin.overdraw(0, burst, now)
    exact = twin.buckets[0].affordable_at(amount, start)
    assert exact is not None and exact <= ns
    if ns < 2**52:  # doubles still tell nanoseconds apart
        assert ns == exact
    assert twin.buckets[0].level(exact) >= amount > twin.buckets[0].level(exact - 1)


@given(level=st.integers(2**52, 2**59), nanoseconds=st.floats(0.3, 20.0), steps=st.integers(1, 5))
def test_the_wait_is_exact_where_levels_are_coarse(level: int, nanoseconds: float, steps: int) -> None:
    """A level that large moves in steps, here one in so many nanoseconds, and rounds up to the amount early."""
    rate = math.ulp(float(level)) * 1e9 / nanoseconds
    buckets, twin = TokenBuckets(1), Twin(1)
    for b in (buckets, twin):
        b.add(0, rate, 1e18, 0.0)
        b.overdraw(0, 1e18 - level, 0.0)
    reached = buckets.level(0, 0.0)
    amount = reached + steps * math.ulp(reached)
    wait = buckets.time_until(0, amount, 0.0)
    assert wait == twin.time_until(0, amount, 0.0) > 0.0
    assert buckets.take(0, amount, wait)


def test_a_look_changes_nothing() -> None:
    often, seldom = TokenBuckets(1), TokenBuckets(1)
    for buckets in (often, seldom):
        buckets.add(0, 1 / 3, 1000.0, 0.0)
        buckets.overdraw(0, 1000.0, 0.1)
    for step in range(1, 1000):
        often.level(0, 0.1 + step * 0.1)
        assert not often.take(0, 900.0, 0.1 + step * 0.1)
    assert often.level(0, 1234.5).hex() == seldom.level(0, 1234.5).hex()


def test_a_bucket_starts_full_and_never_overflows() -> None:
    buckets = TokenBuckets(1)
    buckets.add(0, 2.0, 10.0, 5.0)
    assert buckets.level(0, 5.0) == 10.0 == buckets.level(0, 1e8)
    assert buckets.take(0, 4.0, 1e8) and buckets.level(0, 1e8) == 6.0
    buckets.give_back(0, 100.0, 1e8)
    assert buckets.level(0, 1e8) == 10.0


def test_debt_is_waited_for() -> None:
    buckets = TokenBuckets(1)
    buckets.add(0, 2.0, 10.0, 0.0)
    buckets.overdraw(0, 30.0, 0.0)
    assert buckets.level(0, 0.0) == -20.0
    assert not buckets.take(0, 0.0, 0.0)
    assert buckets.time_until(0, 0.0, 0.0) == 10.0
    assert 15.0 <= buckets.time_until(0, 10.0, 0.0) <= math.nextafter(15.0, 16.0)
    assert buckets.time_until(0, math.nextafter(10.0, 11.0), 0.0) == math.inf
    assert not buckets.take(0, 10.0, 15.0 - 1e-9) and buckets.take(0, 10.0, 15.0)


def test_unlimited_records_nothing() -> None:
    buckets = TokenBuckets(1)
    buckets.add(0, math.inf, math.inf, 0.0)
    assert buckets.take(0, 1e18, 1.0) and buckets.level(0, 1.0) == math.inf
    buckets.overdraw(0, 1e18, 1.0)
    assert buckets.time_until(0, 1e18, 1.0) == 0.0
    buckets.set_limits(0, 1.0, 50.0, 2.0)
    assert buckets.level(0, 2.0) == 50.0


def test_new_limits_keep_the_level() -> None:
    buckets = TokenBuckets(1)
    buckets.add(0, 1.0, 100.0, 0.0)
    buckets.overdraw(0, 70.0, 0.0)
    buckets.set_limits(0, 5.0, 200.0, 10.0)
    assert buckets.level(0, 10.0) == 40.0 and buckets.level(0, 20.0) == 90.0
    buckets.set_limits(0, 5.0, 60.0, 20.0)
    assert buckets.level(0, 20.0) == 60.0


def test_the_same_limits_again_change_no_bit() -> None:
    often, seldom = TokenBuckets(1), TokenBuckets(1)
    for buckets in (often, seldom):
        buckets.add(0, 1 / 3, 1000.0, 0.0)
        buckets.overdraw(0, 1000.0, 0.1)
    for step in range(1, 1000):
        often.set_limits(0, 1 / 3, 1000.0, 0.1 + step * 0.1)
    assert often.level(0, 1234.5).hex() == seldom.level(0, 1234.5).hex()


def test_what_takes_longer_than_time_lasts_is_never_affordable() -> None:
    buckets = TokenBuckets(1)
    buckets.add(0, 1e-6, 1e6, 0.0)
    buckets.overdraw(0, 1e6, 0.0)
    assert buckets.time_until(0, 1e6, 0.0) == math.inf
    assert buckets.time_until(0, 100.0, 0.0) == pytest.approx(1e8)


def calls(amount: float, slot: int, now: float) -> list[Callable[[TokenBuckets], object]]:
    many = np.array([0, slot], np.int32), np.array([1.0, amount])
    return [
        lambda b: b.take(slot, amount, now),
        lambda b: b.overdraw(slot, amount, now),
        lambda b: b.give_back(slot, amount, now),
        lambda b: b.time_until(slot, amount, now),
        lambda b: b.take_many(*many, now),
    ]


def fixture() -> TokenBuckets:
    buckets = TokenBuckets(4, 100.0)
    for slot in range(3):
        buckets.add(slot, 1.0, 10.0, 105.0)
        buckets.overdraw(slot, 3.0, 105.0)
    return buckets


def unchanged(buckets: TokenBuckets) -> None:
    assert [buckets.level(slot, 105.0) for slot in range(3)] == [7.0, 7.0, 7.0]


@pytest.mark.parametrize("amount", BAD_AMOUNTS)
def test_bad_amounts_change_nothing(amount: float) -> None:
    buckets = fixture()
    for call in calls(amount, 1, 106.0):
        with pytest.raises(ValueError, match="amount must be in"):
            call(buckets)
    unchanged(buckets)


@pytest.mark.parametrize("slot", [-1, 3, 4, -(2**31), 2**31 - 1])
def test_bad_slots_change_nothing(slot: int) -> None:
    buckets = fixture()
    for call in calls(1.0, slot, 106.0):
        with pytest.raises(IndexError, match="slot"):
            call(buckets)
    with pytest.raises(IndexError):
        buckets.level(slot, 106.0)
    with pytest.raises(IndexError):
        buckets.set_limits(slot, 1.0, 1.0, 106.0)
    unchanged(buckets)


def test_a_slot_is_not_taken_modulo_2_to_the_32() -> None:
    buckets = fixture()
    for slot in (2**31, 2**32, 2**32 + 1, -(2**32), 2**63 - 1):
        for method in (buckets.take, buckets.overdraw, buckets.give_back, buckets.time_until):
            with pytest.raises(IndexError, match=str(slot)):
                method(slot, 1.0, 106.0)
        for limits in (buckets.add, buckets.set_limits):
            with pytest.raises(IndexError, match=str(slot)):
                limits(slot, 1.0, 1.0, 106.0)
    unchanged(buckets)


@pytest.mark.parametrize("now", [math.nan, math.inf, -math.inf, 99.0, 104.9, 100.0 + 4.1e8])
def test_bad_instants_change_nothing(now: float) -> None:
    buckets = fixture()
    for call in calls(1.0, 1, now):
        with pytest.raises(ValueError, match="now must"):
            call(buckets)
    with pytest.raises(ValueError, match="now must"):
        buckets.level(0, now)
    with pytest.raises(ValueError, match="now must"):
        buckets.add(0, 1.0, 1.0, now)
    with pytest.raises(ValueError, match="now must"):
        buckets.set_limits(0, 1.0, 1.0, now)
    unchanged(buckets)


@pytest.mark.parametrize(("rate", "burst"), BAD_LIMITS)
def test_bad_limits_change_nothing(rate: float, burst: float) -> None:
    buckets = fixture()
    for method in (buckets.add, buckets.set_limits):
        with pytest.raises(ValueError, match=r"rate|burst"):
            method(0, rate, burst, 106.0)
    unchanged(buckets)


def test_slots_are_integers() -> None:
    buckets = fixture()
    for slot in (1.0, 1.5, "1", None):
        with pytest.raises(TypeError):
            buckets.take(slot, 1.0, 106.0)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            buckets.reserve(slot)  # type: ignore[arg-type]
    with pytest.raises(OverflowError):
        buckets.take(2**63, 1.0, 106.0)
    unchanged(buckets)


def test_bad_arrays_change_nothing() -> None:
    buckets = fixture()
    slots, amounts = np.array([0, 1, 2], np.int32), np.ones(3)
    bad: list[tuple[Any, Any, Any]] = [
        (slots, amounts[:2], None),
        (slots.astype(np.int64), amounts, None),
        (slots, amounts.astype(np.float32), None),
        (slots[::2], amounts[::2], None),
        (slots.reshape(1, 3), amounts, None),
        (slots, amounts, np.empty(2, np.bool_)),
        (slots, amounts, np.empty(3, np.int8)),
        (slots, amounts, np.empty(6, np.bool_)[::2]),
        (slots, amounts, [False] * 3),
        (slots, amounts, slots.view(np.bool_)[9:]),
        (slots, amounts, amounts.view(np.bool_)[:3]),
    ]
    for bad_slots, bad_amounts, out in bad:
        with pytest.raises(ValueError):
            buckets.take_many(bad_slots, bad_amounts, 106.0, out=out)
    unchanged(buckets)


def test_bulk_reads_arrays_that_may_not_be_written() -> None:
    buckets = fixture()
    slots, amounts = np.zeros(3, np.int32), np.full(3, 3.0)
    slots.flags.writeable = amounts.flags.writeable = False
    assert buckets.take_many(slots, amounts, 105.0).tolist() == [True, True, False]
    assert buckets.take_many(slots[:0], amounts[:0], 105.0).tolist() == []


def test_growth_keeps_buckets() -> None:
    buckets = fixture()
    buckets.reserve(5)
    assert buckets.capacity == 8
    unchanged(buckets)
    with pytest.raises(ValueError, match=r"capacity must be in 0\.\.2147483647, not -1"):
        buckets.reserve(-1)
    with pytest.raises(ValueError, match=r"capacity must be in 0\.\.2147483647, not -1"):
        TokenBuckets(-1)
    with pytest.raises(ValueError, match="capacity must be in"):
        buckets.reserve(2**31)
    with pytest.raises(IndexError, match="not been added"):
        buckets.level(7, 105.0)


@pytest.mark.parametrize("epoch", [math.nan, math.inf, 1e11, -1e11])
def test_bad_epochs(epoch: float) -> None:
    with pytest.raises(ValueError, match="epoch"):
        TokenBuckets(1, epoch)

"""AgingHeap: agreement with the twin, exact order, long runs against a sort, refused arguments."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aps_core.aging_heap import AgingHeap
from tests.twins.aging_heap import AgingHeap as Twin

INF = math.inf
PICK = st.integers(0, 2**16)  # a tenant or a request, modulo those there are
BIDS = st.one_of(st.sampled_from([1, 2, 10]), st.integers(1, 10))  # often the same few: deep lanes
HORIZONS = st.one_of(st.sampled_from([0.0, INF, 30.0, 9.0, 1e-9, 1e8]), st.floats(0.0, 100.0))
STEPS_NS = st.one_of(st.just(0), st.integers(0, 10**6), st.sampled_from([10**9, 10**10, 10**13]))


def int32(values: list[int]) -> npt.NDArray[np.int32]:
    return np.array(values, np.int32)


class Heaps(RuleBasedStateMachine):
    """Times are whole microseconds apart and below 2**52 ns, so a double of seconds names each of them."""

    @initialize(tenants=st.integers(1, 4), horizon=HORIZONS)
    def start(self, tenants: int, horizon: float) -> None:
        self.heap, self.twin = AgingHeap(tenants, horizon, capacity=0), Twin(tenants, horizon)
        self.handles: dict[int, int] = {}  # by arrival number
        self.ended: list[int] = []
        self.now_ns = 0

    def tenant(self, pick: int) -> int:
        return pick % self.heap.tenants

    def later(self, step_ns: int) -> float:
        if self.now_ns + step_ns < 2**52:
            self.now_ns += step_ns
        now = self.now_ns / 1e9
        assert round(now * 1e9) == self.now_ns
        return now

    def name(self, number: int, handle: int) -> None:
        """The handle of a request: known, or (what hold_many pushed) seen for the first time."""
        if number not in self.handles:
            assert handle > 0 and handle not in self.handles.values() and handle not in self.ended
            self.handles[number] = handle
        assert self.handles[number] == handle

    def gone(self, number: int, handle: int) -> None:
        self.name(number, handle)
        self.ended.append(self.handles.pop(number))

    @rule(pick=PICK, bid=BIDS, step_ns=STEPS_NS)
    def push(self, pick: int, bid: int, step_ns: int) -> None:
        now = self.later(step_ns)
        self.name(self.twin.push(self.tenant(pick), bid, self.now_ns), self.heap.push(self.tenant(pick), bid, now))

    @rule(items=st.lists(st.tuples(PICK, BIDS), max_size=30), step_ns=STEPS_NS, into=st.booleans())
    def push_many(self, items: list[tuple[int, int]], step_ns: int, into: bool) -> None:
        now = self.later(step_ns)
        tenants, bids = [self.tenant(pick) for pick, _ in items], [bid for _, bid in items]
        out = np.zeros(len(items), np.int64) if into else None
        handles = self.heap.push_many(int32(tenants), int32(bids), now, out=out)
        assert out is None or handles is out
        for tenant, bid, handle in zip(tenants, bids, handles.tolist(), strict=True):
            self.name(self.twin.push(tenant, bid, self.now_ns), handle)

    @rule(pick=PICK, bid=BIDS, count=st.integers(1, 30))
    def push_one_lane(self, pick: int, bid: int, count: int) -> None:
        self.push_many([(pick, bid)] * count, 1, False)

    @rule(step_ns=STEPS_NS)
    def pop(self, step_ns: int) -> None:
        at = self.now_ns + step_ns  # waiting changes no order
        if self.twin.peek(at) is None:
            with pytest.raises(IndexError, match="no open tenant"):
                self.heap.pop()
        else:
            self.gone(self.twin.pop(at), self.heap.pop())

    @rule(n=st.integers(0, 40), step_ns=STEPS_NS, spare=st.integers(-1, 3))
    def pop_many(self, n: int, step_ns: int, spare: int) -> None:
        out = None if spare < 0 else np.zeros(min(n, len(self.heap)) + spare, np.int64)
        handles = self.heap.pop_many(n, out=out)
        assert out is None or not handles.size or np.shares_memory(handles, out)
        numbers = self.twin.pop_many(n, self.now_ns + step_ns)
        for number, handle in zip(numbers, handles.tolist(), strict=True):
            self.gone(number, handle)

    @rule(items=st.lists(st.tuples(PICK, BIDS), max_size=12), step_ns=STEPS_NS)
    def hold_many(self, items: list[tuple[int, int]], step_ns: int) -> None:
        tenants, bids = int32([self.tenant(pick) for pick, _ in items]), int32([bid for _, bid in items])
        if self.now_ns + step_ns * len(items) >= 2**52:
            step_ns = 1000
        now, step = self.later(0), step_ns / 1e9
        left = len(self.twin.competing())
        for tenant in tenants:
            if left == 0:
                with pytest.raises(IndexError, match="would wait at element"):
                    self.heap.hold_many(tenants, bids, now, step)
                return
            left += self.twin.open[tenant] - 1
        handles = self.heap.hold_many(tenants, bids, now, step).tolist()
        for i, (tenant, bid) in enumerate(zip(tenants.tolist(), bids.tolist(), strict=True)):
            self.gone(self.twin.pop(self.now_ns), handles[i])
            self.twin.push(tenant, bid, self.now_ns + i * step_ns)
        self.later(step_ns * max(len(items) - 1, 0))

    @rule(step_ns=STEPS_NS)
    def peek(self, step_ns: int) -> None:
        """Not an invariant: the tops must also be found after many changes between two looks."""
        at = self.now_ns + step_ns
        number, handle = self.twin.peek(at), self.heap.peek()
        if number is None or handle is None:
            assert number is handle is None
        else:
            self.name(number, handle)
            assert self.heap.effective_bid(handle, at / 1e9) == self.twin.effective_bid_rounded(number, at)

    @rule(pick=PICK)
    def remove(self, pick: int) -> None:
        if self.handles:
            number = sorted(self.handles)[pick % len(self.handles)]
            self.heap.remove(self.handles[number])
            self.twin.remove(number)
            self.gone(number, self.handles[number])

    @rule(picks=st.lists(st.tuples(PICK, BIDS), min_size=1, max_size=30))
    def rebid(self, picks: list[tuple[int, int]]) -> None:
        for pick, bid in picks if self.handles else []:
            number = sorted(self.handles)[pick % len(self.handles)]
            self.heap.rebid(self.handles[number], bid)
            self.twin.rebid(number, bid)

    @rule(bid=BIDS, order=st.randoms(use_true_random=False))
    def rebid_all(self, bid: int, order: Any) -> None:
        """Everything into one bid in any order: its lanes become pairing heaps."""
        numbers = sorted(self.handles)
        order.shuffle(numbers)
        for number in numbers:
            self.heap.rebid(self.handles[number], bid)
            self.twin.rebid(number, bid)

    @rule(horizon=HORIZONS)
    def set_aging_horizon(self, horizon: float) -> None:
        self.heap.set_aging_horizon(horizon)
        self.twin.set_aging_horizon(horizon)

    @rule(pick=PICK, opened=st.booleans())
    def set_tenant_open(self, pick: int, opened: bool) -> None:
        self.heap.set_tenant_open(self.tenant(pick), opened)
        self.twin.set_tenant_open(self.tenant(pick), opened)

    @rule(more=st.integers(0, 3))
    def reserve(self, more: int) -> None:
        self.heap.reserve(self.heap.tenants + more)
        self.twin.reserve(self.heap.tenants)

    @rule(pick=PICK)
    def a_stale_handle_is_refused(self, pick: int) -> None:
        if self.ended:
            with pytest.raises(KeyError, match="stale or foreign"):
                self.heap.remove(self.ended[pick % len(self.ended)])

    @invariant()
    def count(self) -> None:
        if hasattr(self, "heap"):
            assert len(self.heap) == self.heap.count == len(self.twin.waiting)

    def teardown(self) -> None:
        """All that waits comes out in order, and then nothing."""
        if hasattr(self, "heap"):
            for tenant in range(self.heap.tenants):
                self.set_tenant_open(tenant, True)
            numbers = self.twin.in_order(self.now_ns)
            for number, handle in zip(numbers, self.heap.pop_many(2**31).tolist(), strict=True):
                self.gone(number, handle)
            assert len(self.heap) == 0 and not self.handles and self.heap.peek() is None


TestHeaps = Heaps.TestCase


# Order


def drain(heap: AgingHeap) -> list[int]:
    handles: list[int] = heap.pop_many(len(heap)).tolist()
    return handles


def at_ns(heap: AgingHeap, bids: list[int], start: float, gap_s: float) -> None:
    """Push bids exactly `gap_s` apart, which near the end of time a double of seconds cannot say."""
    fill = int32([0] * len(bids))
    heap.push_many(fill, fill + 10, 0.0)
    heap.hold_many(fill, int32(bids), start, gap_s)


@pytest.mark.parametrize("horizon", [0.0, 1e-9, 0.5, 30.0, 1e8, INF])
def test_ties_go_by_arrival(horizon: float) -> None:
    for bid in range(1, 11):
        heap = AgingHeap(3, horizon)
        handles = [heap.push(i * i % 3, bid, 5.0) for i in range(100)]
        assert drain(heap) == handles


def test_all_bids_of_one_instant() -> None:
    for horizon in (1e-9, 30.0, 1e8, INF):
        heap = AgingHeap(2, horizon)
        handles = {bid: [heap.push(tenant, bid, 1.0) for tenant in (1, 0)] for bid in (3, 1, 4, 10, 5, 9, 2, 6, 8, 7)}
        assert drain(heap) == [handle for bid in range(10, 0, -1) for handle in handles[bid]]
    heap = AgingHeap(2, 0.0)
    arrived = [heap.push(0, bid, 1.0) for bid in (3, 10, 1)]
    assert drain(heap) == arrived


@pytest.mark.parametrize("start", [1.0, 3.9e8])
@pytest.mark.parametrize(("gap", "later_first"), [(1.0, False), (0.999999999, True), (1.000000001, False)])
def test_the_order_is_exact_to_a_nanosecond(start: float, gap: float, later_first: bool) -> None:
    """A horizon of 9 s is worth a bid a second: 1 s later with one bid more is a tie, for the earlier.

    1 ns is 1e-9 of an effective bid that at the end of time is 4e8: no double could tell.
    """
    heap = AgingHeap(1, 9.0)
    at_ns(heap, [5, 6], start, gap)
    first = heap.peek()
    assert first is not None
    heap.set_aging_horizon(INF)
    assert heap.effective_bid(first, 4e8) == (6.0 if later_first else 5.0)


def test_nothing_overflows_at_the_end_of_time() -> None:
    heap = AgingHeap(1, 1e8)
    oldest = heap.push(0, 1, 0.0)
    urgent = heap.push(0, 10, 0.0)
    newest = heap.push(0, 10, 4e8)
    last = heap.push(0, 1, 4e8)
    assert heap.effective_bid(oldest, 4e8) == 37.0
    assert drain(heap) == [urgent, oldest, newest, last]


def test_the_horizon_is_when_a_bid_of_1_ranks_with_a_fresh_10() -> None:
    for late, first_is_old in ((29.999999999, False), (30.0, True), (30.000000001, True)):
        heap = AgingHeap(2)
        old = heap.push(0, 1, 0.0)
        fresh = heap.push(1, 10, late)
        assert drain(heap) == ([old, fresh] if first_is_old else [fresh, old])


def test_a_new_horizon_ranks_what_waits_anew() -> None:
    heap = AgingHeap(1, INF)
    old, fresh = heap.push(0, 1, 0.0), heap.push(0, 10, 20.0)
    for horizon, first in ((30.0, fresh), (20.0, old), (INF, fresh), (0.0, old)):
        heap.set_aging_horizon(horizon)
        assert heap.aging_horizon_s == horizon and heap.peek() == first
    assert [heap.effective_bid(handle, 20.0) for handle in (old, fresh)] == [INF, INF]


def test_a_rebid_keeps_its_arrival() -> None:
    heap = AgingHeap(1)
    handles = [heap.push(0, 5, float(i)) for i in range(6)]
    for handle in handles[1:5]:
        heap.rebid(handle, 9)
    for handle in (handles[3], handles[1], handles[4], handles[2]):
        heap.rebid(handle, 5)
    assert drain(heap) == handles


def test_a_closed_tenant_waits() -> None:
    heap = AgingHeap(2)
    mine, other = heap.push(0, 10, 0.0), heap.push(1, 1, 0.0)
    heap.set_tenant_open(0, False)
    later = heap.push(0, 10, 1.0)
    assert heap.peek() == other and len(heap) == 3
    assert heap.pop_many(3).tolist() == [other]
    assert heap.peek() is None and len(heap) == 2
    assert heap.pop_many(3).size == 0
    with pytest.raises(IndexError, match="no open tenant"):
        heap.pop()
    with pytest.raises(IndexError, match="at element 0"):
        heap.hold_many(int32([1]), int32([1]), 1.0, 0.0)
    heap.remove(mine)
    heap.set_tenant_open(0, True)
    assert drain(heap) == [later]


def test_hold_stops_before_it_would_find_nothing() -> None:
    heap = AgingHeap(2)
    handles = [heap.push(0, 5, 0.0) for _ in range(3)]
    heap.set_tenant_open(1, False)
    with pytest.raises(IndexError, match="at element 3"):
        heap.hold_many(int32([1, 1, 1, 0]), int32([5] * 4), 1.0, 1.0)
    assert heap.hold_many(int32([0, 1, 1, 1]), int32([5] * 4), 1.0, 1.0).tolist()[:3] == handles


def test_long_runs_come_out_sorted() -> None:
    """More than 200,000 operations; each bulk of pops against a sort of all that competes, in integers."""
    random = np.random.default_rng(7)
    heap = AgingHeap(40, 30.0, capacity=0)
    waiting: dict[int, tuple[int, int, int, int]] = {}  # by handle: tenant, bid, arrival in ns, number
    opened, horizon_ns, number, operations = [True] * 40, 30 * 10**9, 0, 0
    for second in range(60):
        count, tenants = int(random.integers(500, 1500)), (3, 40)[second % 2]
        where, bids = random.integers(0, tenants, count, np.int32), random.integers(1, 11, count, np.int32)
        handles = heap.push_many(where, bids, float(second)).tolist()
        for handle, tenant, bid in zip(handles, where.tolist(), bids.tolist(), strict=True):
            number += 1
            waiting[handle] = tenant, bid, second * 10**9, number
        known = np.array(list(waiting))
        for handle in random.choice(known, 2000).tolist():
            tenant, _, arrival_ns, its_number = waiting[handle]
            waiting[handle] = tenant, int(random.integers(1, 11)) if second % 3 else 5, arrival_ns, its_number
            heap.rebid(handle, waiting[handle][1])
        for handle in random.choice(known, 100, replace=False).tolist():
            heap.remove(handle)
            del waiting[handle]
        tenant = second % 40
        opened[tenant] = not opened[tenant]
        heap.set_tenant_open(tenant, opened[tenant])
        if second % 7 == 0:
            horizon_ns = int(random.integers(0, 60 * 10**9))
            heap.set_aging_horizon(horizon_ns / 1e9)
        popped = heap.pop_many(count).tolist()
        due = {handle: (9 * it[2] - it[1] * horizon_ns, it[3]) for handle, it in waiting.items() if opened[it[0]]}
        assert popped == sorted(due, key=due.__getitem__)[:count]
        for handle in popped:
            del waiting[handle]
        operations += 2 * count + 2100
    assert operations > 200_000 and len(heap) == len(waiting)


# Refused arguments


def fixture() -> tuple[AgingHeap, list[int]]:
    heap = AgingHeap(3)
    return heap, [heap.push(2, 9, 1.0), heap.push(0, 5, 2.0), heap.push(1, 5, 2.0), heap.push(0, 1, 3.0)]


TWO = int32([1, 2])
READ_ONLY = np.zeros(2, np.int64)
READ_ONLY.flags.writeable = False
SHARED = np.full(2, 2**32 + 1, np.int64)
Bad = tuple[type[Exception], str, Callable[[Any, int], object]]
BAD_TIMES = (math.nan, INF, -INF, -1.0, 2.999999999, 4.1e8)
BAD_ARRAYS: list[tuple[type[Exception], Any]] = [
    (TypeError, None),
    (TypeError, [1, 2]),
    (TypeError, b"12345678"),
    (ValueError, np.ones(2, np.int64)),
    (ValueError, np.ones(2, np.float64)),
    (ValueError, np.ones(2, ">i4")),
    (ValueError, np.ones(4, np.int32)[::2]),
    (ValueError, np.ones((2, 1), np.int32)),
    (ValueError, np.ones((), np.int32)),
    (ValueError, int32([1, 2, 1])),
    (ValueError, int32([1, 11])),
    (ValueError, int32([1, -1])),
]
BAD_OUTS: list[tuple[type[Exception], Any]] = [
    (TypeError, [0, 0]),
    (ValueError, np.zeros(1, np.int64)),
    (ValueError, np.zeros(2, np.int32)),
    (ValueError, np.zeros(4, np.int64)[::2]),
    (ValueError, np.zeros((2, 1), np.int64)),
    (ValueError, READ_ONLY),
]
BAD: list[Bad] = [
    *((ValueError, "bid", lambda h, _, x=x: h.push(0, x, 3.0)) for x in (0, 11, -1, 2**31, 2**80)),
    *((TypeError, "bid", lambda h, _, x=x: h.push(0, x, 3.0)) for x in (5.5, 5.0, "5", None, True)),
    *((ValueError, "bid", lambda h, handle, x=x: h.rebid(handle, x)) for x in (0, 11, 2**80)),
    *((TypeError, "bid", lambda h, handle, x=x: h.rebid(handle, x)) for x in (5.5, "5", None)),
    *((ValueError, "tenant", lambda h, _, x=x: h.push(x, 5, 3.0)) for x in (3, -1, 2**32, 2**32 + 1, 2**80)),
    *((TypeError, "tenant", lambda h, _, x=x: h.push(x, 5, 3.0)) for x in (0.0, "0", None, False)),
    *((ValueError, "tenant", lambda h, _, x=x: h.set_tenant_open(x, False)) for x in (3, -1, 2**32)),
    *((ValueError, "now", lambda h, _, x=x: h.push(0, 5, x)) for x in BAD_TIMES),
    *((ValueError, "now", lambda h, _, x=x: h.push_many(TWO, TWO, x)) for x in BAD_TIMES),
    *((ValueError, "now", lambda h, _, x=x: h.hold_many(TWO, TWO, x, 1.0)) for x in BAD_TIMES),
    *((ValueError, "step", lambda h, _, x=x: h.hold_many(TWO, TWO, 3.0, x)) for x in (math.nan, INF, -1e-9)),
    *((ValueError, "step", lambda h, _, x=x: h.hold_many(TWO, TWO, 4e8, x)) for x in (1e-6, 1.0, 4e8)),
    *((TypeError, "now", lambda h, _, x=x: h.push(0, 5, x)) for x in ("3", None, [3.0])),
    (ValueError, "now", lambda h, handle: h.effective_bid(handle, 1.999999999)),
    *((ValueError, "aging_horizon_s", lambda h, _, x=x: h.set_aging_horizon(x)) for x in (math.nan, -1.0, -INF, 1.1e8)),
    (TypeError, "aging_horizon_s", lambda h, _: h.set_aging_horizon("30")),
    *((KeyError, "stale or foreign", lambda h, _, x=x: h.remove(x)) for x in (0, -1, 1, 2**62 + 999, -(2**63))),
    *((KeyError, "stale or foreign", lambda h, _, x=x: h.rebid(x, 5)) for x in (0, -1, 2**53 + 999)),
    (KeyError, "stale or foreign", lambda h, _: h.remove(fixture()[1][0])),
    (KeyError, "stale or foreign", lambda h, handle: h.effective_bid(handle + 1000, 3.0)),
    (ValueError, "handle", lambda h, _: h.remove(2**63)),
    *((TypeError, "handle", lambda h, handle, t=t: h.remove(t(handle))) for t in (float, str)),
    *((error, "tenants", lambda h, _, x=x: h.push_many(x, TWO, 3.0)) for error, x in BAD_ARRAYS),
    *((error, "bids", lambda h, _, x=x: h.push_many(TWO, x, 3.0)) for error, x in BAD_ARRAYS),
    *((error, "bids", lambda h, _, x=x: h.hold_many(TWO, x, 3.0, 0.0)) for error, x in BAD_ARRAYS),
    *((error, "out", lambda h, _, x=x: h.push_many(TWO, TWO, 3.0, out=x)) for error, x in BAD_OUTS),
    *((error, "out", lambda h, _, x=x: h.hold_many(TWO, TWO, 3.0, 0.0, out=x)) for error, x in BAD_OUTS),
    *((error, "out", lambda h, _, x=x: h.pop_many(2, out=x)) for error, x in BAD_OUTS),
    (ValueError, "share memory", lambda h, _: h.push_many(SHARED.view(np.int32)[:2], TWO, 3.0, out=SHARED)),
    (ValueError, "share memory", lambda h, _: h.hold_many(TWO, SHARED.view(np.int32)[:2], 3.0, 0.0, out=SHARED)),
    (ValueError, "n must be", lambda h, _: h.pop_many(-1)),
    (TypeError, "n must be", lambda h, _: h.pop_many(1.5)),
    (ValueError, "tenants", lambda h, _: h.reserve(0)),
    (ValueError, "tenants", lambda h, _: h.reserve(2**24 + 1)),
    (ValueError, "16777216", lambda h, _: h.reserve(2**31)),
]


@pytest.mark.parametrize(("error", "field", "call"), BAD)
def test_bad_arguments_change_nothing(error: type[Exception], field: str, call: Callable[[Any, int], object]) -> None:
    heap, handles = fixture()
    with pytest.raises(error, match=field):
        call(heap, handles[2])
    assert (len(heap), heap.tenants, heap.aging_horizon_s) == (4, 3, 30.0)
    last = heap.push(0, 1, 3.0)  # time did not pass
    assert drain(heap) == [*handles, last]


def test_an_empty_heap() -> None:
    heap = AgingHeap(1)
    assert heap.peek() is None and len(heap) == 0
    with pytest.raises(IndexError):
        heap.pop()
    assert heap.pop_many(5).size == heap.push_many(int32([]), int32([]), 0.0).size == 0
    assert heap.hold_many(int32([]), int32([]), 0.0, 1.0).size == 0


def test_an_ended_handle_is_stale_for_every_call() -> None:
    heap = AgingHeap(1)
    handle = heap.push(0, 5, 0.0)
    assert heap.pop() == handle
    again = heap.push(0, 5, 0.0)
    calls: list[Callable[[], object]] = [
        lambda: heap.remove(handle),
        lambda: heap.rebid(handle, 6),
        lambda: heap.effective_bid(handle, 1.0),
    ]
    for call in calls:
        with pytest.raises(KeyError, match=str(handle)):
            call()
    assert drain(heap) == [again]


def test_bad_constructor_arguments() -> None:
    for arguments, field in (
        ((0,), "tenants"),
        ((2**24 + 1,), "tenants"),
        ((1, -1.0), "aging_horizon_s"),
        ((1, math.nan), "aging_horizon_s"),
        ((1, 1.0, -1), "capacity"),
    ):
        with pytest.raises(ValueError, match=field):
            AgingHeap(*arguments)
    for field in ("tenants", "aging_horizon_s", "capacity"):
        with pytest.raises(TypeError, match=field):
            AgingHeap(**{field: "1"})  # type: ignore[arg-type]

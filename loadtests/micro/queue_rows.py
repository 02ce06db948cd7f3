"""Queue rows: `AgingHeap` against heapq in the hold model (N wait; pop the best, push a fresh request).

Both sides see the same requests with the same keys. Our table's rows are in random order in memory: it is filled,
emptied in random order and filled again. Afterwards the order of the pops is compared with a sort of the keys.
"""

import heapq
from collections.abc import Iterator
from typing import Any

import numpy as np

from loadtests.micro.load import HORIZON_NS, Requests, Stream
from loadtests.micro.rows import BY_NAME, Row
from loadtests.micro.timing import Timed, measure


class WrongOrder(AssertionError):
    """A queue popped something else than the best request."""


class HeapqHold:
    """The peer: a list of (key, number) tuples under heapq, made in random order in memory as after a long run.

    Its keys are floats, quicker to compare than large ints and here just as exact (below 2**53).
    """

    def __init__(self, waiting: int, tenants: int, chunk: int) -> None:
        self.stream = Stream(waiting, tenants)
        self.chunk = chunk
        initial = self.stream.initial
        order = np.random.default_rng(2).permutation(waiting)
        items: list[tuple[float, int]] = [(0.0, 0)] * waiting
        for at, key, number in zip(
            order.tolist(),
            initial.keys[order].astype(np.float64).tolist(),
            initial.numbers[order].tolist(),
            strict=True,
        ):
            items[at] = (key, number)
        self.heap: list[tuple[float, int]] = []
        for item in items:
            heapq.heappush(self.heap, item)

    def __call__(self) -> Timed:
        keys, numbers = lists(self.stream.take(self.chunk))

        def timed(heap: list[tuple[float, int]] = self.heap) -> int:
            pop, push = heapq.heappop, heapq.heappush
            for key, number in zip(keys, numbers):  # noqa: B905 - strict costs the peer time
                pop(heap)
                push(heap, (key, number))
            return len(keys)

        return timed


def lists(requests: Requests) -> tuple[list[float], list[int]]:
    return requests.keys.astype(np.float64).tolist(), requests.numbers.tolist()


class AgingHold:
    """Ours; `bulk`: one Python call over arrays a round, else one call an operation."""

    def __init__(self, waiting: int, tenants: int, chunk: int, bulk: bool) -> None:
        self.stream = Stream(waiting, tenants)
        self.chunk = chunk
        self.bulk = bulk
        self.queue = shuffled(self.stream.initial, tenants)
        self.pushed = [self.stream.initial]
        self.popped = np.zeros(chunk, np.int64)

    def __call__(self) -> Timed:
        requests = self.stream.take(self.chunk)
        self.pushed.append(requests)
        return self.arrays(requests) if self.bulk else self.calls(requests)

    def arrays(self, requests: Requests) -> Timed:
        tenants, bids, popped = requests.tenants, requests.bids, self.popped
        first, step = float(requests.at[0]), self.stream.spacing_ns / 1e9

        def timed(hold: Any = self.queue.hold_many) -> int:
            hold(tenants, bids, first, step, out=popped)
            return len(popped)

        return timed

    def calls(self, requests: Requests) -> Timed:
        tenants, bids, at = requests.tenants.tolist(), requests.bids.tolist(), requests.at.tolist()

        def timed(queue: Any = self.queue) -> int:
            pop, push = queue.pop, queue.push
            for tenant, bid, now in zip(tenants, bids, at):  # noqa: B905 - as the peer's
                pop()
                push(tenant, bid, now)
            return len(at)

        return timed


def shuffled(initial: Requests, tenants: int) -> Any:
    """An `AgingHeap` in which `initial` waits in rows of random order: filled, emptied at random, filled again."""
    from aps_core.aging_heap import AgingHeap

    waiting = len(initial.bids)
    queue = AgingHeap(tenants=tenants, aging_horizon_s=HORIZON_NS / 1e9, capacity=waiting)
    handles = queue.push_many(initial.tenants, initial.bids, 0.0)
    np.random.default_rng(2).shuffle(handles)
    for start in range(0, waiting, 100_000):
        for handle in handles[start : start + 100_000].tolist():
            queue.remove(handle)
    for burst, now in initial.bursts():
        queue.push_many(burst.tenants, burst.bids, now)
    return queue


def check(ours: AgingHold, most: int) -> None:
    """What waits after the timed rounds must be what a sort leaves, and (up to `most` of it) come out in its order.

    Popping the best of what waits and pushing later requests pops the sorted sequence of all that is ever pushed, as
    long as none of that was due before it was pushed; which is checked too.
    """
    keys = np.concatenate([requests.keys for requests in ours.pushed])
    order = np.argsort(keys, kind="stable")
    waiting = len(ours.pushed[0].bids)
    pops = len(keys) - waiting
    if (order[:pops] >= waiting + np.arange(pops)).any():
        raise WrongOrder("the load lets a request overtake all that wait: sorting is no reference for it")
    if len(ours.queue) != waiting:
        raise WrongOrder(f"{len(ours.queue):,} wait, not {waiting:,}")
    left = order[pops:][:most]
    bids, at_ns = (
        np.concatenate([getattr(requests, name) for requests in ours.pushed])[left] for name in ("bids", "at_ns")
    )
    end = ours.stream.now_ns
    expected = bids + 9.0 * (end - at_ns) / float(HORIZON_NS)
    found = np.array(list(drained(ours.queue, end / 1e9, len(left))))
    wrong = np.flatnonzero(found != expected)
    if len(wrong):
        raise WrongOrder(
            f"request {wrong[0]:,} to come out bids {found[wrong[0]]:.9f}, by sorting {expected[wrong[0]]:.9f}"
        )


def drained(queue: Any, now: float, count: int) -> Iterator[float]:
    """Pops `count` requests; the effective bid at `now` of each."""
    for _ in range(count):
        handle = queue.peek()
        yield queue.effective_bid(handle, now)
        if queue.pop() != handle:
            raise WrongOrder("peek and pop disagree")


def against_heapq(suffix: str, waiting: int, tenants: int, chunk: int, rounds: int) -> Iterator[Row]:
    """The bulk and the call row of one size."""
    bulk, call = (AgingHold(waiting, tenants, chunk, bulk=bulk) for bulk in (True, False))
    peer = HeapqHold(waiting, tenants, chunk)
    costs = measure({"bulk": bulk, "call": call, "heapq": peer}, rounds)
    for ours in (bulk, call):
        check(ours, most=200_000)
    note = f"{tenants} tenants x 10 bids, {waiting:,} waiting, {rounds} rounds of {chunk:,}; order checked"
    yield BY_NAME[f"queue.bulk.{suffix}"].judge(costs["bulk"], costs["heapq"], note)
    yield BY_NAME[f"queue.call.{suffix}"].judge(costs["call"], costs["heapq"], note)


def one_thousand(quick: bool) -> Iterator[Row]:
    return against_heapq("1k", 1_000, 4, 1_000 if quick else 10_000, 3 if quick else 41)


def one_thousand_100_tenants(quick: bool) -> Iterator[Row]:
    return against_heapq("1k.100t", 1_000, 100, 1_000 if quick else 10_000, 3 if quick else 41)


def one_million(quick: bool) -> Iterator[Row]:
    return against_heapq("1m", 20_000 if quick else 1_000_000, 100, 1_000 if quick else 50_000, 3 if quick else 15)


def growth(quick: bool) -> Iterator[Row]:
    waiting, chunk, rounds = (50_000, 2_000, 3) if quick else (10_000_000, 100_000, 15)
    many, few = AgingHold(waiting, 100, chunk, bulk=True), AgingHold(1_000, 100, chunk, bulk=True)
    costs = measure({"many": many, "few": few}, rounds)
    check(many, most=200_000)
    check(few, most=200_000)
    note = f"100 tenants x 10 bids, {waiting:,} waiting, bulk, {rounds} rounds of {chunk:,}; order checked"
    yield BY_NAME["queue.growth.10m"].judge(costs["many"], costs["few"], note)


class Rekeyed:
    """Aging the plain way: a heap whose every pop first computes all effective bids anew and heapifies."""

    def __init__(self, waiting: int, tenants: int, chunk: int) -> None:
        self.stream = Stream(waiting, tenants)
        self.chunk = chunk
        initial = self.stream.initial
        self.heap = [
            (0.0, *row)
            for row in zip(initial.numbers.tolist(), initial.bids.tolist(), initial.at.tolist(), strict=True)
        ]

    def __call__(self) -> Timed:
        requests = self.stream.take(self.chunk)
        rows = list(zip(requests.numbers.tolist(), requests.bids.tolist(), requests.at.tolist(), strict=True))
        slope = 9 / (HORIZON_NS / 1e9)

        def timed() -> int:
            for number, bid, now in rows:
                self.heap = [(slope * (at - now) - was, n, was, at) for _, n, was, at in self.heap]
                heapq.heapify(self.heap)
                heapq.heappop(self.heap)
                heapq.heappush(self.heap, (-float(bid), number, bid, now))
            return len(rows)

        return timed


def reheapify(quick: bool) -> Iterator[Row]:
    small = (1_000, 20, 5)
    large = (5_000, 2, 2) if quick else (100_000, 2, 3)
    costs = {}
    for waiting, chunk, rounds in (small, large):
        ours = AgingHold(waiting, 100, 10_000, bulk=False)
        costs[waiting] = measure({"ours": ours, "rekeyed": Rekeyed(waiting, 100, chunk)}, rounds)
    few, many = costs[small[0]], costs[large[0]]
    note = (
        f"{large[0]:,} waiting; with 1,000 waiting ours {few['ours']:,.0f} ns, re-keyed {few['rekeyed']:,.0f} ns, "
        f"{few['rekeyed'] / few['ours']:,.0f} times; 100 tenants x 10 bids, one call an operation"
    )
    yield BY_NAME["queue.reheapify"].judge(many["ours"], many["rekeyed"], note)

"""Bucket rows: a decision on one of 1,000 keys, all allowed; `TokenBuckets` against libraries and a pure-Python bucket.

Ours and the pure-Python bucket are given `now`; the libraries read the clock themselves, as they do in use.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from loadtests.micro.bucket_peers import LIBRARIES, Limiter, PythonBucket
from loadtests.micro.rows import BY_NAME, Row
from loadtests.micro.timing import Case, Timed, measure

KEYS = 1_000
RATE, BURST, AMOUNT = 1e6, 1e6, 100.0
STEP_S = 1e-6


class Decisions:
    """Rounds of `chunk` decisions at advancing instants, on keys in random order."""

    def __init__(self, chunk: int) -> None:
        self.chunk = chunk
        self.slots = np.random.default_rng(3).integers(0, KEYS, chunk).astype(np.int32)
        self.now = 0.0

    def instants(self) -> list[float]:
        self.now += self.chunk * STEP_S
        return [self.now + step * STEP_S for step in range(self.chunk)]

    def names(self) -> list[str]:
        return [f"tenant-{slot}" for slot in self.slots.tolist()]


def buckets() -> Any:
    from aps_core.token_buckets import TokenBuckets

    table = TokenBuckets(KEYS)
    for slot in range(KEYS):
        table.add(slot, RATE, BURST, 0.0)
    return table


def one_call(chunk: int) -> Case:
    """Ours, one Python call a decision."""
    decisions, table = Decisions(chunk), buckets()
    slots = decisions.slots.tolist()

    def prepare() -> Timed:
        instants = decisions.instants()

        def timed(take: Callable[[int, float, float], bool] = table.take) -> int:
            for slot, now in zip(slots, instants):  # noqa: B905 - as the peer's
                take(slot, AMOUNT, now)
            return chunk

        return timed

    return prepare


def bulk(chunk: int) -> Case:
    """Ours, one Python call a round over arrays."""
    decisions, table = Decisions(chunk), buckets()
    amounts, taken = np.full(chunk, AMOUNT), np.empty(chunk, np.bool_)

    def prepare() -> Timed:
        now = decisions.instants()[-1]

        def timed(take: Any = table.take_many) -> int:
            take(decisions.slots, amounts, now, out=taken)
            return chunk

        return timed

    return prepare


def pure_python(chunk: int) -> Case:
    decisions = Decisions(chunk)
    table = [PythonBucket(RATE, BURST) for _ in range(KEYS)]
    slots = decisions.slots.tolist()

    def prepare() -> Timed:
        instants = decisions.instants()

        def timed() -> int:
            for slot, now in zip(slots, instants):  # noqa: B905
                table[slot].take(AMOUNT, now)
            return chunk

        return timed

    return prepare


def check_same_answers(decisions: int) -> None:
    """Ours, both ways, and the pure-Python bucket give the same verdicts on a load that is often refused."""
    random = np.random.default_rng(4)
    slots = random.integers(0, KEYS, decisions).astype(np.int32)
    amounts = random.integers(1, int(BURST), decisions).astype(np.float64)
    one, many, peers = buckets(), buckets(), [PythonBucket(RATE, BURST) for _ in range(KEYS)]
    instants = np.repeat(np.arange(1, 11) * 1.0, -(-decisions // 10))[:decisions]
    expected = [
        peers[s].take(a, t) for s, a, t in zip(slots.tolist(), amounts.tolist(), instants.tolist(), strict=True)
    ]
    called = [one.take(s, a, t) for s, a, t in zip(slots.tolist(), amounts.tolist(), instants.tolist(), strict=True)]
    arrays = [many.take_many(slots[instants == t], amounts[instants == t], t) for t in np.unique(instants).tolist()]
    if called != expected or np.concatenate(arrays).astype(bool).tolist() != expected:
        raise AssertionError("the buckets do not agree with the pure-Python one")


def python(quick: bool) -> Iterator[Row]:
    chunk, rounds = (1_000, 3) if quick else (10_000, 41)
    check_same_answers(10_000)
    costs = measure({"call": one_call(chunk), "bulk": bulk(chunk), "python": pure_python(chunk)}, rounds)
    note = f"{KEYS:,} buckets, all allowed, {rounds} rounds of {chunk:,}; same answers checked"
    yield BY_NAME["bucket.call.python"].judge(costs["call"], costs["python"], note)
    yield BY_NAME["bucket.bulk"].judge(costs["bulk"], costs["python"], note)


def libraries(quick: bool) -> Iterator[Row]:
    chunk, rounds = (200, 2) if quick else (4_000, 15)
    names = Decisions(chunk).names()
    cases: dict[str, Case] = {}
    missing = []
    for library, load in LIBRARIES.items():
        try:
            limiters = load()
        except ImportError:
            missing.append(library)
            continue
        cases.update({name: library_case(name, limiter, names) for name, limiter in limiters.items()})
    if not cases:
        raise ImportError("none of the libraries is installed: pip install 'aps-scheduler[bench]'")
    costs = measure({"ours": one_call(chunk), **cases}, rounds)
    ours = costs.pop("ours")
    fastest = min(costs, key=costs.__getitem__)
    note = f"{KEYS:,} keys, all allowed, {rounds} rounds of {chunk:,}; ns: " + ", ".join(
        f"{name} {cost:,.0f}" for name, cost in costs.items()
    )
    if missing:
        note += f"; not installed: {', '.join(missing)}"
    yield BY_NAME["bucket.call.library"].judge(ours, costs[fastest], note, peer=fastest)


def library_case(name: str, limiter: Limiter, keys: list[str]) -> Case:
    """The library's rounds, after one round in which its answers are checked."""
    timed, all_allowed = limiter(keys)
    if not all_allowed():
        raise AssertionError(f"{name} refused where nothing may be refused")
    return lambda: timed

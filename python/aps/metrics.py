"""Counters and distributions that the driver keeps. Memory is bounded: nothing grows with the number of requests.

Durations are seconds of the scheduler's clock (simulated seconds under a simulated backend).
"""

from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from math import ceil, inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SMALLEST = 1e-6  # seconds; anything below counts as 0
LARGEST = 4e8  # what the scheduler's clock can hold; anything above counts as that
GROWTH = 1.02  # from one bucket's lower edge to the next: a quantile is off by at most 1 %
_LOG_GROWTH = float(np.log(GROWTH))
_LAST = 1 + int(np.log(LARGEST / SMALLEST) / _LOG_GROWTH)
_MIDDLES = np.append(0.0, SMALLEST * GROWTH ** (np.arange(_LAST) + 0.5))  # of every bucket; the first: below SMALLEST


@lru_cache(maxsize=16)
def _buckets_up_to(edges: tuple[float, ...]) -> NDArray[np.intp]:
    """How many buckets have their middle at or below each edge."""
    return np.searchsorted(_MIDDLES, edges, side="right")


class Histogram:
    """A distribution of durations in geometric buckets. Quantiles are within 1 % (and 1 us) of the exact ones."""

    __slots__ = ("_buckets", "count", "largest", "smallest", "total")

    def __init__(self) -> None:
        self._buckets = np.zeros(0, dtype=np.int64)  # values by bucket, up to the last that has any
        self.count = 0
        self.total = 0.0
        self.smallest = inf
        self.largest = -inf

    def extend(self, values: NDArray[np.float64]) -> None:
        """Add finite numbers >= 0."""
        if not len(values):
            return
        smallest, largest = float(values.min()), float(values.max())
        within = np.clip(values, SMALLEST, LARGEST)
        places = 1 + (np.log(within / SMALLEST) / _LOG_GROWTH).astype(np.intp)
        if smallest < SMALLEST:
            places[values < SMALLEST] = 0
        self._add(np.bincount(places))
        self.count += len(values)
        self.total += float(values.sum())
        self.smallest = min(self.smallest, smallest)
        self.largest = max(self.largest, largest)

    def merge(self, other: "Histogram") -> None:
        """Add another's values."""
        self._add(other._buckets)
        self.count += other.count
        self.total += other.total
        self.smallest = min(self.smallest, other.smallest)
        self.largest = max(self.largest, other.largest)

    def _add(self, buckets: NDArray[np.int64]) -> None:
        missing = len(buckets) - len(self._buckets)
        if missing > 0:
            self._buckets = np.append(self._buckets, np.zeros(missing, dtype=np.int64))
        self._buckets[: len(buckets)] += buckets

    def quantile(self, q: float) -> float | None:
        """The nearest-rank quantile, 0 <= q <= 1; None while empty."""
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"q must be 0 to 1, got {q!r}")
        rank = max(1, ceil(q * self.count))
        if rank >= self.count:
            return self.largest if self.count else None
        middle = float(_MIDDLES[np.searchsorted(self._buckets.cumsum(), rank)])
        return min(max(middle, self.smallest), self.largest)

    @property
    def mean(self) -> float | None:
        """None while empty."""
        return self.total / self.count if self.count else None

    def counts(self, edges: Sequence[float]) -> list[int]:
        """How many values lie up to each ascending edge and above the one before it; the last: above every edge.

        A value within 1 % of an edge may be counted on its other side.
        """
        up_to = np.zeros(len(self._buckets) + 1, dtype=np.int64)
        self._buckets.cumsum(out=up_to[1:])
        below = up_to.take(_buckets_up_to(tuple(edges)), mode="clip").tolist()
        return [above - under for under, above in pairwise([0, *below, self.count])]


class TenantMetrics:
    """One tenant's counters and distributions since the driver began.

    sent = admitted + the sum of refused; admitted = finished + cancelled + expired + dropped + failed + outstanding.
    expired: the deadline passed before the start. dropped: made impossible by a change of limits. failed: lost by the
    backend. prompt_tokens, output_tokens, charged: used by requests that have ended, and their final charges.
    waiting, outstanding: requests now; waiting ones have not started.

    queue_wait: arrival to first scheduled step. ttft: arrival to first output token. e2e: arrival to end. tpot: first
    to last output token over the tokens after the first, of requests with at least two. Requests that finished, and for
    queue_wait and ttft also those that ended otherwise after that point.
    """

    __slots__ = (
        "_e2e",
        "_queue_wait",
        "_rows",
        "_tpot",
        "_ttft",
        "account",
        "admitted",
        "cancelled",
        "charged",
        "dropped",
        "expired",
        "failed",
        "finished",
        "name",
        "output_tokens",
        "outstanding",
        "prompt_tokens",
        "refused",
        "waiting",
    )

    def __init__(self, name: str, account: int) -> None:
        self.name = name
        self.account = account
        self.admitted = self.finished = self.cancelled = self.expired = self.dropped = self.failed = 0
        self.waiting = self.outstanding = 0
        self.prompt_tokens = self.output_tokens = 0
        self.charged = 0.0
        self.refused: Counter[str] = Counter()
        self._queue_wait, self._ttft, self._tpot, self._e2e = (Histogram() for _ in range(4))
        self._rows = array("d")  # four numbers a request; no objects for the garbage collector to visit

    def times(self, queue_wait: float, ttft: float, tpot: float, e2e: float) -> None:
        """Of one request that has ended; NaN: it has none. Kept in a short list and sorted in together: cheaper."""
        self._rows.extend((queue_wait, ttft, tpot, e2e))
        if len(self._rows) == 1024:
            self._sort_in()

    def _sort_in(self) -> None:
        if not self._rows:
            return
        rows = np.array(self._rows).reshape(-1, 4)
        self._rows = array("d")
        for histogram, column in zip((self._queue_wait, self._ttft, self._tpot, self._e2e), rows.T, strict=True):
            histogram.extend(column[~np.isnan(column)])

    @property
    def sent(self) -> int:
        return self.admitted + self.refused.total()

    @property
    def queue_wait(self) -> Histogram:
        self._sort_in()
        return self._queue_wait

    @property
    def ttft(self) -> Histogram:
        self._sort_in()
        return self._ttft

    @property
    def tpot(self) -> Histogram:
        self._sort_in()
        return self._tpot

    @property
    def e2e(self) -> Histogram:
        self._sort_in()
        return self._e2e


class Shared(NamedTuple):
    """Service received while all wait: for how long that was, and each tenant's prompt + output tokens in it."""

    seconds: float
    tokens: dict[str, int]


class Metrics:
    """What one driver has counted. Read only.

    tenants: by name, in the order in which they first asked. released: batches by reason ("continuous", "window",
    "fill"). batch_sizes: batches by the number of requests on the device once they had joined. slipped_s: simulated
    seconds by which the clock was set back because the machine could not keep up.

    *While all wait*: the time in which at least two tenants have requests, and each that has any also has one that has
    not started. Outside it shares say who asked for more, not what the scheduler gave. Tokens count when the step that
    computes them ends: prompt tokens as they are prefilled (again after a preemption by recompute), output tokens as
    they are handed over. Raw: not divided by weights.
    """

    def __init__(self, served: Callable[[int], NDArray[np.int64]]) -> None:
        """served: as `Backend.served`."""
        self.tenants: dict[str, TenantMetrics] = {}
        self.released: Counter[str] = Counter()
        self.batch_sizes: Counter[int] = Counter()
        self.slipped_s = 0.0
        self._served = served
        self._active = 0  # tenants with requests
        self._queued = 0  # tenants with requests that wait
        self._open = False
        self._opened_at = 0.0
        self._at_opening = np.zeros(0, dtype=np.int64)
        self._shared_s = 0.0
        self._shared = np.zeros(0, dtype=np.int64)

    def tenant(self, name: str) -> TenantMetrics:
        """That tenant's, made when it is new."""
        found = self.tenants.get(name)
        if found is None:
            found = self.tenants[name] = TenantMetrics(name, len(self.tenants))
        return found

    # What the driver reports; `now` never falls.

    def arrived(self, tenant: TenantMetrics, now: float) -> None:
        """An admitted request waits."""
        tenant.admitted += 1
        tenant.outstanding += 1
        tenant.waiting += 1
        if tenant.waiting == 1:
            self._queued += 1
            if tenant.outstanding == 1:
                self._active += 1
            self._look(now)

    def started(self, tenant: TenantMetrics, now: float) -> None:
        """A waiting request is on a device."""
        tenant.waiting -= 1
        if tenant.waiting == 0:
            self._queued -= 1
            self._look(now)

    def ended(self, tenant: TenantMetrics, waiting: bool, now: float) -> None:
        """A request, waiting or started, is over."""
        if waiting:
            self.started(tenant, now)
        tenant.outstanding -= 1
        if tenant.outstanding == 0:
            self._active -= 1
            self._look(now)

    def batch(self, size: int, released: str | None) -> None:
        """A batch has joined a device that now runs `size` requests."""
        self.batch_sizes[size] += 1
        self.released[released or "returned"] += 1

    def _look(self, now: float) -> None:
        all_wait = self._queued == self._active >= 2
        if all_wait != self._open:
            if self._open:
                self._close(now)
            self._open = all_wait
            self._opened_at = now
            if all_wait:
                self._at_opening = self._tokens()

    def _close(self, now: float) -> None:
        tokens = self._tokens()
        tokens[: len(self._at_opening)] -= self._at_opening
        tokens[: len(self._shared)] += self._shared
        self._shared = tokens
        self._shared_s += now - self._opened_at

    def _tokens(self) -> NDArray[np.int64]:
        return np.asarray(self._served(len(self.tenants)).sum(axis=0))

    # Reading

    def while_all_wait(self, now: float) -> Shared:
        """Up to now. `jain(shared.tokens.values())` of tenants that asked all the time is the fairness figure."""
        if self._open:
            self._close(now)
            self._opened_at = now
            self._at_opening = self._tokens()
        tokens = np.zeros(len(self.tenants), dtype=np.int64)
        tokens[: len(self._shared)] = self._shared
        return Shared(self._shared_s, dict(zip(self.tenants, tokens.tolist(), strict=True)))


def jain(shares: Iterable[float]) -> float | None:
    """Jain's index, (sum x)^2 / (n sum x^2): 1 when all are equal, 1/n when one has all. None: nobody has anything."""
    values = list(shares)
    squares = sum(x * x for x in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else None

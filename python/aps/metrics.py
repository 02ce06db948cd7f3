"""Counters and distributions that the driver keeps. Memory is bounded: nothing grows with the number of requests.

Durations are seconds of the scheduler's clock (simulated seconds under a simulated backend).
"""

from collections import Counter
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aps.cuts import Cut
from aps_core.books import Books
from aps_core.histogram import Histogram
from aps_core.tally import Tally

__all__ = ["Histogram", "Metrics", "Shared", "Tally", "TenantMetrics", "jain"]


TenantMetrics = Tally  # one tenant's


class Shared(NamedTuple):
    """Service received while all wait: for how long that was, and each tenant's prompt + output tokens in it."""

    seconds: float
    tokens: dict[str, int]


class Metrics(Books):
    """What one driver has counted. Read only.

    tenants: by name, in the order in which they first asked. bids: the same counters by bid, as it was at submission;
    their sums are those over the tenants. released: batches by reason ("continuous", "window", "fill"; "returned":
    only requests that had been displaced). batch_sizes: batches by the number of requests on the device once they had
    joined. slipped_s: simulated seconds by which the clock was set back because the machine could not keep up.
    recomputed_tokens: prefill of requests that a device had computed before and that had to be computed again, because
    they were displaced by recompute or lost. faults: what backends did that they may not do, by kind.

    *While all wait*: the time in which at least two tenants have requests, and each that has any also has one that has
    not started. Outside it shares say who asked for more, not what the scheduler gave. Tokens count when the step that
    computes them ends: prompt tokens as they are prefilled (again after a preemption by recompute), output tokens as
    they are handed over. Raw: not divided by weights.
    """

    def __init__(self, served: Callable[[int], NDArray[np.int64]]) -> None:
        """served: as `Backend.served`."""
        self.released: Counter[str] = Counter()
        self.batch_sizes: Counter[int] = Counter()
        self.slipped_s = 0.0
        self.recomputed_tokens = 0
        self.faults: Counter[str] = Counter()
        self._served = served
        self._opened_at = 0.0
        self._at_opening = np.zeros(0, dtype=np.int64)
        self._shared_s = 0.0
        self._shared = np.zeros(0, dtype=np.int64)

    # What the driver reports; `now` never falls.

    def batch(self, size: int, released: str | None, now: float) -> None:
        """A batch has joined a device that now runs `size` requests."""
        self.batch_sizes[size] += 1
        self.released[released or "returned"] += 1

    def all_wait_changed(self, now: float) -> None:
        if self.all_wait:
            self._open(now)
        else:
            self._close(now)

    def freeze(self) -> None:
        """The backend cannot be asked any more."""
        last = self._at_opening[None]
        self._served = lambda accounts: np.pad(last, ((0, 0), (0, accounts - last.shape[1])))

    def _open(self, now: float) -> None:
        self._opened_at = now
        self._at_opening = self._tokens()

    def _close(self, now: float) -> None:
        tokens = self._tokens()
        tokens[: len(self._at_opening)] -= self._at_opening
        tokens[: len(self._shared)] += self._shared
        self._shared = tokens
        self._shared_s += now - self._opened_at

    def _tokens(self) -> NDArray[np.int64]:
        return np.asarray(sum(self._served(len(self.tenants))))  # row by row: its own `sum` takes three times as long

    # Reading

    def cut(self, now: float) -> Cut:
        """What was counted of tenants since the last cut, up to now. Each thing counted is in exactly one cut.

        Of what has not ended: admissions, and the GPU time up to now. It costs what the tenants cost of which something
        was counted, and those that run; not what all cost.
        """
        return Cut(*self.take_changes(now))

    def while_all_wait(self, now: float) -> Shared:
        """Up to now. `jain(shared.tokens.values())` of tenants that asked all the time is the fairness figure."""
        if self.all_wait:
            self._close(now)
            self._open(now)
        tokens = np.zeros(len(self.tenants), dtype=np.int64)
        tokens[: len(self._shared)] = self._shared
        return Shared(self._shared_s, dict(zip(self.tenants, tokens.tolist(), strict=True)))


def jain(shares: Iterable[float]) -> float | None:
    """Jain's index, (sum x)^2 / (n sum x^2): 1 when all are equal, 1/n when one has all. None: nobody has anything."""
    values = list(shares)
    squares = sum(x * x for x in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else None

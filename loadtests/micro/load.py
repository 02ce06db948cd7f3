"""The stream of requests that the queue and request rows run on: same seed, same requests, for us and for the peer."""

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HORIZON_NS = 30_000_000_000  # the default aging horizon
BIDS = 10


class Requests(NamedTuple):
    """Columns of consecutive requests. `numbers` are arrival numbers: position in the stream."""

    tenants: NDArray[np.int32]
    bids: NDArray[np.int32]
    at_ns: NDArray[np.int64]
    numbers: NDArray[np.int64]

    @property
    def at(self) -> NDArray[np.float64]:
        """Arrival instants in seconds; at these sizes rounding to nanoseconds gives `at_ns` back exactly."""
        return self.at_ns / np.float64(1e9)

    @property
    def keys(self) -> NDArray[np.int64]:
        """The aging key, smaller first: `-(bid * H - 9 * arrival)`, the order of effective bids at any instant."""
        return 9 * self.at_ns - self.bids.astype(np.int64) * HORIZON_NS

    def part(self, start: int, end: int) -> "Requests":
        chosen = slice(start, end)
        return Requests(self.tenants[chosen], self.bids[chosen], self.at_ns[chosen], self.numbers[chosen])

    def bursts(self) -> "Iterator[tuple[Requests, float]]":
        """Those that share an instant together, and that instant in seconds."""
        edges = np.flatnonzero(np.diff(self.at_ns, prepend=-1)).tolist()
        for start, end in pairwise([*edges, len(self.at_ns)]):
            yield self.part(start, end), float(self.at[start])


class Stream:
    """Requests of random tenants and bids, evenly spaced so that the queue turns over once in a horizon.

    In that steady state a request of bid b waits for about `H + (5.5 - b) * H / 9`, so all ten bids take part in
    the order. `initial` is such a steady state: what would wait after the queue had run for long.
    """

    def __init__(self, waiting: int, tenants: int, seed: int = 1) -> None:
        self.tenants = tenants
        self.random = np.random.default_rng(seed)
        self.spacing_ns = max(1, HORIZON_NS // waiting)
        self.now_ns = 2 * HORIZON_NS
        self.number = 0
        self.initial = self._steady_state(waiting)

    def _steady_state(self, waiting: int) -> Requests:
        """`waiting` requests that have arrived before now, in arrival order, in bursts of a thousandth of them.

        A burst shares one instant, so that a bulk push with one `now` can bring it in.
        """
        waits_ns = HORIZON_NS + (5.5 - np.arange(1, BIDS + 1)) * (HORIZON_NS / 9)
        bids = self.random.choice(np.arange(1, BIDS + 1, dtype=np.int32), waiting, p=waits_ns / waits_ns.sum())
        at_ns = (self.now_ns - waits_ns[bids - 1] * self.random.random(waiting)).astype(np.int64)
        order = np.argsort(at_ns)
        bids, at_ns = bids[order], at_ns[order]
        burst = max(1, waiting // 1000)
        at_ns = np.repeat(at_ns[::burst], burst)[:waiting]
        return self._columns(bids, at_ns)

    def take(self, count: int) -> Requests:
        """The next `count` requests, each at an instant of its own."""
        bids = self.random.integers(1, BIDS + 1, count).astype(np.int32)
        at_ns = self.now_ns + np.arange(1, count + 1) * self.spacing_ns
        self.now_ns = int(at_ns[-1])
        return self._columns(bids, at_ns)

    def _columns(self, bids: NDArray[np.int32], at_ns: NDArray[np.int64]) -> Requests:
        count = len(bids)
        tenants = self.random.integers(0, self.tenants, count).astype(np.int32)
        numbers = np.arange(self.number, self.number + count)
        self.number += count
        return Requests(tenants, bids, at_ns, numbers)

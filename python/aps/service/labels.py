"""Which tenants have a label of their own on a scrape. The others are counted together, and nothing is counted twice.

A counter with labels may not fall. So a tenant that gets a label late begins at 0 there: what it had counted by then
stays with the others. One that loses its label takes with it what it has, to the others.
"""

from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from aps.metrics import Histogram, Metrics, Tally
from aps.verdicts import REASONS, TenantRows

OTHER = "_other"
CLEARLY = 1.25  # a tenant takes another's label with so many times its requests: labels do not flap

# Upper edges in seconds: 1 ms to 500 s, three to a decade.
EDGES = tuple(round(mantissa * 10.0**power, 6) for power in range(-3, 3) for mantissa in (1, 2.5, 5))
# Whole numbers, so that differences are exact: up to 2^53, as far as a scrape can tell them apart.
COUNTERS = ("admitted", "prompt_tokens", "output_tokens", "charged_micro", "gpu_ns", "preempted", "retried")
OUTCOMES = ("finished", "cancelled", "expired", "dropped", "failed")
TIMES = ("queue_wait", "ttft", "tpot", "e2e")
REFUSALS = (*REASONS[1:], "draining")

Numbers = NDArray[np.float64]


def numbers(tally: Tally, shared_tokens: float = 0.0) -> Numbers:
    """Everything that is counted of one label, in the order of COUNTERS, OUTCOMES, REFUSALS; tokens while all wait;
    then of each of TIMES its counts by EDGES and its sum."""
    refused = tally.refused
    row: list[float] = [getattr(tally, name) for name in (*COUNTERS, *OUTCOMES)]
    row += [refused.get(reason, 0) for reason in REFUSALS]
    row.append(shared_tokens)
    for name in TIMES:
        histogram: Histogram = getattr(tally, name)
        row += histogram.counts(EDGES)
        row.append(histogram.total)
    return np.array(row)


FIELDS = (*COUNTERS, *OUTCOMES, *REFUSALS, "shared_tokens")
PLACES = {name: place for place, name in enumerate(FIELDS)}
WIDTH = len(FIELDS) + len(TIMES) * (len(EDGES) + 2)


class Row:
    """What one label has counted."""

    __slots__ = ("_numbers", "label")

    def __init__(self, label: str, numbers: Numbers) -> None:
        self.label = label
        self._numbers: list[float] = numbers.tolist()

    def __getitem__(self, field: str) -> float:
        return self._numbers[PLACES[field]]

    def times(self, name: str) -> tuple[list[int], float]:
        """Of one of TIMES: its counts by EDGES, the last above every edge, and its sum."""
        start = len(FIELDS) + TIMES.index(name) * (len(EDGES) + 2)
        *counts, total = self._numbers[start : start + len(EDGES) + 2]
        return [int(count) for count in counts], total


class Labels:
    """The tenants with labels, from one scrape to the next: those with the most requests since the start."""

    def __init__(self) -> None:
        self._bases: dict[str, Numbers | None] = {}  # of tenants with a label: what they had counted before they got it
        self._other: Numbers | None = None  # the last sums of the rest; None: there has never been a rest

    def rows(
        self, tenants: TenantRows, metrics: Metrics, shared: Mapping[str, float], most: int
    ) -> tuple[list[Row], Row | None]:
        """A row for each of at most `most` labels, and one for the rest, if there ever was a rest.

        tenants: those that there are now. shared: tokens while all wait, by name.
        """
        self._choose(tenants, metrics.tenants, shared, most)
        found = []
        sums = np.zeros(WIDTH)
        nobody = Tally()
        for name, base in self._bases.items():
            own = numbers(metrics.tenants.get(name, nobody), shared.get(name, 0.0))
            if base is not None:
                own -= base
            sums += own
            found.append(Row(name, own))
        if self._other is None and self._bases.keys() >= metrics.tenants.keys():
            return found, None
        rest = np.sum([numbers(tally) for tally in metrics.bids.values()], axis=0)
        rest[PLACES["shared_tokens"]] = sum(shared.values())
        rest -= sums
        # Sums of seconds are rounded, here in another order than before.
        self._other = rest if self._other is None else np.maximum(rest, self._other)
        return found, Row(OTHER, self._other)

    def _choose(
        self, tenants: TenantRows, tallies: Mapping[str, Tally], shared: Mapping[str, float], most: int
    ) -> None:
        known = [name for name in dict.fromkeys((*tenants.names, *tallies)) if name != OTHER]
        for name in [name for name in self._bases if name not in tallies and name not in tenants.places]:
            del self._bases[name]  # it never asked for anything
        if len(known) <= most:
            self._give(known, tallies, shared)
            return

        def traffic(name: str) -> float:
            tally = tallies.get(name)
            return -1.0 if name not in tenants.places else tally.sent if tally else 0.0

        holders = sorted(self._bases, key=traffic)  # the first goes first
        for name in holders[: max(0, len(holders) - most)]:
            del self._bases[name]
        holders = [name for name in holders if name in self._bases]
        waiting = [name for name in _busiest(tenants, most) if name not in self._bases]
        room = most - len(holders)
        self._give(waiting[:room], tallies, shared)
        for name, holder in zip(waiting[room:], holders, strict=False):
            if traffic(name) <= CLEARLY * max(0.0, traffic(holder)):
                break
            del self._bases[holder]
            self._give([name], tallies, shared)

    def _give(self, names: Iterable[str], tallies: Mapping[str, Tally], shared: Mapping[str, float]) -> None:
        for name in names:
            if name not in self._bases:
                self._bases[name] = None
                if self._other is not None and name in tallies:
                    self._bases[name] = numbers(tallies[name], shared.get(name, 0.0))


def _busiest(tenants: TenantRows, most: int) -> list[str]:
    counts = tenants.columns
    sent = counts["admitted"] + counts["throttled"] + counts["rejected"]
    top = np.argsort(-sent, kind="stable")[: most + 1].tolist()
    return [name for place in top if (name := tenants.names[place]) != OTHER][:most]

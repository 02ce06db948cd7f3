"""The sliding window in slow, plain Python: it keeps every instant at which it was looked at, and forgets nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from math import fsum

PARTS = 12
LEAST_WALL_S = 0.2


@dataclass(frozen=True)
class Tenant:
    """At an instant. tokens, told: since the start; told: admitted, throttled, rejected. waits_since: None: not now."""

    weight: float
    contends: bool
    waits_since: float | None
    tokens: int
    told: tuple[int, int, int]


@dataclass(frozen=True)
class Instant:
    at: float
    tenants: Mapping[str, Tenant]
    work: tuple[float, ...]  # since the start


@dataclass
class Window:
    """What was between two instants, and how much of it lies in the window."""

    seconds: float = 0.0
    contended_s: float = 0.0
    work: list[float] = field(default_factory=list)
    shares: dict[str, list[float]] = field(default_factory=dict)  # received, promised, equal, pool
    told: dict[str, list[int]] = field(default_factory=dict)
    jain: float | None = None
    weighted_jain: float | None = None


class Recent:
    def __init__(self, window_s: float, time_scale: float, first: Instant) -> None:
        self.window_s = window_s
        self.piece_s = max(window_s / PARTS, LEAST_WALL_S * time_scale)
        self.cuts = [first]

    def starts(self, here: Instant) -> None:
        """A batch. The window is cut if the last cut is long ago."""
        if here.at >= self.cuts[-1].at + self.piece_s:
            self.cuts.append(here)

    def look(self, here: Instant) -> Window:
        self.starts(here)
        found = Window(work=[0.0] * len(here.work), told={name: [0, 0, 0] for name in here.tenants})
        cuts = [*self.cuts, here] if here.at > self.cuts[-1].at else self.cuts
        since = here.at - self.window_s
        pieces = [(a, b, (b.at - max(a.at, since)) / (b.at - a.at)) for a, b in pairwise(cuts) if b.at > since]
        for before, after, part in pieces:
            self._add(found, before, after, part)
        if pieces:
            self._tell(found, *pieces[0])
        self._tell(found, pieces[0][1] if pieces else cuts[-1], here, 1.0)
        found.jain = index([share[0] / share[2] for share in found.shares.values()])
        found.weighted_jain = index([share[0] / share[1] for share in found.shares.values()])
        return found

    @staticmethod
    def _add(found: Window, before: Instant, after: Instant, part: float) -> None:
        lasted_s = part * (after.at - before.at)
        found.seconds += lasted_s
        found.work = [has + part * (b - a) for has, a, b in zip(found.work, before.work, after.work, strict=True)]
        crowd = [name for name in before.tenants if contended(name, before, after)]
        if len(crowd) < 2:
            return
        found.contended_s += lasted_s
        got = {name: after.tenants[name].tokens - before.tenants[name].tokens for name in crowd}
        pool = sum(got.values())
        weights = {name: before.tenants[name].weight for name in crowd}
        for name in crowd if pool else ():
            shares = (got[name], pool * weights[name] / fsum(weights.values()), pool / len(crowd), pool)
            had = found.shares.get(name, [0.0] * 4)
            found.shares[name] = [a + part * b for a, b in zip(had, shares, strict=True)]

    @staticmethod
    def _tell(found: Window, before: Instant, after: Instant, part: float) -> None:
        """A count that is less now began anew: the tenant was away."""
        for name in found.told:
            had, has = (where.tenants[name].told if name in where.tenants else (0, 0, 0) for where in (before, after))
            new = [b - a for a, b in zip(had, has, strict=True)]
            if min(new) < 0:
                found.told[name] = [round(part * b) for b in has]
            else:
                found.told[name] = [n + round(part * m) for n, m in zip(found.told[name], new, strict=True)]


def contended(name: str, before: Instant, after: Instant) -> bool:
    """All the time between."""
    first, last = before.tenants[name], after.tenants.get(name)
    if last is None or last.waits_since is None:
        return False
    return first.contends and last.contends and last.waits_since <= before.at


def index(x: list[float]) -> float | None:
    return fsum(x) ** 2 / (len(x) * fsum(each**2 for each in x)) if any(x) else None

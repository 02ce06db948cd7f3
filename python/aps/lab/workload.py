"""A workload: who asks for what and when, as arrays."""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from aps.tenants import Tenant

NOBODY = -1
LONGEST_S = 3e8  # what the scheduler's clock holds, with room for the simulation to end
INT32_MAX = 2**31 - 1
NEVER_NS = 2**61  # beyond the clock, and two of them can be added

# Column -> type, least, most. The bounds of `tenant` and `after` depend on the workload.
_COLUMNS: Mapping[str, tuple[type, float, float]] = {
    "tenant": (np.int32, 0, INT32_MAX),
    "at_s": (np.float64, 0, LONGEST_S),
    "prompt_tokens": (np.int32, 1, INT32_MAX),
    "output_tokens": (np.int32, 1, INT32_MAX),
    "max_tokens": (np.int32, 1, INT32_MAX),
    "bid": (np.int32, 1, 10),
    "after": (np.int64, NOBODY, 2**62),
    "deadline_s": (np.float64, 0, inf),
}


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """n requests of some tenants. Immutable and checked when made. `digest` tells two of them apart.

    The columns are read-only views: an array of the right type is taken as it is, not copied.

    name, description: for people. tenants: who is there; the bids are the requests' own.
    tenant: (n,) index into `tenants`. prompt_tokens, output_tokens, max_tokens: (n,) at least 1; a request generates
    min(output_tokens, max_tokens). bid: (n,) 1..10.
    after: (n,) -1, or the earlier request whose end (whatever end) this one follows: a closed loop.
    at_s: (n,) seconds from the start, not falling over the requests with after = -1; of the others the think time,
    seconds between that end and this arrival.
    deadline_s: (n,) seconds after arrival by which it must have started; inf: none. None: none has one.
    until_s: the horizon: what has not arrived by then never does, and the simulation stops there; inf: run until
    everything has ended.
    context_tokens: the most prompt + max_tokens that the model takes; longer requests are refused. None: no bound.
    notes: what a reader or generator did that a user must know (rows left out, and why; synthetic tenants).

    Raises ValueError naming the column, the row, the value and what is allowed.
    """

    name: str
    tenants: tuple[Tenant, ...]
    tenant: NDArray[np.int32]
    at_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]
    max_tokens: NDArray[np.int32]
    bid: NDArray[np.int32]
    after: NDArray[np.int64] | None = None
    deadline_s: NDArray[np.float64] | None = None
    until_s: float = inf
    context_tokens: int | None = None
    description: str = ""
    notes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        object.__setattr__(self, "tenants", tuple(self.tenants))
        object.__setattr__(self, "notes", tuple(self.notes))
        _check_tenants(self.tenants)
        if not self.until_s > 0:
            raise ValueError(f"until_s must be above 0 (inf: until everything has ended), got {self.until_s!r}")
        if self.context_tokens is not None and self.context_tokens < 2:
            raise ValueError(f"context_tokens must be at least 2, or None, got {self.context_tokens!r}")
        n = len(self.tenant)
        bounds = {"tenant": (0, len(self.tenants) - 1), "after": (NOBODY, n - 1)}
        for name, (kind, low, high) in _COLUMNS.items():
            column = getattr(self, name)
            if column is not None:
                least, most = bounds.get(name, (low, high))
                object.__setattr__(self, name, _column(name, column, n, kind, least, most))
        opens = self.opens
        at_s = self.at_s if opens is None else self.at_s[opens]
        fallen = np.flatnonzero(at_s[1:] < at_s[:-1])
        if len(fallen):
            at = int(fallen[0]) + 1
            row = at if opens is None else int(np.flatnonzero(opens)[at])
            raise ValueError(
                f"at_s must not fall over the requests with after = -1, got at_s[{row}] = {self.at_s[row]} "
                f"after {at_s[at - 1]}"
            )
        if self.after is not None:
            late = np.flatnonzero(self.after >= np.arange(n))
            if len(late):
                at = int(late[0])
                raise ValueError(f"after[{at}] must be an earlier request (below {at}) or -1, got {self.after[at]}")

    def __len__(self) -> int:
        return len(self.tenant)

    @property
    def opens(self) -> NDArray[np.bool_] | None:
        """(n,) whether a request arrives at a given instant, not after another's end; None: all do."""
        return None if self.after is None else self.after == NOBODY

    def scaled(self, rate: float) -> Self:
        """The same requests `rate` times as fast: instants, think times and horizon are divided by it.

        Deadlines stay: they are what users put up with.
        """
        if not 0 < rate < inf:
            raise ValueError(f"rate must be a finite number above 0, got {rate!r}")
        if rate == 1:
            return self
        note = f"{rate:g} times the rate of {self.name}: instants, think times and horizon divided by {rate:g}"
        return replace(self, at_s=self.at_s / rate, until_s=self.until_s / rate, notes=(*self.notes, note))

    def take(self, n: int) -> Self:
        """The first n rows (all, when there are fewer)."""
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n!r}")
        if n >= len(self):
            return self
        return self._rows(np.arange(n), f"the first {n:,} of {len(self):,} requests of {self.name}")

    def until(self, until_s: float) -> Self:
        """What can arrive before `until_s`, and a horizon there; a horizon beyond its own changes nothing."""
        if until_s >= self.until_s:
            return self
        keep = self.at_s < until_s
        if self.after is not None:
            keep &= _earliest_ns(self.at_s, self.after) < round(min(until_s * 1e9, NEVER_NS))
        kept = self if keep.all() else self._rows(np.flatnonzero(keep), None)
        return replace(kept, until_s=until_s)

    def with_tenants(self, tenants: Sequence[Tenant]) -> Self:
        """The same requests by others, in the same places: the same number of tenants, other limits or names."""
        if len(tenants) != len(self.tenants):
            raise ValueError(f"tenants must be {len(self.tenants)}, as many as {self.name} has, got {len(tenants)}")
        return replace(self, tenants=tuple(tenants))

    def stats(self) -> dict[str, Any]:
        """What it holds, as plain data, whole and by tenant.

        duration_s: the horizon, or the last given arrival. rate_per_s: given arrivals over it; requests that follow
        another (`following`) arrive when that ends, so they have no rate of their own. gap_cv: standard deviation
        over mean of the gaps between given arrivals. None: undefined.
        """
        at_s = self.at_s if self.opens is None else self.at_s[self.opens]
        duration_s = self.until_s if self.until_s < inf else float(at_s[-1]) if len(at_s) else 0.0
        everybody = np.ones(len(self), dtype=bool)
        return {
            "name": self.name,
            "duration_s": duration_s,
            "until_s": None if self.until_s == inf else self.until_s,
            **self._stats(everybody, duration_s),
            "tenants": {
                tenant.name: self._stats(self.tenant == index, duration_s) for index, tenant in enumerate(self.tenants)
            },
        }

    def digest(self) -> str:
        """SHA-256 (hex) over tenants, columns and bounds: equal exactly for the same requests of the same tenants."""
        sha = hashlib.sha256(repr((self.tenants, len(self), self.until_s, self.context_tokens)).encode())
        for name in _COLUMNS:
            column = getattr(self, name)
            sha.update(name.encode())
            if column is not None:
                sha.update(column.data)
        return sha.hexdigest()

    def _rows(self, rows: NDArray[np.intp], note: str | None) -> Self:
        """Some rows, in order; with each its predecessors."""
        columns = {name: column[rows] for name in _COLUMNS if (column := getattr(self, name)) is not None}
        if self.after is not None:
            columns["after"] = _moved(columns["after"], _places(rows, len(self)))
        return replace(self, notes=(*self.notes, *([note] if note else [])), **columns)

    def _stats(self, mine: NDArray[np.bool_], duration_s: float) -> dict[str, Any]:
        at_s = self.at_s[mine if self.opens is None else mine & self.opens]
        requests = int(np.count_nonzero(mine))
        gaps = np.diff(at_s)
        mean = float(gaps.mean()) if len(gaps) else 0.0
        return {
            "requests": requests,
            "following": requests - len(at_s),
            "rate_per_s": len(at_s) / duration_s if duration_s else None,
            "gap_cv": float(gaps.std()) / mean if mean else None,
            "prompt_tokens": _spread(self.prompt_tokens[mine]),
            "output_tokens": _spread(np.minimum(self.output_tokens[mine], self.max_tokens[mine])),
        }


def merge(workloads: Sequence[Workload], name: str = "", description: str = "", notes: Sequence[str] = ()) -> Workload:
    """Several workloads at once: their tenants united by name, rows in order of arrival, ties in the order given.

    A request that follows another stands at the earliest instant it can come. Horizon and context: the least of theirs.
    `name`, `description`: else made of theirs; `notes` come before theirs.
    ValueError when a tenant of one name differs between them.
    """
    if not workloads:
        raise ValueError("workloads must be one or more, got none")
    until_s = min(workload.until_s for workload in workloads)
    parts = [workload.until(until_s) for workload in workloads]
    tenants: dict[str, Tenant] = {}
    for tenant in (tenant for part in parts for tenant in part.tenants):
        if tenants.setdefault(tenant.name, tenant) != tenant:
            raise ValueError(
                f"tenant {tenant.name!r} must be the same in each workload, got {tenants[tenant.name]} and {tenant}"
            )
    slots = {name: slot for slot, name in enumerate(tenants)}
    columns: dict[str, NDArray[Any]] = {
        column: np.concatenate([getattr(part, column) for part in parts])
        for column in ("at_s", "prompt_tokens", "output_tokens", "max_tokens", "bid")
    }
    columns["tenant"] = np.concatenate(
        [np.array([slots[tenant.name] for tenant in part.tenants], dtype=np.int32)[part.tenant] for part in parts]
    )
    if any(part.deadline_s is not None for part in parts):
        columns["deadline_s"] = np.concatenate(
            [np.full(len(part), inf) if part.deadline_s is None else part.deadline_s for part in parts]
        )
    n = len(columns["at_s"])
    order = np.argsort(columns["at_s"], kind="stable")
    if any(part.after is not None for part in parts):
        firsts = np.cumsum([0] + [len(part) for part in parts[:-1]])
        moved = [
            np.full(len(part), NOBODY) if part.after is None else np.where(part.after < 0, NOBODY, part.after + first)
            for part, first in zip(parts, firsts, strict=True)
        ]
        columns["after"] = np.concatenate(moved)
        given_s = np.where(columns["after"] == NOBODY, columns["at_s"], inf)
        order = np.lexsort((given_s, _earliest_ns(columns["at_s"], columns["after"])))
    columns = {column: values[order] for column, values in columns.items()}
    if "after" in columns:
        columns["after"] = _moved(columns["after"], _places(order, n))
    return Workload(
        name=name or " + ".join(dict.fromkeys(part.name for part in parts)),
        tenants=tuple(tenants.values()),
        until_s=until_s,
        context_tokens=min((c for part in parts if (c := part.context_tokens) is not None), default=None),
        description=description or " ".join(dict.fromkeys(part.description for part in parts if part.description)),
        notes=tuple(dict.fromkeys([*notes, *(note for part in parts for note in part.notes)])),
        **columns,
    )


def _check_tenants(tenants: tuple[Tenant, ...]) -> None:
    if not tenants:
        raise ValueError("tenants must not be empty")
    twice = [name for name, times in Counter(tenant.name for tenant in tenants).items() if times > 1]
    if twice:
        raise ValueError(f"tenants must have different names, got {twice[0]!r} more than once")


def _column(name: str, column: Any, n: int, kind: type, least: float, most: float) -> NDArray[Any]:
    """A read-only array of n values of a type within bounds, else ValueError."""
    given = np.asarray(column)
    if given.shape != (n,):
        raise ValueError(f"{name} must have one value for each of the {n} requests, got shape {given.shape}")
    if n and given.dtype.kind not in "iuf":
        raise ValueError(f"{name} must be numbers, got {given.dtype} such as {given.flat[0]!r}")
    good = (given >= least) & (given <= most)  # NaN is within no bounds
    if kind is not np.float64 and given.dtype.kind == "f":
        good &= given == np.floor(given)
    bad = np.flatnonzero(~good)
    if len(bad):
        at = int(bad[0])
        allowed = f"from {least:.0f} to {most:.0f}" if most < inf else f"at least {least:.0f}"
        whole = "" if kind is np.float64 else "an integer "
        raise ValueError(f"{name}[{at}] must be {whole}{allowed}, got {given[at]}")
    found: NDArray[Any] = np.ascontiguousarray(given, dtype=kind).view()
    found.flags.writeable = False
    return found


def _earliest_ns(at_s: NDArray[np.float64], after: NDArray[np.int64]) -> NDArray[np.int64]:
    """The earliest instant at which each request can arrive, nanoseconds: given, or every think time on the way to it.

    Integers, because their sums do not depend on the order of adding: no request comes before the one it follows.
    """
    earliest = np.rint(at_s * 1e9).astype(np.int64)
    leader = after.copy()
    follows = np.flatnonzero(leader != NOBODY)
    while len(follows):  # each round doubles the steps taken towards the head of a chain
        at = leader[follows]
        earliest[follows] = np.minimum(earliest[follows] + earliest[at], NEVER_NS)
        leader[follows] = leader[at]
        follows = follows[leader[follows] != NOBODY]
    return earliest


def _places(rows: NDArray[np.intp], n: int) -> NDArray[np.int64]:
    """(n,) where each of n rows went; -1: nowhere."""
    places = np.full(n, NOBODY, dtype=np.int64)
    places[rows] = np.arange(len(rows))
    return places


def _moved(after: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(after == NOBODY, NOBODY, places[after])


def _spread(values: NDArray[np.int32]) -> dict[str, float] | None:
    """Sum, mean, percentiles (linear between ranks) and maximum; None without values."""
    if not len(values):
        return None
    p50, p90, p99 = np.percentile(values, (50, 90, 99))
    return {
        "total": int(values.sum(dtype=np.int64)),
        "mean": float(values.mean()),
        "p50": float(p50),
        "p90": float(p90),
        "p99": float(p99),
        "max": int(values.max()),
    }

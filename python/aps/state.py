"""What of a scheduler outlives a restart, as a value of columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from aps import _checks as check

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST = 1e100  # of S, credit and levels: what a conversion makes of them stays finite
MOST_NS = 4 * 10**17  # a scheduler lasts 4e8 s
OLDEST_NS = -(2**61)
FLOATS = {  # columns and what is allowed in them
    "weight": ("a number in 1e-9..1e9", 1e-9, 1e9),
    "service": ("a number in 0..1e100", 0.0, MOST),
    "credit": ("a number in 0..1e100", 0.0, MOST),
    "rate": ("at least 1e-6 (inf: unlimited)", 1e-6, inf),
    "burst": ("above 0, finite exactly when the rate is", 5e-324, inf),
    "base": ("at most the burst, finite exactly when the rate is", -MOST, inf),
}
BUCKETS = ("", "request_")  # what the columns of a bucket begin with
FLOATS |= {f"request_{name}": FLOATS[name] for name in ("rate", "burst", "base")}
COLUMNS = (*FLOATS, *(f"{bucket}base_at_ns" for bucket in BUCKETS))


@dataclass(frozen=True, slots=True, eq=False)
class SchedulerState:
    """A scheduler's accounts at an instant: `Scheduler.state` makes it, `Scheduler.restore` goes on from it.

    at_ns: the instant, in nanoseconds after the scheduler's epoch. virtual_time: V. fairness_window: D, cost units.
    last_contender: the tenant that was the last to stop contending, when nobody contends. tenants: their names,
    draining ones too. Columns, one entry for each of these:

    weight. service: S, cost units divided by weight. credit: cost units charged and not used.
    rate, burst: of the bucket, tokens a second and tokens (both inf: unlimited). base: tokens that were in it at
    base_at_ns, an instant like at_ns (negative: before the epoch). `level` is what they come to at at_ns.
    request_rate, request_burst, request_base, request_base_at_ns, `request_level`: the same of the request bucket.

    What time alone does changes no column, so `changed_since` names the tenants that something has happened to.
    Columns are read-only copies. Raises ValueError (TypeError for a wrong type) naming column, tenant and value.
    """

    at_ns: int
    virtual_time: float
    fairness_window: float
    last_contender: str | None
    tenants: tuple[str, ...]
    weight: Floats
    service: Floats
    credit: Floats
    rate: Floats
    burst: Floats
    base: Floats
    base_at_ns: Integers
    request_rate: Floats
    request_burst: Floats
    request_base: Floats
    request_base_at_ns: Integers

    def __post_init__(self) -> None:
        check.integer("SchedulerState.at_ns", self.at_ns, 0, MOST_NS)
        virtual_time, window = self.virtual_time, self.fairness_window
        check.number("SchedulerState.virtual_time", virtual_time, "a number in 0..1e100", lambda x: 0 <= x <= MOST)
        check.number("SchedulerState.fairness_window", window, "at least 0 (inf: off)", lambda x: x >= 0)
        object.__setattr__(self, "tenants", tuple(self.tenants))
        if len(set(self.tenants)) < len(self.tenants):
            twice = next(name for name in self.tenants if self.tenants.count(name) > 1)
            raise ValueError(f"SchedulerState.tenants must differ, got {twice!r} twice")
        if self.last_contender is not None and self.last_contender not in self.tenants:
            raise ValueError(f"SchedulerState.last_contender must be one of tenants, got {self.last_contender!r}")
        for name, (allowed, least, most) in FLOATS.items():
            column = self._column(name, np.float64)
            self._must(name, allowed, column, (least <= column) & (column <= most))
        for bucket in BUCKETS:
            self._check_bucket(bucket)

    def _check_bucket(self, bucket: str) -> None:
        rate, burst, base = (getattr(self, bucket + name) for name in ("rate", "burst", "base"))
        unlimited = rate == inf
        self._must(f"{bucket}burst", FLOATS["burst"][0], burst, (burst == inf) == unlimited)
        self._must(f"{bucket}base", FLOATS["base"][0], base, ((base == inf) == unlimited) & (base <= burst))
        at_ns = self._column(f"{bucket}base_at_ns", np.int64)
        self._must(f"{bucket}base_at_ns", f"in {OLDEST_NS}..at_ns", at_ns, (OLDEST_NS <= at_ns) & (at_ns <= self.at_ns))

    @property
    def level(self) -> Floats:
        """What each bucket can pay at `at_ns`, in tokens; negative: debt, inf: unlimited."""
        return _levels(self.rate, self.burst, self.base, self.at_ns - self.base_at_ns)

    @property
    def request_level(self) -> Floats:
        """What each request bucket holds at `at_ns`, in requests; inf: unlimited."""
        age_ns = self.at_ns - self.request_base_at_ns
        return _levels(self.request_rate, self.request_burst, self.request_base, age_ns)

    def changed_since(self, earlier: Self) -> NDArray[np.intp]:
        """Places of the tenants that are new since an earlier state of the same scheduler, or whose row is another."""
        if self.tenants == earlier.tenants:
            there = np.arange(len(self.tenants))
        else:
            places = {name: place for place, name in enumerate(earlier.tenants)}
            there = np.array([places.get(name, -1) for name in self.tenants], np.intp)
        changed = there < 0
        if len(earlier.tenants):
            for name in COLUMNS:
                changed |= getattr(self, name) != getattr(earlier, name)[there]
        return np.flatnonzero(changed)

    def _column(self, name: str, kind: type[Any]) -> NDArray[Any]:
        """Its own copy, which nobody changes."""
        given = np.asarray(getattr(self, name))
        if given.dtype.kind not in ("f" if kind is np.float64 else "") + "iu" and len(given):
            raise TypeError(f"SchedulerState.{name} must be an array of {kind.__name__}, got {given.dtype}")
        column = given.astype(kind)
        if column.shape != (len(self.tenants),):
            raise ValueError(
                f"SchedulerState.{name} must have one entry for each of the {len(self.tenants)} tenants, "
                f"got the shape {column.shape}"
            )
        column.flags.writeable = False
        object.__setattr__(self, name, column)
        return column

    def _must(self, name: str, allowed: str, column: NDArray[Any], good: NDArray[np.bool_]) -> None:
        if not good.all():
            place = int(np.argmin(good))
            raise ValueError(
                f"SchedulerState.{name} must be {allowed}, got {column[place].item()!r} of {self.tenants[place]!r}"
            )


def _levels(rate: Floats, burst: Floats, base: Floats, age_ns: Integers) -> Floats:
    with np.errstate(invalid="ignore"):  # inf * 0
        return np.where(rate == inf, inf, np.minimum(burst, base + rate * (age_ns * 1e-9)))


def state_of(view: Mapping[str, Any], names: Mapping[int, str]) -> SchedulerState:
    """The core's state with names instead of slots."""
    columns = dict(view["tenants"])
    tenants = tuple(map(names.__getitem__, columns.pop("slot").tolist()))
    last = view["last"]
    return SchedulerState(
        at_ns=view["at_ns"],
        virtual_time=view["virtual_time"],
        fairness_window=view["fairness_window"],
        last_contender=None if last < 0 else tenants[last],
        tenants=tenants,
        **columns,
    )


def core_state(state: SchedulerState) -> dict[str, Any]:
    """A state as the core takes it, in the order of `tenants`."""
    return {
        "at_ns": state.at_ns,
        "virtual_time": state.virtual_time,
        "fairness_window": state.fairness_window,
        "last": -1 if state.last_contender is None else state.tenants.index(state.last_contender),
        "tenants": {name: getattr(state, name) for name in COLUMNS},
    }

"""What to make of a trace: which part, how fast, whose, and what to do with rows that do not fit."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from math import inf
from typing import Any, Literal, NamedTuple

import numpy as np

from aps import _checks as check
from aps.lab.traces.tenancy import FORMS, Tenancy, parse_tenancy

LONGEST_TICK_S = 86400.0


class Purpose(IntEnum):
    """What random numbers are for: one option does not change what another draws."""

    TICKS = 0
    TENANTS = 1
    ARRIVALS = 2
    LENGTHS = 3


@dataclass(frozen=True, slots=True)
class TraceOptions:
    """How a trace becomes a workload. Immutable and checked when made. seed: of all that is drawn at random; what
    the others mean says `described()`.

    Instants and durations are the trace's own, before it is made faster or slower. What is drawn for recorded rows is
    drawn for every row of the file, so a part of a trace is the same requests as in the whole.

    Raises ValueError (TypeError for a wrong type) naming the option, the value and what is allowed.
    """

    seed: int = 0
    start_s: float = 0.0
    duration_s: float = inf
    limit: int | None = None
    rate_scale: float | None = None
    arrivals_per_s: float | None = None
    tick_s: float = 0.0
    sort: bool = False
    tenants: str = "own"
    bid: int | None = None
    bids: Mapping[str, float] = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    max_tokens: int | None = None
    max_tokens_factor: float = 1.0
    context_tokens: int | None = None
    over_context: Literal["reject", "truncate", "skip"] = "reject"
    zero_tokens: Literal["skip", "one"] = "skip"

    def __post_init__(self) -> None:
        check.integer("seed", self.seed, 0, 2**63 - 1)
        check.number("start_s", self.start_s, "a number of seconds, at least 0", lambda x: 0 <= x < inf)
        check.number("duration_s", self.duration_s, "a number of seconds above 0 (inf: all)", lambda x: x > 0)
        check.integer("limit", self.limit, 1, 2**62, optional=True)
        for name, rate in (("rate_scale", self.rate_scale), ("arrivals_per_s", self.arrivals_per_s)):
            if rate is not None:
                check.number(name, rate, "a number in 1e-9..1e9", lambda x: 1e-9 <= x <= 1e9)
        if self.rate_scale is not None and self.arrivals_per_s is not None:
            raise ValueError("rate_scale and arrivals_per_s exclude each other: give one of them")
        allowed = f"a number of seconds in 0..{LONGEST_TICK_S:g}"
        check.number("tick_s", self.tick_s, allowed, lambda x: 0 <= x <= LONGEST_TICK_S)
        self.tenancy()
        check.integer("bid", self.bid, 1, 10, optional=True)
        for tenant, bid in self.bids.items():
            check.number(f"bids[{tenant!r}]", bid, "a whole number in 1..10", lambda x: x in range(1, 11))
        for tenant, weight in self.weights.items():
            check.number(f"weights[{tenant!r}]", weight, "a number in 1e-9..1e9", lambda x: 1e-9 <= x <= 1e9)
        check.integer("max_tokens", self.max_tokens, 1, check.INT32_MAX, optional=True)
        check.number("max_tokens_factor", self.max_tokens_factor, "a number in 1..1e6", lambda x: 1 <= x <= 1e6)
        check.integer("context_tokens", self.context_tokens, 2, check.INT32_MAX, optional=True)
        check.choice("over_context", self.over_context, ("reject", "truncate", "skip"))
        check.choice("zero_tokens", self.zero_tokens, ("skip", "one"))

    def tenancy(self) -> Tenancy:
        """What `tenants` says."""
        return parse_tenancy(self.tenants)

    def rng(self, purpose: Purpose, member: int = 0) -> np.random.Generator:
        """A source of random numbers; member: another one for each of several."""
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(purpose, member)))

    def set(self, settings: Mapping[str, str]) -> "TraceOptions":
        """The same, with options given as text. Raises ValueError naming the option, the text and what is allowed."""
        values: dict[str, Any] = {}
        for name, text in settings.items():
            if name not in _OPTIONS:
                raise ValueError(f"a trace has no option {name!r}; it has: {', '.join(_OPTIONS)}")
            try:
                values[name] = _OPTIONS[name].read(text.strip())
            except ValueError:
                raise ValueError(f"{name} must be {_OPTIONS[name].written}, got {text!r}") from None
        return replace(self, **values)


def described() -> dict[str, str]:
    """What each option but the seed means, and how it is written; by name."""
    return {name: f"{option.says} ({option.written})" for name, option in _OPTIONS.items()}


class _Option(NamedTuple):
    says: str
    written: str
    read: Callable[[str], Any]


def _yes(text: str) -> bool:
    if text not in ("yes", "no"):
        raise ValueError
    return text == "yes"


def _by_tenant(text: str) -> dict[str, float]:
    pairs = [pair.rpartition("=") for pair in text.split(",")]
    if not all(equals for _, equals, _ in pairs):
        raise ValueError
    return {name.strip(): float(value) for name, _, value in pairs}


_OPTIONS = {
    "start_s": _Option("leave out what arrives earlier, counted from the first row", "seconds", float),
    "duration_s": _Option("the length of the part to take", "seconds", float),
    "limit": _Option("at most so many requests, the earliest", "a whole number", int),
    "rate_scale": _Option("requests come so many times as fast", "a number above 0", float),
    "arrivals_per_s": _Option(
        "the mean rate wanted, in place of rate_scale; lengths without times need it", "requests a second", float
    ),
    "tick_s": _Option(
        "spread arrivals evenly over this long after the recorded instant, where times are rounded", "seconds", float
    ),
    "sort": _Option("put rows in order of time where they are not, in place of an error", "yes or no", _yes),
    "tenants": _Option(
        "whose the requests are; own: the trace's tenants, or one for all where it names none; zipf draws", FORMS, str
    ),
    "bid": _Option("of every request; else the trace's own, or 5", "a whole number in 1..10", int),
    "bids": _Option("the bids of some tenants' requests", "tenant=bid,tenant=bid", _by_tenant),
    "weights": _Option("the weights of some tenants, 1 for the others", "tenant=weight,tenant=weight", _by_tenant),
    "max_tokens": _Option("of every request; else the trace's own, or its output", "a whole number", int),
    "max_tokens_factor": _Option("max_tokens over output, rounded up", "a number of at least 1", float),
    "context_tokens": _Option("the most prompt + max_tokens that the model takes", "a whole number", int),
    "over_context": _Option(
        "of longer requests; reject: they stay, for the scheduler to refuse; truncate: the prompt is cut; "
        "skip: they are left out",
        "reject, truncate or skip",
        str,
    ),
    "zero_tokens": _Option(
        "of rows without prompt or output tokens (failed calls): leave them out, or count 1 token", "skip or one", str
    ),
}

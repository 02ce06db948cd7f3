"""Whose the rows of a trace are."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

MOST_TENANTS = 1_000_000
FORMS = "own, single, round-robin:N, zipf:N, zipf:N:EXPONENT or column:NAME"


@dataclass(frozen=True, slots=True)
class Tenancy:
    """A rule. column: the csv column whose values are tenants; tenants: how many are made up, and exponent their skew.

    zipf: the k-th tenant gets a part of the requests in proportion to k ** -exponent.
    """

    rule: Literal["own", "single", "round-robin", "zipf", "column"]
    tenants: int = 1
    exponent: float = 1.0
    column: str = ""


def parse_tenancy(text: str) -> Tenancy:
    """Raises ValueError for a text that is none of `FORMS`."""
    rule, _, rest = text.partition(":")
    match rule:
        case "own" | "single" if not rest:
            return Tenancy(rule)
        case "column" if rest:
            return Tenancy(rule, column=rest)
        case "round-robin" | "zipf":
            count, _, exponent = rest.partition(":")
            skew = exponent if rule == "zipf" and exponent else "1"
            try:
                made = Tenancy(rule, tenants=int(count), exponent=float(skew))
            except ValueError:
                pass
            else:
                allowed = 1 <= made.tenants <= MOST_TENANTS and 0.0 <= made.exponent <= 100.0
                if allowed and (rule == "zipf" or not exponent):
                    return made
    raise ValueError(f"tenants must be {FORMS}, N from 1 to {MOST_TENANTS}, EXPONENT from 0 to 100, got {text!r}")


def assigned(rule: Tenancy, rows: int, rng: np.random.Generator) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Names of made-up tenants, and (rows,) the index of each row's. For single, round-robin and zipf."""
    if rule.rule == "single":
        return ("all",), np.zeros(rows, dtype=np.int32)
    names = tuple(f"tenant-{number}" for number in range(1, rule.tenants + 1))
    if rule.rule == "round-robin":
        return names, (np.arange(rows) % rule.tenants).astype(np.int32)
    shares = np.cumsum(np.arange(1, rule.tenants + 1, dtype=np.float64) ** -rule.exponent)
    drawn = np.searchsorted(shares, rng.random(rows) * shares[-1], side="right")
    return names, np.minimum(drawn, rule.tenants - 1).astype(np.int32)

"""What a load test measured, by tenant and phase, and whether the thresholds hold. No network, no Locust."""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from loadtests.plan import Thresholds

REFUSALS = (429, 503)  # a computed "not now" of a service that is asked for too much


@dataclass
class Cell:
    """One role in one phase."""

    sent: int = 0
    completed: int = 0
    refused: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    output_tokens: int = 0
    e2e_s: list[float] = field(default_factory=list)
    ttft_s: list[float] = field(default_factory=list)
    retry_after_s: list[float] = field(default_factory=list)


class Tally:
    """Counts outcomes as they come. Phases are those in which requests were sent."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str], Cell] = {}

    def cell(self, role: str, phase: str) -> Cell:
        """The counts of a role in a phase."""
        return self.cells.setdefault((role, phase), Cell())

    def roles(self) -> list[str]:
        return list(dict.fromkeys(role for role, _ in self.cells))

    def of(self, role: str | None = None, phase: str | None = None) -> Cell:
        """The sum over the cells of a role and a phase; None: all."""
        whole = Cell()
        for (own, at), cell in self.cells.items():
            if role in (None, own) and phase in (None, at):
                whole.sent += cell.sent
                whole.completed += cell.completed
                whole.refused += cell.refused
                whole.errors += cell.errors
                whole.prompt_tokens += cell.prompt_tokens
                whole.output_tokens += cell.output_tokens
                whole.e2e_s += cell.e2e_s
                whole.ttft_s += cell.ttft_s
                whole.retry_after_s += cell.retry_after_s
        return whole


def percentile(values: Iterable[float], q: float) -> float | None:
    """The smallest value that at least `q` percent do not exceed; None of none."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(q / 100 * len(ranked)) - 1)] if ranked else None


def jain(values: Sequence[float]) -> float | None:
    """(sum x)^2 / (n sum x^2); None when all are 0."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else None


_SAMPLE = re.compile(r'^(\w+)(?:\{tenant="([^"]*)"\})? (\S+)$', re.MULTILINE)
SHARES = ("aps_shared_tokens_total", "aps_shared_seconds_total", "aps_tenant_weight")


def shares(scrape: str) -> dict[str, dict[str, float]]:
    """Of the text of `GET /metrics`: what fairness needs, by name and tenant (empty: no tenant)."""
    found: dict[str, dict[str, float]] = {name: {} for name in SHARES}
    for name, tenant, value in _SAMPLE.findall(scrape):
        if name in found:
            found[name][tenant] = float(value)
    return found


def weighted_jain(before: str, after: str, tenants: Iterable[str]) -> tuple[float | None, float]:
    """Jain's index of tokens over weight that the tenants got while all waited, and for how long that was.

    From two scrapes; seconds of the service's clock.
    """
    old, new = shares(before), shares(after)

    def grew(name: str, tenant: str = "") -> float:
        return new[name].get(tenant, 0.0) - old[name].get(tenant, 0.0)

    got = [grew(SHARES[0], tenant) / new[SHARES[2]].get(tenant, 1.0) for tenant in tenants]
    return jain(got), grew(SHARES[1])


class Check(NamedTuple):
    """One threshold: what was measured (None: it could not be) and whether it holds."""

    what: str
    measured: float | None
    limit: float
    at_least: bool
    met: bool

    @property
    def says(self) -> str:
        """What was measured, beside its limit."""
        measured = "not measured" if self.measured is None else f"{self.measured:.4g}"
        return f"{self.what}: {measured} ({'>=' if self.at_least else '<='} {self.limit:g})"

    def __str__(self) -> str:
        return f"{'met   ' if self.met else 'MISSED'}  {self.says}"


def judge(tally: Tally, thresholds: Thresholds, seconds: float, fairness: float | None) -> list[Check]:
    """Every threshold that is set, in order. One that could not be measured is missed."""
    whole = tally.of()
    errors = sum(whole.errors.values())
    checks = [
        _check("errors, part of answers", errors / whole.sent if whole.sent else None, thresholds.errors, False),
        _check("completed requests/s", whole.completed / seconds, thresholds.requests_per_s, True),
        _check("output tokens/s", whole.output_tokens / seconds, thresholds.output_tokens_per_s, True),
        _check("Jain by weight, while all wait", fairness, thresholds.jain, True),
    ]
    for role, limit in thresholds.p99_s.items():
        checks.append(_check(f"p99 of {role}, s", percentile(tally.of(role).e2e_s, 99), limit, False))
    for role, limit in thresholds.ttft_p99_s.items():
        checks.append(_check(f"p99 of {role}'s first token, s", percentile(tally.of(role).ttft_s, 99), limit, False))
    checks += _ratios(tally, thresholds.p99_ratio)
    return [check for check in checks if check is not None]


def _ratios(tally: Tally, table: Mapping[str, Any]) -> list[Check | None]:
    of, to = table.get("of", ""), table.get("to", "")
    checks = []
    for role, limit in table.items():
        if role not in ("of", "to"):
            above, below = (percentile(tally.of(role, phase).e2e_s, 99) for phase in (of, to))
            ratio = above / below if above is not None and below else None
            checks.append(_check(f"p99 of {role}, {of} over {to}", ratio, limit, False))
    return checks


def _check(what: str, measured: float | None, limit: float | None, at_least: bool) -> Check | None:
    if limit is None:
        return None
    met = measured is not None and (measured >= limit if at_least else measured <= limit)
    return Check(what, measured, limit, at_least, met)


def rows(tally: Tally, seconds: float) -> list[dict[str, Any]]:
    """Plain data: one row a role and phase, then one for each role whose phases are several."""
    keys = [(role, phase) for role, phase in tally.cells]
    several = [role for role in tally.roles() if sum(own == role for own, _ in keys) > 1]
    found = []
    for role, phase in [*keys, *((role, None) for role in several)]:
        cell = tally.of(role, phase)
        found.append(
            {
                "role": role,
                "phase": "all" if phase is None else phase,
                "sent": cell.sent,
                "completed": cell.completed,
                "refused": sum(cell.refused.values()),
                "errors": sum(cell.errors.values()),
                "output_tokens_per_s": cell.output_tokens / seconds,
                "p50_s": percentile(cell.e2e_s, 50),
                "p99_s": percentile(cell.e2e_s, 99),
                "ttft_p99_s": percentile(cell.ttft_s, 99),
                "retry_after_s": percentile(cell.retry_after_s, 50),
            }
        )
    return found

"""Figures of a stress phase: from the answers' times and from the differences of the service's counters."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from aps.stress.client import Outcome
from aps.stress.counters import Counters

PERCENTILES = (50, 95, 99)
ROUNDING_S = 1e-6  # instants are sums of rounded durations

DEFINITIONS = {
    "seconds": "all times are simulated seconds: wall seconds times the service's time scale",
    "sent": "requests; attempts counts each HTTP request, retries included",
    "refused": "attempts refused, by the service's reason",
    "queue wait": "arrival of the admitted attempt to its first scheduled step",
    "TTFT": "arrival of the admitted attempt to its first output token",
    "E2E": "arrival of the admitted attempt to its last output token",
    "with retries": "first attempt to the answer, by the client's clock: what Retry-After cost is in it",
    "makespan": "first arrival to last output token of the completed requests",
    "tokens/s": "tokens over the makespan; tokens are the differences of the service's counters",
    "all wait": "the longest stretch in which every tenant of the phase has an admitted request that has not started "
    "(short ones are waits for a step to end)",
    "share": "the tenant's part of what started while all waited (prompt + output tokens); promised: by weights",
    "Jain": "(sum x)^2 / (n sum x^2) over the tenants, raw: x is not divided by weights",
    "of what started": "x: prompt + output tokens of the tenant's requests that started while all waited",
    "of what was computed": "x: tokens computed for it (service's counters) while two or more tenants had requests "
    "and each that had any had one waiting; includes requests that started before",
    "busy": "part of the makespan in which a device runs any request, the mean over devices (service's counters)",
    "occupancy": "slots in use over slots, weighted by time over the makespan (service's counters)",
    "limits": "completed, or refused with 429; Retry-After, least to most: the header, in your whole seconds, and the "
    "body's exact time; in the bucket: tokens just before they were sent; it fills meanwhile",
    "dollars": "per million prompt + output tokens: makespan x devices x the GPU-hour price that the service states",
}


class Times(NamedTuple):
    """One completed request: instants in simulated seconds since the service's start; prompt + output tokens."""

    tenant: str
    arrived_at: float
    started_at: float
    finished_at: float
    tokens: int


def phase(outcomes: Sequence[Outcome], before: Counters, after: Counters) -> dict[str, Any]:
    """The report of one phase as plain data: `tenants` by name, and the whole. Definitions: `DEFINITIONS`."""
    names = list(dict.fromkeys(outcome.call.tenant for outcome in outcomes))
    times = [_times(outcome) for outcome in outcomes if outcome.answer is not None]
    stretch = max(while_all_wait(times, names), key=lambda interval: interval[1] - interval[0], default=(0.0, 0.0))
    given = {name: started_in(stretch, (t for t in times if t.tenant == name)) for name in names}
    makespan_s = max(t.finished_at for t in times) - min(t.arrived_at for t in times) if times else 0.0
    weights = sum(after.total("aps_tenant_weight", tenant=name) for name in names)
    counters = _Difference(before, after)
    return {
        "tenants": {
            name: _tenant(
                [outcome for outcome in outcomes if outcome.call.tenant == name],
                counters,
                makespan_s,
                share=_part(given[name], sum(given.values())),
                promised_share=_part(after.total("aps_tenant_weight", tenant=name), weights),
            )
            for name in names
        },
        "sent": len(outcomes),
        "completed": len(times),
        "failures": dict(Counter(outcome.failure for outcome in outcomes if outcome.failure)),
        "arrivals_spread_s": _spread(t.arrived_at for t in times),
        "all_wait_s": stretch[1] - stretch[0],
        "jain": jain(list(given.values())),
        **_whole(counters, names, makespan_s),
    }


def jain(values: Sequence[float]) -> float | None:
    """Jain's fairness index `(sum x)^2 / (n * sum x^2)`, 1/n..1; None when all are 0."""
    squares = sum(value * value for value in values)
    return sum(values) ** 2 / (len(values) * squares) if squares else None


def while_all_wait(times: Iterable[Times], tenants: Iterable[str]) -> list[tuple[float, float]]:
    """The intervals in which every one of `tenants` has a request that has arrived and not started."""
    waiting = dict.fromkeys(tenants, 0)
    changes = []
    for t in times:
        if t.started_at > t.arrived_at:
            changes += [(t.arrived_at, 1, t.tenant), (t.started_at, -1, t.tenant)]
    intervals: list[tuple[float, float]] = []
    opened: float | None = None
    for at, change, tenant in sorted(changes):
        waiting[tenant] += change
        everyone = all(waiting.values())
        if everyone and opened is None:
            opened = at
        elif not everyone and opened is not None:
            if at > opened:
                intervals.append((opened, at))
            opened = None
    return intervals


def started_in(interval: tuple[float, float], times: Iterable[Times]) -> int:
    """Prompt + output tokens of the requests that started within the interval, ends included; 0 in an empty one."""
    begin, end = interval
    if begin == end:
        return 0
    return sum(t.tokens for t in times if begin - ROUNDING_S <= t.started_at <= end + ROUNDING_S)


class _Difference:
    """What the service's counters grew by between two scrapes; a series that was not there before grew from 0."""

    def __init__(self, before: Counters, after: Counters) -> None:
        self._before, self._after = before, after

    def grew(self, name: str, **labels: str) -> float:
        return self._after.total(name, **labels) - self._before.total(name, **labels)

    def now(self, name: str) -> float:
        return self._after.total(name)


def _whole(counters: _Difference, names: Sequence[str], makespan_s: float) -> dict[str, Any]:
    prompt = counters.grew("aps_prompt_tokens_total")
    output = counters.grew("aps_output_tokens_total")
    devices = counters.now("aps_devices")
    dollars = makespan_s / 3600.0 * devices * counters.now("aps_gpu_hour_dollars")
    return {
        "makespan_s": makespan_s,
        "prompt_tokens": prompt,
        "output_tokens": output,
        "output_tokens_per_s": _part(output, makespan_s),
        "tokens_per_s": _part(prompt + output, makespan_s),
        "busy": _part(counters.grew("aps_device_busy_seconds_total"), makespan_s * devices),
        "occupancy": _part(
            counters.grew("aps_device_slot_seconds_total"), makespan_s * counters.now("aps_device_slots")
        ),
        "shared_s": counters.grew("aps_shared_seconds_total"),
        "jain_computed": jain([counters.grew("aps_shared_tokens_total", tenant=name) for name in names]),
        "gpu_hour_dollars": counters.now("aps_gpu_hour_dollars"),
        "dollars_per_million_tokens": _part(dollars * 1e6, prompt + output),
    }


def _tenant(
    outcomes: Sequence[Outcome], counters: _Difference, makespan_s: float, **shares: float | None
) -> dict[str, Any]:
    answers = [outcome.answer for outcome in outcomes if outcome.answer is not None]
    name = outcomes[0].call.tenant
    prompt, output = (counters.grew(f"aps_{kind}_tokens_total", tenant=name) for kind in ("prompt", "output"))
    return {
        "sent": len(outcomes),
        "attempts": sum(outcome.attempts for outcome in outcomes),
        "completed": len(answers),
        "refused": dict(sum((outcome.refused for outcome in outcomes), Counter())),
        "gave_up": sum(outcome.failure == "out of patience" for outcome in outcomes),
        "queue_wait_s": _percentiles([answer["queue_wait_s"] for answer in answers]),
        "ttft_s": _percentiles([answer["ttft_s"] for answer in answers]),
        "e2e_s": _percentiles([answer["e2e_s"] for answer in answers]),
        "with_retries_s": _percentiles([o.total_s for o in outcomes if o.answer is not None and o.total_s is not None]),
        "prompt_tokens": prompt,
        "output_tokens": output,
        "output_tokens_per_s": _part(output, makespan_s),
        "tokens_per_s": _part(prompt + output, makespan_s),
        **shares,
    }


def _times(outcome: Outcome) -> Times:
    answer = outcome.answer
    assert answer is not None
    arrived_at = answer["arrived_at"]
    return Times(
        outcome.call.tenant,
        arrived_at,
        arrived_at + answer["queue_wait_s"],
        arrived_at + answer["e2e_s"],
        answer["prompt_tokens"] + answer["output_tokens"],
    )


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """p50, p95 and p99, linear between ranks; None without values."""
    if not values:
        return None
    return {f"p{q}": float(value) for q, value in zip(PERCENTILES, np.percentile(values, PERCENTILES), strict=True)}


def _part(value: float, whole: float) -> float | None:
    return value / whole if whole else None


def _spread(values: Iterable[float]) -> float | None:
    known = list(values)
    return max(known) - min(known) if known else None

"""The figures of one run, as plain data with units in the names. What each is: `aps.lab.definitions`."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import inf, nan
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from aps.lab import fairness
from aps.lab.run import Run
from aps.verdicts import REASONS

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]

PERCENTILES = (50, 95, 99)
TIMES = ("queue_wait_s", "ttft_s", "tpot_s", "e2e_s")
LOADS = (("low", 0.0, 0.5), ("medium", 0.5, 0.9), ("high", 0.9, inf))
QUARTERS = 4
REQUESTS = 10  # of each tenant in a fairness window
FINISHED, STILL_HERE, NEVER_SENT = 0, -2, -1  # of Run.reason; above 0: refused or expired


@dataclass(frozen=True, slots=True)
class Slo:
    """What a request must meet to count as goodput: seconds, each above 0; inf: it does not matter.

    ttft_s: arrival to first token. tpot_s: mean time of each token after the first. e2e_s: arrival to end.
    """

    ttft_s: float = inf
    tpot_s: float = inf
    e2e_s: float = inf

    def __post_init__(self) -> None:
        for name in ("ttft_s", "tpot_s", "e2e_s"):
            value = getattr(self, name)
            if not value > 0:
                raise ValueError(f"Slo.{name} must be seconds above 0, or inf, got {value!r}")

    def plain(self) -> dict[str, float | None]:
        """For JSON: None for what does not matter."""
        return {name: finite(getattr(self, name)) for name in ("ttft_s", "tpot_s", "e2e_s")}


def figures(
    run: Run, slo: Slo | None = None, *, weights: ArrayLike | None = None, window_s: float | None = None
) -> dict[str, Any]:
    """Every figure of a run: {"whole", "tenants", "devices", "by_load", "by_quarter", "fairness"}.

    slo: default: none. weights: of the tenants, by which fairness is weighted; None: the run's own (a policy that
    ignores weights ran without them). window_s: of the fairness windows; None: `window_length(run)`.
    JSON-able: None for what is undefined or has no bound.
    """
    requests = _Requests(run, slo or Slo())
    shares = np.array([t.weight for t in run.workload.tenants] if weights is None else weights, dtype=np.float64)
    tenants = {
        tenant.name: _tenant(requests, rows, float(weight))
        for tenant, weight, rows in zip(run.workload.tenants, shares, requests.by_tenant(), strict=True)
    }
    return {
        "whole": _whole(requests, max((t["starvation_s"] for t in tenants.values()), default=0.0)),
        "tenants": tenants,
        "devices": list(_devices(requests)),
        "by_load": list(_by_load(requests)),
        "by_quarter": list(_by_quarter(requests)),
        "fairness": _fairness(run, shares, window_length(run) if window_s is None else window_s),
    }


def window_length(run: Run) -> float:
    """Seconds of a fairness window: in shorter ones the index would be about single requests.

    Ten requests of each tenant end in it, on the average over the run; at most all of it.
    """
    tenants = int(np.count_nonzero(np.bincount(run.workload.tenant[run.reason != NEVER_SENT])))
    finished = int(np.count_nonzero(run.reason == FINISHED))
    return float(run.series.edges_s[-1]) * min(1.0, REQUESTS * tenants / max(1, finished))


def times(run: Run) -> dict[str, Floats]:
    """Of each request the durations named in TIMES, (n,) seconds.

    What has not happened when the run stops counts with the time until then, a lower bound; tpot_s then has none. NaN:
    never sent, refused, expired; tpot_s also with fewer than two tokens.
    """
    return {name: _took(run, name, np.arange(len(run.workload))) for name in TIMES}


def _took(run: Run, name: str, rows: Rows) -> Floats:
    """One of `times` for some requests; there may be many, so with few copies."""
    reason = run.reason[rows]
    if name == "tpot_s":
        tokens = np.where((reason == FINISHED) & (run.generated[rows] > 1), run.generated[rows] - 1.0, np.nan)
        return (run.finished_at[rows] - run.first_token_at[rows]) / tokens
    column = {"queue_wait_s": run.started_at, "ttft_s": run.first_token_at, "e2e_s": run.finished_at}[name]
    until = column[rows]
    if name == "e2e_s":
        until[reason != FINISHED] = np.nan  # refused or expired: an end, but no answer
    until[(reason == STILL_HERE) & np.isnan(until)] = run.ended_at
    until -= run.submitted_at[rows]
    return until


def spread(values: Floats) -> dict[str, float] | None:
    """p50, p95, p99 (linear between ranks), mean and max of the values that are not NaN; None: there are none."""
    values = values[~np.isnan(values)]  # a copy, that may be put in another order
    if not len(values):
        return None
    mean, most = float(values.mean()), float(values.max())
    found = np.percentile(values, PERCENTILES, overwrite_input=True)
    return {**{f"p{q}": float(value) for q, value in zip(PERCENTILES, found, strict=True)}, "mean": mean, "max": most}


def part(value: float, whole: float) -> float | None:
    """value / whole; None when there is no whole."""
    return value / whole if whole else None


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


def finite(value: float) -> float | None:
    """None for infinity, which JSON does not have."""
    return value if abs(value) < inf else None


class _Requests:
    """What the figures need of each request more than once; (n,) arrays, NaN where there is none."""

    def __init__(self, run: Run, slo: Slo) -> None:
        self.run = run
        self.rows: Rows = np.flatnonzero(run.reason != NEVER_SENT)  # of the requests that were sent
        here = run.reason == STILL_HERE
        self.ended_at = np.where(here, run.ended_at, run.finished_at)
        self.answered = ~np.isnan(run.first_token_at)
        self.met = run.reason == FINISHED
        for name, most in (("ttft_s", slo.ttft_s), ("tpot_s", slo.tpot_s), ("e2e_s", slo.e2e_s)):
            if most < inf:
                self.met[self.rows] &= ~(_took(run, name, self.rows) > most)  # a request of one token has no TPOT
        ends = run.ended_at if here.any() else np.nanmax(run.finished_at, initial=0.0)
        begins = float(run.submitted_at[self.rows].min()) if len(self.rows) else 0.0
        self.makespan_s = max(0.0, float(ends) - begins)
        self.in_flight_s = float(np.nansum(self.ended_at - run.started_at))
        hour_dollars = run.setup.profile.dollars_per_hour * run.setup.gpus
        self.dollars = self.makespan_s / 3600.0 * hour_dollars

    def prompt_tokens(self, rows: Rows) -> int:
        """Of those of these requests that got a first token."""
        return int(self.run.workload.prompt_tokens[rows[self.answered[rows]]].sum(dtype=np.int64))

    def by_tenant(self) -> Iterator[Rows]:
        """The rows of each tenant in turn, in the workload's order."""
        tenant = self.run.workload.tenant[self.rows]
        order = self.rows[np.argsort(tenant, kind="stable")]
        yield from np.split(order, np.cumsum(np.bincount(tenant, minlength=len(self.run.workload.tenants)))[:-1])

    def by_arrival(self) -> Rows:
        """The rows in order of arrival."""
        return self.rows[np.argsort(self.run.submitted_at[self.rows], kind="stable")]


def _group(requests: _Requests, rows: Rows) -> dict[str, Any]:
    """Counts, times and goodput of some requests; rates are over the run's makespan."""
    run = requests.run
    reason = run.reason[rows]
    codes = np.bincount(reason[reason > 0], minlength=len(REASONS))
    here = rows[reason == STILL_HERE]
    waiting = int(np.count_nonzero(np.isnan(run.started_at[here])))
    met = rows[requests.met[rows]]
    good_tokens = int(run.generated[met].sum(dtype=np.int64)) + requests.prompt_tokens(met)
    return {
        "sent": len(rows),
        "finished": int((reason == FINISHED).sum()),
        "refused": {name: int(number) for name, number in zip(REASONS, codes, strict=True) if number},
        "still_waiting": waiting,
        "still_running": len(here) - waiting,
        **{name: spread(_took(run, name, rows)) for name in TIMES},
        "slo_share": part(len(met), len(rows)),
        "goodput_per_s": part(len(met), requests.makespan_s),
        "goodput_tokens_per_s": part(good_tokens, requests.makespan_s),
    }


def _work(requests: _Requests, rows: Rows, dollars: float) -> dict[str, Any]:
    """Tokens, money and losses of some requests."""
    run = requests.run
    prompt = requests.prompt_tokens(rows)
    output = int(run.generated[rows].sum(dtype=np.int64))
    return {
        "prompt_tokens": prompt,
        "output_tokens": output,
        "output_tokens_per_s": part(output, requests.makespan_s),
        "tokens_per_s": part(prompt + output, requests.makespan_s),
        "dollars": dollars,
        "dollars_per_million_tokens": part(dollars * 1e6, prompt + output),
        "preemptions": int(run.preemptions[rows].sum(dtype=np.int64)),
        "recomputed_tokens": int(run.recomputed_tokens[rows].sum(dtype=np.int64)),
    }


def _tenant(requests: _Requests, rows: Rows, weight: float) -> dict[str, Any]:
    run = requests.run
    in_flight_s = float(np.nansum(requests.ended_at[rows] - run.started_at[rows]))
    all_s = requests.in_flight_s
    queued = rows[requests.ended_at[rows] > run.submitted_at[rows]]  # not what was refused
    return {
        "weight": weight,
        **_group(requests, rows),
        **_work(requests, rows, requests.dollars * in_flight_s / all_s if all_s else 0.0),
        "starvation_s": fairness.longest_starvation(
            run.submitted_at[queued], run.started_at[queued], requests.ended_at[queued]
        ),
    }


def _whole(requests: _Requests, starvation_s: float) -> dict[str, Any]:
    run = requests.run
    group = _group(requests, requests.rows)
    devices = list(_devices(requests))
    return {
        **group,
        **_work(requests, requests.rows, requests.dollars),
        "starvation_s": starvation_s,
        "makespan_s": requests.makespan_s,
        "requests_per_s": part(group["finished"], requests.makespan_s),
        **{name: _mean([device[name] for device in devices]) for name in devices[0]},
        "mfu": _mfu(requests),
        "swapped_tokens": int(run.swapped_tokens),
        "batch_size": _batch_size(run.batch_sizes),
        "released": {name: int(number) for name, number in run.released.items() if number},
        "steps": int(run.steps),
        "digest": run.digest(),
    }


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _batch_size(batches: NDArray[np.int64]) -> dict[str, float] | None:
    """Percentiles, mean and max of a histogram (how many batches by size), as `spread` would have them."""
    up_to = batches.cumsum()
    total = int(up_to[-1])
    if not total:
        return None
    ranks = np.array(PERCENTILES) / 100 * (total - 1)
    below, above = (np.searchsorted(up_to, rank, side="right") for rank in (np.floor(ranks), np.ceil(ranks)))
    found = below + (ranks - np.floor(ranks)) * (above - below)
    sizes = np.arange(len(batches))
    return {
        **{f"p{q}": float(value) for q, value in zip(PERCENTILES, found, strict=True)},
        "mean": float((sizes * batches).sum() / total),
        "max": float(sizes[batches > 0][-1]),
    }


def _devices(requests: _Requests) -> Iterator[dict[str, Any]]:
    """How much of each device was used, as parts of the makespan."""
    run = requests.run
    columns = (run.setup.devices, run.busy_s, run.slot_s, run.block_s, run.idle_slot_s)
    for device, busy_s, slot_s, block_s, idle_s in zip(*columns, strict=True):
        slots_s = requests.makespan_s * device.slots
        yield {
            "busy": part(float(busy_s), requests.makespan_s),
            "occupancy": part(float(slot_s), slots_s),
            "kv_use": part(float(block_s), requests.makespan_s * device.kv_blocks),
            "idle_slot_share": part(float(idle_s), slots_s),
        }


def _mfu(requests: _Requests) -> float | None:
    """Useful FLOPs over what the devices could have done; None: the profile states no FLOPs."""
    profile = requests.run.setup.profile
    if profile.peak_flops is None or profile.flops_per_token is None:
        return None
    run = requests.run
    decoded = run.output_tokens - int(np.count_nonzero(requests.answered))  # the first token comes with the prefill
    tokens = run.prefill_tokens + decoded - int(run.recomputed_tokens.sum(dtype=np.int64))
    return part(tokens * profile.flops_per_token, profile.peak_flops * run.setup.gpus * requests.makespan_s)


def _by_load(requests: _Requests) -> Iterator[dict[str, Any]]:
    """The requests by how full the system was when they came: those there before them, over all slots."""
    run = requests.run
    rows = requests.by_arrival()
    arrived, ended = run.submitted_at[rows], requests.ended_at[rows]
    entered = ended > arrived  # not what was refused
    load = entered.cumsum(dtype=np.float64)
    load -= entered
    load -= np.searchsorted(np.sort(ended[entered]), arrived, side="right")
    load /= sum(device.slots for device in run.setup.devices)
    del arrived, ended, entered
    for level, least, below in LOADS:
        yield {"level": level, **_group(requests, rows[(load >= least) & (load < below)])}


def _by_quarter(requests: _Requests) -> Iterator[dict[str, Any]]:
    """The requests in order of arrival, in four groups of (nearly) one size."""
    arrived = requests.run.submitted_at
    for at, rows in enumerate(np.array_split(requests.by_arrival(), QUARTERS), start=1):
        span = (float(arrived[rows[0]]), float(arrived[rows[-1]])) if len(rows) else (None, None)
        yield {"quarter": at, "from_s": span[0], "to_s": span[1], **_group(requests, rows)}


def _fairness(run: Run, weights: Floats, window_s: float) -> dict[str, Any]:
    tokens = run.all_wait_tokens.sum(axis=0).astype(np.float64)
    asked = np.bincount(run.workload.tenant[run.reason != NEVER_SENT], minlength=len(tokens)) > 0
    index = fair = nan
    if np.count_nonzero(asked) == 2:  # of more, some may be away in that time
        index, fair = (float(fairness.jain(x[None], asked[None])[0]) for x in (tokens, tokens / weights))
    bound = finite(float(run.gap_bound))
    return {
        "widest_gap": float(run.widest_gap),
        "gap_bound": bound,
        "gap_part": None if bound is None else part(float(run.widest_gap), bound),
        "all_wait_s": float(run.all_wait_s),
        "all_wait_tokens": {t.name: int(x) for t, x in zip(run.workload.tenants, tokens, strict=True)},
        "jain_all_wait": _known(index),
        "weighted_jain_all_wait": _known(fair),
        "windows": fairness.summary(fairness.windows(run.series, weights, window_s)),
    }

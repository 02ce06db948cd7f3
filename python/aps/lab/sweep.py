"""The plane of the two knobs on a workload: what each point gives the VIP, what the others pay, and which to choose."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from math import inf, log
from typing import Any

import numpy as np

from aps.lab import describe
from aps.lab.figures import figures, times
from aps.lab.parallel import Parallel
from aps.lab.policies import NamedPolicy
from aps.lab.run import Setup, simulate
from aps.lab.workload import Workload

HORIZONS_S = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0, inf)
WINDOWS = (0.0, 512.0, 2048.0, 8192.0, 32768.0, 131072.0, inf)
NEAR_BEST = 1.25  # what the others may wait, times the least on the plane
STEP_S = 0.01  # waits that differ by less are one
TIE = 1.1  # what the VIP may wait, times the least of those, and count as the same
RULE = (
    f"Of the points where the worst other tenant's p99 queue wait is within {NEAR_BEST:g} times the best on the plane "
    f"(or {STEP_S * 1e3:g} ms of it), those with the lowest VIP p99, within {TIE:g} times (or {STEP_S * 1e3:g} ms); of "
    "these the given policy's if it is one, else the smallest fairness window, which promises the smallest gap, then "
    "the aging horizon nearest to the given one."
)
DEFINITIONS = {
    "vip_queue_wait_p99_s": "99th percentile of the time from arrival to the first scheduled step over all requests of "
    "the VIP tenants, the seeds pooled; a request still waiting when the simulation stops counts with its wait until "
    "then; refused and expired ones are left out",
    "other_queue_wait_p99_s": "the same of each other tenant alone, and the largest of those",
    "low, high": "the lowest and the highest of the seeds taken alone",
    "ttft_p99_s": "as queue wait, to the end of the step that gives the first token",
    "tokens_per_s": "prompt + output tokens over the makespan, mean over the seeds",
    "widest_gap": "the widest service gap of the seeds, in cost units; its bound grows with the fairness window",
    "aging_horizon_s": "H: seconds after which a waiting bid-1 request ranks with a fresh bid-10 one; 0: arrival order",
    "fairness_window": "D: service, in cost units, that a tenant may take ahead of the least served one; 0: fair only",
}


def sweep(
    workloads: Sequence[Workload],
    policy: NamedPolicy,
    setup: Setup,
    *,
    horizons_s: Sequence[float] = HORIZONS_S,
    windows: Sequence[float] = WINDOWS,
    vip: Sequence[str] | None = None,
    seeds: Sequence[int] | None = None,
    parallel: Parallel | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Simulate every workload at every point of the plane.

    workloads: one a seed, of the same tenants. policy: everything but the two knobs, and the point that the suggestion
    is held against. vip: names of tenants; None: those with the highest bid of all. parallel: where to compute; None:
    here. The result does not depend on it. on_progress gets the part done, 0..1.

    Plain data: "workload", "setup", "policy", "seeds", "vip", "others": names; "horizons_s", "windows": ascending;
    "cells": [{"aging_horizon_s", "fairness_window", "vip_queue_wait_p99_s", ...}], for each horizon every window;
    "given", "suggested": index into cells ("given": None when it is not one); "suggestion", "rule": words.
    Infinity is "inf"; None: undefined. ValueError names what is wrong and what is allowed.
    """
    if not workloads:
        raise ValueError("workloads must not be empty")
    horizons, columns = _axis("horizons_s", horizons_s), _axis("windows", windows)
    names = [tenant.name for tenant in workloads[0].tenants]
    if any([tenant.name for tenant in workload.tenants] != names for workload in workloads):
        raise ValueError("workloads must have the same tenants in one order")
    chosen = _vip(workloads, vip)
    knobs = [(horizon, window) for horizon in horizons for window in columns]
    seen = [replace(workload, tenants=policy.tenants(workload.tenants)) for workload in workloads]
    points = [replace(policy.policy, aging_horizon_s=h, fairness_window=d) for h, d in knobs]
    cell = partial(_cell, workloads=seen, setup=setup, vip=chosen)
    found = (parallel or Parallel(1)).map(cell, points, on_progress)
    here = (policy.policy.aging_horizon_s, policy.policy.fairness_window)
    given = knobs.index(here) if here in knobs else None
    suggested = suggest(knobs, found, here)
    return {
        "kind": "sweep",
        "workload": describe.workload(workloads[0]),
        "setup": describe.setup(setup),
        "policy": describe.policy(policy),
        "seeds": list(seeds if seeds is not None else range(len(workloads))),
        "vip": [names[at] for at in chosen],
        "others": [name for at, name in enumerate(names) if at not in chosen],
        "horizons_s": [_known(h) for h in horizons],
        "windows": [_known(d) for d in columns],
        "cells": [
            {"aging_horizon_s": _known(h), "fairness_window": _known(d), **c}
            for (h, d), c in zip(knobs, found, strict=True)
        ],
        "given": given,
        "suggested": suggested,
        "suggestion": _words(knobs, found, given, suggested),
        "rule": RULE,
    }


def suggest(
    knobs: Sequence[tuple[float, float]], cells: Sequence[dict[str, Any]], given: tuple[float, float]
) -> int | None:
    """The index of the point that `RULE` chooses; None when no point has both figures."""
    known = [
        at
        for at, c in enumerate(cells)
        if c["vip_queue_wait_p99_s"] is not None and c["other_queue_wait_p99_s"] is not None
    ]
    if not known:
        return None
    others = {at: cells[at]["other_queue_wait_p99_s"] for at in known}
    vip = {at: cells[at]["vip_queue_wait_p99_s"] for at in known}
    best = min(others.values())
    kept = [at for at in known if others[at] <= max(NEAR_BEST * best, best + STEP_S)]
    best = min(vip[at] for at in kept)
    kept = [at for at in kept if vip[at] <= max(TIE * best, best + STEP_S)]
    return min(kept, key=lambda at: (knobs[at] != given, knobs[at][1], _apart(knobs[at][0], given[0]), knobs[at][0]))


def _axis(name: str, values: Sequence[float]) -> list[float]:
    found = sorted(float(value) for value in values)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"{name} must be one or more different numbers, got {list(values)}")
    return found


def _vip(workloads: Sequence[Workload], vip: Sequence[str] | None) -> list[int]:
    names = [tenant.name for tenant in workloads[0].tenants]
    if vip is not None:
        for name in vip:
            if name not in names:
                raise ValueError(f"vip must be of {', '.join(names)}, got {name!r}")
        found = [at for at, name in enumerate(names) if name in vip]
        if not 0 < len(found) < len(names):
            raise ValueError(f"vip must leave some tenant out, got {', '.join(vip) or 'nobody'}")
        return found
    bids = np.zeros(len(names), dtype=np.int64)
    for workload in workloads:
        np.maximum.at(bids, workload.tenant, workload.bid)
    found = [at for at, bid in enumerate(bids) if bid == bids.max()]
    if len(found) == len(names):
        raise ValueError(f"every tenant bids up to {bids.max()}: say which is the VIP, of {', '.join(names)}")
    return found


def _cell(policy: Any, *, workloads: Sequence[Workload], setup: Setup, vip: Sequence[int]) -> dict[str, Any]:
    """What one point of the plane gives, the seeds pooled."""
    waits: list[list[Any]] = []
    ttfts: list[list[Any]] = []
    wholes: list[dict[str, Any]] = []
    gap = 0.0
    for workload in workloads:
        run = simulate(workload, policy, setup)
        took = times(run)
        rows = [workload.tenant == at for at in range(len(workload.tenants))]
        waits.append([took["queue_wait_s"][of] for of in rows])
        ttfts.append([took["ttft_s"][of] for of in rows])
        wholes.append(figures(run)["whole"])
        gap = max(gap, run.widest_gap)
    others = [at for at in range(len(workloads[0].tenants)) if at not in vip]
    names = [tenant.name for tenant in workloads[0].tenants]
    pooled = {at: _p99([seed[at] for seed in waits]) for at in others}
    worst = max((at for at in others if pooled[at] is not None), key=lambda at: pooled[at] or 0.0, default=None)
    return {
        "vip_queue_wait_p99_s": _p99([seed[at] for seed in waits for at in vip]),
        **_range("vip_queue_wait_p99", (_p99([seed[at] for at in vip]) for seed in waits)),
        "other_queue_wait_p99_s": None if worst is None else pooled[worst],
        **_range("other_queue_wait_p99", (_worst(seed, others) for seed in waits)),
        "worst_other": None if worst is None else names[worst],
        "vip_ttft_p99_s": _p99([seed[at] for seed in ttfts for at in vip]),
        "other_ttft_p99_s": max((p for at in others if (p := _p99([s[at] for s in ttfts])) is not None), default=None),
        **{name: _mean(whole[name] for whole in wholes) for name in ("tokens_per_s", "occupancy")},
        **{
            name: sum(whole[name] for whole in wholes) for name in ("still_waiting", "preemptions", "recomputed_tokens")
        },
        "refused": sum(sum(whole["refused"].values()) for whole in wholes),
        "widest_gap": gap,
    }


def _p99(samples: Sequence[Any]) -> float | None:
    pooled = np.concatenate([sample[~np.isnan(sample)] for sample in samples])
    return float(np.percentile(pooled, 99)) if len(pooled) else None


def _worst(samples: Sequence[Any], tenants: Sequence[int]) -> float | None:
    return max((p for at in tenants if (p := _p99([samples[at]])) is not None), default=None)


def _range(name: str, values: Iterator[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    return {f"{name}_low_s": min(known, default=None), f"{name}_high_s": max(known, default=None)}


def _mean(values: Iterator[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _apart(horizon: float, other: float) -> float:
    """How far two horizons are from each other, by their ratio."""
    if horizon == other:
        return 0.0
    return abs(log(horizon / other)) if 0 < horizon < inf and 0 < other < inf else inf


def _known(value: float) -> float | str:
    return value if value < inf else "inf"


def _words(
    knobs: Sequence[tuple[float, float]], cells: Sequence[dict[str, Any]], given: int | None, suggested: int | None
) -> str:
    if suggested is None:
        return "No suggestion: at no point did both the VIP and another tenant start anything."
    said = f"{_point(knobs[suggested])}: {_waits(cells[suggested])}."
    if suggested == given:
        return f"The given policy is the suggested one. {said}"
    if given is None:
        return f"Suggested: {said}"
    return f"Suggested: {said} The given policy, {_point(knobs[given])}: {_waits(cells[given])}."


def _point(knobs: tuple[float, float]) -> str:
    return f"H = {knobs[0]:g}{' s' if knobs[0] < inf else ''}, D = {knobs[1]:g}"


def _waits(cell: dict[str, Any]) -> str:
    vip, other = (_seconds(cell[f"{who}_queue_wait_p99_s"]) for who in ("vip", "other"))
    worst = "" if cell["worst_other"] is None else f" ({cell['worst_other']})"
    return f"the VIP's p99 queue wait is {vip}, the worst other tenant's{worst} {other}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "undefined"
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"

"""The plane of the two knobs on a workload: what each point gives the VIP, what the others pay, and which to choose."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from math import inf, log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps.lab import describe, labels
from aps.lab.figures import figures, times
from aps.lab.parallel import Parallel
from aps.lab.policies import NamedPolicy
from aps.lab.run import Setup, simulate
from aps.lab.workload import Workload
from aps.policy import Policy

Floats = NDArray[np.float64]

HORIZONS_S = (0.0, 3.0, 10.0, 30.0, 100.0, 300.0, inf)
WINDOWS = (0.0, 512.0, 2048.0, 8192.0, 32768.0, 131072.0, inf)
NEAR_BEST = 1.25  # what the others may wait, times the least on the plane
STEP_S = 0.01  # waits that differ by less are one
TIE = 1.1  # what the VIP may wait, times the least of those, and count as the same
HEAVY = 1.5  # times its share by weight: who asks for more is not quiet
RULE = (
    f"Of the points where the worst quiet tenant's p99 queue wait is within {NEAR_BEST:g} times the best on the plane "
    f"(or {STEP_S * 1e3:g} ms of it), those with the lowest VIP p99, within {TIE:g} times (or {STEP_S * 1e3:g} ms); of "
    "these the given policy's if it is one, else the smallest fairness window, which promises the smallest gap, then "
    "the aging horizon nearest to the given one."
)
DEFINITIONS = {
    "vip_queue_wait_p99_s": "99th percentile of the time from arrival to the first scheduled step over all requests of "
    "the VIP tenants, the seeds pooled; a request still waiting when the simulation stops counts with its wait until "
    "then; refused and expired ones are left out",
    "quiet": f"the tenants beside the VIP that ask for at most {HEAVY:g} times their share, by weight, of all tokens "
    "of the workload; where none does, all of them",
    "quiet_queue_wait_p99_s": "as the VIP's, of each quiet tenant alone, and the largest of those",
    "heavy_queue_wait_p99_s": "the same of the tenants that are neither",
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

    Plain data: "workload", "setup", "policy", "seeds", "vip", "quiet", "heavy": names; "horizons_s", "windows":
    ascending; "cells": [{"aging_horizon_s", "fairness_window", ...}], for each horizon every window;
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
    quiet = _quiet(workloads, chosen)
    knobs = [(horizon, window) for horizon in horizons for window in columns]
    seen = [replace(workload, tenants=policy.tenants(workload.tenants)) for workload in workloads]
    points = [replace(policy.policy, aging_horizon_s=h, fairness_window=d) for h, d in knobs]
    cell = partial(_cell, workloads=seen, setup=setup, vip=chosen, quiet=quiet)
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
        "quiet": [names[at] for at in quiet],
        "heavy": [name for at, name in enumerate(names) if at not in (*chosen, *quiet)],
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
        if c["vip_queue_wait_p99_s"] is not None and c["quiet_queue_wait_p99_s"] is not None
    ]
    if not known:
        return None
    others = {at: cells[at]["quiet_queue_wait_p99_s"] for at in known}
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
        raise ValueError(f"every tenant bids up to {bids.max()}: name the VIP (--vip), one of {', '.join(names)}")
    return found


def _quiet(workloads: Sequence[Workload], vip: Sequence[int]) -> list[int]:
    """Who beside the VIP does not ask for much more than their share; everybody where nobody is so modest."""
    weights = np.array([tenant.weight for tenant in workloads[0].tenants])
    asked = np.zeros(len(weights))
    for workload in workloads:
        output = np.minimum(workload.output_tokens, workload.max_tokens)
        asked += np.bincount(workload.tenant, workload.prompt_tokens + output, len(weights))
    others = [at for at in range(len(weights)) if at not in vip and asked[at]]
    if not others:
        raise ValueError("some tenant beside the VIP must have requests")
    modest = asked <= HEAVY * asked.sum() * weights / weights.sum()
    return [at for at in others if modest[at]] or others


def _cell(
    policy: Policy, *, workloads: Sequence[Workload], setup: Setup, vip: Sequence[int], quiet: Sequence[int]
) -> dict[str, Any]:
    """What one point of the plane gives, the seeds pooled."""
    tenants = range(len(workloads[0].tenants))
    waits, ttfts, wholes, gaps = [], [], [], []
    for workload in workloads:
        run = simulate(workload, policy, setup)
        took = times(run)
        waits.append([took["queue_wait_s"][workload.tenant == at] for at in tenants])
        ttfts.append([took["ttft_s"][workload.tenant == at] for at in tenants])
        wholes.append(figures(run)["whole"])
        gaps.append(run.widest_gap)
    heavy = [at for at in tenants if at not in (*vip, *quiet)]
    worst = _worst(waits, quiet)
    return {
        "vip_queue_wait_p99_s": _p99(seed[at] for seed in waits for at in vip),
        **_range("vip_queue_wait_p99", [_p99(seed[at] for at in vip) for seed in waits]),
        "quiet_queue_wait_p99_s": worst[0],
        **_range("quiet_queue_wait_p99", [_worst([seed], quiet)[0] for seed in waits]),
        "worst_quiet": None if worst[1] is None else workloads[0].tenants[worst[1]].name,
        "heavy_queue_wait_p99_s": _worst(waits, heavy)[0],
        "vip_ttft_p99_s": _p99(seed[at] for seed in ttfts for at in vip),
        "quiet_ttft_p99_s": _worst(ttfts, quiet)[0],
        **{name: _mean(whole[name] for whole in wholes) for name in ("tokens_per_s", "occupancy")},
        **{
            name: sum(whole[name] for whole in wholes) for name in ("still_waiting", "preemptions", "recomputed_tokens")
        },
        "refused": sum(sum(whole["refused"].values()) for whole in wholes),
        "widest_gap": max(gaps),
    }


def _p99(samples: Iterable[Floats]) -> float | None:
    pooled = np.concatenate(list(samples))
    pooled = pooled[~np.isnan(pooled)]
    return float(np.percentile(pooled, 99)) if len(pooled) else None


def _worst(seeds: Sequence[Sequence[Floats]], tenants: Sequence[int]) -> tuple[float | None, int | None]:
    """The largest p99 of a tenant, its samples of all seeds pooled, and whose it is."""
    found = [(p99, at) for at in tenants if (p99 := _p99(seed[at] for seed in seeds)) is not None]
    return max(found, key=lambda pair: pair[0], default=(None, None))


def _range(name: str, values: Sequence[float | None]) -> dict[str, float | None]:
    known = [value for value in values if value is not None]
    return {f"{name}_low_s": min(known, default=None), f"{name}_high_s": max(known, default=None)}


def _mean(values: Iterable[float | None]) -> float | None:
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
        return "No suggestion: at no point has both the VIP and a quiet tenant a queue wait."
    said = f"{_point(knobs[suggested])}: {_waits(cells[suggested])}."
    if suggested == given:
        return f"The given policy is the suggested one. {said}"
    if given is None:
        return f"Suggested: {said}"
    return f"Suggested: {said} The given policy, {_point(knobs[given])}: {_waits(cells[given])}."


def _point(knobs: tuple[float, float]) -> str:
    return f"H = {knobs[0]:g}{' s' if knobs[0] < inf else ''}, D = {knobs[1]:g}"


def _waits(cell: dict[str, Any]) -> str:
    vip, quiet = (labels.duration(cell[f"{who}_queue_wait_p99_s"]) for who in ("vip", "quiet"))
    worst = "" if cell["worst_quiet"] is None else f" ({cell['worst_quiet']})"
    return f"the VIP's p99 queue wait is {vip}, the worst quiet tenant's{worst} {quiet}"

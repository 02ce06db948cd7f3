"""Runs W1 and W2, and judges the five figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aps.lab import describe
from aps.lab.progress import Parts, Progress
from aps.lab.promise import open_loop as w2
from aps.lab.promise.burst import PROMISED, SCENARIO, VARIANTS, burst, flat, measured
from aps.lab.promise.causes import causes, vip_share
from aps.lab.promise.definitions import FIGURES, Figure
from aps.lab.run import Setup
from aps.lab.workload import Workload
from aps.policy import Policy
from aps.profiles import profile_named

BURST_SEEDS = 200
COMPARED_SEEDS = 20  # at most, on which policies are held beside one another
OPEN_SEEDS = 4  # which send at least 1,000 VIP requests
PHYSICS = "a100-llama2-7b"
COMMAND = "aps stress --virtual"


def promised(seeds: int = BURST_SEEDS, *, on_progress: Progress | None = None) -> dict[str, Any]:
    """The promised test: W1 on seeds 0..seeds - 1, W2 on four seeds, over 1,000 VIP requests. Plain data:

    "figures": [{"figure", "promised", "measured", "low", "high", "definition", "how", "met"}], "met": all five are;
    "burst", "physics", "open_loop": what was run, with which knobs, and its figures over the seeds; "policies": the
    burst under other policies; "causes": what made the shares. All but "burst" on the first 20 seeds at most.
    The same for the same `seeds`. on_progress gets the part done, 0..1.
    """
    parts = Parts(on_progress, {"burst": 2.0, "policies": 1.0, "causes": 0.5, "physics": 0.3, "open_loop": 1.0})
    few = range(min(seeds, COMPARED_SEEDS))
    data = burst(range(seeds), policies=(PROMISED,), on_progress=parts.of("burst"))
    compared = burst(few, on_progress=parts.of("policies"))
    found = causes(few, compared["figures"], on_progress=parts.of("causes"))
    physics = burst(few, PHYSICS, (PROMISED,), on_progress=parts.of("physics"))
    setup = Setup(profile=profile_named(PHYSICS))
    policies = {"promised": w2.PROMISED}
    loop = w2.open_loop(setup, policies, seeds=OPEN_SEEDS, on_progress=parts.of("open_loop"))["promised"]
    figures = data["figures"][PROMISED.name]
    pooled = loop.pooled()
    burst_run = {**_run(data), "figures": figures}
    workload = w2.SCENARIO.build(0)
    open_knobs = knobs(w2.PROMISED, workload, describe.setup(setup))
    rows = [_row(figure, burst_run) for figure in FIGURES if figure.workload == "W1"]
    rows += [_open_row(figure, pooled, loop.seeds, open_knobs) for figure in FIGURES if figure.workload == "W2"]
    return {
        "figures": rows,
        "seeds": seeds,
        "met": all(row["met"] for row in rows),
        "burst": burst_run,
        "policies": {"seeds": list(few), "rows": [_variant(named, compared) for named in VARIANTS]},
        "causes": {"seeds": list(few), "found": found},
        "physics": {**_run(physics), "figures": physics["figures"][PROMISED.name]},
        "open_loop": {
            "workload": describe.workload(workload),
            "setup": describe.setup(setup),
            "knobs": open_knobs,
            "seeds": list(range(loop.seeds)),
            **pooled,
            "figures": loop.figures,
        },
    }


def knobs(policy: Policy, workload: Workload, setup: Mapping[str, Any]) -> str:
    """Everything that a workload was run with, in words. Weights are written as parts of 100."""
    whole = sum(tenant.weight for tenant in workload.tenants)
    weights = ":".join(f"{100 * tenant.weight / whole:g}" for tenant in workload.tenants)
    slots = range(len(workload.tenants))
    bids = " and ".join("/".join(map(str, np.unique(workload.bid[workload.tenant == slot]))) for slot in slots)
    preemption = "no preemption" if policy.preemption == "off" else f"preemption by {policy.preemption}"
    budget = setup["token_budget"]
    prompts = "whole prompts" if budget is None else f"token budget {budget}"
    return (
        f"{policy.knobs}, weights {weights}, bids {bids}, {preemption}; profile {setup['profile']}, {setup['slots']} "
        f"slots, {prompts}, ${setup['gpu_hour_dollars']:.2f} a GPU-hour ({setup['price_source']})"
    )


def _run(data: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "workload": data["workload"],
        "setup": data["setup"],
        "knobs": knobs(PROMISED.policy, SCENARIO.build(0), data["setup"]),
        "seeds": data["seeds"],
    }


def _variant(named: Any, data: Mapping[str, Any]) -> dict[str, Any]:
    figures = data["figures"][named.name]
    return {"policy": named.name, "says": named.says, "vip_share": vip_share(figures), **flat(figures)}


def _row(figure: Figure, run: Mapping[str, Any]) -> dict[str, Any]:
    found = measured(run["figures"], figure.name)
    seeds = len(run["seeds"])
    which = f"mean over seeds 0..{seeds - 1}" if seeds > 1 else "seed 0"
    short = "" if seeds == BURST_SEEDS else f" (the promise is judged on seeds 0..{BURST_SEEDS - 1})"
    how = f"{COMMAND}; W1, {which}{short}: {run['knobs']}"
    return _judged(figure, found["mean"], found["low"], found["high"], how)


def _open_row(figure: Figure, pooled: Mapping[str, Any], seeds: int, how_run: str) -> dict[str, Any]:
    by_seed: Sequence[float] = pooled["vip_queue_wait_p99_s_by_seed"]
    how = (
        f"{COMMAND}; W2, {pooled['vip_requests']} VIP requests pooled over seeds 0..{seeds - 1}: {how_run}; "
        "low and high are the p99 of single seeds"
    )
    return _judged(figure, pooled["vip_queue_wait_s"]["p99"], min(by_seed), max(by_seed), how)


def _judged(figure: Figure, value: float, low: float, high: float, how: str) -> dict[str, Any]:
    return {
        "figure": figure.name,
        "promised": figure.promised,
        "measured": value,
        "low": low,
        "high": high,
        "definition": f"{figure.definition}. Met: {figure.rule}",
        "how": how,
        "met": figure.meets(value),
    }

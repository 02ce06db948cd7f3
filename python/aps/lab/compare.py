"""Policies side by side on the same requests, over seeds, with paired differences."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aps.lab import describe, fairness
from aps.lab.figures import Slo, figures, window_length
from aps.lab.policies import NamedPolicy
from aps.lab.run import Run, Series, Setup, simulate
from aps.lab.seeds import differences, interval, over_seeds
from aps.lab.verdict import verdict
from aps.lab.workload import Workload

WORTH_THREADS = 20_000  # requests over all runs, below which one thread is as quick
COMPARED = ("whole", "tenants", "fairness")  # the parts of the figures whose differences are taken


@dataclass(frozen=True, slots=True)
class Comparison:
    """data: plain data for JSON and reports, see `compare`. runs: each policy's run on the first workload, if kept."""

    data: dict[str, Any]
    runs: Mapping[str, Run]


def compare(
    workloads: Sequence[Workload],
    policies: Sequence[NamedPolicy],
    setup: Setup,
    slo: Slo | None = None,
    *,
    baseline: str | None = None,
    seeds: Sequence[int] | None = None,
    keep_runs: bool = True,
    jobs: int | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Comparison:
    """Every policy on every workload: common random numbers, so differences are taken pair by pair.

    workloads: one a seed. baseline: the name of the policy that the others are held against; None: the first.
    seeds: what they were made from, for people; None: 0, 1, ... keep_runs: whether the runs of the first workload stay
    in memory. jobs: threads at most (the replay runs without the GIL), None: one a core; the results do not depend on
    it. on_progress gets the part done, 0..1, from any thread.

    The data: "workload", "setup", "slo", "seeds", "baseline", "policies"; "runs": by policy the figures of each seed;
    "figures": by policy the same tree, each number as {"mean", "low", "high", "ci95", "n"} over the seeds;
    "differences": by policy, for each number, the paired "difference" and "relative" (see `aps.lab.seeds`);
    "throughput_lost": by policy, against FIFO; "verdict": sentences. ValueError when there is nothing to compare.
    """
    _check(workloads, policies, baseline)
    slo = slo or Slo()
    results = _simulate_all(workloads, policies, setup, slo, keep_runs, jobs, on_progress)
    window_s = max(result.window_s for row in results for result in row)  # one length for all
    for row in results:
        for workload, result in zip(workloads, row, strict=True):
            result.figures["fairness"]["windows"] = fairness.summary(
                fairness.windows(result.series, _weights(workload), window_s)
            )
    runs = {named.name: [r.figures for r in row] for named, row in zip(policies, results, strict=True)}
    base = baseline or policies[0].name
    data: dict[str, Any] = {
        "kind": "compare",
        "workload": _with_note(describe.workload(workloads[0]), workloads[0]),
        "setup": describe.setup(setup),
        "slo": slo.plain(),
        "seeds": list(seeds if seeds is not None else range(len(workloads))),
        "baseline": base,
        "policies": [describe.policy(named) for named in policies],
        "figures": {name: over_seeds(trees) for name, trees in runs.items()},
        "differences": {
            name: differences(_compared(trees), _compared(runs[base])) for name, trees in runs.items() if name != base
        },
        "throughput_lost": _lost(runs),
        "runs": runs,
    }
    data["verdict"] = verdict(data)
    return Comparison(data, {n.name: row[0].run for n, row in zip(policies, results, strict=True) if row[0].run})


class _Result(NamedTuple):
    figures: dict[str, Any]
    series: Series
    window_s: float
    run: Run | None  # of the first workload only: n requests each


def _simulate_all(
    workloads: Sequence[Workload],
    policies: Sequence[NamedPolicy],
    setup: Setup,
    slo: Slo,
    keep_runs: bool,
    jobs: int | None,
    on_progress: Callable[[float], None] | None,
) -> list[list[_Result]]:
    """By policy, then by workload."""
    done = [[0.0] * len(workloads) for _ in policies]
    stopped = False

    def one(which: int, seed: int) -> _Result:
        def advance(share: float) -> None:
            if stopped:
                raise KeyboardInterrupt
            done[which][seed] = share
            if on_progress is not None:
                on_progress(sum(map(sum, done)) / (len(policies) * len(workloads)))

        named, workload = policies[which], workloads[seed]
        seen = replace(workload, tenants=named.tenants(workload.tenants))
        run = simulate(seen, named.policy, setup, on_progress=advance)
        found = figures(run, slo, weights=_weights(workload))
        advance(1.0)
        return _Result(found, run.series, window_length(run), run if keep_runs and seed == 0 else None)

    pairs = [(which, seed) for seed in range(len(workloads)) for which in range(len(policies))]
    if jobs == 1 or len(pairs) == 1 or len(policies) * sum(map(len, workloads)) < WORTH_THREADS:
        found = [one(*pair) for pair in pairs]
    else:
        from joblib import cpu_count

        with ThreadPoolExecutor(jobs or cpu_count()) as threads:
            try:
                found = list(threads.map(lambda pair: one(*pair), pairs))
            finally:
                stopped = True  # after an interrupt the threads end at their next report, and are waited for
    return [found[which :: len(policies)] for which in range(len(policies))]


def _check(workloads: Sequence[Workload], policies: Sequence[NamedPolicy], baseline: str | None) -> None:
    names = [named.name for named in policies]
    if not workloads:
        raise ValueError("workloads must not be empty")
    if not policies or len(set(names)) < len(names):
        raise ValueError(f"policies must be one or more with different names, got {names}")
    if baseline is not None and baseline not in names:
        raise ValueError(f"baseline must be one of the policies {names}, got {baseline!r}")
    tenants = [[tenant.name for tenant in workload.tenants] for workload in workloads]
    if any(other != tenants[0] for other in tenants):
        raise ValueError("workloads must have the same tenants in one order")


def _with_note(described: dict[str, Any], workload: Workload) -> dict[str, Any]:
    if len(workload.tenants) > 1 or len(np.unique(workload.bid)) > 1:
        return described
    note = "one tenant and one bid: the order is arrival under every policy, which then differ in backfill at most"
    return {**described, "notes": [*described["notes"], note]}


def _compared(trees: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: tree[name] for name in COMPARED} for tree in trees]


def _weights(workload: Workload) -> NDArray[np.float64]:
    return np.array([tenant.weight for tenant in workload.tenants])


def _lost(runs: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any] | None:
    """The part of FIFO's tokens/s that each policy loses, pair by pair; None when FIFO is not there."""
    if "fifo" not in runs:
        return None
    rates = {name: np.array([[tree["whole"]["tokens_per_s"] or np.nan] for tree in runs[name]]) for name in runs}
    return {name: interval(1.0 - rates[name] / rates["fifo"])[0] for name in runs}

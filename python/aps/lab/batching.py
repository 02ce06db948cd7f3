"""The two batching modes under one policy, at low, medium and saturating load."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal

import numpy as np

from aps.lab import describe
from aps.lab.compare import compare
from aps.lab.figures import Slo
from aps.lab.policies import NamedPolicy
from aps.lab.run import Run, Setup, simulate
from aps.lab.seeds import interval
from aps.lab.workload import Workload

Mode = Literal["micro", "continuous"]
MODES: tuple[Mode, ...] = ("micro", "continuous")
LOADS = (("low", 0.3), ("medium", 0.7), ("saturating", 1.2))  # offered requests/s over the measured capacity
POISSON_SEED = 0x6261746368  # of arrivals for a workload that has no rate of its own


@dataclass(frozen=True, slots=True)
class Batching:
    """data: plain data, see `batching`. runs: by "LEVEL MODE", on the first workload."""

    data: dict[str, Any]
    runs: Mapping[str, Run]


def batching(
    workloads: Sequence[Workload],
    policy: NamedPolicy,
    setup: Setup,
    slo: Slo | None = None,
    *,
    modes: Sequence[Mode] = MODES,
    seeds: Sequence[int] | None = None,
    keep_runs: bool = True,
    jobs: int | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> Batching:
    """Each mode at each load, on the same requests; the first mode is the one the others are held against.

    The capacity is measured: requests/s that finish when all come at once, in continuous mode. Each workload is then
    made so much faster or slower that its mean rate is a fraction of it. One without a rate (a burst, a closed loop)
    gets arrivals by a Poisson process; a note says which.

    The data: "policy", "modes", "capacity_per_s", "loads": [{"level", "fraction", "offered_per_s", "comparison"}] with
    the data of `aps.lab.compare.compare` of the modes, "verdict", "notes". ValueError as there and for an unknown mode.
    """
    wrong = [mode for mode in modes if mode not in MODES]
    if wrong or not modes:
        raise ValueError(f"batching must be of {', '.join(MODES)}, got {wrong[0] if wrong else 'none'!r}")
    settings = {mode: replace(policy.policy, batching=mode) for mode in modes}
    named = [NamedPolicy(mode, settings[mode], policy.order, policy.equal_weights) for mode in modes]
    parts = 1 + len(LOADS)  # of the whole, for the progress

    def advance(done: int) -> Callable[[float], None]:
        return lambda share: None if on_progress is None else on_progress((done + share) / parts)

    capacity = [_capacity(workload, policy, setup, advance(0)) for workload in workloads]
    loads: list[dict[str, Any]] = []
    runs: dict[str, Run] = {}
    verdict: list[str] = []
    for at, (level, fraction) in enumerate(LOADS, start=1):
        offered = [
            at_rate(w, fraction * limit, seed) for seed, (w, limit) in enumerate(zip(workloads, capacity, strict=True))
        ]
        found = compare(
            offered, named, setup, slo, seeds=seeds, keep_runs=keep_runs, jobs=jobs, on_progress=advance(at)
        )
        runs |= {f"{level} {mode}": run for mode, run in found.runs.items()}
        rate = fraction * float(np.mean(capacity))
        loads.append({"level": level, "fraction": fraction, "offered_per_s": rate, "comparison": found.data})
        verdict += [f"At {level} load ({fraction:.0%} of capacity): {text}" for text in found.data["verdict"][1:]]
    first = loads[0]["comparison"]
    data = {
        **{name: first[name] for name in ("setup", "slo", "seeds")},
        "kind": "batching",
        "workload": describe.workload(workloads[0]),
        "policy": describe.policy(policy),
        "modes": list(modes),
        "capacity_per_s": interval(np.array(capacity)[:, None])[0],
        "loads": loads,
        "verdict": [first["verdict"][0], *verdict],
        "notes": [note for note in first["workload"]["notes"] if note not in workloads[0].notes],
    }
    return Batching(data, runs)


def _capacity(workload: Workload, policy: NamedPolicy, setup: Setup, advance: Callable[[float], None]) -> float:
    """Requests/s that finish when all come at once."""
    together = replace(workload, at_s=np.zeros(len(workload)), after=None, deadline_s=None, until_s=inf)
    run = simulate(
        together.with_tenants(policy.tenants(workload.tenants)),
        replace(policy.policy, batching="continuous"),
        setup,
        on_progress=advance,
    )
    finished = int((run.reason == 0).sum())
    if not finished:
        raise ValueError(f"{workload.name}: no request finishes, so there is no capacity to measure")
    return finished / run.ended_at


def at_rate(workload: Workload, rate_per_s: float, seed: int) -> Workload:
    """The same requests at a mean rate; by a Poisson process where the workload has no rate of its own."""
    span_s = float(workload.at_s[-1]) if len(workload) else 0.0
    if workload.after is None and span_s > 0:
        note = "its instants and horizon are divided so that requests come at the rate of each load"
        return replace(workload.scaled(rate_per_s * span_s / len(workload)), notes=(*workload.notes, note))
    rng = np.random.default_rng((POISSON_SEED, seed))
    at_s = rng.exponential(1 / rate_per_s, len(workload)).cumsum()
    note = f"its requests come in their order by a Poisson process: {workload.name} has no rate of its own"
    return replace(workload, at_s=at_s, after=None, until_s=inf, notes=(*workload.notes, note))

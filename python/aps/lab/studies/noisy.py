"""Noisy neighbour: five tenants, one sends ten times its share; what the four quiet ones feel."""

from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps.lab import describe
from aps.lab.policies import POLICIES, NamedPolicy
from aps.lab.progress import Parts, Progress
from aps.lab.run import Run, Setup, simulate
from aps.lab.scenarios import SCENARIOS
from aps.lab.studies.capacity import capacity
from aps.lab.studies.results import judged, result, table
from aps.policy import Policy
from aps.profiles import profile_named

SCENARIO = SCENARIOS["noisy"]
PROFILE = "a100-llama2-7b"
SEEDS = 6
QUIET_LOADS = (0.15, 0.10, 0.05)  # of each quiet tenant; the first is judged by its ratio
CALM, NOISY = 1.0, 10.0  # times its share that the noisy tenant sends
WINDOWS = (0.0, 512.0, 2048.0, 8192.0, 32_768.0, inf)
RATIO, TTFT_S = 3.0, 2.0
COMPARED = (POLICIES["aps"], POLICIES["fifo"], POLICIES["strict"])
SATURATED = 4.0  # times the share of every tenant, to measure the capacity

DEFINITIONS = {
    "capacity": "requests/s of the same prompts and outputs that the device completes under FIFO when every tenant "
    "sends far more than fits; after a tenth of the run",
    "quiet p99 TTFT": "99th percentile of arrival to first output token over the requests of the four quiet tenants of "
    "all seeds; runs go on until everything has ended, so none is cut off",
    "calm": "the noisy tenant sends its share, 20 % of the capacity",
    "noisy": "it sends ten times that",
    "ratio": "quiet p99 TTFT while the neighbour is noisy over the same while it is calm",
    "gap": "the most that a contending tenant's charged service was ahead of the least served one, in its own tokens, "
    "over the bound D + c_max; the worst of all runs with that D",
}


def study(
    seeds: int = SEEDS,
    *,
    duration_s: float = 600.0,
    profile: str = PROFILE,
    windows: Sequence[float] = WINDOWS,
    quiet_loads: Sequence[float] = QUIET_LOADS,
    on_progress: Progress | None = None,
) -> dict[str, Any]:
    """The judged loads beside FIFO and strict priority, and the curve over the fairness window D."""
    setup = Setup(profile=profile_named(profile))
    per_s = measured_capacity(setup, duration_s)
    others = [D for D in windows if D != Policy.aps().fairness_window]
    parts = Parts(on_progress, {"loads": float(len(COMPARED) * len(quiet_loads)), "windows": float(len(others))})
    cases = [_Case(named, load) for load in quiet_loads for named in COMPARED]
    _play(cases, seeds, setup, per_s, duration_s, parts.of("loads"))
    curve = [_Case(_window(D), quiet_loads[0]) for D in others]
    _play(curve, seeds, setup, per_s, duration_s, parts.of("windows"))
    curve.append(next(case for case in cases if case.named is COMPARED[0] and case.quiet_load == quiet_loads[0]))
    curve.sort(key=lambda case: case.named.policy.fairness_window)
    ours = [case for case in cases if case.named is COMPARED[0]]
    return result(
        "noisy",
        "Noisy neighbour",
        _judge(ours, [*cases, *curve]),
        [
            table("noisy", "The quiet tenants' p99 TTFT", [case.record() for case in cases]),
            table("noisy_windows", "The same over the fairness window D", [case.record() for case in curve]),
        ],
        [_sentence(cases, load) for load in quiet_loads],
        DEFINITIONS,
        capacity_per_s=per_s,
        seeds=seeds,
        workload=describe.workload(SCENARIO.build(0, capacity_per_s=per_s, duration_s=duration_s)),
        setup=describe.setup(setup),
    )


def measured_capacity(setup: Setup, duration_s: float) -> float:
    """Requests/s of these prompts and outputs when every tenant always has requests waiting."""
    quiet = 1 - SCENARIO_DEFAULTS["noisy_share"]
    workload = SCENARIO.build(
        0,
        quiet_load=SATURATED * quiet / SCENARIO_DEFAULTS["quiet_tenants"],
        noisy_factor=SATURATED,
        duration_s=duration_s,
        drain=False,
    )
    return capacity(workload, setup)


SCENARIO_DEFAULTS = {parameter.name: parameter.default for parameter in SCENARIO.parameters}


class _Case:
    """One policy at one load of the quiet tenants: TTFT of every quiet request, calm and noisy, and the gap."""

    def __init__(self, named: NamedPolicy, quiet_load: float) -> None:
        self.named = named
        self.quiet_load = quiet_load
        self.ttft_s: dict[float, list[NDArray[np.float64]]] = {CALM: [], NOISY: []}
        self.widest_gap = 0.0
        self.gap_bound = inf

    def add(self, factor: float, run: Run) -> None:
        noisy = [tenant.name for tenant in run.workload.tenants].index("noisy")
        self.ttft_s[factor].append((run.first_token_at - run.submitted_at)[run.workload.tenant != noisy])
        if run.widest_gap >= self.widest_gap:
            self.widest_gap, self.gap_bound = run.widest_gap, run.gap_bound

    def p99_s(self, factor: float) -> float:
        return float(np.percentile(np.concatenate(self.ttft_s[factor]), 99))

    @property
    def ratio(self) -> float:
        return self.p99_s(NOISY) / self.p99_s(CALM)

    @property
    def gap_part(self) -> float | None:
        return self.widest_gap / self.gap_bound if self.gap_bound < inf else None

    def record(self) -> dict[str, Any]:
        noisy = np.concatenate(self.ttft_s[NOISY])
        return {
            "policy": self.named.name,
            "knobs": self.named.policy.knobs,
            "quiet_load": self.quiet_load,
            "quiet_requests": len(noisy),
            "calm_p99_ttft_s": self.p99_s(CALM),
            "noisy_p99_ttft_s": self.p99_s(NOISY),
            "ratio": self.ratio,
            "calm_p50_ttft_s": float(np.median(np.concatenate(self.ttft_s[CALM]))),
            "noisy_p50_ttft_s": float(np.median(noisy)),
            "widest_gap": self.widest_gap,
            "gap_bound": self.gap_bound if self.gap_bound < inf else None,
            "gap_part": self.gap_part,
        }


def _play(
    cases: Sequence[_Case], seeds: int, setup: Setup, per_s: float, duration_s: float, report: Progress
) -> None:
    """Every case on the same requests; a workload is built once for all cases of its load."""
    loads = list(dict.fromkeys(case.quiet_load for case in cases))
    done, runs = 0, 2 * seeds * len(cases)
    for load in loads:
        for factor in (CALM, NOISY):
            for seed in range(seeds):
                workload = SCENARIO.build(
                    seed, quiet_load=load, noisy_factor=factor, capacity_per_s=per_s, duration_s=duration_s
                )
                for case in (case for case in cases if case.quiet_load == load):
                    case.add(factor, simulate(workload, case.named.policy, setup))
                    done += 1
                    report(done / runs)


def _window(D: float) -> NamedPolicy:
    return NamedPolicy("aps", Policy.aps(fairness_window=D), "the default aging horizon")


def _judge(ours: Sequence[_Case], every: Sequence[_Case]) -> list[dict[str, Any]]:
    first = ours[0]
    rows = [
        judged(
            f"quiet tenants at {first.quiet_load:.0%} each: p99 TTFT, noisy over calm",
            f"at most {RATIO:g}",
            first.ratio,
            first.ratio <= RATIO,
        )
    ]
    for case in ours[1:]:
        p99_s = case.p99_s(NOISY)
        rows.append(
            judged(
                f"quiet tenants at {case.quiet_load:.0%} each: p99 TTFT while noisy, s",
                f"at most {TTFT_S:g}",
                p99_s,
                p99_s <= TTFT_S,
            )
        )
    bounded = [case.gap_part for case in every if case.gap_part is not None]
    rows.append(judged("service gap, part of its bound, the worst of all", "at most 1", max(bounded), max(bounded) <= 1))
    return rows


def _sentence(cases: Sequence[_Case], load: float) -> str:
    of = {case.named.name: case for case in cases if case.quiet_load == load}
    aps = of["aps"]
    others = ", ".join(f"{name} {of[name].p99_s(NOISY):.0f} s" for name in ("fifo", "strict"))
    return (
        f"Quiet tenants at {load:.0%} of the capacity each: p99 TTFT {aps.p99_s(CALM):.2f} s while the neighbour is "
        f"calm, {aps.p99_s(NOISY):.2f} s while it is noisy ({aps.ratio:.1f} times); {others}."
    )

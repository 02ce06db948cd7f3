"""Noisy neighbour: five tenants, one sends ten times its share; what the four quiet ones feel."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import product
from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aps.lab import describe
from aps.lab.figures import times
from aps.lab.parallel import Parallel
from aps.lab.policies import POLICIES, NamedPolicy
from aps.lab.progress import Progress
from aps.lab.run import Setup, simulate
from aps.lab.scenarios import SCENARIOS
from aps.lab.studies.capacity import capacity
from aps.lab.studies.results import HERE, judged, panel, plot, result, table
from aps.policy import Policy
from aps.profiles import profile_named

SCENARIO = SCENARIOS["noisy"]
PROFILE = "a100-llama2-7b"
SEEDS = 6
QUIET_LOADS = (0.15, 0.10, 0.05)  # of each quiet tenant; the first is judged by its ratio
CALM, NOISY = 1.0, 10.0  # times its share that the noisy tenant sends
WINDOWS = (0.0, 512.0, 2048.0, 8192.0, 32_768.0, inf)
RATIO, TTFT_S = 3.0, 2.0
DEFAULT = Policy.aps().fairness_window
COMPARED = (POLICIES["aps"], POLICIES["fifo"], POLICIES["strict"])
CURVE = tuple(
    NamedPolicy(f"D = {window:g}", Policy.aps(fairness_window=window), "the default aging horizon")
    for window in WINDOWS
    if window != DEFAULT
)
SATURATED = {"quiet_load": 0.8, "noisy_factor": 4.0, "drain": False}  # every tenant sends four times its share

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


SHOWN = ("policy", "knobs", "quiet_load", "calm_p99_ttft_s", "noisy_p99_ttft_s", "ratio", "gap_part")


class Key(NamedTuple):
    """One workload. factor: times its share that the noisy tenant sends."""

    quiet_load: float
    factor: float
    seed: int


class Found(NamedTuple):
    """What is kept of one run: TTFT of each request of the quiet tenants, and the service gap."""

    ttft_s: NDArray[np.float64]
    widest_gap: float
    gap_bound: float


def study(seeds: int = SEEDS, *, parallel: Parallel = HERE, on_progress: Progress | None = None) -> dict[str, Any]:
    """The quiet tenants at three loads, beside FIFO and strict priority, and the curve over the fairness window D."""
    setup = Setup(profile=profile_named(PROFILE))
    per_s = capacity(SCENARIO.build(0, **SATURATED), setup)
    keys = [Key(*key) for key in product(QUIET_LOADS, (CALM, NOISY), range(seeds))]
    runs = dict(zip(keys, parallel.map(partial(_play, setup, per_s), keys, on_progress), strict=True))
    cases = [_Case(named, load, runs) for load in QUIET_LOADS for named in COMPARED]
    curve = [_Case(named, QUIET_LOADS[0], runs) for named in (COMPARED[0], *CURVE)]
    curve.sort(key=lambda case: case.named.policy.fairness_window)
    return result(
        "noisy",
        "Noisy neighbour",
        _judge(cases, curve),
        [
            table("noisy", "The quiet tenants' p99 TTFT", [case.record() for case in cases], SHOWN),
            table("noisy_windows", "The same over the fairness window D", [case.record() for case in curve], SHOWN),
        ],
        [
            _plot("noisy", "What do quiet tenants feel of a noisy one, at three loads of theirs?", cases),
            _plot("noisy_windows", "And over the fairness window D, at 15 % each?", curve),
        ],
        [_sentence({case.named.name: case for case in cases if case.quiet_load == load}) for load in QUIET_LOADS],
        DEFINITIONS,
        capacity_per_s=per_s,
        seeds=seeds,
        workload=describe.workload(SCENARIO.build(0, capacity_per_s=per_s)),
        setup=describe.setup(setup),
    )


def _play(setup: Setup, per_s: float, key: Key) -> dict[str, Found]:
    """One workload under every policy that is looked at with its load, by the policy's name."""
    workload = SCENARIO.build(key.seed, quiet_load=key.quiet_load, noisy_factor=key.factor, capacity_per_s=per_s)
    quiet = np.array([tenant.name != "noisy" for tenant in workload.tenants])[workload.tenant]
    found = {}
    for named in (*COMPARED, *(CURVE if key.quiet_load == QUIET_LOADS[0] else ())):
        run = simulate(workload, named.policy, setup)
        found[named.name] = Found(times(run)["ttft_s"][quiet], run.widest_gap, run.gap_bound)
    return found


class _Case:
    """One policy at one load of the quiet tenants, over the seeds."""

    def __init__(self, named: NamedPolicy, quiet_load: float, runs: Mapping[Key, Mapping[str, Found]]) -> None:
        self.named = named
        self.quiet_load = quiet_load
        mine = {key: found[named.name] for key, found in runs.items() if key.quiet_load == quiet_load}
        self.calm, self.noisy = (
            np.concatenate([found.ttft_s for key, found in mine.items() if key.factor == factor])
            for factor in (CALM, NOISY)
        )
        self.calm_p99_s, self.noisy_p99_s = (float(np.percentile(ttft_s, 99)) for ttft_s in (self.calm, self.noisy))
        self.ratio = self.noisy_p99_s / self.calm_p99_s
        worst = max(mine.values(), key=lambda found: found.widest_gap)
        self.widest_gap, self.gap_bound = worst.widest_gap, worst.gap_bound

    @property
    def gap_part(self) -> float | None:
        """None: no bound."""
        return self.widest_gap / self.gap_bound if self.gap_bound < inf else None

    def record(self) -> dict[str, Any]:
        return {
            "policy": self.named.name,
            "knobs": self.named.policy.knobs,
            "quiet_load": self.quiet_load,
            "quiet_requests": len(self.noisy),
            "calm_p99_ttft_s": self.calm_p99_s,
            "noisy_p99_ttft_s": self.noisy_p99_s,
            "ratio": self.ratio,
            "calm_p50_ttft_s": float(np.median(self.calm)),
            "noisy_p50_ttft_s": float(np.median(self.noisy)),
            "widest_gap": self.widest_gap,
            "gap_bound": self.gap_bound if self.gap_bound < inf else None,
            "gap_part": self.gap_part,
        }


def _plot(name: str, title: str, cases: Sequence[_Case]) -> dict[str, Any]:
    several = len({case.quiet_load for case in cases}) > 1
    names = [f"{case.named.name} {case.quiet_load:.0%}" if several else case.named.name for case in cases]
    return plot(
        name,
        title,
        names,
        [
            panel("p99 TTFT, neighbour calm", [case.calm_p99_s for case in cases], time=True, better="lower"),
            panel("p99 TTFT, neighbour noisy", [case.noisy_p99_s for case in cases], time=True, better="lower"),
        ],
        [case.named.name for case in cases],
    )


def _judge(cases: Sequence[_Case], curve: Sequence[_Case]) -> list[dict[str, Any]]:
    first, *lighter = (case for case in cases if case.named is COMPARED[0])
    name = f"quiet tenants at {first.quiet_load:.0%} each: p99 TTFT, noisy over calm"
    rows = [judged(name, f"at most {RATIO:g}", first.ratio, first.ratio <= RATIO)]
    for case in lighter:
        name = f"quiet tenants at {case.quiet_load:.0%} each: p99 TTFT while noisy, s"
        rows.append(judged(name, f"at most {TTFT_S:g}", case.noisy_p99_s, case.noisy_p99_s <= TTFT_S))
    worst = max(case.gap_part for case in (*cases, *curve) if case.gap_part is not None)
    return [*rows, judged("service gap over its bound, the worst of all", "at most 1", worst, worst <= 1)]


def _sentence(cases: Mapping[str, _Case]) -> str:
    aps, others = (
        cases["aps"],
        ", ".join(f"{cases[name].noisy_p99_s:.0f} s under {name}" for name in ("fifo", "strict")),
    )
    return (
        f"Quiet tenants at {aps.quiet_load:.0%} of the capacity each: p99 TTFT {aps.calm_p99_s:.2f} s while the "
        f"neighbour is calm, {aps.noisy_p99_s:.2f} s while it is noisy ({aps.ratio:.1f} times); {others}."
    )

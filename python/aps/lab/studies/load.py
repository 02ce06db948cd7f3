"""Waiting by load: what FIFO and APS make of low, medium and nearly full load, and what a small error does there."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aps.lab import describe
from aps.lab.figures import times
from aps.lab.parallel import Parallel
from aps.lab.policies import POLICIES
from aps.lab.progress import Progress
from aps.lab.run import Run, Setup, simulate
from aps.lab.scenarios import SCENARIOS
from aps.lab.studies.capacity import capacity
from aps.lab.studies.results import HERE, judged, panel, plot, result, table
from aps.profiles import profile_named

SCENARIO = SCENARIOS["poisson"]
PROFILE = "a100-llama2-7b"
SEEDS = 5
LOADS = {"low": 0.5, "medium": 0.8, "nearly full": 0.95}  # parts of the capacity
NAMES = ("fifo", "aps")
SLOWER = 1.05  # steps so many times as long: about the error of the step-time model
KEPT = 0.99  # of FIFO's throughput

DEFINITIONS = {
    "load": "offered requests/s over the capacity: what the device completes of this mixture under FIFO when there is "
    "always work",
    "queue wait": "arrival to the beginning of the first step that computes for the request; over the requests of all "
    "seeds; runs go on until everything has ended",
    "5 % slower": "the same requests when every step takes 1.05 times as long, about the error of the step-time model",
    "share": "a tenant's weight over all weights; what it asks for: its part of all prompt + output tokens",
}


class Key(NamedTuple):
    """One run. slower: how many times as long each step takes."""

    load: float
    slower: float
    seed: int


class Found(NamedTuple):
    """Of one run: by tenant, each request's queue wait and TTFT; tokens/s over the makespan."""

    wait_s: dict[str, NDArray[np.float64]]
    ttft_s: dict[str, NDArray[np.float64]]
    tokens_per_s: float


def study(seeds: int = SEEDS, *, parallel: Parallel = HERE, on_progress: Progress | None = None) -> dict[str, Any]:
    """FIFO and APS at three loads, as modelled and with steps 5 % slower. See `aps.lab.studies.results.result`."""
    setup = Setup(profile=profile_named(PROFILE))
    per_s = capacity(SCENARIO.build(0, load=3.0, drain=False), setup)
    keys = [Key(*key) for key in product(LOADS.values(), (1.0, SLOWER), range(seeds))]
    runs = dict(zip(keys, parallel.map(partial(_play, setup, per_s), keys, on_progress), strict=True))
    levels = [_Level(name, load, policy, runs) for name, load in LOADS.items() for policy in NAMES]
    return result(
        "load",
        "Waiting by load",
        _judge({(level.name, level.policy): level for level in levels}),
        [
            table("load", "Queue wait of all requests", [level.record() for level in levels]),
            table("load_tenants", "By tenant", [row for level in levels for row in level.tenants()]),
        ],
        [_plot([level.record() for level in levels])],
        _words(levels),
        DEFINITIONS,
        capacity_per_s=per_s,
        seeds=seeds,
        workload=describe.workload(SCENARIO.build(0, capacity_per_s=per_s)),
        setup=describe.setup(setup),
    )


def _play(setup: Setup, per_s: float, key: Key) -> dict[str, Found]:
    """Each policy. Slower steps are the same as faster arrivals in another unit of time."""
    workload = SCENARIO.build(key.seed, load=key.load, capacity_per_s=per_s).scaled(key.slower)
    found = {}
    for name in NAMES:
        policy = POLICIES[name].policy
        policy = replace(policy, aging_horizon_s=policy.aging_horizon_s / key.slower)
        found[name] = _keep(simulate(workload, policy, setup), key.slower)
    return found


def _keep(run: Run, slower: float) -> Found:
    took = times(run)
    slots = {tenant.name: run.workload.tenant == slot for slot, tenant in enumerate(run.workload.tenants)}
    wait_s, ttft_s = (
        {name: took[kind][mine] * slower for name, mine in slots.items()} for kind in ("queue_wait_s", "ttft_s")
    )
    prompt = int(run.workload.prompt_tokens.sum(dtype=np.int64))
    return Found(wait_s, ttft_s, (prompt + run.output_tokens) / (run.ended_at * slower))


class _Level:
    """One policy at one load, over the seeds."""

    def __init__(self, name: str, load: float, policy: str, runs: Mapping[Key, Mapping[str, Found]]) -> None:
        self.name, self.load, self.policy = name, load, policy
        self.found, self.slower = (
            [found[policy] for key, found in runs.items() if key.load == load and key.slower == slower]
            for slower in (1.0, SLOWER)
        )
        self.wait_s = self._all(self.found)
        self.slower_wait_s = self._all(self.slower)
        self.tokens_per_s = float(np.mean([found.tokens_per_s for found in self.found]))

    def _all(self, found: Sequence[Found]) -> NDArray[np.float64]:
        return np.concatenate([wait_s for run in found for wait_s in run.wait_s.values()])

    def of(self, tenant: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Queue wait and TTFT of its requests."""
        waits, ttfts = (
            np.concatenate([getattr(run, kind)[tenant] for run in self.found]) for kind in ("wait_s", "ttft_s")
        )
        return waits, ttfts

    def record(self) -> dict[str, Any]:
        return {
            "level": self.name,
            "load": self.load,
            "policy": self.policy,
            "requests": len(self.wait_s),
            "queue_wait_mean_s": float(self.wait_s.mean()),
            "queue_wait_p99_s": float(np.percentile(self.wait_s, 99)),
            "slower_queue_wait_mean_s": float(self.slower_wait_s.mean()),
            "slower_queue_wait_p99_s": float(np.percentile(self.slower_wait_s, 99)),
            "tokens_per_s": self.tokens_per_s,
        }

    def tenants(self) -> list[dict[str, Any]]:
        rows = []
        for tenant in self.found[0].wait_s:
            wait_s, ttft_s = self.of(tenant)
            rows.append(
                {
                    "level": self.name,
                    "policy": self.policy,
                    "tenant": tenant,
                    "queue_wait_mean_s": float(wait_s.mean()),
                    "queue_wait_p99_s": float(np.percentile(wait_s, 99)),
                    "ttft_p99_s": float(np.percentile(ttft_s, 99)),
                }
            )
        return rows


def _judge(levels: Mapping[tuple[str, str], _Level]) -> list[dict[str, Any]]:
    fifo, aps = (levels["nearly full", name] for name in NAMES)
    kept = aps.tokens_per_s / fifo.tokens_per_s
    below = max(float(aps.of(name)[0].mean() / fifo.of(name)[0].mean()) for name in _below_their_share())
    grown = [levels[level, "fifo"] for level in ("low", "nearly full")]
    low, full = (float(level.slower_wait_s.mean() / level.wait_s.mean()) for level in grown)
    return [
        judged("nearly full: tokens/s, APS over FIFO", f"at least {KEPT}", kept, kept >= KEPT),
        judged(
            "nearly full: mean wait of who asks for less than its share, APS over FIFO", "at most 1", below, below <= 1
        ),
        judged("low: mean wait under FIFO, steps 5 % slower over as modelled", "at most 1.5", low, low <= 1.5),
        judged("nearly full: the same", "at least 2", full, full >= 2),
    ]


def _below_their_share() -> list[str]:
    """Tenants whose part of the tokens asked for is less than their weight's part."""
    workload = SCENARIO.build(0)
    tokens = np.bincount(workload.tenant, workload.prompt_tokens + workload.output_tokens)
    weights = np.array([tenant.weight for tenant in workload.tenants])
    below = tokens / tokens.sum() < weights / weights.sum()
    return [tenant.name for tenant, less in zip(workload.tenants, below, strict=True) if less]


def _plot(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    column = {name: [record[name] for record in records] for name in records[0]}
    return plot(
        "load",
        "How long do requests wait at which load, and if steps were 5 % slower?",
        [f"{level} {policy}" for level, policy in zip(column["level"], column["policy"], strict=True)],
        [
            panel("mean queue wait", column["queue_wait_mean_s"], time=True, better="lower"),
            panel("the same, steps 5 % slower", column["slower_queue_wait_mean_s"], time=True, better="lower"),
            panel("p99 queue wait", column["queue_wait_p99_s"], time=True, better="lower"),
        ],
        column["policy"],
    )


def _words(levels: Sequence[_Level]) -> list[str]:
    return [
        f"{level.name} ({level.load:.0%} of the capacity), {level.policy}: mean wait {level.wait_s.mean():.3f} s, with "
        f"steps 5 % slower {level.slower_wait_s.mean():.3f} s."
        for level in levels
    ]

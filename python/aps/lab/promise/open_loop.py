"""W2, the open loop: VIP requests by a Poisson process onto a free tier that keeps the device full."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps.lab.figures import figures, spread
from aps.lab.progress import Progress
from aps.lab.run import Run, Setup, simulate
from aps.lab.scenarios import SCENARIOS
from aps.lab.seeds import over_seeds
from aps.policy import Policy

SCENARIO = SCENARIOS["vip"]
PROMISED = Policy.aps(fairness_window=32_768.0, preemption="recompute")
VIP, FREE = "vip", "free"


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """Runs over seeds 0, 1, ...

    vip_wait_s, vip_ttft_s: of each seed, of each VIP request. prompt_tokens, output_tokens: by tenant, computed in each
    seed up to the horizon; prompt tokens that are computed again count again. figures: over the seeds.
    """

    vip_wait_s: tuple[NDArray[np.float64], ...]
    vip_ttft_s: tuple[NDArray[np.float64], ...]
    prompt_tokens: dict[str, NDArray[np.int64]]
    output_tokens: dict[str, NDArray[np.int64]]
    figures: dict[str, Any]

    @property
    def seeds(self) -> int:
        return len(self.vip_wait_s)

    @property
    def vip_requests(self) -> int:
        return sum(map(len, self.vip_wait_s))

    @property
    def recomputed(self) -> float:
        """Prefill tokens computed again after a preemption, over all prefill tokens computed."""
        again = self.figures["whole"]["recomputed_tokens"]["mean"] * self.seeds
        return float(again / sum(tokens.sum() for tokens in self.prompt_tokens.values()))

    def pooled(self) -> dict[str, Any]:
        """Queue wait and TTFT over the VIP requests of all seeds, and the p99 of each seed's own."""
        return {
            "vip_requests": self.vip_requests,
            "vip_queue_wait_s": spread(np.concatenate(self.vip_wait_s)),
            "vip_ttft_s": spread(np.concatenate(self.vip_ttft_s)),
            "vip_queue_wait_p99_s_by_seed": [float(np.percentile(wait_s, 99)) for wait_s in self.vip_wait_s],
        }


def waits(run: Run, tenant: str, until: NDArray[np.float64]) -> NDArray[np.float64]:
    """Seconds from arrival to `until` (a column of the run) of a tenant's requests; up to the end of the run for NaN."""
    slot = [t.name for t in run.workload.tenants].index(tenant)
    rows = (run.workload.tenant == slot) & ~np.isnan(run.submitted_at)
    found: NDArray[np.float64] = np.where(np.isnan(until), run.ended_at, until)[rows] - run.submitted_at[rows]
    return found


def open_loop(
    setup: Setup,
    policies: Mapping[str, Policy],
    *,
    vip_requests: int = 1000,
    seeds: int | None = None,
    on_progress: Progress | None = None,
    **changed: Any,
) -> dict[str, OpenLoop]:
    """Each policy on seeds 0, 1, ... until the VIP has sent `vip_requests` in all, or on so many `seeds`.

    changed: parameters of the scenario, such as free_prompt. on_progress gets the part done, 0..1.
    """
    found = {name: _Found() for name in policies}
    sent = done = 0
    while sent < vip_requests if seeds is None else done < seeds:
        workload = SCENARIO.build(done, **changed)
        for name, policy in policies.items():
            run = simulate(workload, policy, setup)
            found[name].add(run)
        done += 1
        sent += len(waits(run, VIP, run.started_at))
        if on_progress is not None:
            on_progress(min(1.0, sent / vip_requests if seeds is None else done / seeds))
    return {name: collected.whole() for name, collected in found.items()}


class _Found:
    """What is kept of each run."""

    def __init__(self) -> None:
        self.wait_s: list[NDArray[np.float64]] = []
        self.ttft_s: list[NDArray[np.float64]] = []
        self.computed: list[NDArray[np.int64]] = []  # prompt and output tokens by tenant
        self.figures: list[dict[str, Any]] = []

    def add(self, run: Run) -> None:
        self.wait_s.append(waits(run, VIP, run.started_at))
        self.ttft_s.append(waits(run, VIP, run.first_token_at))
        self.computed.append(run.series.served.sum(axis=0))
        self.figures.append(figures(run))

    def whole(self) -> OpenLoop:
        by_kind = np.stack(self.computed, axis=1)
        prompt, output = ({name: of[:, slot] for slot, name in enumerate((VIP, FREE))} for of in by_kind)
        return OpenLoop(tuple(self.wait_s), tuple(self.ttft_s), prompt, output, over_seeds(self.figures))

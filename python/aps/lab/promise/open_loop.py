"""W2, the open loop: VIP requests by a Poisson process onto a free tier that keeps the device full."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aps.lab.figures import figures, spread, times
from aps.lab.parallel import Parallel
from aps.lab.progress import Progress
from aps.lab.run import Run, Setup, simulate
from aps.lab.scenarios import SCENARIOS
from aps.lab.seeds import over_seeds
from aps.policy import Policy

SCENARIO = SCENARIOS["vip"]
PROMISED = Policy.aps(fairness_window=32_768.0, preemption="recompute")
VIP, FREE = "vip", "free"
HERE = Parallel(1)


class _Found(NamedTuple):
    """What is kept of one run. computed: (2, tenants) prompt and output tokens."""

    wait_s: NDArray[np.float64]
    ttft_s: NDArray[np.float64]
    computed: NDArray[np.int64]
    figures: dict[str, Any]


@dataclass(frozen=True, slots=True)
class OpenLoop:
    """One policy over the seeds.

    vip_wait_s, vip_ttft_s: of each seed, of each VIP request that was sent; what had not happened by the horizon counts
    with the time until then. prompt_tokens, output_tokens: by tenant, (seeds,), computed up to the horizon; prompt
    tokens that are computed again count again. figures: over the seeds.
    """

    vip_wait_s: tuple[NDArray[np.float64], ...]
    vip_ttft_s: tuple[NDArray[np.float64], ...]
    prompt_tokens: dict[str, NDArray[np.int64]]
    output_tokens: dict[str, NDArray[np.int64]]
    figures: dict[str, Any]

    @classmethod
    def of(cls, found: Sequence[_Found]) -> "OpenLoop":
        """The runs of one policy together."""
        by_kind = np.stack([run.computed for run in found], axis=1)
        prompt, output = ({name: of[:, slot] for slot, name in enumerate((VIP, FREE))} for of in by_kind)
        waits, ttfts, trees = (tuple(getattr(run, name) for run in found) for name in ("wait_s", "ttft_s", "figures"))
        return cls(waits, ttfts, prompt, output, over_seeds(trees))

    @property
    def seeds(self) -> int:
        """How many there are."""
        return len(self.vip_wait_s)

    @property
    def vip_requests(self) -> int:
        """Sent in all seeds."""
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


def open_loop(
    setup: Setup,
    policies: Mapping[str, Policy],
    *,
    seeds: int,
    parallel: Parallel = HERE,
    on_progress: Progress | None = None,
    **changed: Any,
) -> dict[str, OpenLoop]:
    """Each policy on seeds 0..seeds - 1, each on the same requests.

    changed: parameters of the scenario, such as free_prompt. on_progress gets the part done, 0..1.
    """
    found = parallel.map(partial(_play, setup, dict(policies), changed), range(seeds), on_progress)
    return {name: OpenLoop.of([runs[name] for runs in found]) for name in policies}


def _play(setup: Setup, policies: Mapping[str, Policy], changed: Mapping[str, Any], seed: int) -> dict[str, _Found]:
    workload = SCENARIO.build(seed, **changed)
    return {name: _keep(simulate(workload, policy, setup)) for name, policy in policies.items()}


def _keep(run: Run) -> _Found:
    slot = [tenant.name for tenant in run.workload.tenants].index(VIP)
    sent = (run.workload.tenant == slot) & ~np.isnan(run.submitted_at)
    took = times(run)
    return _Found(
        took["queue_wait_s"][sent], took["ttft_s"][sent], run.series.served.sum(axis=0, dtype=np.int64), figures(run)
    )

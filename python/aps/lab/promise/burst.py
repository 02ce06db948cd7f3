"""W1, the burst: 50 + 50 requests at once, with the default knobs and weights 85:15, and beside other policies."""

from collections.abc import Mapping, Sequence
from typing import Any

from aps.lab.compare import compare
from aps.lab.policies import POLICIES, NamedPolicy
from aps.lab.progress import Progress
from aps.lab.run import Setup
from aps.lab.scenarios import SCENARIOS
from aps.policy import Policy
from aps.profiles import profile_named

SCENARIO = SCENARIOS["burst"]
VIP, FREE = "stress_vip", "stress_free"
PROMISED = POLICIES["aps"]
WHOLE = (
    "makespan_s",
    "busy",
    "occupancy",
    "mfu",
    "output_tokens_per_s",
    "tokens_per_s",
    "dollars_per_million_tokens",
    "preemptions",
)
VARIANTS = (
    PROMISED,
    POLICIES["fifo"],
    POLICIES["strict"],
    NamedPolicy("equal-weights", Policy.aps(), "the default knobs, both weights 1", equal_weights=True),
    NamedPolicy("wide-window", Policy.aps(fairness_window=32_768.0), "bids that age, within a wide window"),
)


def burst(
    seeds: Sequence[int],
    profile: str = "reference",
    policies: Sequence[NamedPolicy] = VARIANTS,
    *,
    on_progress: Progress | None = None,
    **changed: Any,
) -> dict[str, Any]:
    """The burst of each seed under each policy: the data of `aps.lab.compare.compare`, against the first policy.

    changed: parameters of the scenario, such as vip_bid. on_progress gets the part done, 0..1.
    """
    workloads = [SCENARIO.build(seed, **changed) for seed in seeds]
    setup = Setup(profile=profile_named(profile))
    return compare(workloads, policies, setup, baseline=policies[0].name, seeds=seeds, on_progress=on_progress).data


def measured(figures: Mapping[str, Any], figure: str) -> Mapping[str, float]:
    """A promised figure of W1 over the seeds, {"mean", "low", "high", ...}, from one policy's figures."""
    found: Mapping[str, float] = figures["fairness"]["jain_all_wait"] if figure == "jain" else figures["whole"][figure]
    return found


def flat(figures: Mapping[str, Any], vip: str = VIP, free: str = FREE) -> dict[str, float | None]:
    """What tables show of one policy's figures: means over the seeds, units in the names."""
    whole, fairness = figures["whole"], figures["fairness"]
    row = {name: _mean(whole[name]) for name in WHOLE}
    row["jain"], row["all_wait_s"] = _mean(fairness["jain_all_wait"]), _mean(fairness["all_wait_s"])
    for short, tenant in (("vip", vip), ("free", free)):
        for time in ("queue_wait", "ttft"):
            for which in ("mean", "p99"):
                row[f"{short}_{time}_{which}_s"] = _mean(figures["tenants"][tenant][f"{time}_s"][which])
    return row


def _mean(over_seeds: Mapping[str, float] | None) -> float | None:
    return None if over_seeds is None else over_seeds["mean"]

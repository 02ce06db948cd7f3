"""What devices complete when saturated: the capacities that scenarios take as defaults and docs/workloads.md lists."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aps import Policy, Tenant
from aps.lab.lengths import constant, parse
from aps.lab.mixture import CAPACITY_256_256, CAPACITY_512_128, CAPACITY_MIX, MIX
from aps.lab.run import Setup, simulate
from aps.lab.streams import Asker
from aps.lab.workload import Workload, merge
from aps.profiles import profile_named

PER_S = re.compile(r"^\| `([\w-]+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", re.MULTILINE)


def burst(kind: str, n: int) -> Workload:
    """n requests of a kind at once, the tenants of the mixture mingled."""
    members = {
        "512/128": [(1.0, parse("256-768"), parse("64-192"))],
        "256/256": [(1.0, constant(256), constant(256))],
        "mixture": [(member.part, parse(member.prompt), parse(member.output)) for member in MIX],
    }[kind]

    def part(share: float, asker: Asker) -> Workload:
        return asker.open(1, lambda _: np.arange(round(share * n)) / share)

    mingled = merge(
        [
            part(share, Asker(Tenant(f"t{place}"), place, 5, prompt, output))
            for place, (share, prompt, output) in enumerate(members)
        ]
    )
    return replace(mingled, at_s=np.zeros(len(mingled)))


def capacity_per_s(profile: str, workload: Workload) -> float:
    """Requests/s that one device ends by FIFO, between the first and the last quarter of a burst."""
    run = simulate(workload, Policy.fifo(), Setup(profile_named(profile)))
    ended_at = np.sort(run.finished_at)
    first, last = len(ended_at) // 4, 3 * len(ended_at) // 4
    return (last - first) / float(ended_at[last] - ended_at[first])


def listed(root: Path) -> dict[str, tuple[float, float, float]]:
    """The capacities in docs/workloads.md by profile: 512/128, 256/256, the mixture."""
    page = (root / "docs/workloads.md").read_text()
    return {profile: (float(a), float(b), float(c)) for profile, a, b, c in PER_S.findall(page)}


@pytest.mark.parametrize("profile", ["reference", "a100-llama2-7b", "a100-llama2-13b", "a100-llama3-8b"])
def test_the_page_lists_measured_capacities(profile: str, root: Path) -> None:
    measured = [
        capacity_per_s(profile, burst(kind, n))
        for kind, n in (("512/128", 6000), ("256/256", 4000), ("mixture", 10_000))
    ]
    assert listed(root)[profile] == pytest.approx(measured, rel=0.02)


def test_the_defaults_are_those_of_one_a100_with_a_7b(root: Path) -> None:
    assert listed(root)["a100-llama2-7b"] == (CAPACITY_512_128, CAPACITY_256_256, CAPACITY_MIX)

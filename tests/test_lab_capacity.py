"""What devices complete when saturated: the capacities that scenarios take as defaults and docs/workloads.md lists."""

import re
from collections import deque
from pathlib import Path

import numpy as np
import pytest

from aps import Policy, Scheduler, Tenant
from aps.lab.lengths import constant, parse
from aps.lab.mixture import CAPACITY_256_256, CAPACITY_512_128, CAPACITY_MIX, MIX
from aps.lab.streams import Asker
from aps.lab.workload import Workload, merge
from aps.profiles import profile_named
from aps_core.gpu import Engine

OUTSTANDING = 64
PER_S = re.compile(r"^\| `([\w-]+)` \| ([\d.]+) \| ([\d.]+) \| ([\d.]+) \|$", re.MULTILINE)


def lengths(kind: str, n: int) -> list[tuple[int, int]]:
    """n requests of a kind as (prompt, output), the tenants of the mixture mingled."""
    members = {
        "512/128": [(1.0, parse("256-768"), parse("64-192"))],
        "256/256": [(1.0, constant(256), constant(256))],
        "mixture": [(member.part, parse(member.prompt), parse(member.output)) for member in MIX],
    }[kind]

    def part(place: int, share: float, asker: Asker) -> Workload:
        return asker.open(1, lambda _: np.arange(round(share * n)) / share)

    parts = [
        part(place, share, Asker(Tenant(f"t{place}"), place, 5, prompt, output))
        for place, (share, prompt, output) in enumerate(members)
    ]
    workload = merge(parts)
    return list(zip(workload.prompt_tokens.tolist(), workload.output_tokens.tolist(), strict=True))


def capacity_per_s(profile: str, requests: list[tuple[int, int]]) -> float:
    """Requests/s by FIFO on one device, without the first quarter, while `OUTSTANDING` are there."""
    gpu = profile_named(profile)
    device = gpu.device("gpu0")
    engine = Engine(gpu.step_time, device.slots, device.kv_blocks, token_budget=device.token_budget or 0)
    scheduler = Scheduler([Tenant("all")], policy=Policy.fifo(), devices=[device])
    to_send = deque(requests)
    asked: dict[object, tuple[int, int]] = {}
    ended_ns: list[int] = []
    now_ns = 0

    def send() -> None:
        prompt, output = to_send.popleft()
        verdict = scheduler.submit("all", prompt_tokens=prompt, max_tokens=output, now=now_ns / 1e9)
        asked[verdict.id] = (prompt, output)

    for _ in range(OUTSTANDING):
        send()
    while to_send:
        for id in scheduler.next_batch(now=now_ns / 1e9).started:
            assert isinstance(id, int)
            engine.start(id, *asked[id], 5)
        now_ns = engine.begin_step(now_ns)
        n = engine.end_step()
        ids, computed, generated = (
            column[:n].tolist() for column in (engine.request_ids, engine.computed, engine.generated)
        )
        running = n - engine.ended
        for at in range(running):
            scheduler.progress(ids[at], computed[at], generated[at], now=now_ns / 1e9)
        for at in range(running, n):
            scheduler.settle(ids[at], generated[at], now=now_ns / 1e9)
            ended_ns.append(now_ns)
            if to_send:
                send()
    quarter = len(ended_ns) // 4
    return (len(ended_ns) - quarter) / ((ended_ns[-1] - ended_ns[quarter - 1]) / 1e9)


def listed(root: Path) -> dict[str, tuple[float, float, float]]:
    """The capacities in docs/workloads.md by profile: 512/128, 256/256, the mixture."""
    page = (root / "docs/workloads.md").read_text()
    return {profile: (float(a), float(b), float(c)) for profile, a, b, c in PER_S.findall(page)}


@pytest.mark.parametrize("profile", ["reference", "a100-llama2-7b", "a100-llama2-13b", "a100-llama3-8b"])
def test_the_page_lists_measured_capacities(profile: str, root: Path) -> None:
    measured = [
        capacity_per_s(profile, lengths(kind, n))
        for kind, n in (("512/128", 1500), ("256/256", 1000), ("mixture", 3000))
    ]
    assert listed(root)[profile] == pytest.approx(measured, rel=0.03)


def test_the_defaults_are_those_of_one_a100_with_a_7b(root: Path) -> None:
    assert listed(root)["a100-llama2-7b"] == (CAPACITY_512_128, CAPACITY_256_256, CAPACITY_MIX)

"""Scenarios: that they are what their pages say, the same for the same seed, and compared on common random numbers."""

import re
import subprocess
import sys
from itertools import pairwise
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aps.lab.mixture import MIX
from aps.lab.scenarios import SCENARIOS
from aps.lab.workload import Workload
from aps.service.tenants import STRESS_TENANTS
from aps.stress.workloads import burst

# Parameters that make a scenario small, for tests that need only some of it.
SMALL: dict[str, dict[str, Any]] = {
    "vip": {"duration_s": 20.0},
    "saturated": {"duration_s": 5.0},
    "diurnal": {"duration_s": 300.0},
}


def small(name: str, seed: int = 0, **parameters: Any) -> Workload:
    return SCENARIOS[name].build(seed, **{**SMALL.get(name, {}), **parameters})


def rows(workload: Workload, tenant: str) -> dict[str, list[float]]:
    """One tenant's columns."""
    slot = [each.name for each in workload.tenants].index(tenant)
    mine = workload.tenant == slot
    names = ("at_s", "prompt_tokens", "output_tokens", "max_tokens", "bid")
    return {name: getattr(workload, name)[mine].tolist() for name in names}


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_scenario_says_what_it_is(name: str) -> None:
    scenario = SCENARIOS[name]
    assert scenario.name == name
    assert scenario.says.endswith(".")
    workload = small(name)
    assert len(workload) > 50
    assert re.fullmatch(r"[A-Z0-9].*\.", workload.description)
    assert all(isinstance(note, str) and note for note in workload.notes)
    assert (workload.max_tokens >= workload.output_tokens).all()
    assert workload.name.startswith(name)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_same_seed_gives_the_same_bytes_and_another_others(name: str) -> None:
    assert small(name, 3).digest() == small(name, 3).digest()
    assert len({small(name, seed).digest() for seed in range(3)}) == 3


def test_another_process_builds_the_same_bytes() -> None:
    program = (
        "from aps.lab.scenarios import SCENARIOS\n"
        f"small = {SMALL!r}\n"
        "for name, scenario in SCENARIOS.items():\n"
        "    print(name, scenario.build(5, **small.get(name, {})).digest())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == [f"{name} {small(name, 5).digest()}" for name in SCENARIOS], done.stderr


@pytest.mark.parametrize("name", SCENARIOS)
def test_defaults_written_as_text_are_the_defaults(name: str) -> None:
    scenario = SCENARIOS[name]
    texts = [f"{parameter.name}={parameter.shown}" for parameter in scenario.parameters]
    parsed = scenario.parse(texts)
    assert parsed == {parameter.name: parameter.default for parameter in scenario.parameters}
    assert all(parameter.says and "\n" not in parameter.says for parameter in scenario.parameters)
    if name not in SMALL:
        assert scenario.build(1, **parsed).digest() == scenario.build(1).digest()


def test_the_burst_is_the_one_sent_over_http() -> None:
    workload = SCENARIOS["burst"].build(7)
    calls = burst(50, 7)
    assert workload.tenants == STRESS_TENANTS
    assert [workload.tenants[slot].name for slot in workload.tenant] == [call.tenant for call in calls]
    assert workload.prompt_tokens.tolist() == [call.prompt_tokens for call in calls]
    assert workload.output_tokens.tolist() == workload.max_tokens.tolist() == [call.max_tokens for call in calls]
    assert workload.bid.tolist() == [call.bid for call in calls]
    assert set(workload.at_s.tolist()) == {0.0}
    assert (workload.until_s, workload.after, workload.notes) == (inf, None, ())


def test_a_burst_beyond_its_buckets_says_so() -> None:
    large = SCENARIOS["burst"].build(0, per_tenant=200)
    assert len(large.notes) == 2 and "its bucket holds 100,000" in large.notes[0]
    free = SCENARIOS["burst"].build(0, per_tenant=200, buckets=False, free_bid=3)
    assert free.notes == ()
    assert [(tenant.weight, tenant.rate) for tenant in free.tenants] == [(0.85, inf), (0.15, inf)]
    assert set(free.bid.tolist()) == {10, 3}


def test_the_vip_comes_onto_a_full_free_tier() -> None:
    workloads = [SCENARIOS["vip"].build(seed) for seed in range(4)]
    vips = [rows(workload, "vip") for workload in workloads]
    assert sum(len(vip["at_s"]) for vip in vips) >= 1000
    assert {tokens for vip in vips for tokens in vip["prompt_tokens"]} == {512}
    outputs = np.concatenate([vip["output_tokens"] for vip in vips])
    assert (outputs.min(), outputs.max()) == (64, 192) and set(vips[0]["bid"]) == {10}
    free = rows(workloads[0], "free")
    assert (min(free["prompt_tokens"]), max(free["prompt_tokens"])) == (256, 768)
    assert set(free["bid"]) == {1} and set(free["at_s"]) == {0.0}
    workload = workloads[0]
    assert workload.until_s == 600.0 and len({tenant.weight for tenant in workload.tenants}) == 1
    assert workload.after is not None and workload.opens is not None
    is_free = workload.tenant == [tenant.name for tenant in workload.tenants].index("free")
    assert np.count_nonzero(is_free & workload.opens) == 32
    # Each of the 32 has one follower at a time, and enough of them for a device whose steps take 2 ms.
    leaders = workload.after[workload.after >= 0]
    assert len(set(leaders.tolist())) == len(leaders)
    assert workload.output_tokens[is_free].sum() * 0.002 >= 32 * 600


def test_free_prompts_may_be_long() -> None:
    parameters = SCENARIOS["vip"].parse(["free_prompt=1000-3000", "duration_s=30"])
    workload = SCENARIOS["vip"].build(0, **parameters)
    prompts = rows(workload, "free")["prompt_tokens"]
    assert 1000 <= min(prompts) < 1020 and 2980 < max(prompts) <= 3000
    assert workload.name == "vip(free_prompt=1000-3000, duration_s=30)"


def test_the_noisy_tenant_sends_ten_times_its_share() -> None:
    workload = SCENARIOS["noisy"].build(0, capacity_per_s=8.0)
    counts = {tenant.name: len(rows(workload, tenant.name)["at_s"]) for tenant in workload.tenants}
    assert counts["noisy"] == pytest.approx(0.2 * 10 * 8 * 600, rel=0.05)
    assert [counts[f"quiet_{k}"] for k in (1, 2, 3, 4)] == pytest.approx([0.15 * 8 * 600] * 4, rel=0.15)
    assert (workload.prompt_tokens.min(), workload.prompt_tokens.max()) == (256, 768)
    assert (workload.output_tokens.min(), workload.output_tokens.max()) == (64, 192)
    assert len(set(workload.bid.tolist())) == 1
    assert workload.at_s[-1] < 600.0 and workload.until_s == inf
    assert SCENARIOS["noisy"].build(0, drain=False).until_s == 600.0


@pytest.mark.parametrize("name", ["poisson", "gamma", "weibull", "on-off", "diurnal"])
def test_the_mixture_offers_its_load(name: str) -> None:
    found = [small(name, seed, load=0.5, capacity_per_s=40.0, duration_s=300.0) for seed in range(5)]
    assert np.mean([len(workload) for workload in found]) == pytest.approx(20 * 300, rel=0.1)
    stats = found[0].stats()
    assert list(stats["tenants"]) == ["chat", "code", "summary", "batch"]
    bursty = stats["tenants"]["chat"]["gap_cv"]
    assert (bursty == pytest.approx(1.0, abs=0.1)) if name == "poisson" else (bursty > 1.05)


def test_the_mixture_has_bids_weights_and_slack() -> None:
    workload = small("poisson")
    assert {tenant.name: tenant.weight for tenant in workload.tenants} == {
        "chat": 2,
        "code": 2,
        "summary": 1,
        "batch": 1,
    }
    assert set(rows(workload, "code")["bid"]) == {9}
    assert set(small("poisson", equal_bids=True).bid.tolist()) == {5}
    roomy = small("poisson", slack=1.5)
    assert roomy.max_tokens.tolist() == np.ceil(workload.output_tokens * 1.5).tolist()
    assert any("clipped to lognormal:1200:0.7<=3072" in note for note in workload.notes)


def test_everybody_loops_when_saturated() -> None:
    workload = small("saturated", clients=3, stagger_s=1.0)
    assert workload.opens is not None
    for slot in range(4):
        first = np.sort(workload.at_s[(workload.tenant == slot) & workload.opens])
        assert first.tolist() == pytest.approx([0.0, 1 / 3, 2 / 3])
    paused = small("saturated", think_s=0.5, duration_s=50.0)
    assert paused.opens is not None
    assert paused.at_s[~paused.opens].mean() == pytest.approx(0.5, rel=0.05)


def test_skewed_tenants_follow_zipf() -> None:
    workload = SCENARIOS["skewed"].build(0, tenants=10, duration_s=3000.0, capacity_per_s=10.0)
    counts = [len(rows(workload, f"tenant_{k}")["at_s"]) for k in range(1, 11)]
    assert counts[0] / counts[1] == pytest.approx(2.0, rel=0.1)
    assert counts[0] / counts[9] == pytest.approx(10.0, rel=0.15)
    assert sum(counts) == pytest.approx(0.9 * 10 * 3000, rel=0.03)


COMMON = [
    ("noisy", {"noisy_factor": 1.0}, "quiet_2", None),
    ("noisy", {"quiet_load": 0.05}, "noisy", None),
    ("noisy", {"quiet_tenants": 2}, "quiet_2", None),
    ("vip", {"free_prompt": "1000-3000"}, "vip", None),
    ("vip", {"free_clients": 8}, "vip", None),
    ("vip", {"free_prompt": "1000-3000"}, "free", ("at_s", "output_tokens")),
    ("vip", {"vip_per_s": 3.0}, "free", None),
    ("vip", {"vip_output": "1-9"}, "vip", ("at_s", "prompt_tokens")),
    ("poisson", {"equal_bids": True, "slack": 2.0}, "code", ("at_s", "prompt_tokens", "output_tokens")),
    ("skewed", {"output": "32"}, "tenant_3", ("at_s", "prompt_tokens")),
    ("skewed", {"drain": False}, "tenant_3", None),
]


@pytest.mark.parametrize(("name", "changes", "tenant", "columns"), COMMON)
def test_what_is_not_changed_keeps_its_random_numbers(
    name: str, changes: dict[str, Any], tenant: str, columns: tuple[str, ...] | None
) -> None:
    before, after = rows(small(name), tenant), rows(small(name, **changes), tenant)
    assert small(name).digest() != small(name, **changes).digest()
    for column in columns or before:
        assert before[column] == after[column], column


def test_arrival_processes_and_loads_share_their_lengths() -> None:
    found = [
        rows(workload, "chat")["prompt_tokens"]
        for workload in (small("poisson"), small("gamma"), small("poisson", load=0.3), small("on-off"))
    ]
    shortest = min(len(prompts) for prompts in found)
    assert shortest > 100
    assert all(a[:shortest] == b[:shortest] for a, b in pairwise(found))


@pytest.mark.parametrize(
    "name", [name for name in SCENARIOS if name not in ("burst", "diurnal") and not name.startswith("vtc-")]
)
def test_a_longer_duration_begins_the_same(name: str) -> None:
    short, long = small(name, duration_s=5.0), small(name, duration_s=15.0)
    for tenant in short.tenants:
        a, b = rows(short, tenant.name), rows(long, tenant.name)
        n = len(a["at_s"])
        assert n <= len(b["at_s"])
        for column in a:
            # rows of closed loops lie in rounds; where some clients stop early, later rounds differ
            compared = n if short.after is None or tenant.name == "vip" else 16
            assert a[column][:compared] == b[column][:compared]


TABLE = re.compile(r"^### `(?P<name>[a-z-]+)`\n\n(?P<text>.*?)(?=^##)", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| `(\w+)` \| `([^`]*)` \| (.*) \|$", re.MULTILINE)


def test_the_page_lists_every_scenario_and_parameter(root: Path) -> None:
    page = (root / "docs/workloads.md").read_text() + "\n## end\n"
    described = {found["name"]: found["text"] for found in TABLE.finditer(page)}
    assert list(described) == list(SCENARIOS)
    for name, text in described.items():
        scenario = SCENARIOS[name]
        assert text.startswith(scenario.says), name
        listed = [(parameter.name, parameter.shown, parameter.says) for parameter in scenario.parameters]
        assert ROW.findall(text) == listed, name


def test_the_page_lists_the_mixture(root: Path) -> None:
    page = (root / "docs/workloads.md").read_text()
    for who in MIX:
        part = f"{who.part:.0%}".replace("%", " %")
        row = f"| {who.name} | {who.weight:g} | {who.bid} | {part} | `{who.prompt}` | `{who.output}` |"
        assert row in page.splitlines()


@pytest.mark.parametrize(
    ("name", "parameters", "size"),
    [
        ("poisson", {"duration_s": 1e7}, r"got about 37,450,000: 3.745/s for 1e\+07 s"),
        ("noisy", {"capacity_per_s": 1e6}, "got about 1,560,000,000"),
        ("skewed", {"load": 1000.0, "capacity_per_s": 1e5}, "got about 60,000,000,000"),
        ("vip", {"duration_s": 1e7}, "got about 1,2.*: 32 clients"),
        ("vtc-shift", {"capacity_per_s": 1e6}, "got about 4,913,793,103"),
    ],
)
def test_a_wrong_unit_is_an_error_and_not_a_full_memory(name: str, parameters: dict[str, float], size: str) -> None:
    with pytest.raises(ValueError, match=f"must be at most 20,000,000 requests, {size}"):
        SCENARIOS[name].build(0, **parameters)

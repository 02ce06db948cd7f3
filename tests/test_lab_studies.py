"""The studies on few seeds: what they judge holds there too, and their parts measure what they say."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from aps.lab.parallel import Parallel
from aps.lab.run import Setup, simulate
from aps.lab.scenarios import SCENARIOS
from aps.lab.studies import STUDIES, load, noisy, study_named, vip, vtc, vtc_service
from aps.lab.studies.capacity import capacity
from aps.lab.studies.view import print_study, report_of
from aps.policy import Policy
from aps.profiles import profile_named
from aps_core.physics import PhysicsModel

PHYSICS = Setup(profile_named("a100-llama2-7b"))


def records(data: dict[str, Any], at: int = 0) -> list[dict[str, Any]]:
    found = data["tables"][at]
    return [dict(zip(found["columns"], row, strict=True)) for row in found["rows"]]


def judged(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in data["judged"]}


@pytest.fixture(scope="module")
def vips() -> dict[str, Any]:
    return vip.study(1)


@pytest.fixture(scope="module")
def neighbours() -> dict[str, Any]:
    return noisy.study(1)


@pytest.fixture(scope="module")
def loads() -> dict[str, Any]:
    return load.study()


@pytest.fixture(scope="module")
def published() -> dict[str, Any]:
    return vtc.study(1)


# VIP over a saturated free tier


def test_a_vip_waits_a_step_and_the_free_tier_hardly_pays(vips: dict[str, Any]) -> None:
    rows = judged(vips)
    assert len(rows) == 8
    for prompts in vip.MIXES:
        assert rows[f"free prompts {prompts}: VIP queue wait p99, s"]["measured"] < 0.055  # of one seed
        assert rows[f"free prompts {prompts}: occupancy"]["met"]
        assert rows[f"free prompts {prompts}: free tier lost beyond what the VIP took"]["met"]
        assert not rows[f"free prompts {prompts}: VIP requests"]["met"], "one seed does not send enough"
    assert not vips["met"]


def test_what_the_vip_would_wait_otherwise(vips: dict[str, Any]) -> None:
    for prompts in vip.MIXES:
        found = {row["policy"]: row for row in records(vips) if row["free_prompts"] == prompts}
        wait_s = {name: row["vip_queue_wait_p99_s"] for name, row in found.items()}
        assert wait_s["FIFO"] > 2.0
        assert 0.2 < wait_s["D = 32768, no preemption"] < wait_s["FIFO"]
        assert found["D = 32768, recompute"]["recomputed"] > 0.01
        assert found["D = 32768, swap"]["swapped_tokens"] > 10_000
        assert found["D = 32768, swap"]["recomputed"] == 0


def test_what_the_free_tier_loses_is_counted_against_fifo(vips: dict[str, Any]) -> None:
    for row in records(vips):
        (fifo,) = (
            other
            for other in records(vips)
            if other["policy"] == "FIFO" and other["free_prompts"] == row["free_prompts"]
        )
        lost = 1 - row["free_output_tokens"] / fifo["free_output_tokens"]
        took = (row["vip_output_tokens"] - fifo["vip_output_tokens"]) / fifo["free_output_tokens"]
        assert row["free_lost"] == pytest.approx(lost)
        assert row["lost_beyond"] == pytest.approx(lost - took)
        assert row["lost_against_no_vip"] > row["free_lost"], "the VIP's own tokens are in it"


# Noisy neighbour


def test_quiet_tenants_hardly_feel_a_noisy_one(neighbours: dict[str, Any]) -> None:
    assert len(neighbours["judged"]) == 4
    assert neighbours["met"]
    assert neighbours["capacity_per_s"] == pytest.approx(7.65, rel=0.03)


def test_without_a_window_they_wait_for_its_backlog(neighbours: dict[str, Any]) -> None:
    curve = records(neighbours, 1)
    first = [row for row in records(neighbours) if row["quiet_load"] == noisy.QUIET_LOADS[0]]
    by = {row["policy"]: row for row in (*first, *curve)}
    assert by["fifo"]["noisy_p99_ttft_s"] > 100 * by["aps"]["noisy_p99_ttft_s"]
    for other in ("strict", "D = inf"):  # with equal bids all the same
        assert by[other]["noisy_p99_ttft_s"] == by["fifo"]["noisy_p99_ttft_s"]
    assert by["D = 32768"]["ratio"] > 2 * by["aps"]["ratio"]
    assert [row["policy"] for row in curve] == ["D = 0", "D = 512", "aps", "D = 8192", "D = 32768", "D = inf"]


def test_the_gap_nears_its_bound_and_stays_below(neighbours: dict[str, Any]) -> None:
    bounded = [row for row in records(neighbours, 1) if row["gap_bound"] is not None]
    assert len(bounded) == 5
    for row in bounded:
        assert 0.9 < row["gap_part"] <= 1


# VTC's published workloads


def test_vtc_gives_what_was_published(published: dict[str, Any]) -> None:
    assert published["met"], [row for row in published["judged"] if not row["met"]]
    assert len(published["judged"]) == 20
    found = {(row["workload"], row["policy"]): row for row in records(published, 1)}
    assert found["overload, two", "vtc"]["their_bound"] == 32_768  # 2 * 2 * 16 slots * 512 tokens
    assert found["overload, two", "vtc"]["our_bound"] == 2 * (256 + 16 * 512 + 16 * 256)
    assert found["overload, two", "aps"]["our_bound"] == 2 * (2048 + 768 + 16 * 768)
    assert found["overload, two", "fifo"]["our_bound"] is None
    for case in vtc.CASES:
        vtc_row, fifo = (found[case.name, name] for name in ("vtc", "fifo"))
        assert vtc_row["difference"] < fifo["difference"]


def series(served: Any, backlog: Any, weights: tuple[float, ...] = (1.0, 1.0)) -> Any:
    tenants = tuple(SimpleNamespace(weight=weight) for weight in weights)
    found = SimpleNamespace(served=np.array(served), backlog=np.array(backlog, dtype=float), edges_s=np.arange(4.0))
    return SimpleNamespace(series=found, workload=SimpleNamespace(tenants=tenants))


def test_service_is_priced_and_weighted() -> None:
    run = series([[[10, 0], [0, 3]], [[0, 8], [5, 0]], [[0, 0], [0, 1]]], np.ones((3, 2)), (1.0, 2.0))
    assert vtc_service.service(run).tolist() == [[0, 0], [10, 3], [20, 7], [20, 8]]
    assert vtc_service.shares(run, 1.0, 2.0).tolist() == [10 / 14, 4 / 14]


def test_a_difference_counts_only_while_both_wait() -> None:
    """Service of 100, 10 and 100 more for the first of two clients in three bins; prompt tokens, price 1."""
    served = [[[100, 0], [0, 0]], [[10, 0], [0, 0]], [[100, 0], [0, 0]]]
    for backlog, expected in (
        ([[1, 1], [1, 1], [1, 1]], 210),
        ([[1, 1], [1, 0], [1, 1]], 100),
        ([[1, 0.5], [1, 1], [1, 0]], 10),
        ([[1, 0], [1, 0], [0, 1]], 0),
    ):
        assert vtc_service.difference(series(served, backlog)) == expected


def test_the_worst_seed_is_reported() -> None:
    def rows(target: str, *measured: float) -> list[list[dict[str, Any]]]:
        return [[{"name": "x", "target": target, "measured": value, "met": True}] for value in measured]

    assert vtc._worst(rows("at most 1", 0.2, 0.7, 0.5))[0]["measured"] == 0.7
    assert vtc._worst(rows("at least 0.99", 1.2, 0.995, 1.0))[0]["measured"] == 0.995
    assert vtc._worst(rows("0.5 +- 0.02", 0.51, 0.481, 0.5))[0]["measured"] == 0.481
    failed = rows("at most 1", 0.2, 0.7)
    failed[0][0]["met"] = False
    assert vtc._worst(failed)[0]["measured"] == 0.2


# Waiting by load


def test_waiting_explodes_near_saturation(loads: dict[str, Any]) -> None:
    assert loads["met"], loads["judged"]
    wait_s = {(row["level"], row["policy"]): row["queue_wait_mean_s"] for row in records(loads)}
    for policy in load.NAMES:
        assert wait_s["nearly full", policy] > 3 * wait_s["medium", policy] > 9 * wait_s["low", policy]


def test_slower_steps_are_faster_arrivals_in_another_unit() -> None:
    """Twice as slow: the instants of a run on a profile whose every step takes twice as long."""
    shape = {"layers", "width", "kv_bytes_per_token_layer", "decoder_bytes", "head_bytes", "roofline_power"}
    slower = {
        name: value if name in shape else 2 * value if name.endswith("_s") else value / 2  # seconds, or rates
        for name, value in PHYSICS.profile.step_time.constants().items()
    }
    profile = replace(PHYSICS.profile, step_time=PhysicsModel(**slower))
    workload = load.SCENARIO.build(0, load=0.9, duration_s=60.0)
    direct = simulate(workload, Policy.fifo(), Setup(profile))
    scaled = simulate(workload.scaled(2.0), Policy.fifo(), PHYSICS)
    assert 2 * scaled.started_at == pytest.approx(direct.started_at, abs=1e-4)


# What studies share


def test_capacity_needs_a_full_device() -> None:
    with pytest.raises(ValueError, match=r"noisy.* must keep the slots full to measure capacity, occupancy is \d"):
        capacity(SCENARIOS["noisy"].build(0, quiet_load=0.01, noisy_factor=1.0, duration_s=30.0, drain=False), PHYSICS)


def test_the_results_do_not_depend_on_the_processes(loads: dict[str, Any]) -> None:
    assert load.study(parallel=Parallel(2)) == loads


def page(root: Path, heading: str) -> list[list[str]]:
    """The rows of the table below a heading of docs/promised-figures.md, without emphasis."""
    section = (root / "docs" / "promised-figures.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in rows[2:]]


def test_the_page_has_the_loads(loads: dict[str, Any], root: Path) -> None:
    keys = ("queue_wait_mean_s", "queue_wait_p99_s", "slower_queue_wait_mean_s", "slower_queue_wait_p99_s")
    expected = [
        [f"{row['level']} ({row['load']:.0%})", row["policy"]]
        + [format(row[key], form) for key, form in zip(keys, (".3f", ".2f", ".3f", ".2f"), strict=True)]
        for row in records(loads)
    ]
    assert page(root, "Waiting by load") == expected


def test_the_page_has_vtcs_workloads(published: dict[str, Any], root: Path) -> None:
    by = {policy: [row for row in records(published, 1) if row["policy"] == policy] for policy in vtc.POLICIES}
    for shown, ours, fifo, aps in zip(page(root, "VTC's published workloads"), *by.values(), strict=True):
        assert shown[0] == ours["workload"]
        assert shown[2:5] == [f"{row['difference']:,.0f}" for row in (ours, fifo, aps)]
        assert shown[5:] == [f"{ours['their_bound']:,.0f}", f"{ours['our_bound']:,.0f}; {aps['our_bound']:,.0f}"]


def test_one_seed_is_within_what_the_page_says_of_many(
    vips: dict[str, Any], neighbours: dict[str, Any], root: Path
) -> None:
    for shown, row in zip(page(root, "VIP over a saturated free tier"), records(vips), strict=True):
        assert shown[:2] == [row["free_prompts"], row["policy"]]
        low, high = (float(value) / 1e3 for value in shown[3].split(" to "))
        assert low - 1e-4 <= row["vip_queue_wait_p99_s"] <= high + 1e-4
        assert row["free_lost"] == pytest.approx(float(shown[5].strip("%")) / 100, abs=0.004)
    found = {(row["policy"], f"{row['quiet_load']:.0%}"): row for at in (0, 1) for row in records(neighbours, at)}
    for name, quiet, calm, noisy_s, *_ in page(root, "Noisy neighbour"):
        row = found[name.removeprefix("aps, "), quiet]
        assert row["calm_p99_ttft_s"] == pytest.approx(float(calm), rel=0.6)
        assert row["noisy_p99_ttft_s"] == pytest.approx(float(noisy_s), rel=0.25)


def test_every_study_can_be_printed_and_reported(
    vips: dict[str, Any],
    neighbours: dict[str, Any],
    published: dict[str, Any],
    loads: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for data in (vips, neighbours, published, loads):
        assert json.loads(json.dumps(data, allow_nan=False)) == data
        print_study(data)
        text = capsys.readouterr().out
        assert ("NOT MET" in text) != data["met"]
        assert max(map(len, text.splitlines())) <= 110
        report = report_of(data, f"aps study {data['study']}")
        assert len(report.plots) == len(data["plots"]) >= 1
        assert all(len(plot.png) > 5_000 for plot in report.plots)


def test_studies_by_name() -> None:
    assert list(STUDIES) == ["vip", "noisy", "vtc", "load"]
    assert study_named("noisy").seeds == 6
    with pytest.raises(ValueError, match="study must be one of vip, noisy, vtc, load, got 'x'"):
        study_named("x")

"""The sweep of the two knobs: its figures, its suggestion, and that it does not matter what computes it."""

import argparse
import json
import re
from collections.abc import Mapping
from importlib.util import find_spec
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aps.cli import main
from aps.cli.sweep import knobs
from aps.lab.figures import times
from aps.lab.parallel import Parallel
from aps.lab.policies import parse
from aps.lab.run import Setup, simulate
from aps.lab.scenarios import SCENARIOS
from aps.lab.sweep import suggest, sweep
from aps.lab.workload import Workload
from aps.profiles import profile_named

SETUP = Setup(profile_named("a100-llama2-7b"))
GRID: dict[str, Any] = {"horizons_s": [inf, 30.0], "windows": [2048.0, 0.0, inf]}
VIP = ["sweep", "vip", "--set", "duration_s=5", "--seeds", "1", "--jobs", "1"]


def vip(seed: int) -> Workload:
    return SCENARIOS["vip"].build(seed, vip_per_s=2.0, duration_s=10.0)


def swept(**changes: Any) -> dict[str, Any]:
    return sweep([vip(0), vip(1)], parse("aps:preemption=recompute"), SETUP, **GRID | changes)


@pytest.fixture(scope="module")
def data() -> dict[str, Any]:
    return swept()


# -- the figures --


def test_every_point_is_there_in_order(data: dict[str, Any]) -> None:
    assert (data["horizons_s"], data["windows"]) == ([30.0, "inf"], [0.0, 2048.0, "inf"])
    found = [(cell["aging_horizon_s"], cell["fairness_window"]) for cell in data["cells"]]
    assert found == [(h, d) for h in data["horizons_s"] for d in data["windows"]]
    assert data["given"] == found.index((30.0, 2048.0))
    assert (data["vip"], data["quiet"], data["heavy"]) == (["vip"], ["free"], [])
    assert json.loads(json.dumps(data, allow_nan=False)) == data


def test_a_points_figures_are_those_of_its_runs_pooled(data: dict[str, Any]) -> None:
    policy = parse("aps:preemption=recompute,aging_horizon_s=inf,fairness_window=0").policy
    waits = []
    for workload in (vip(0), vip(1)):
        wait = times(simulate(workload, policy, SETUP))["queue_wait_s"]
        waits.append([wait[(workload.tenant == tenant) & np.isfinite(wait)] for tenant in (0, 1)])
    cell = next(c for c in data["cells"] if (c["aging_horizon_s"], c["fairness_window"]) == ("inf", 0.0))
    for who, tenant in (("vip", 0), ("quiet", 1)):
        seeds = [np.percentile(seed[tenant], 99) for seed in waits]
        assert cell[f"{who}_queue_wait_p99_s"] == np.percentile(np.concatenate([s[tenant] for s in waits]), 99)
        assert cell[f"{who}_queue_wait_p99_low_s"] == min(seeds)
        assert cell[f"{who}_queue_wait_p99_high_s"] == max(seeds)
    assert cell["preemptions"] == sum(simulate(w, policy, SETUP).preemptions.sum() for w in (vip(0), vip(1))) > 0


def test_the_knobs_matter(data: dict[str, Any]) -> None:
    waits = {cell["fairness_window"]: cell["vip_queue_wait_p99_s"] for cell in data["cells"][:3]}
    assert waits["inf"] < 0.5 * waits[0.0]  # fair alone, a preemptor pays with its turn


def test_who_asks_for_more_than_its_share_is_not_quiet() -> None:
    noisy = SCENARIOS["noisy"].build(0, duration_s=5.0, drain=False)
    found = sweep([noisy], parse("aps"), SETUP, horizons_s=[30.0], windows=[2048.0], vip=["quiet_1"])
    assert (found["quiet"], found["heavy"]) == (["quiet_2", "quiet_3", "quiet_4"], ["noisy"])
    assert found["cells"][0]["heavy_queue_wait_p99_s"] > found["cells"][0]["quiet_queue_wait_p99_s"] > 0
    assert found["cells"][0]["worst_quiet"] in found["quiet"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"vip": ["gold"]}, "vip must be of vip, free, got 'gold'"),
        ({"vip": ["vip", "free"]}, "vip must leave some tenant out"),
        ({"windows": []}, "windows must be one or more different numbers"),
        ({"horizons_s": [30.0, 30.0]}, "horizons_s must be one or more different numbers"),
        ({"windows": [-1.0]}, "Policy.fairness_window"),
    ],
)
def test_what_cannot_be_swept_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        swept(**changes)


def test_without_a_highest_bid_the_vip_must_be_named() -> None:
    noisy = SCENARIOS["noisy"].build(0, duration_s=5.0)
    with pytest.raises(ValueError, match=r"every tenant bids up to 5: name the VIP \(--vip\), one of "):
        sweep([noisy], parse("aps"), SETUP)
    with pytest.raises(ValueError, match="workloads must not be empty"):
        sweep([], parse("aps"), SETUP)


# -- the suggestion --


def suggested(
    vip_s: Mapping[tuple[float, float], float | None], quiet_s: float = 1.0, given: tuple[float, float] = (30, 2048)
) -> tuple[float, float] | None:
    """Where the rule goes on a plane with these waits of the VIP, and one wait of the quiet."""
    cells = [{"vip_queue_wait_p99_s": wait, "quiet_queue_wait_p99_s": quiet_s} for wait in vip_s.values()]
    at = suggest(list(vip_s), cells, given)
    return None if at is None else list(vip_s)[at]


def test_the_lowest_wait_of_the_vip_wins() -> None:
    assert suggested({(30, 0): 0.5, (30, 2048): 0.4, (30, inf): 0.1}) == (30, inf)


def test_no_point_at_the_cost_of_the_quiet() -> None:
    points = [(30.0, 0.0), (30.0, 2048.0), (30.0, inf)]
    cells = [
        {"vip_queue_wait_p99_s": wait, "quiet_queue_wait_p99_s": quiet}
        for wait, quiet in ((0.5, 1.0), (0.4, 1.2), (0.1, 1.3))
    ]
    assert suggest(points, cells, (3.0, 0.0)) == 1


def test_of_equals_the_given_one_then_the_smallest_window_then_the_nearest_horizon() -> None:
    same = {(h, d): 0.1 for h in (0.0, 10.0, 100.0, 1000.0, inf) for d in (512.0, 2048.0)}
    assert suggested(same, given=(1000.0, 2048.0)) == (1000.0, 2048.0)
    assert suggested(same, given=(30.0, 4096.0)) == (10.0, 512.0)
    assert suggested(same, given=(400.0, 4096.0)) == (1000.0, 512.0)


def test_waits_of_less_than_a_step_are_equal() -> None:
    assert suggested({(30, 512): 0.009, (30, 2048): 0.005, (30, inf): 0.0}, quiet_s=0.0) == (30, 2048)


def test_without_figures_there_is_no_suggestion() -> None:
    assert suggested({(30, 0): None}) is None


def test_the_suggestion_in_words(data: dict[str, Any]) -> None:
    cell = data["cells"][data["suggested"]]
    assert f"D = {cell['fairness_window']}" in data["suggestion"]
    assert "The given policy, H = 30 s, D = 2048" in data["suggestion"]


# -- where it is computed --


@pytest.mark.parametrize("parallel", [Parallel(2, "threading"), Parallel(2)], ids=["threads", "processes"])
def test_the_result_does_not_depend_on_what_computes_it(data: dict[str, Any], parallel: Parallel) -> None:
    assert swept(parallel=parallel) == data


def test_progress_rises_to_the_whole() -> None:
    seen: list[float] = []
    assert Parallel(1).map(abs, [-1, 2, -3, 4], seen.append) == [1, 2, 3, 4]
    assert seen == [0.25, 0.5, 0.75, 1.0]
    seen.clear()
    assert Parallel(2, "threading").map(abs, range(8), seen.append) == list(range(8))
    assert seen == [at / 8 for at in range(3, 9)]  # of the first, which begin together, nothing


@pytest.mark.parametrize(
    ("backend", "says"),
    [
        ("fast", "backend must be of .*loky.*, got 'fast'"),
        ("dask", "needs its scheduler's address, as in dask:tcp://HOST:8786"),
        ("loky:head", "backend loky takes no address"),
    ],
)
def test_a_wrong_back_end_is_refused(backend: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Parallel(2, backend).map(abs, [1])


@pytest.mark.parametrize(("backend", "package"), [("dask:tcp://head:8786", "distributed"), ("ray", "ray")])
def test_a_back_end_that_is_not_installed_is_named(backend: str, package: str) -> None:
    if find_spec(package) is not None:
        pytest.skip(f"{package} is installed")
    with pytest.raises(ValueError, match=f"pip install {package}"):
        Parallel(2, backend).map(abs, [1])


def test_no_jobs_are_refused() -> None:
    with pytest.raises(ValueError, match="jobs must be 1 or more, or -1 for all cores, got 0"):
        Parallel(0)


# -- the command line --


def test_json_is_the_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*VIP, "--horizons", "0,inf", "--windows", "2048", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "sweep"
    assert [cell["aging_horizon_s"] for cell in found["cells"]] == [0.0, "inf"]
    assert found["given"] is None


def test_tables_mark_the_points(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main([*VIP, "--horizons", "30", "--windows", "0,2048,32768", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "D = 32k" in printed and "<" in printed and "suggested" in printed
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"report.html", "report.json", "knobs.png", "cells.csv"}
    page = (tmp_path / "out/report.html").read_text()
    assert "aps sweep vip" in page and "The rule: Of the points" in page


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--joblib-backend", "fast"], "backend must be of"),
        (["--vip", "gold"], "vip must be of vip, free"),
        (["--policy", "vtc"], "ignores weights"),
    ],
)
def test_wrong_options_exit_with_2(arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*VIP, *arguments]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "policy.aging_horizon_s must be seconds in 0..1e8, or inf (no aging), got ''"),
        ("1,", "got ''"),
        ("1,x", "got 'x'"),
        ("-1", "got -1"),
        ("1e9", "got 1000000000.0"),
        ("nan", "got nan"),
        ("1,1", "must be different numbers with commas between them, got '1,1'"),
    ],
)
def test_a_wrong_list_of_knobs_is_refused(text: str, says: str) -> None:
    read = knobs("policy.aging_horizon_s")
    with pytest.raises(argparse.ArgumentTypeError, match=re.escape(says)):
        read(text)
    assert read("0,2.5,inf") == [0.0, 2.5, inf]

"""The reports of real results: every plot and table is there, on the page and as a file."""

import base64
import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import escape

from aps import Tenant
from aps.lab import describe
from aps.lab.batching import batching
from aps.lab.compare import Comparison, compare
from aps.lab.definitions import DEFINITIONS
from aps.lab.figures import Slo, figures
from aps.lab.policies import parse, parse_list
from aps.lab.report import Section, write_batching, write_compare, write_promise, write_run
from aps.lab.report.flatten import estimates, flat, name
from aps.lab.report.runs import service
from aps.lab.report.tenants import groups
from aps.lab.run import Run, Setup, simulate
from aps.lab.scenarios import SCENARIOS
from aps.lab.workload import Workload
from aps.profiles import profile_named
from tests.lab_runs import Row, refused, run_of, series

SETUP = Setup(profile_named("a100-llama2-7b"))
SLO = Slo(ttft_s=1.0)
COMMAND = "aps test --out 'a b'"


def noisy(seed: int, duration_s: float = 8.0) -> Workload:
    return SCENARIOS["noisy"].build(seed, duration_s=duration_s, drain=False)


def result_of(run: Run) -> dict[str, Any]:
    """What `aps simulate --json` prints, as far as a report needs it."""
    return {
        "kind": "simulate",
        "workload": describe.workload(run.workload),
        "setup": describe.setup(run.setup),
        "policy": describe.policy(parse("aps")),
        "slo": SLO.plain(),
        "figures": figures(run, SLO),
    }


@pytest.fixture(scope="module")
def run() -> Run:
    return simulate(SCENARIOS["burst"].build(0), parse("aps").policy, Setup(profile_named("reference")))


@pytest.fixture(scope="module")
def compared() -> Comparison:
    return compare([noisy(0), noisy(1)], parse_list("fifo,vtc,aps"), SETUP, SLO)


def check(folder: Path, kind: str, plots: set[str], tables: set[str]) -> str:
    """The files are those, each plot is on the page as it is in its file; returns the page."""
    files = {f"{plot}.png" for plot in plots} | {f"{table}.csv" for table in tables}
    assert {path.name for path in folder.iterdir()} == files | {"report.html", "report.json"}
    page = (folder / "report.html").read_text()
    inlined = {base64.b64decode(image) for image in re.findall(r"data:image/png;base64,([^\"]*)", page)}
    assert inlined == {(folder / f"{plot}.png").read_bytes() for plot in plots}
    manifest = json.loads((folder / "report.json").read_text())
    assert (manifest["kind"], manifest["command"]) == (kind, COMMAND)
    assert not re.findall(r"https?:|<script|<link|url\(", re.sub(r"base64,[^\"]*", "", page))
    assert ">nan<" not in page
    return page


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# -- one run --


def test_the_report_of_a_run(run: Run, tmp_path: Path) -> None:
    data = result_of(run)
    write_run(run, data, tmp_path / "out", command=COMMAND)
    plots = {"waits", "over_time", "service", "fairness"}
    page = check(tmp_path / "out", "simulate", plots, {"tenants", "by_load", "fairness", "whole"})
    whole = data["figures"]["whole"]
    assert f"{whole['finished']} of {whole['sent']} requests finished" in page
    for meaning in DEFINITIONS.values():
        assert str(escape(meaning)) in page
    for row in rows(tmp_path / "out/tenants.csv"):
        found = data["figures"]["tenants"][row["tenant"]]
        assert float(row["queue_wait_p99_s"]) == found["queue_wait_s"]["p99"]
        assert int(row["sent"]) == found["sent"]


def test_a_run_of_nothing_has_a_report(tmp_path: Path) -> None:
    empty = run_of([refused(0, 0.0)])
    write_run(empty, result_of(empty), tmp_path / "out", command=COMMAND)
    check(tmp_path / "out", "simulate", {"waits", "over_time", "service"}, {"tenants", "by_load", "fairness", "whole"})


def test_many_tenants_are_drawn_as_the_first_and_the_rest(tmp_path: Path) -> None:
    tenants = [Tenant(f"tenant {at:02}") for at in range(20)]
    many = run_of([Row(at % 20, float(at), at + 0.5, at + 1.0, at + 2.0) for at in range(59)], tenants)
    found = groups(many.workload, 7)
    assert [group.name for group in found] == [*(f"tenant {at:02}" for at in range(6)), "14 others"]
    assert sum(group.rows.sum() for group in found) == len(many.workload)
    write_run(many, result_of(many), tmp_path / "out", command=COMMAND)
    assert len(rows(tmp_path / "out/tenants.csv")) == 20


def test_the_highest_bids_are_drawn_first(run: Run) -> None:
    vip = SCENARIOS["vip"].build(0, duration_s=5.0)
    assert [group.name for group in groups(vip, 7)] == ["vip", "free"]


def test_the_tokens_of_a_long_step_are_spread_over_it(run: Run) -> None:
    """On `reference` a step of whole prompts takes seconds, and the series counts its tokens where it ends."""
    edges_s, served = service(run, groups(run.workload, 7))
    total = np.sum(list(served.values()), axis=0)
    assert total.sum() == pytest.approx(run.prefill_tokens + run.output_tokens)
    busy = run.series.running[: len(edges_s) - 1, 0] > 0
    assert (total[busy] > 0).all() and busy.mean() > 0.9
    rates = total / np.diff(edges_s)
    assert rates.max() < 3 * 1024  # prompts alone are computed at 1,024 tokens/s
    assert run.series.served.sum(axis=(1, 2)).max() / np.diff(run.series.edges_s).min() > 10 * rates.max()


# -- policies side by side --


def test_the_report_of_a_comparison(compared: Comparison, tmp_path: Path) -> None:
    data = compared.data
    write_compare(data, tmp_path / "out", runs=compared.runs, command=COMMAND)
    plots = {"policies", "tradeoff", "waits", "ttft", "service"}
    tables = {"policies", "whole", "figures", "differences", *(f"tenant_{at}" for at in range(3))}
    page = check(tmp_path / "out", "compare", plots, tables)
    for sentence in data["verdict"]:
        assert sentence.split()[0] in page
    assert "Every figure over the seeds" in page
    full = {(row["policy"], row["figure"]): row for row in rows(tmp_path / "out/figures.csv")}
    leaf = data["figures"]["aps"]["whole"]["ttft_s"]["p99"]
    row = full["aps", "whole_ttft_p99_s"]
    assert [float(row[key]) for key in ("mean", "ci95_low", "ci95_high")] == [leaf["mean"], *leaf["ci95"]]
    differences = rows(tmp_path / "out/differences.csv")
    assert {row["policy"] for row in differences} == {"vtc", "aps"}
    for at, group in enumerate(groups(compared.runs["aps"].workload, 4)[:3]):
        found = rows(tmp_path / f"out/tenant_{at}.csv")
        assert {row["tenant"] for row in found} == {group.name} and found[0]["figure"] == "sent"
        assert float(found[0]["aps"]) == data["figures"]["aps"]["tenants"][group.name]["sent"]["mean"]
        assert f"<caption>{group.name}: means" in page


def test_more_policies_than_a_plot_can_show(tmp_path: Path) -> None:
    policies = parse_list(",".join(["fifo", *(f"aps:fairness_window={2**at}" for at in range(8))]))
    found = compare([noisy(0, 2.0)], policies, SETUP)
    write_compare(found.data, tmp_path / "out", runs=found.runs, command=COMMAND)
    page = (tmp_path / "out/report.html").read_text()
    assert "Plots show the first 7 policies; not: aps:fairness_window=64, aps:fairness_window=128." in page
    assert len(rows(tmp_path / "out/policies.csv")) == 9


def test_the_report_of_batching_modes(tmp_path: Path) -> None:
    found = batching([noisy(0, 4.0), noisy(1, 4.0)], parse("aps"), SETUP)
    write_batching(found.data, tmp_path / "out", runs=found.runs, command=COMMAND)
    check(tmp_path / "out", "batching", {"modes", "batch_sizes"}, {"modes"})
    table = rows(tmp_path / "out/modes.csv")
    assert [(row["level"], row["mode"]) for row in table] == [
        (level, mode) for level in ("low", "medium", "saturating") for mode in ("micro", "continuous")
    ]
    assert all(float(row["batch_size_mean"]) >= 1 for row in table)


# -- the promised figures --


def test_the_report_of_the_promised_figures(run: Run, tmp_path: Path) -> None:
    figure = {"promised": 0.95, "measured": 0.98, "low": 0.97, "high": 0.99, "definition": "slots", "how": "W1"}
    both = [{"figure": "occupancy", "met": True, **figure}, {"figure": "Jain", "met": False, **figure}]
    write_promise(both, tmp_path / "out", runs={"W1": run}, sections=[Section("More", "Words.")], command=COMMAND)
    plots = {f"workload_1_{plot}" for plot in ("waits", "over_time", "service", "fairness")}
    page = check(tmp_path / "out", "stress", plots, {"promised"})
    assert "1 of 2 promised figures are met." in page and "Words." in page
    assert [row["met"] for row in rows(tmp_path / "out/promised.csv")] == ["true", "false"]


# -- names of flattened figures --


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        (("queue_wait_s", "p99"), "queue_wait_p99_s"),
        (("windows", "jain", "worst"), "windows_jain_worst"),
        (("output_tokens_per_s",), "output_tokens_per_s"),
        (("refused", "queue_full"), "refused_queue_full"),
    ],
)
def test_a_figures_name_ends_in_its_unit(keys: tuple[str, ...], says: str) -> None:
    assert name(keys) == says


def test_figures_over_seeds_flatten_to_their_means(compared: Comparison) -> None:
    tree = compared.data["figures"]["aps"]
    assert flat(tree["whole"])["ttft_p99_s"] == tree["whole"]["ttft_s"]["p99"]["mean"]
    columns = estimates({"aps": tree}).columns
    assert columns == ("policy", "figure", "mean", "low", "high", "ci95_low", "ci95_high", "seeds")
    assert all(isinstance(row[2], float) for row in estimates({"aps": tree}).rows)


# -- names that a plot could trip over --


@pytest.mark.filterwarnings("error")
def test_any_tenants_name_can_be_drawn(tmp_path: Path) -> None:
    names = ["_hidden", "$\\frac", "x" * 256, "日本語", "<b>&"]
    rows = [Row(at % 5, float(at), at + 0.5, at + 1.0, at + 2.0) for at in range(50)]
    edges_s = np.linspace(0, 52, 3).tolist()
    run = run_of(rows, [Tenant(tenant) for tenant in names], series=series(edges_s, tenants=5))
    write_run(run, result_of(run), tmp_path / "run", command=COMMAND)
    compared = compare([run.workload], parse_list("fifo,aps"), SETUP)
    write_compare(compared.data, tmp_path / "compare", runs=compared.runs, command=COMMAND)
    assert list(json.loads((tmp_path / "run/report.json").read_text())["data"]["figures"]["tenants"]) == names

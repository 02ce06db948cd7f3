"""The verbs of the laboratory: what they print, what they refuse, how they end."""

import json
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from aps.cli import main

WIDEST = 100
BURST = ["burst", "--profile", "reference", "--set", "per_tenant=10"]


def said(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What a verb that succeeds prints on stdout."""
    capsys.readouterr()
    assert main(arguments) == 0
    return capsys.readouterr().out


def refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command line says on stderr while it exits with 2, without anything on stdout."""
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    assert code == 2
    found = capsys.readouterr()
    assert not found.out
    return found.err


def figures(text: str) -> Any:
    """JSON without what depends on the machine."""
    found = json.loads(text)
    found.pop("wall_s", None)
    for name in ("wall_s", "steps_per_s", "virtual_s_per_s"):
        found.get("simulated", {}).pop(name, None)
    return found


def test_simulate_a_burst(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["simulate", *BURST, "--slo-ttft", "12", "--price", "2"]
    found = figures(said([*command, "--json"], capsys))
    assert found["kind"] == "simulate"
    assert (found["policy"]["name"], found["seed"], found["slo"]["ttft_s"]) == ("aps", 0, 12.0)
    assert (found["setup"]["gpu_hour_dollars"], found["setup"]["price_source"]) == (2.0, "--price")
    assert found["figures"]["whole"]["finished"] == found["workload"]["requests"] == 20
    assert 0 < found["figures"]["whole"]["slo_share"] < 1
    assert found["simulated"]["virtual_s"] == found["figures"]["whole"]["makespan_s"]
    assert figures(said([*command, "--json"], capsys)) == found
    assert figures(said([*command, "--json", "--seed", "1"], capsys)) != found


def test_compare_a_burst(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", *BURST, "--policies", "fifo,aps:fairness_window=4096,max_passes=1,vtc", "--json"]
    found = figures(said([*command, "--seeds", "2", "--seed", "7"], capsys))
    assert found["kind"] == "compare"
    assert [policy["name"] for policy in found["policies"]] == ["fifo", "aps:fairness_window=4096,max_passes=1", "vtc"]
    assert found["seeds"] == [7, 8]
    assert len(found["verdict"]) == 3
    assert figures(said([*command, "--seeds", "2", "--seed", "7", "--jobs", "3"], capsys)) == found
    assert len(figures(said(command, capsys))["seeds"]) == 5


def test_compare_batching_modes(capsys: pytest.CaptureFixture[str]) -> None:
    found = figures(said(["compare", *BURST, "--batching", "continuous,micro", "--seeds", "2", "--json"], capsys))
    assert found["kind"] == "batching"
    assert found["modes"] == ["continuous", "micro"]
    assert found["loads"][0]["comparison"]["baseline"] == "continuous"


@pytest.mark.parametrize(
    "command",
    [
        "simulate burst --profile reference",
        "simulate vip --set duration_s=5 --policy strict --slo-ttft 0.1",
        "simulate skewed --set duration_s=20",
        "simulate burst --kv-tokens 100",
        "compare burst --kv-tokens 100 --seeds 2 --policies fifo,aps",
        "simulate azure-code --set limit=1 --until-s 0.001",
        "compare azure-code --set limit=1 --batching micro,continuous",
        "compare skewed --set duration_s=5 --seeds 2",
        "compare burst --profile reference --set per_tenant=10 --seeds 2 --slo-e2e 9",
        "compare noisy --set duration_s=5 --policies fifo,aps:fairness_window=32768,preemption=recompute --seeds 2",
        "compare noisy --set duration_s=5 --batching micro,continuous --seeds 2",
    ],
)
def test_tables_fit_a_hundred_columns(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(command.split(), capsys)
    assert max(map(len, text.splitlines())) <= WIDEST
    assert "virtual" in text
    assert "docs/laboratory.md" in text


def test_headings_are_whole_however_short_the_names_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(["compare", *BURST, "--policies", "fifo,aps", "--seeds", "1"], capsys)
    assert text.count("\npolicy  ") >= 5


def test_simulate_tells_what_was_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(said(["simulate", *BURST], capsys).split())
    found = re.search(r"Simulated ([\d.]+) s of virtual time, ([\d,]+) steps, in [\d.]+ s of wall time", text)
    assert found is not None
    assert float(found[1]) > 10
    assert "Everything had ended" in text


def test_a_horizon_makes_lower_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(["simulate", *BURST, "--until-s", "3"], capsys)
    assert "percentiles are lower bounds" in " ".join(text.split())


def test_notes_of_a_workload_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(["simulate", "azure-code", "--set", "limit=50", "--set", "tenants=round-robin:2"], capsys)
    assert "Note: synthetic tenants" in text


def test_seeds_that_change_nothing_are_one_run(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["compare", "azure-code", "--set", "limit=50", "--policies", "fifo,aps", "--seeds", "3", "--json"]
    found = figures(said(command, capsys))
    assert found["seeds"] == [0]
    assert any("nothing is drawn at random, so 3 seeds" in note for note in found["workload"]["notes"])
    drawn = figures(said([*command, "--set", "tenants=zipf:3"], capsys))
    assert drawn["seeds"] == [0, 1, 2]


@pytest.mark.parametrize("verb", ["simulate", "compare"])
def test_the_workloads_and_their_parameters_can_be_listed(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert {"burst", "noisy", "azure-code"} <= set(re.findall(r"^ *([\w-]+) ", said([verb, "--list"], capsys), re.M))
    assert "noisy_factor=10" in said([verb, "noisy", "--list"], capsys)
    assert "rate_scale" in said([verb, "azure-code", "--list"], capsys)
    assert "nonsense" in refused([verb, "nonsense", "--list"], capsys)


@pytest.mark.parametrize("verb", ["simulate", "compare"])
def test_help_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "exit codes" in text
    assert text.count(f"  aps {verb} ") >= 6
    assert "virtual seconds" in text


@pytest.mark.parametrize("verb", ["simulate", "compare"])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "needs a WORKLOAD; --list"),
        (["nonsense"], "no workload 'nonsense'"),
        (["burst", "--set", "per_tenant"], "--set must be KEY=VALUE, got 'per_tenant'"),
        (["burst", "--set", "per_tenant=1", "--set", "per_tenant=2"], "--set per_tenant is given twice"),
        (["burst", "--set", "per_tenant=none"], "per_tenant must be"),
        (["burst", "--set", "speed=1"], "burst has no parameter 'speed'"),
        (["azure-code", "--set", "bid=11"], "bid"),
        (["burst", "--profile", "h100"], "'h100'"),
        (["burst", "--profile", "/nonexistent/mine.toml"], "/nonexistent/mine.toml"),
        (["burst", "--gpus", "0"], "devices.gpus must be an int in 1..1024, got 0"),
        (["burst", "--slots", "100000"], 'devices.slots must be an int in 1..65536 or "none", got 100000'),
        (["burst", "--kv-tokens", "0"], 'devices.kv_tokens must be an int in 1..2147483647 or "none", got 0'),
        (["burst", "--kv-tokens", "3"], "Setup.kv_tokens must be"),
        (["burst", "--token-budget", "-1"], 'devices.token_budget must be an int in 0..2147483647 or "none", got -1'),
        (["burst", "--price", "-1"], "price.gpu_hour_dollars must be dollars, a finite number >= 0, got -1"),
        (["burst", "--slo-ttft", "0"], "above 0, got '0'"),
        (["burst", "--slo-tpot", "nan"], "above 0, got 'nan'"),
        (["burst", "--until-s", "0"], "above 0, got '0'"),
        (
            ["vtc-overload", "--until-s", "0.001"],
            "--until-s must be after the first arrival of vtc-overload, got 0.001",
        ),
        (["burst", "--seed", "-1"], "0 to 2^63 - 1, got '-1'"),
        (["burst", "--out", "/nonexistent/dir/report"], "/nonexistent/dir"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_why(
    verb: str, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused([verb, *arguments], capsys)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["simulate", "burst", "--policy", "best"], "policy must be one of fifo"),
        (["simulate", "burst", "--policy", "aps:horizon=1"], "got 'horizon'"),
        (["simulate", "burst", "--policy", "aps:fairness_window=-1"], "Policy.fairness_window must be"),
        (["simulate", "burst", "--trace-out", "/nonexistent/dir/trace.json"], "/nonexistent/dir"),
        (["compare", "burst", "--policies", "fifo,best"], "got 'best'"),
        (["compare", "burst", "--policies", ""], "got ''"),
        (["compare", "burst", "--policies", "fifo,fifo"], "'fifo' 2 times"),
        (
            ["compare", "burst", "--policies", "fifo", "--baseline", "aps"],
            "--baseline must be one of the policies fifo",
        ),
        (["compare", "burst", "--seeds", "0"], "1 or more, got '0'"),
        (["compare", "burst", "--jobs", "0"], "1 or more, got '0'"),
        (["compare", "burst", "--batching", "fast"], "batching must be of micro, continuous, got 'fast'"),
        (["compare", "burst", "--batching", "micro", "--policies", "fifo,aps"], "one policy, got 2"),
        (["compare", "burst", "--batching", "micro", "--baseline", "fifo"], "the first mode is the baseline"),
        (["compare", "burst", "--batching", "micro", "--kv-tokens", "100"], "no request finishes"),
        (
            ["compare", "burst", "--batching", "micro", "--policies", "aps:preemption=swap"],
            'Policy.preemption with batching="micro" must be',
        ),
    ],
)
def test_wrong_policies_and_files_exit_with_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert words in refused(arguments, capsys)


def test_a_malformed_trace_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.0,ten,3\n")
    text = refused(["simulate", str(path)], capsys)
    assert str(path) in text and "ten" in text


def test_out_and_trace_out_write_their_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, trace = tmp_path / "report", tmp_path / "slots.json"
    said(["simulate", *BURST, "--out", str(report), "--trace-out", str(trace)], capsys)
    written = json.loads((report / "report.json").read_text())
    assert written["command"].startswith("aps simulate burst ")
    assert written["data"]["figures"]["whole"]["finished"] == 20
    assert "<svg" in (report / "report.html").read_text() or "data:image/png" in (report / "report.html").read_text()
    assert len(json.loads(trace.read_text())["traceEvents"]) > 20
    for place, more in (("c", ["--policies", "fifo,aps"]), ("b", ["--batching", "micro,continuous"])):
        said(["compare", *BURST, "--seeds", "2", *more, "--out", str(tmp_path / place)], capsys)
        assert (tmp_path / place / "report.html").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c", "report", "slots.json"]


def test_a_trace_that_is_cut_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aps.cli.simulate.STAYS", 15)
    trace = str(tmp_path / "slots.json")
    assert main(["simulate", *BURST, "--trace-out", trace]) == 0
    assert f"{trace} holds the first 15; 5 later stays in slots are left out" in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [
        ["simulate", "noisy", "--set", "duration_s=40000", "--trace-out", "{}/t.json"],
        ["compare", "noisy", "--set", "duration_s=20000", "--seeds", "2"],
    ],
    ids=lambda command: command[0],
)
def test_an_interrupt_exits_with_130_and_leaves_nothing(command: list[str], tmp_path: Path) -> None:
    arguments = [part.format(tmp_path) for part in command]
    with subprocess.Popen(
        [sys.executable, "-m", "aps", *arguments, "--out", str(tmp_path / "report")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as verb:
        assert verb.stderr is not None
        told = verb.stderr.readline()  # the line that stands for a progress bar
        verb.send_signal(signal.SIGINT)
        out, err = verb.communicate(timeout=60)
    assert re.match(rf"aps {command[0]}: noisy.* \.\.\.", told)
    assert (verb.returncode, out, err) == (130, "", "")
    assert not list(tmp_path.iterdir())


def commands(root: Path) -> list[str]:
    """Every `aps simulate` and `aps compare` in the page's shell blocks."""
    page = (root / "docs/laboratory.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    return [line for block in blocks for line in block.splitlines() if re.match(r"aps (simulate|compare)", line)]


def test_the_commands_of_the_page_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = commands(root)
    assert len(found) >= 9
    for line in found:
        assert said(shlex.split(line)[1:], capsys), line

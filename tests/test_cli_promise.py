"""`aps stress --virtual` and `aps study`: what they print, what they refuse, how they end."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from aps.cli import main
from aps.lab.studies import STUDIES


def refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What is said on stderr while the exit code is 2, with nothing on stdout."""
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    assert code == 2
    found = capsys.readouterr()
    assert not found.out
    return found.err


def test_virtual_gives_a_list_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["stress", "--virtual", "--seeds", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert [row["figure"] for row in found] == [
        "occupancy",
        "dollars_per_million_tokens",
        "jain",
        "output_tokens_per_s",
        "vip_queue_wait_p99_s",
    ]
    assert all(set(row) == set("figure promised measured low high definition how met".split()) for row in found)
    assert code == (0 if all(row["met"] for row in found) else 1)


def test_virtual_writes_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["stress", "--virtual", "--seeds", "1", "--out", str(tmp_path / "out")])
    assert "5 of 5 promised figures" in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["command"].startswith("aps stress --virtual --seeds 1")
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stress", "--seeds", "3"], "--seeds needs --virtual"),
        (["stress", "--out", "x"], "--out needs --virtual"),
        (["stress", "--virtual", "--url", "http://x"], "--url is of the test against a service"),
        (["stress", "--virtual", "--trace-s", "3"], "--trace-s is of the test against a service"),
        (["stress", "--virtual", "--seeds", "0"], "an integer, 1 or more, got '0'"),
        (["stress", "--virtual", "--out", "/nonexistent/x"], "/nonexistent must exist"),
        (["study"], "needs the NAME of a study"),
        (["study", "x"], "study must be one of vip, noisy, vtc, load, got 'x'"),
        (["study", "load", "--jobs", "0"], "an integer, 1 or more, got '0'"),
        (["study", "load", "--out", "/nonexistent/x"], "/nonexistent must exist"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refused(arguments, capsys)


def test_the_list_of_studies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["study", "--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(STUDIES)
    assert max(map(len, lines)) <= 100


def test_a_study_passes_or_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "load")
    assert main(["study", "load", "--seeds", "1", "--jobs", "1", "--json", "--out", out]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["met"] and {"name", "target", "measured", "met"} == set(found["judged"][0])
    assert (tmp_path / "load" / "load.png").exists()
    assert main(["study", "vip", "--seeds", "1", "--jobs", "1"]) == 1  # too few VIP requests
    assert "NOT MET" in capsys.readouterr().out


@pytest.mark.parametrize("verb", ["study", "stress"])
def test_help_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "examples:" in text and "exit codes" in text
    assert "--out DIR" in text and "virtual" in text

"""`aps profiles`: what it shows, writes out and refuses."""

import json
from pathlib import Path

import pytest

from aps.cli import main
from aps.cli.profiles import CURVE, DEFINITIONS
from aps.profile_files import to_toml
from aps.profiles import PROFILES, profile_named


def said(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["profiles", *arguments]) == 0
    return capsys.readouterr().out


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


def test_the_table_is_the_page_s(
    root: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    shown = "\n".join(lines(said([], capsys)))
    assert f"```text\n{shown}\n```" in (root / "docs/profiles.md").read_text()


@pytest.mark.parametrize("columns", ["80", "200"])
def test_no_figure_is_cut(columns: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    shown = said([], capsys)
    rows = {row[0]: row[1:] for row in map(str.split, lines(shown)) if len(row) == 8 and row[0] in PROFILES}
    assert rows["reference"] == ["128", "320", "2.5", "1,020", "61,035", "16", "0.543"]
    assert rows["a100-llama2-13b"][:4] == ["54", "707", "13.0", "7,525"]
    words = " ".join(shown.split())
    assert CURVE in words
    assert "reference is stylised: a real A100 is several times faster (7.0 times" in words
    assert "$1.39 a GPU-hour (RunPod Community Cloud, A100 SXM 80 GB, November 2026)" in words


def test_json_says_everything(capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads(said(["--json"], capsys))
    assert report["definitions"] == DEFINITIONS
    assert "several times faster" in report["stylised"]
    assert [profile["name"] for profile in report["profiles"]] == list(PROFILES)
    seven = report["profiles"][1]
    assert seven["step_time"]["kind"] == "PhysicsModel"
    assert seven["step_time"]["weight_bandwidth"] == 1.54e12
    assert seven["model"]["layers"] == 32
    assert seven["kv_tokens"] == 111_625
    implied = PROFILES["a100-llama2-7b"].implications()
    assert seven["implied"]["decode_tokens_per_s"] == {
        "1": implied.decode_tokens_per_s[1],
        "16": implied.decode_tokens_per_s[16],
    }
    assert seven["implied"]["dollars_per_million"] == implied.dollars_per_million
    assert DEFINITIONS.keys() <= seven.keys() | seven["implied"].keys()


def test_one_is_shown_with_its_constants(capsys: pytest.CaptureFixture[str]) -> None:
    shown = said(["a100-llama3-8b"], capsys)
    assert "a100-llama3-8b" in shown and "a100-llama2-7b" not in shown
    assert "  weight_bandwidth = 1.54e+12\n" in shown
    assert "8.03e9 parameters, 131,072 bytes of KV cache a token" in shown
    assert CURVE not in " ".join(shown.split())
    assert "  prefill_rate = 1024\n" in said(["reference"], capsys)


def test_a_file_is_shown_and_may_fit_little(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "tiny [red].toml"
    path.write_text('base = "a100-llama2-7b"\nslots = 2\nkv_tokens = 600\ndollars_per_hour = 9.5\n')
    shown = said([str(path)], capsys)
    rows = [line.split() for line in lines(shown) if line.startswith("tiny [red] ")]
    assert rows[0] == ["tiny", "[red]", "103", "-", "-", "-", "600", "2", "-"]
    assert "$9.5 a GPU-hour (not stated)" in " ".join(shown.split())
    [profile] = json.loads(said([str(path), "--json"], capsys))["profiles"]
    assert profile["implied"]["dollars_per_million"] is None


def test_a_profile_is_written_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(["a100-llama2-13b", "--toml"], capsys)
    assert text == to_toml(PROFILES["a100-llama2-13b"])
    path = tmp_path / "x.toml"
    path.write_text(text)
    assert profile_named(str(path)) == PROFILES["a100-llama2-13b"]
    assert said([str(path), "--toml"], capsys) == text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["profiles", "--toml"], "--toml needs the profile to write: one of reference, a100-llama2-7b,"),
        (["profiles", "h100"], "profile must be one of reference, a100-llama2-7b, a100-llama2-13b, a100-llama3-8b, or"),
        (["profiles", ""], "or the path of a .toml file, got ''"),
        (["profiles", "/nonexistent/x.toml"], "No such file or directory: '/nonexistent/x.toml'"),
        (["profiles", "reference", "--json", "--toml"], "not allowed with"),
        (["serve", "--profile", "h100"], "or the path of a .toml file, got 'h100'"),
        (["serve", "--profile", "/nonexistent/x.toml"], "No such file or directory: '/nonexistent/x.toml'"),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    assert code == 2
    assert message in capsys.readouterr().err


def test_the_table_needs_rich(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("aps.cli.profiles.find_spec", lambda name: None)
    assert main(["profiles"]) == 2
    assert 'pip install "aps-scheduler[lab]"' in capsys.readouterr().err
    assert main(["profiles", "--json"]) == 0

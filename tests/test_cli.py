"""The command line: what it says, what it refuses, how it exits."""

import gc
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from aps.cli import VERBS, main
from aps.cli.common import UsageError, need_service_extra


def refused(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command line says on stderr while it exits with 2."""
    try:
        code = main(arguments)
    except SystemExit as stop:  # argparse
        code = int(stop.code or 0)
    assert code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("verb", ["", "serve", "check-config", "keygen", "tenants", "stress", "demo", "profiles"])
def test_help_teaches(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([verb, "--help"] if verb else ["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "exit codes" in text
    assert "examples:" in text or "aps demo" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "VERB"),
        (["dance"], "dance"),
        (["serve", "--port", "70000"], "--port: server.port must be an int in 0..65535, got 70000"),
        (["serve", "--gpus", "0"], "--gpus: devices.gpus must be an int in 1..1024, got 0"),
        (["serve", "--time-scale", "nan"], "--time-scale: devices.time_scale must be a number in 0.0001..10000, got"),
        (["serve", "--gpu-hour-dollars", "-1"], "price.gpu_hour_dollars must be dollars, a finite number >= 0, got -1"),
        (["serve", "--aging-horizon", "x"], "--aging-horizon: policy.aging_horizon_s must be seconds in 0..1e8"),
        (["serve", "--policy", "best"], "policy.base must be one of aps, fifo, strict, vtc, fair, bids, got 'best'"),
        (["serve", "--host", "0.0.0.0"], "--insecure-open"),
        (["serve", "--host", "example.org"], "--insecure-open"),
        (["serve", "--config", "/nonexistent/aps.toml"], "/nonexistent/aps.toml: cannot be read: No such file"),
        (["serve", "--aging-horizon", "1e9"], "--aging-horizon: policy.aging_horizon_s must be"),
        (["serve", "--gpus", "1e3"], "--gpus: devices.gpus must be an int in 1..1024, got '1e3'"),
        (["serve", "--record-files", "0"], "--record-files: record.files must be an int in 1..1000, got 0"),
        (["demo", "--time-scale", "1e5"], "devices.time_scale must be a number in 0.0001..10000, got 100000.0"),
        (["serve", "--record-max-mb", "5"], "--record-max-mb (record.max_mb) counts for nothing without --record FILE"),
        (["serve", "--record", "none", "--record-files", "5"], "--record-files (record.files) counts for nothing"),
        (["serve", "--record", ""], "--record: record.file must be a file's path, got ''"),
        (["calibrate", "steps.csv", "--force"], "--force counts for nothing without --write"),
        (["stress", "--per-tenant", "0"], "1 or more"),
        (["stress", "--trace-s", "inf"], "finite"),
        (["stress", "--url", "http://127.0.0.1:9"], "http://127.0.0.1:9 does not answer"),
        (["stress", "--url", "nonsense"], "nonsense does not answer"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_why(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said in refused(arguments, capsys)


@pytest.mark.parametrize(
    ("line", "verb"),
    [
        *((f"{verb} --nonsense", verb) for verb in VERBS if verb not in ("replay", "calibrate", "tenants")),
        ("replay x --nonsense", "replay"),
        ("calibrate x --nonsense", "calibrate"),
        ("tenants --nonsense list", "tenants"),
        ("tenants list --nonsense", "tenants list"),
        ("tenants keys list x --nonsense", "tenants keys list"),
        ("--nonsense serve", ""),
    ],
)
def test_an_unknown_option_is_said_with_the_usage_of_its_verb(
    line: str, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = refused(line.split(), capsys)
    prog = f"aps {verb}".rstrip()
    assert said.startswith(f"usage: {prog} [-h]")
    assert said.splitlines()[-1] == f"{prog}: error: unrecognized arguments: --nonsense"


@pytest.mark.parametrize(
    "weight", ["1" + "0" * 400, "1" + "0" * 5000, "nan", "true"], ids=["1e400", "1e5000", "nan", "true"]
)
def test_a_wrong_configuration_exits_with_2(weight: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "aps.toml"
    path.write_text(f"[tenants.x]\nweight = {weight}\n")
    said = refused(["serve", "--config", str(path)], capsys)
    assert str(path) in said
    assert len(said.splitlines()) == 1


def test_a_port_in_use_exits_with_75_for_it_may_be_free_soon(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["serve", "--port", str(taken.getsockname()[1])]) == os.EX_TEMPFAIL
    assert "in use" in capsys.readouterr().err
    assert gc.isenabled()


def test_a_missing_extra_is_named_with_the_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aps.cli.common.SERVICE_EXTRA", ("sys", "no_such_package"))
    with pytest.raises(UsageError, match=r'needs no_such_package: pip install "aps-scheduler\[service\]"'):
        need_service_extra()


def test_help_needs_no_extra() -> None:
    blocked = "import sys; sys.modules.update(dict.fromkeys(['fastapi', 'uvicorn', 'httpx', 'rich', 'pydantic']))"
    script = f"{blocked}\nfrom aps.cli import main\nmain(['serve', '--help'])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "--time-scale" in done.stdout


@pytest.mark.parametrize("arguments", [["profiles", "--json"], ["profiles"], ["sweep", "--list"]])
def test_a_reader_that_has_enough_is_no_error(arguments: list[str]) -> None:
    command = [sys.executable, "-m", "aps", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(timeout=60), said) == (141, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_an_output_without_room_exits_with_2() -> None:
    with Path("/dev/full").open("wb") as full:
        command = [sys.executable, "-m", "aps", "profiles", "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "aps profiles: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("name", ["a/b", "", "a\nb"])
def test_a_key_is_made_for_a_tenant_that_can_be(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["keygen", "--tenant", name]) == 2
    said = capsys.readouterr()
    assert (said.out, "--tenant: Tenant.name must be" in said.err) == ("", True)

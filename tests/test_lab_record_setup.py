"""A record is played on the GPUs and under the limits that it was made with, unless others are asked for."""

import json
import re
from pathlib import Path

import pytest

from aps import Device, Limits, Policy, Scheduler, Tenant
from aps.cli import main
from aps.lab.policies import POLICIES, parse, spec_of
from aps.lab.record_setup import recorded_setup
from aps.lab.traces import TraceError, read
from aps.profiles import PROFILES
from aps.record import Recorder
from tests.recording import traffic

LIMITS = Limits(max_queued=7, max_context=900)
POLICY = Policy(fairness_window=float("inf"), expected_output=9, preemption="swap")


def record(path: Path, *devices: Device, profile: object = "reference") -> Path:
    about = {} if profile is None else {"profile": profile}
    with Recorder(path, about=about) as recorder:
        made = Scheduler([Tenant("a")], policy=POLICY, devices=devices, limits=LIMITS, block_tokens=32)
        traffic(recorder.watch(made), 20)
    return path


def test_a_record_says_its_gpus_its_limits_and_its_policy(tmp_path: Path) -> None:
    path = record(tmp_path / "night.jsonl.gz", *(Device(4, 100, None, f"gpu{i}") for i in range(2)))
    setup = recorded_setup(path)
    assert setup is not None and setup.profile == PROFILES["reference"]
    assert [device.slots for device in setup.devices] == [4, 4]
    assert (setup.devices[0].kv_blocks, setup.block_tokens, setup.devices[0].token_budget) == (100, 32, None)
    assert setup.limits == LIMITS
    other = recorded_setup(path, PROFILES["a100-llama2-7b"])
    assert other is not None and (other.gpus, other.devices[0].slots, other.limits) == (2, 16, LIMITS)
    note = read(path).notes[0]
    spec = "aps:fairness_window=inf,expected_output=9,preemption=swap"
    assert note == f"recorded under {spec} on 2 x reference with 4 slots"
    assert parse(spec).policy == POLICY


def test_the_command_line_takes_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path / "night.jsonl", *(Device(4, 100, 64, f"gpu{i}") for i in range(2)))

    def setup(*options: str) -> tuple[str, int, int, int]:
        assert main(["simulate", str(path), "--json", *options]) == 0
        found = json.loads(capsys.readouterr().out)["setup"]
        return found["profile"], found["gpus"], found["slots"], found["kv_tokens"]

    assert setup() == ("reference", 2, 4, 3200)
    assert main(["simulate", str(path)]) == 0
    assert "Limits over all tenants: max_queued 7, max_context 900." in capsys.readouterr().out
    assert setup("--gpus", "1", "--kv-tokens", "6400") == ("reference", 1, 4, 6400)
    assert setup("--profile", "a100-llama2-7b")[:3] == ("a100-llama2-7b", 2, 16)
    gone = record(tmp_path / "gone.jsonl", Device(), profile=str(tmp_path / "mine.toml"))
    assert main(["simulate", str(gone)]) == 2
    assert "gone.jsonl: recorded with --profile" in (says := capsys.readouterr().err) and "--profile must" in says
    assert main(["simulate", str(gone), "--profile", "reference", "--json"]) == 0


def test_what_a_crash_left_of_a_packed_record_is_played(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = record(tmp_path / "crash.jsonl.gz", Device(4, 100))
    path.write_bytes(path.read_bytes()[:-100])  # less than what the format is told by
    assert main(["simulate", str(path), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["setup"]["slots"] == 4
    assert re.fullmatch(r".*crash\.jsonl\.gz ends within line \d+, which is left out", result["workload"]["notes"][1])


def test_what_says_nothing_of_simulated_gpus_has_no_setup(tmp_path: Path) -> None:
    assert recorded_setup("burst") is None
    assert recorded_setup(tmp_path) is None
    assert recorded_setup(record(tmp_path / "own", Device(), profile=None)) is None
    assert recorded_setup(record(tmp_path / "else", Device(), profile={"of": "mine"})) is None
    assert recorded_setup(record(tmp_path / "mixed", Device(4, name="a"), Device(8, name="b"))) is None
    (tmp_path / "csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    assert recorded_setup(tmp_path / "csv") is None
    (tmp_path / "wrong").write_text('{"aps_record":2,"profile":"reference","devices":[{}]}\n')
    with pytest.raises(TraceError, match=r"wrong, line 1: header: 'block_tokens'"):
        recorded_setup(tmp_path / "wrong")
    (tmp_path / "cut").write_text('{"aps_record":2,"profile":"refer')
    for reads in (recorded_setup, read):
        with pytest.raises(TraceError) as caught:
            reads(tmp_path / "cut")
        assert str(caught.value).startswith(f"{tmp_path / 'cut'}, line 1: expected the header of a record")


def test_a_policy_is_called_what_reads_back_as_it() -> None:
    for named in POLICIES.values():
        assert parse(spec_of(named.policy)).policy == named.policy
    assert [spec_of(named.policy) for named in POLICIES.values()] == [
        "fifo", "strict", "bids", "weighted-vtc", "weighted-vtc", "aps"
    ]  # fmt: skip

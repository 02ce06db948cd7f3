"""The trace of a run: what the format demands, and that it says what the run did."""

import gzip
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aps import Policy
from aps.lab.report import write_trace
from aps.lab.run import Run, Setup, simulate
from aps.lab.scenarios import SCENARIOS
from aps.profiles import profile_named

GPUS = 2
KNOWN = {"M", "X", "C"}


def played(stays: int) -> Run:
    """VIPs that preempt a free tier on two GPUs; what runs at the horizon is still running."""
    workload = SCENARIOS["vip"].build(0, vip_per_s=4.0, free_clients=48, duration_s=10.0)
    policy = Policy.aps(preemption="recompute", fairness_window=32768.0)
    return simulate(workload, policy, Setup(profile_named("a100-llama2-7b"), gpus=GPUS), stays=stays)


@pytest.fixture(scope="module")
def run() -> Run:
    return played(stays=10_000)


@pytest.fixture(scope="module")
def trace(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("trace") / "run.json"
    write_trace(run, path)
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found


def slices(trace: dict[str, Any]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """By process and thread, in the file's order."""
    found = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            found[event["pid"], event["tid"]].append(event)
    return found


def test_every_event_has_what_its_kind_demands(trace: dict[str, Any]) -> None:
    assert trace["displayTimeUnit"] in {"ms", "ns"}
    for event in trace["traceEvents"]:
        assert event["ph"] in KNOWN
        assert isinstance(event["name"], str) and event["name"]
        assert isinstance(event["pid"], int) and isinstance(event["tid"], int)
        assert event["pid"] > 0 and event["tid"] > 0  # 0 is the idle process
        if event["ph"] != "M":
            assert isinstance(event["ts"], int) and event["ts"] >= 0
        if event["ph"] == "X":
            assert isinstance(event["dur"], int) and event["dur"] >= 0
        if event["ph"] == "C":
            assert event["args"] and all(isinstance(value, int | float) for value in event["args"].values())


def test_every_slot_has_a_row_with_a_name(run: Run, trace: dict[str, Any]) -> None:
    named = {
        (event["pid"], event["tid"]): event["args"]["name"]
        for event in trace["traceEvents"]
        if event["name"] == "thread_name"
    }
    slots = run.setup.devices[0].slots
    assert sorted(named.values()) == sorted(f"slot {slot}" for slot in range(slots) for _ in range(GPUS))
    assert slices(trace).keys() <= named.keys()
    assert not {pid for pid, _ in named} & {tid for _, tid in named}  # else viewers see a main thread
    processes = [event["args"]["name"] for event in trace["traceEvents"] if event["name"] == "process_name"]
    assert [name.partition(":")[0] for name in processes] == ["all devices", "device 0", "device 1"]


def test_slices_of_a_slot_never_overlap(trace: dict[str, Any]) -> None:
    for row in slices(trace).values():
        end = 0
        outer: dict[str, Any] = {}
        for event in row:
            if event["cat"] == "stay":
                assert event["ts"] >= end
                outer, inside = event, event["ts"]
                end = event["ts"] + event["dur"]
            else:
                assert event["ts"] == inside  # prefill from the beginning, decode from its end
                inside += event["dur"]
                assert inside <= outer["ts"] + outer["dur"]


def test_prefill_comes_before_decode_and_both_fill_the_stay(trace: dict[str, Any]) -> None:
    for row in slices(trace).values():
        inside: list[list[str]] = []
        for event in row:
            if event["cat"] == "stay":
                inside.append([])
            else:
                inside[-1].append(event["name"])
        assert all(names in (["prefill"], ["prefill", "decode"], ["decode"]) for names in inside)
        stays, phases = (
            [event["dur"] for event in row if (event["cat"] == "stay") == outer] for outer in (True, False)
        )
        assert sum(stays) == sum(phases)


def test_the_slices_are_the_run(run: Run, trace: dict[str, Any]) -> None:
    stays = [event for row in slices(trace).values() for event in row if event["cat"] == "stay"]
    assert len(stays) == int(np.isfinite(run.started_at).sum() + run.preemptions.sum()) - _returning(run)
    assert sum(event["args"]["end"] == "preempted" for event in stays) == run.preemptions.sum() > 0
    assert sum(event["args"]["end"] == "finished" for event in stays) == (run.reason == 0).sum()
    first = next(event for event in stays if event["args"]["request"] == 0)
    assert first["ts"] == int(run.started_at[0] * 1e6)
    assert first["name"] == run.workload.tenants[run.workload.tenant[0]].name
    assert first["args"]["prompt_tokens"] == run.workload.prompt_tokens[0]


def _returning(run: Run) -> int:
    """Preempted requests that have not started again."""
    assert run.stays is not None
    still = (run.reason == -2) & np.isfinite(run.started_at)
    running = set(run.stays.request[run.stays.end == -1].tolist())
    return sum(request not in running for request in np.flatnonzero(still).tolist())


def test_a_request_whose_prompt_has_not_begun_at_the_horizon_has_no_wait(tmp_path: Path) -> None:
    workload = SCENARIOS["vip"].build(0, duration_s=60.0)
    run = simulate(workload, Policy.aps(), Setup(profile_named("a100-llama2-7b")), stays=10_000)
    assert run.stays is not None
    unstarted = run.stays.request[np.isnan(run.started_at[run.stays.request])]
    assert len(unstarted)  # in a slot, behind another's prompt
    write_trace(run, tmp_path / "run.json")
    found = json.loads((tmp_path / "run.json").read_bytes())["traceEvents"]
    stays = [event["args"] for event in found if event["ph"] == "X" and event["cat"] == "stay"]
    assert {args["request"] for args in stays if args["queue_wait_s"] is None} == set(unstarted.tolist())


def test_the_counters_are_the_time_series(run: Run, trace: dict[str, Any]) -> None:
    tracks = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "C":
            tracks[event["name"]].append((event["ts"], event["args"]["value"]))
    assert {"waiting requests", "running requests", "KV blocks held", "tokens/s of vip"} <= tracks.keys()
    for track in tracks.values():
        assert [at for at, _ in track] == sorted(at for at, _ in track)
        assert len(track) == len(run.series.edges_s)
        assert track[-1][1] == 0
    assert [value for _, value in tracks["running requests"]][:-1] == pytest.approx(run.series.running[:, 1], abs=1e-6)


def test_compressed_when_the_name_says_so_and_the_same_bytes_each_time(
    run: Run, trace: dict[str, Any], tmp_path: Path
) -> None:
    for name in ("a.json.gz", "b.json.gz"):
        write_trace(run, tmp_path / name)
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()
    assert json.loads(gzip.decompress((tmp_path / "a.json.gz").read_bytes())) == trace
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json.gz", "b.json.gz"]


def test_a_trace_says_what_it_leaves_out(trace: dict[str, Any], tmp_path: Path) -> None:
    write_trace(played(stays=5), tmp_path / "short.json")
    short = json.loads((tmp_path / "short.json").read_bytes())
    assert sum(event["ph"] == "X" and event["cat"] == "stay" for event in short["traceEvents"]) == 5
    whole = sum(event["cat"] == "stay" for row in slices(trace).values() for event in row)
    assert short["otherData"]["stays_left_out"] == whole - 5
    assert trace["otherData"]["stays_left_out"] == 0


def test_a_run_without_its_log_has_no_trace(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="simulate with stays > 0"):
        write_trace(played(stays=0), tmp_path / "none.json")
    with pytest.raises(ValueError, match="nowhere must exist"):
        write_trace(run, tmp_path / "nowhere" / "run.json")
    assert not list(tmp_path.iterdir())

"""The record of our own service: what is written is read back, and what a replay cannot do is said."""

import json
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aps import Scheduler, Tenant
from aps.lab.traces import TraceError, TraceOptions, read, record
from aps.record import Recorder
from tests import traces
from tests.recording import traffic
from tests.traces import written


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    tenants = [Tenant("vip", weight=2.0, rate=100.0, burst=5000.0, max_in_flight=4), Tenant("free", default_bid=1)]
    calls = [
        {
            "t": 100.0 + call / 8,
            "op": "submit",
            "id": call,
            "tenant": tenants[call % 2].name,
            "bid": 1 + call % 10,
            "prompt_tokens": 10 + call,
            "max_tokens": 20,
            "output_tokens": 1 + call % 20,
            "verdict": "admitted",
        }
        for call in range(3000)
    ]
    path = tmp_path / "record.jsonl"
    with path.open("w") as stream:
        record.write(stream, tenants, calls)
    workload = read(path)
    assert workload.tenants == tuple(tenants)
    assert workload.notes == ()
    assert workload.deadline_s is None
    assert workload.at_s[:3].tolist() == [0.0, 0.125, 0.25]
    for column in ("bid", "prompt_tokens", "max_tokens", "output_tokens"):
        assert getattr(workload, column).tolist() == [call[column] for call in calls]
    assert workload.tenant.tolist() == [call % 2 for call in range(3000)]


def test_what_a_replay_cannot_do_is_said(tmp_path: Path) -> None:
    workload = read(written(tmp_path, traces.RECORD))
    assert [(tenant.name, tenant.weight) for tenant in workload.tenants] == [("vip", 2.0), ("free", 1.0)]
    assert workload.bid.tolist() == [9, 1, 5]
    assert workload.output_tokens.tolist() == [130, 5, 7]
    assert workload.deadline_s is not None and workload.deadline_s.tolist() == [inf, 2.0, inf]
    assert workload.notes == (
        "lines of other calls, not used: 1",
        "lines about an id that no submit has, not used: 1",
        "cancels, not replayed (the request runs to the output that it had): 1",
        "calls refused then, asked again: 1",
        "calls without output_tokens, taken to be max_tokens: 1",
    )


def test_other_tenants_and_lengths_on_demand(tmp_path: Path) -> None:
    path = written(tmp_path, traces.RECORD)
    dealt = read(path, TraceOptions(tenants="round-robin:2", bids={"tenant-1": 10}, max_tokens=4))
    assert dealt.bid.tolist() == [10, 1, 10]
    assert dealt.max_tokens.tolist() == [4, 4, 4]
    assert any("the trace's own 2 are not used" in note for note in dealt.notes)
    assert read(path, TraceOptions(max_tokens_factor=2)).max_tokens.tolist() == [260, 10, 14]
    with pytest.raises(ValueError, match="has tenants of its own"):
        read(path, TraceOptions(tenants="column:tenant"))


GOOD = {"t": 1.0, "op": "submit", "id": 1, "tenant": "a", "prompt_tokens": 5, "max_tokens": 5}


@pytest.mark.parametrize(
    ("header", "calls", "says"),
    [
        ({"aps_record": 3}, [GOOD], "line 1: aps_record must be 1 or 2, the versions that are read here, got 3"),
        ({"aps_record": 1, "tenants": ["a"]}, [GOOD], "line 1: tenants must be a list of objects with a name"),
        ({"aps_record": 1, "tenants": [{"name": "a", "weight": -1}]}, [GOOD], "line 1: tenants: Tenant.weight must be"),
        ({"aps_record": 1, "tenants": [{"name": "a"}] * 2}, [GOOD], "line 1: tenants: 'a' is there twice"),
        ({"aps_record": 1}, [], "has no calls; expected at least one submit"),
        ({"aps_record": 1}, [GOOD, {"t": 2}], "line 3: op must be .*, and it is missing"),
        ({"aps_record": 1}, [{**GOOD, "t": -1}], "line 2: t must be seconds, a number from 0 to 1e12, got -1"),
        ({"aps_record": 1}, [{**GOOD, "t": True}], "line 2: t must be"),
        ({"aps_record": 1}, [GOOD, {**GOOD, "t": 0.5, "id": 2}], "line 3: times must not fall"),
        ({"aps_record": 1}, [GOOD, GOOD], "line 3: id must be another one for each submit, got 1"),
        ({"aps_record": 1}, [{**GOOD, "id": 1.5}], "line 2: id must be an int or a str"),
        ({"aps_record": 1}, [{**GOOD, "tenant": "a/b"}], "line 2: tenant: Tenant.name must be"),
        ({"aps_record": 1}, [{**GOOD, "tenant": ["a"]}], "line 2: tenant: Tenant.name must be"),
        ({"aps_record": 1}, [{**GOOD, "bid": 11}], "line 2: bid must be an int in 1..10, got 11"),
        ({"aps_record": 1}, [{**GOOD, "bid": True}], "line 2: bid must be an int in 1..10, got true"),
        ({"aps_record": 1}, [{**GOOD, "verdict": "no"}], "line 2: verdict must be admitted or throttled or rejected"),
        ({"aps_record": 1}, [{**GOOD, "verdict": []}], "line 2: verdict must be admitted or throttled or rejected"),
        ({"aps_record": 1}, [{**GOOD, "max_tokens": 0}], "line 2: max_tokens must be a whole number from 1"),
        ({"aps_record": 1}, [{**GOOD, "prompt_tokens": 2**31}], "line 2: prompt_tokens must be a whole number from 0"),
        ({"aps_record": 1}, [{**GOOD, "output_tokens": "5"}], "line 2: output_tokens must be a whole number from 0"),
        ({"aps_record": 1}, [{**GOOD, "deadline_s": -1}], "line 2: deadline_s must be a number of seconds"),
    ],
)
def test_a_wrong_record_is_refused(
    tmp_path: Path, header: dict[str, Any], calls: list[dict[str, Any]], says: str
) -> None:
    content = "\n".join(map(json.dumps, [header, *calls]))
    with pytest.raises(ValueError, match=says):
        read(written(tmp_path, content))


def test_numbers_that_json_has_not_are_not_written(tmp_path: Path) -> None:
    with (tmp_path / "r").open("w") as stream, pytest.raises(ValueError, match="JSON"):
        record.write(stream, [], [{**GOOD, "t": inf}])


def test_the_record_of_a_service_is_read_with_all_its_files(tmp_path: Path) -> None:
    path = tmp_path / "night.jsonl.gz"
    with Recorder(path, max_mb=0.002, files=100, about={"profile": "reference"}) as recorder:
        scheduler = recorder.watch(Scheduler([Tenant("a", weight=2.0), Tenant("b", rate=1.0, burst=100.0)]))
        for round in range(10):
            traffic(scheduler, 40, at_s=1.0 + round)
            recorder.flush()
        ids = [scheduler.submit("a", prompt_tokens=30, max_tokens=9, bid=9, now=20.0).id for _ in range(3)]
        scheduler.add_tenant(Tenant("new", weight=7.0), now=21.0)
        scheduler.submit("new", prompt_tokens=30, max_tokens=9, now=21.0, deadline_at=23.5)
        scheduler.next_batch(now=22.0)
        core = scheduler._core
        core.progress_many(np.array(ids), np.array([30, 30, 30]), np.array([1, 1, 1]), 22.5)
        core.settle_many(np.array(ids[:2]), np.array([4, 5]), 23.0)
        scheduler.cancel(ids[2], now=23.0)
        scheduler.set_policy(fairness_window=9.0, now=24.0)
    assert recorder.parts > 2
    workload = read(path)
    assert [(tenant.name, tenant.weight) for tenant in workload.tenants] == [("a", 2.0), ("b", 1.0), ("new", 7.0)]
    assert workload.tenants[1].burst == 100.0
    assert len(workload.at_s) == 404
    assert workload.output_tokens[:2].tolist() == [4, 4]
    assert workload.output_tokens[-4:].tolist() == [4, 5, 1, 9]
    assert workload.bid.tolist()[-4:] == [9, 9, 9, 5]
    assert workload.deadline_s is not None and workload.deadline_s.tolist()[-2:] == [inf, 2.5]
    refused = 200 - 4  # of b, whose burst is four requests of 25 tokens
    assert workload.notes == (
        "recorded under aps on 1 x reference with 16 slots",
        "changes of tenants, bids and policy while it ran, not replayed: 1",
        "cancels, not replayed (the request runs to the output that it had): 1",
        f"calls refused then, asked again: {refused}",
        f"calls without output_tokens, taken to be max_tokens: {refused + 1}",
    )


def test_a_service_that_was_killed_leaves_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "night.jsonl"
    with Recorder(path) as recorder:
        traffic(recorder.watch(Scheduler([Tenant("a")])), 20)
    path.write_bytes(path.read_bytes()[:-50])
    workload = read(path)
    assert len(workload.at_s) == 20
    assert any("ends within line" in note for note in workload.notes)
    path.write_text(path.read_text().replace('"op":"submit"', '"op":"submit" "', 1))
    with pytest.raises(TraceError, match="line 2: expected a JSON object"):
        read(path)

"""Records: what a scheduler was asked and what it answered replays to the same text."""

import json
import random
import re
from fractions import Fraction
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aps import Device, Limits, Policy, Scheduler, Tenant
from aps.cli import main
from aps.lab.catalog import open_workload
from aps.record import Recorder, RecordError, replay
from aps.record.replaying import _Player
from aps_core.recorded import Recorded
from aps_core.scheduler import Scheduler as Core
from tests import drive
from tests.recording import recorded, traffic

# What the recorded scheduler passes on unseen: it changes nothing, or the face writes it down.
UNSEEN = {
    "bid_of", "explain", "is_live", "largest", "level", "next_wakeup", "now", "request_level", "restored",
    "retry_after", "snapshot", "state", "tenant_state",
}  # fmt: skip
BY_THE_FACE = {
    "add_tenant",
    "readmit_tenant",
    "remove_tenant",
    "restore",
    "set_aging_horizon",
    "set_fairness_window",
    "set_tenant",
}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_call_of_the_core_is_written_or_known_to_change_nothing() -> None:
    public = {name for name in dir(Core) if not name.startswith("_")}
    assert public - set(vars(Recorded)) <= UNSEEN | BY_THE_FACE


def test_a_record_with_a_default_bid_that_was_let_pass_replays(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with Recorder(path) as recorder:
        scheduler = recorder.watch(Scheduler([Tenant("a", default_bid=4, max_bid=4)]))
        scheduler.submit("a", prompt_tokens=5, now=0.0)
    path.write_text(path.read_text().replace('"default_bid":4', '"default_bid":9', 1))
    assert lines(path)[0]["tenants"][0]["default_bid"] == 9
    assert replay(path).same
    assert open_workload(str(path)).tenants[0] == Tenant("a", default_bid=4, max_bid=4)


def test_a_replay_for_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "r.jsonl"
    with Recorder(path) as recorder:
        traffic(recorder.watch(Scheduler([Tenant("ä"), Tenant("b")])), 20)
    assert main(["replay", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    result = replay(path)
    assert found == {
        "same": True,
        "calls": result.calls,
        "requests": 20,
        "dispatches": result.dispatches,
        "difference": None,
        "notes": [],
    }
    path.write_text(path.read_text().replace('"verdict":"admitted"', '"verdict":"rejected"', 1))
    assert main(["replay", str(path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert (found["same"], found["calls"], found["difference"]["line"]) == (False, 0, 2)
    assert found["difference"]["recorded"] == found["difference"]["replayed"].replace("admitted", "rejected")
    assert main(["replay", str(tmp_path / "nowhere"), "--json"]) == 2


@pytest.mark.parametrize("name", ["random", *drive.CONFIGS])
def test_random_operations_replay_byte_for_byte(name: str, tmp_path: Path) -> None:
    for seed in range(3):
        path = tmp_path / f"{seed}.jsonl"
        driver = drive.run(seed, 300, drive.CONFIGS.get(name), recorded(path))
        driver.pair.recorder.close()  # type: ignore[attr-defined]
        result = replay(path)
        assert result.same, result.difference
        assert result.calls == len(path.read_bytes().splitlines()) - 1
        assert not result.notes


def test_recording_changes_no_decision(tmp_path: Path) -> None:
    def play(scheduler: Scheduler) -> list[object]:
        rng = random.Random(1)
        seen: list[object] = []
        now = 0.0
        for _ in range(300):
            now += rng.random() / 50
            name = rng.choice("ab")
            seen.append(
                scheduler.submit(
                    name, prompt_tokens=rng.randint(1, 300), max_tokens=rng.randint(1, 9), now=now, id=len(seen)
                )
            )
            batch = scheduler.next_batch(0, now=now)
            seen.append(batch)
            for id in batch.started:
                seen.append(scheduler.settle(id, 1, now=now))
        return [tuple(one[:2]) if isinstance(one, tuple) else one for one in seen]  # but for the wait's last bits

    tenants = [Tenant("a"), Tenant("b", rate=500.0, burst=400.0)]
    with Recorder(tmp_path / "r.jsonl") as recorder:
        watched = recorder.watch(Scheduler(tenants))
        assert play(watched) == play(Scheduler(tenants))
    assert replay(tmp_path / "r.jsonl").same


def test_what_a_line_says(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    tenants = [Tenant("a", weight=2.0, max_bid=6), Tenant('"q"', rate=10.0, burst=60.0)]
    policy, limits = Policy.strict(preemption="swap"), Limits(max_queued=None, max_context=900)
    devices = [Device(slots=2, token_budget=None)]
    with Recorder(path, about={"profile": "reference"}) as recorder:
        scheduler = recorder.watch(Scheduler(tenants, policy=policy, limits=limits, devices=devices, epoch=-2.5))
        first = scheduler.submit("a", prompt_tokens=40, max_tokens=9, bid=9, now=-2.25, deadline_at=0.0).id
        scheduler.submit('"q"', prompt_tokens=40, max_tokens=9, now=-2.25, expected_output=3)
        scheduler.submit('"q"', prompt_tokens=40, max_tokens=9, now=-2.0)
        scheduler.submit("a", prompt_tokens=900, max_tokens=9, now=-2.0)
        scheduler.next_batch(now=-1.5)
        scheduler.progress(first, 40, 1, now=-1.25)
        scheduler.progress(first, 40, 3, now=-1.125)
        scheduler.rebid(first, 2, now=-1.0)
        scheduler.settle(first, 5, now=-1.0)
        scheduler.set_policy(fairness_window=5.5, now=0.0)
    header, *calls = lines(path)
    assert header["aps_record"] == 2
    assert (header["part"], header["epoch"], header["profile"]) == (1, -2.5, "reference")
    assert header["policy"]["aging_horizon_s"] == "inf"
    assert header["limits"] == {"max_queued": None, "max_queued_tokens": None, "max_context": 900}
    assert header["devices"] == [{"slots": 2, "kv_blocks": 4096, "token_budget": None, "name": "gpu0"}]
    assert [tenant["name"] for tenant in header["tenants"]] == ["a", '"q"']
    assert "rate" not in header["tenants"][0]
    sizes = {"prompt_tokens": 40, "max_tokens": 9}
    assert calls == [
        {"t": 0.25, "op": "submit", "id": 1, "tenant": "a", "bid": 9, **sizes, "deadline_s": 2.25,
         "verdict": "admitted", "counts": 6},
        {"t": 0.25, "op": "submit", "id": 2, "tenant": '"q"', "bid": 5, **sizes, "expected_output": 3,
         "verdict": "admitted"},
        {"t": 0.5, "op": "submit", "id": -1, "tenant": '"q"', "bid": 5, **sizes, "verdict": "throttled",
         "reason": "over_rate", "retry_after_s": 3.55},
        {"t": 0.5, "op": "submit", "id": -2, "tenant": "a", "bid": 5, "prompt_tokens": 900, "max_tokens": 9,
         "verdict": "rejected", "reason": "exceeds_context", "largest": 0},
        {"t": 1, "op": "batch", "device": 0, "started": [1, 2], "released": "continuous"},
        {"t": 1.25, "op": "progress", "device": 0, "ids": [1], "computed": [40], "generated": [1]},
        {"t": 1.375, "op": "step", "device": 0, "tokens": 2},
        {"t": 1.5, "op": "rebid", "id": 1, "bid": 2, "verdict": "admitted"},
        {"t": 1.5, "op": "end", "id": 1, "output_tokens": 5, "charge": 45},
        {"t": 2.5, "op": "set_policy", "fairness_window": 5.5},
        {"t": 2.5, "op": "closed"},
    ]  # fmt: skip
    result = replay(path)
    assert result.same
    assert (result.calls, result.requests, result.dispatches) == (11, 4, 2)


@given(st.lists(st.floats(0.0, 3.9e8), min_size=1, max_size=20))
def test_any_instants_come_back(tmp_path_factory: pytest.TempPathFactory, instants: list[float]) -> None:
    """Whatever the doubles, whatever the scheduler's clock lasts."""
    path = tmp_path_factory.mktemp("r") / "r.jsonl"
    with Recorder(path) as recorder:
        scheduler = recorder.watch(Scheduler([Tenant("a", rate=0.3, burst=50.0)]))
        for now in sorted(instants):
            scheduler.submit("a", prompt_tokens=20, max_tokens=10, now=now, deadline_at=now * 1.001)
            scheduler.next_batch(now=now)
    assert replay(path).same


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        (1, "max_tokens", 400_000),
        (2, "started", [1, 1]),
        (5, "charge", 25),
        (1, "t", 0.5),
        (3, "id", 2),
        (1, "op", "batch"),
    ],
)
def test_a_line_that_was_changed_is_the_first_difference(line: int, key: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with Recorder(path) as recorder:
        traffic(recorder.watch(Scheduler([Tenant("a")])), 3)
    texts = path.read_text().splitlines()
    changed = json.loads(texts[line]) | {key: value}
    texts[line] = json.dumps(changed, separators=(",", ":"))
    path.write_text("\n".join(texts) + "\n")
    difference = replay(path).difference
    assert difference is not None
    assert difference.file == str(path)
    assert difference.line >= line + 1
    assert difference.recorded != difference.replayed


def test_another_policy_in_the_header_is_a_difference(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with Recorder(path) as recorder:
        scheduler = recorder.watch(Scheduler([Tenant("a")], devices=[Device(slots=1)]))
        for bid in (1, 9, 5):
            scheduler.submit("a", prompt_tokens=10, max_tokens=10, bid=bid, now=1.0)
        scheduler.next_batch(now=1.0)
    assert replay(path).same
    path.write_text(path.read_text().replace('"aging_horizon_s":30.0', '"aging_horizon_s":0.0'))
    difference = replay(path).difference
    assert difference is not None
    assert '"started":[2]' in difference.recorded
    assert '"started":[1]' in difference.replayed


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: expected the header"),
        ("[]\n", "line 1: expected the header"),
        ('{"aps_record": 1}\n', "aps_record must be 2"),
        ('{"aps_record": 2}\n', "line 1"),
    ],
)
def test_what_is_no_record_is_said(text: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(text)
    with pytest.raises(RecordError, match=says):
        replay(path)
    with pytest.raises(RecordError, match="cannot be read"):
        replay(tmp_path / "none")


@pytest.mark.parametrize("line", ["null", "{}", '{"t":1,"op":"jump"}', '{"t":"x","op":"batch"}', "\xff"])
def test_a_broken_line_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    with Recorder(path) as recorder:
        traffic(recorder.watch(Scheduler([Tenant("a")])), 1)
    before = len(path.read_bytes().splitlines())
    path.write_bytes(path.read_bytes() + line.encode("latin-1") + b"\n")
    with pytest.raises(RecordError, match=f"line {before + 1}"):
        replay(path)


def test_numbers_of_any_kind_replay(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    other = Tenant("b", weight=Fraction(1, 3), max_in_flight=np.int64(3), kv_share=np.float32(0.3))  # type: ignore
    with Recorder(path) as recorder:
        scheduler = recorder.watch(Scheduler([Tenant("a", weight=3, rate=Fraction(5), burst=np.int32(70))]))  # type: ignore
        scheduler.set_policy(10, 4096, now=0.25)
        scheduler.add_tenant(other, now=0.5)
        scheduler.set_policy(np.float32(0.1), np.int64(7), now=0.75)  # type: ignore
        scheduler.submit("b", prompt_tokens=np.int64(9), max_tokens=3, now=1)  # type: ignore
        scheduler.next_batch(now=1)
    result = replay(path)
    assert result.same and result.requests == 1, result.difference


def test_a_record_begins_with_a_scheduler_as_it_was_made(tmp_path: Path) -> None:
    used = Scheduler([Tenant("a")])
    used.submit("a", prompt_tokens=1, now=0.0)
    late = Scheduler([Tenant("a")])
    late.next_wakeup(now=1.0)
    gap = Scheduler([Tenant("a"), Tenant("b")])
    gap.remove_tenant("a", now=0.0)
    drained = Scheduler([Tenant("a", rate=1.0, burst=10.0)])
    drained.set_tenant(Tenant("a", rate=1.0, burst=20.0), now=0.0)
    for scheduler in (used, late, gap, drained):
        with pytest.raises(ValueError, match="as it was made"):
            Recorder(tmp_path / "r.jsonl").watch(scheduler)
    restored = Scheduler([Tenant("a")])
    restored.restore(used.state(now=0.0), passed_s=0.0, now=0.0)
    with pytest.raises(ValueError, match="restored after recording has begun"):
        Recorder(tmp_path / "r.jsonl").watch(restored)
    assert not (tmp_path / "r.jsonl").exists()
    recorder = Recorder(tmp_path / "r.jsonl")
    recorder.watch(Scheduler([Tenant("a", rate=inf)]))
    with pytest.raises(ValueError, match="has one already"):
        recorder.watch(Scheduler([]))
    recorder.close()
    recorder.close()


def test_the_page_shows_what_its_example_writes(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = (root / "docs/record.md").read_text()
    (example,) = re.findall(r"^```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (shown,) = re.findall(r"^```json\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    space: dict[str, Any] = {}
    exec(example, space)
    _, *calls = space["path"].read_text().splitlines()
    assert shown.splitlines() == calls
    ops = re.findall(r"^\| (`.*?) \|", page[page.index("| `op` | keys") :], re.MULTILINE)
    named = set(re.findall(r"`(\w+)`", " ".join(ops)))
    assert named - {"op"} == set(_Player(json.loads(space["path"].read_text().splitlines()[0]))._calls)

"""`aps.SchedulerState`: from one scheduler into another by name, in records, through a driver."""

import asyncio
import json
import random
from dataclasses import FrozenInstanceError, fields, replace
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aps import Device, Driver, DriverError, Policy, Scheduler, SchedulerState, Tenant
from aps.backends import SimulatedBackend
from aps.lab.traces import read
from aps.record import Recorder, replay
from aps.record.schema import state_fields, state_of
from tests.virtual_loop import VirtualLoop, run

TENANTS = (
    Tenant("gold", weight=2.0, rate=33.3, burst=4000.0),
    Tenant("inf", rate=7.7, burst=900.0, over_rate="queue"),
    Tenant("fréé"),
)


def rows(state: SchedulerState) -> dict[str, tuple[Any, ...]]:
    columns = (getattr(state, field.name).tolist() for field in fields(state)[5:])
    return dict(zip(state.tenants, zip(*columns, strict=True), strict=True))


def busy(scheduler: Scheduler, seed: int, *, drained: bool = False) -> float:
    """Requests at random, some of them unfinished unless `drained`; the instant at which it ends."""
    rng = random.Random(seed)
    now = scheduler.now
    for _ in range(40):
        now += rng.random()
        name = rng.choice(list(scheduler.tenants))
        scheduler.submit(name, prompt_tokens=rng.randint(1, 300), max_tokens=rng.randint(1, 99), now=now)
        for id in scheduler.next_batch(now=now).started:
            if drained or rng.random() < 0.7:
                scheduler.settle(id, rng.randint(1, 9), now=now)
    while drained and scheduler.waiting:
        now = max(now, min(scheduler.next_wakeup(now=now), now + 1e6))
        for id in scheduler.next_batch(now=now).started:
            scheduler.settle(id, 3, now=now)
    return now


def test_tenants_are_found_by_name() -> None:
    old = Scheduler(TENANTS)
    now = busy(old, 1)
    old.remove_tenant("gold", now=now)
    state = old.state(now=now)
    assert state.tenants == ("gold", "inf", "fréé")  # one that drains is there too
    assert state.fairness_window == old.policy.fairness_window
    assert state.at_ns == round(now * 1e9)
    snapshot = old.snapshot(now=now)
    assert state.level.tolist() == [row.level for row in snapshot.tenants.values()]
    new = Scheduler([TENANTS[2], Tenant("new", rate=1.0, burst=5.0), TENANTS[1]], epoch=1e6)
    new.restore(state, passed_s=0.0, now=1e6)
    restored = new.snapshot(now=1e6)
    assert restored.virtual_time == snapshot.virtual_time
    for name in ("fréé", "inf"):
        ours, theirs = restored.tenants[name], snapshot.tenants[name]
        assert (ours.level, ours.service, ours.credit) == (theirs.level, theirs.service, theirs.credit)
    assert restored.tenants["new"][2:5] == (1.0, 0.0, 0.0)
    assert restored.tenants["new"].level == 5.0


def test_what_changed_is_seen_without_a_look_at_each() -> None:
    scheduler = Scheduler(TENANTS)
    first = scheduler.state(now=0.0)
    id = scheduler.submit("gold", prompt_tokens=9, max_tokens=9, now=1.0).id
    second = scheduler.state(now=2.0)
    assert second.changed_since(first).tolist() == [0]
    scheduler.cancel(id, now=3.0)
    scheduler.set_tenant(replace(TENANTS[2], weight=3.0), now=3.0)
    scheduler.add_tenant(Tenant("new"), now=3.0)
    third = scheduler.state(now=1000.0)
    assert third.changed_since(second).tolist() == [0, 2, 3]
    scheduler.remove_tenant("inf", now=1000.0)
    fourth = scheduler.state(now=2000.0)
    assert fourth.tenants == ("gold", "fréé", "new")
    assert fourth.changed_since(third).tolist() == []
    assert fourth.changed_since(Scheduler([]).state(now=0.0)).tolist() == [0, 1, 2]
    assert Scheduler([]).state(now=0.0).changed_since(fourth).tolist() == []


def test_a_state_is_a_value() -> None:
    state = Scheduler(TENANTS).state(now=0.0)
    with pytest.raises(FrozenInstanceError):
        state.virtual_time = 1.0  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        state.service[0] = 1.0
    mine = np.ones(3)
    other = replace(state, service=mine)
    mine[0] = 2.0
    assert other.service.tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("at_ns", -1, "at_ns must be an int in 0.."),
        ("at_ns", 0.5, "at_ns must be an int"),
        ("virtual_time", nan, "virtual_time must be a number in 0..1e100, got nan"),
        ("fairness_window", -1.0, "fairness_window must be at least 0"),
        ("last_contender", "nobody", "last_contender must be one of tenants, got 'nobody'"),
        ("tenants", ("gold", "inf", "gold"), "tenants must differ, got 'gold' twice"),
        ("weight", [1.0, 2.0], r"weight must have one entry for each of the 3 tenants, got the shape \(2,\)"),
        ("weight", [1.0, 0.0, 1.0], "weight must be a number in 1e-9..1e9, got 0.0 of 'inf'"),
        ("service", [1.0, 0.0, inf], "service must be a number in 0..1e100, got inf of 'fréé'"),
        ("service", ["1", "2", "3"], "service must be an array of float64"),
        ("rate", [1.0, inf, inf], "burst must be above 0, finite exactly when the rate is, got 900.0 of 'inf'"),
        ("base", [4000.5, 1.0, inf], "base must be at most the burst, .* got 4000.5 of 'gold'"),
        ("base", [1.0, 1.0, 1.0], "base must be at most the burst, finite exactly when the rate is, got 1.0 of 'fréé'"),
        ("base_at_ns", [0, 1, 0], "base_at_ns must be in .*, got 1 of 'inf'"),
        ("base_at_ns", [0, 0.5, 0], "base_at_ns must be an array of int64"),
    ],
)
def test_a_state_is_checked(field: str, value: object, says: str) -> None:
    with pytest.raises((ValueError, TypeError), match=says):
        replace(Scheduler(TENANTS).state(now=0.0), **{field: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("passed_s", [-1.0, inf, nan])
def test_the_time_that_passed_is_checked(passed_s: float) -> None:
    scheduler = Scheduler(TENANTS)
    with pytest.raises(ValueError, match="passed_s must be a finite number of seconds >= 0"):
        scheduler.restore(scheduler.state(now=0.0), passed_s=passed_s, now=0.0)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), passed_s=st.floats(0.0, 1e300), window=st.sampled_from([2048.0, 55.5, inf]))
def test_a_restored_scheduler_is_recorded_and_replays_byte_for_byte(
    tmp_path_factory: pytest.TempPathFactory, seed: int, passed_s: float, window: float
) -> None:
    path = tmp_path_factory.mktemp("r") / "r.jsonl"
    old = Scheduler(TENANTS, policy=Policy(fairness_window=inf), devices=[Device(slots=2)])
    state = old.state(now=busy(old, seed))
    with Recorder(path) as recorder:
        scheduler = recorder.watch(
            Scheduler(reversed(TENANTS), policy=Policy(fairness_window=window), devices=[Device(slots=2)], epoch=-3.25)
        )
        scheduler.restore(state, passed_s=passed_s, now=-3.0)
        busy(scheduler, seed + 1)
    line = json.loads(path.read_text().splitlines()[1])
    assert (line["t"], line["op"], line["passed_s"]) == (0.25, "restore", passed_s)
    assert rows(state_of(line["state"])) == rows(state)
    assert state_fields(state_of(line["state"])) == state_fields(state)
    result = replay(path)
    assert result.same, result.difference
    assert any("state of an earlier run, not used" in note for note in read(path).notes)


def test_a_changed_state_in_a_record_is_a_difference(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    old = Scheduler(TENANTS)
    state = old.state(now=busy(old, 3))
    with Recorder(path) as recorder:
        scheduler = recorder.watch(Scheduler(TENANTS))
        scheduler.restore(state, passed_s=0.0, now=0.0)
        busy(scheduler, 4)
    header, restored, *calls = path.read_text().splitlines()
    call = json.loads(restored)
    call["state"]["base"][0] -= 3000.0
    path.write_text("\n".join([header, json.dumps(call, separators=(",", ":")), *calls]) + "\n")
    difference = replay(path).difference
    assert difference is not None and '"op":"submit"' in difference.recorded
    call["state"]["weight"][0] = 0.0
    path.write_text("\n".join([header, json.dumps(call, separators=(",", ":")), *calls]) + "\n")
    difference = replay(path).difference
    assert difference is not None and "weight must be" in difference.replayed


def test_a_driver_leaves_a_state_and_begins_with_one(tmp_path: Path) -> None:
    async def main(loop: VirtualLoop) -> None:
        recorders = [Recorder(tmp_path / name) for name in ("1.jsonl", "2.jsonl")]

        def driver(recorder: Recorder) -> Driver:
            backend = SimulatedBackend(clock=loop.time)
            return Driver(Scheduler(TENANTS, devices=backend.devices), backend, recorder=recorder)

        first = driver(recorders[0])
        async with first:
            await asyncio.gather(*(first.infer("gold", prompt_tokens=99, max_tokens=9) for _ in range(5)))
            assert await first.drain(10.0) == 0
            state = first.state()
            with pytest.raises(DriverError, match="before the driver is opened"):
                first.restore(state, passed_s=0.0)
        assert rows(first.state()) == rows(state)  # closed: of its end
        second = driver(recorders[1])
        second.restore(state, passed_s=0.0)
        async with second:
            row = second.snapshot().tenants["gold"]
            assert (row.service, row.credit) == (state.service[0], state.credit[0]) != (0.0, 0.0)
            await second.infer("gold", prompt_tokens=99, max_tokens=9)
        for recorder in recorders:
            recorder.close()
            assert replay(recorder.path).same

    run(main)

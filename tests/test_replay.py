"""The compiled loop in virtual time against its slow twin, bit for bit; and what any run must keep."""

from contextlib import suppress
from dataclasses import replace
from math import inf
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings

from aps import Device, Policy, Scheduler, Tenant
from aps_core.gpu import Engine
from aps_core.replay import Replay
from aps_core.step_time import ReferenceModel
from tests.replay_cases import MS, Case, built, crowd, outcome, replay_of, some_cases, twin_of
from tests.twins.replay import NEVER_NS, STILL_HERE, as_arrays
from tests.twins.replay import Replay as Twin


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert set(found) == set(expected)
    for name, values in expected.items():
        assert np.array_equal(np.asarray(found[name]).ravel(), np.asarray(values).ravel()), (
            f"{name}: {found[name]}, expected {values}"
        )


@settings(max_examples=100, deadline=None)
@given(case=some_cases())
def test_the_loop_and_its_twin_agree(case: Case) -> None:
    compare(case)


def compare(case: Case) -> dict[str, Any]:
    replay, scheduler, engines = replay_of(case)
    assert replay.run(case.until_ns)
    stays = replay.stays()
    found = outcome(replay)
    twin = twin_of(case)
    expected = as_arrays(twin.read() | twin.series() | {"now_ns": twin.now_ns, "steps": twin.steps})
    assert_same(found, expected)
    ours, theirs = scheduler.snapshot(now=scheduler.now), twin.scheduler.snapshot(now=twin.scheduler.now)
    assert ours.tenants == theirs.tenants
    for engine, other in zip(engines, twin.engines, strict=True):
        for name in ("steps", "busy_ns", "slot_ns", "block_ns", "prefill_tokens", "output_tokens", "swapped_tokens"):
            assert getattr(engine, name) == getattr(other, name), name
        assert np.array_equal(engine.served, other.served)
    compare_stays(stays, twin, case)
    return found


def compare_stays(stays: dict[str, Any], twin: Twin, case: Case) -> None:
    kept = twin.stays[: case.stays]
    assert stays["dropped"] == (len(twin.stays) - len(kept) if case.stays else 0)
    for name in ("request", "device", "began_ns", "prefilled_ns", "ended_ns", "end"):
        assert stays[name].tolist() == [stay[name] for stay in kept], name
    taken: dict[tuple[int, int], int] = {}  # until when, by device and slot
    columns = [stays[name].tolist() for name in ("device", "slot", "began_ns", "ended_ns")]
    for device, slot, began, ended in zip(*columns, strict=True):
        assert 0 <= slot < case.devices[device].slots
        assert taken.get((device, slot), 0) <= began
        taken[device, slot] = NEVER_NS if ended < 0 else ended


@pytest.mark.parametrize("model", ["reference", "physics"])
@pytest.mark.parametrize("preemption", ["recompute", "swap"])
@pytest.mark.parametrize("until_ns", [NEVER_NS, 250 * MS])
def test_preempted_requests_come_back_as_in_the_twin(
    model: str, preemption: Literal["recompute", "swap"], until_ns: int
) -> None:
    policy = Policy(preemption=preemption, fairness_window=inf, expected_output=10)
    found = [compare(crowd(seed, model=model, policy=policy, until_ns=until_ns)) for seed in range(3)]
    assert sum(one["preemptions"].sum() for one in found) > 5
    assert sum(one["recomputed_tokens"].sum() for one in found) > 0 or preemption == "swap"


def test_a_replay_in_slices_is_the_same_replay() -> None:
    case = crowd(1)
    whole, *_ = replay_of(case)
    assert whole.run()
    expected = outcome(whole)
    for events in (1, 7, 1000):
        replay, *_ = replay_of(case)
        while not replay.run(events=events):
            assert replay.ended < replay.n
        assert_same(outcome(replay), expected)
    replay, *_ = replay_of(case)
    for until_ns in range(0, expected["now_ns"] - 1, 13 * MS):
        assert replay.run(until_ns)
        assert replay.now_ns == until_ns
    assert replay.run()
    assert_same(outcome(replay), expected)


@pytest.mark.parametrize("preemption", ["off", "recompute", "swap"])
def test_nothing_is_lost_and_nothing_is_left(preemption: Literal["off", "recompute", "swap"]) -> None:
    case = crowd(2, policy=Policy(preemption=preemption, fairness_window=inf))
    replay, scheduler, engines = replay_of(case)
    replay.run()
    found = outcome(replay)
    assert (found["reason"] == 0).all()
    assert found["generated"].sum() == sum(engine.output_tokens for engine in engines) == found["served"][:, 1].sum()
    prefilled = sum(engine.prefill_tokens for engine in engines)
    assert sum(case.columns["prompt_tokens"]) + found["recomputed_tokens"].sum() == prefilled
    assert prefilled == found["served"][:, 0].sum()
    assert sorted(found["order"]) == list(range(len(found["order"])))
    snapshot = scheduler.snapshot(now=scheduler.now)
    assert (snapshot.waiting, snapshot.returning) == (0, 0)
    for device in snapshot.devices.values():
        assert (device.running, device.held_blocks, device.max_blocks) == (0, 0, 0)
    for engine in engines:
        assert (engine.running, engine.held_blocks, engine.stepping) == (0, 0, False)
    assert sum(row.finished for row in snapshot.tenants.values()) == len(found["order"])
    assert (found["submitted_ns"] <= found["started_ns"]).all() and (
        found["started_ns"] < found["first_token_ns"]
    ).all()


def test_loops_that_take_no_time_end() -> None:
    n = 5000
    after = [-1, *range(n - 1)]
    columns = {
        "tenants": [0] * n,
        "prompt_tokens": [7] * n,
        "output_tokens": [3] * n,
        "max_tokens": [3] * n,
        "bids": [5] * n,
        "at_ns": [0] * n,
        "after": after,
        "deadline_ns": None,
    }
    case = crowd(0, columns=columns, model="no time at all", tenants=(Tenant("a"),))
    replay, *_ = replay_of(case)
    assert replay.run()
    assert (replay.ended, replay.now_ns) == (n, 0)
    refused = case.columns | {"max_tokens": [10**6] * n}
    replay, *_ = replay_of(replace(case, columns=refused))
    assert replay.run()
    assert (outcome(replay)["reason"] == 2).all()


def test_the_request_table_grows_while_it_plays() -> None:
    """5,000 at one instant, and as many again when those end, in a table that starts with room for 1,024."""
    n = 10_000
    columns: dict[str, Any] = {name: [1] * n for name in ("prompt_tokens", "output_tokens", "max_tokens", "bids")}
    columns |= {"tenants": [0] * n, "deadline_ns": None}
    columns |= {"at_ns": [0] * n, "after": [-1] * 5_000 + list(range(5_000))}
    case = crowd(0, columns=columns, model="fast", tenants=(Tenant("a"),), policy=Policy.fifo())
    replay, scheduler, _ = replay_of(case)
    assert not replay.run(events=1)
    assert (replay.submitted, scheduler.waiting) == (5_000, 5_000 - 5)
    assert replay.run()
    found = outcome(replay)
    assert (found["reason"] == 0).all()
    assert found["order"][:5_000].tolist() == list(range(5_000))
    came = np.lexsort((np.arange(n), found["submitted_ns"]))
    assert found["order"][came].tolist() == list(range(n))
    assert found["waiting"][0, 2] == 5_000 - 5


def test_a_step_without_a_duration_is_an_error() -> None:
    model = ReferenceModel(decode_rate=1e-12)
    case = crowd(0)
    scheduler, _ = built(case)
    engines = [
        Engine(model, d.slots, d.kv_blocks, block_tokens=4, token_budget=d.token_budget or 0) for d in case.devices
    ]
    columns = case.columns | {"tenants": [1] * 60}
    replay = Replay(scheduler._core, engines, **columns)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="a step must take 0 to 4e"):
            replay.run()


def test_an_engine_that_does_not_keep_the_contract_is_an_error() -> None:
    """It prefills in small chunks though the scheduler was told of whole prompts, and so gives back too late."""
    n = 60
    rng = np.random.default_rng(0)
    output = rng.integers(1, 150, n).tolist()
    columns = {"tenants": [1] * n, "bids": rng.integers(1, 11, n).tolist(), "at_ns": [0] * n}
    columns |= {"prompt_tokens": rng.integers(1, 100, n).tolist(), "output_tokens": output, "max_tokens": output}
    scheduler = Scheduler([Tenant("a")], devices=[Device(slots=8, kv_blocks=300, token_budget=None)], block_tokens=1)
    engine = Engine(ReferenceModel(), 8, 300, block_tokens=1, token_budget=9)
    replay = Replay(scheduler._core, [engine], **columns)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="a step needs more than the KV blocks of its device"):
            replay.run()


def test_nobody_else_may_use_what_a_replay_owns() -> None:
    for index, (tenant, until_ns) in enumerate([("a", 0), ("b", 50 * MS)]):
        case = crowd(0)
        replay, scheduler, engines = replay_of(case)
        assert replay.run(until_ns)
        if index:
            for row in range(1024):  # it calls its requests by their rows
                with suppress(KeyError):
                    engines[0].abort(row)
        else:
            scheduler.submit(tenant, prompt_tokens=1, max_tokens=1, now=scheduler.now)
        with pytest.raises(ValueError, match="must be left to the replay"):
            replay.run()


def test_steps_stop_where_the_scheduler_s_clock_does() -> None:
    case = crowd(0)
    scheduler, _ = built(case)
    model = ReferenceModel(decode_rate=1e-7)
    engines = [
        Engine(model, d.slots, d.kv_blocks, block_tokens=4, token_budget=d.token_budget or 0) for d in case.devices
    ]
    replay = Replay(scheduler._core, engines, **case.columns | {"tenants": [1] * 60})
    assert replay.run()
    assert replay.now_ns <= 4 * 10**17
    assert STILL_HERE in outcome(replay)["reason"]


REQUIRED = ("tenants", "prompt_tokens", "output_tokens", "max_tokens", "bids", "at_ns")
BAD: list[tuple[dict[str, Any], str]] = [
    ({"bids": [11, 1]}, r"bids\[0\] must be from 1 to 10, got 11"),
    ({"prompt_tokens": [1, 0]}, r"prompt_tokens\[1\] must be from 1"),
    ({"max_tokens": [1]}, "max_tokens must have one entry for each of the 2 tenants, got 1"),
    ({"at_ns": [5, 4]}, "at_ns must not fall .* got 4 after 5"),
    ({"at_ns": [-1, 4]}, r"at_ns\[0\] must be from 0"),
    ({"after": [-1, 1]}, r"after\[1\] must be -1 or an earlier request's number, got 1"),
    ({"deadline_ns": [0, -5]}, r"deadline_ns\[1\] must be from 0"),
    ({"points": 0}, "points must be an integer from 1"),
    ({"stays": -1}, "stays must be an integer from 0"),
    ({"prompt_tokens": np.ones((2, 2), np.int32)}, "prompt_tokens must have one dimension"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    good = {name: [1, 1] for name in REQUIRED}
    scheduler, engines = built(crowd(0))
    with pytest.raises(ValueError, match=message):
        Replay(scheduler._core, engines, **good | {"at_ns": [0, 1]} | changes)


def test_what_it_runs_on_must_be_new_and_fit() -> None:
    columns: dict[str, Any] = {name: [1] for name in REQUIRED}
    scheduler, engines = built(crowd(0))
    core = scheduler._core
    with pytest.raises(KeyError, match="tenant 9 is unknown"):
        Replay(core, engines, **columns | {"tenants": [9]})
    with pytest.raises(ValueError, match="one for each of the 2 devices, got 1"):
        Replay(core, engines[:1], **columns)
    with pytest.raises(ValueError, match=r"engines\[1\] must be new, and given once"):
        Replay(core, [engines[0], engines[0]], **columns)
    with pytest.raises(ValueError, match=r"engines\[0\] must have the 3 slots"):
        Replay(core, engines[::-1], **columns)
    with pytest.raises(TypeError, match=r"engines\[0\] must be an aps_core.gpu.Engine, got 1"):
        Replay(core, [1, 2], **columns)  # type: ignore[list-item]
    replay = Replay(core, engines, **columns)
    assert replay.run()
    with pytest.raises(ValueError, match="read must be called after finish"):
        replay.read()
    replay.finish()
    replay.finish()
    with pytest.raises(ValueError, match="run must not be called after finish"):
        replay.run()
    with pytest.raises(ValueError, match=r"engines\[0\] must be new"):
        Replay(built(crowd(0))[0]._core, engines, **columns)
    scheduler.submit("a", prompt_tokens=1, max_tokens=1, now=scheduler.now)
    with pytest.raises(ValueError, match="scheduler must have no requests, it has 1"):
        Replay(core, built(crowd(0))[1], **columns)

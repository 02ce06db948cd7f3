"""The compiled loop in virtual time against its slow twin, bit for bit; and what any run must keep."""

from contextlib import suppress
from dataclasses import dataclass, replace
from math import inf
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aps import Device, Limits, Policy, Scheduler, Tenant
from aps_core.gpu import Engine
from aps_core.physics import PhysicsModel
from aps_core.replay import Replay
from aps_core.step_time import ReferenceModel, StepTimeModel
from tests.twins.replay import NEVER_NS, STILL_HERE, Request, as_arrays
from tests.twins.replay import Replay as Twin

MS = 10**6
FOREVER_NS = 2**63 - 1
MODELS = {
    "reference": ReferenceModel(),
    "fast": ReferenceModel(prefill_rate=1e6, decode_rate=5e4, speedup=20.0),
    "physics": PhysicsModel(
        layers=2, width=512, kv_bytes_per_token_layer=2048.0, decoder_bytes=8e9, head_bytes=1e8, swap_bandwidth=1e8
    ),
    "no time at all": StepTimeModel(),
}


@dataclass(frozen=True)
class Case:
    tenants: tuple[Tenant, ...]
    policy: Policy
    devices: tuple[Device, ...]
    model: str
    block_tokens: int
    limits: Limits
    columns: dict[str, Any]
    until_ns: int
    points: int
    stays: int


def some_tenants() -> st.SearchStrategy[tuple[Tenant, ...]]:
    limited = st.fixed_dictionaries(
        {
            "weight": st.sampled_from([0.5, 1.0, 1.0, 3.0]),
            "max_bid": st.sampled_from([10, 10, 6]),
            "max_in_flight": st.sampled_from([None, None, 1, 2]),
            "max_queued": st.sampled_from([None, None, 2]),
            "kv_share": st.sampled_from([1.0, 1.0, 0.5]),
        }
    )
    rates = st.sampled_from(
        [{}, {}, {"rate": 2000.0, "burst": 150.0}, {"rate": 500.0, "burst": 200.0, "over_rate": "queue"}]
    )
    one = st.builds(lambda limits, rate: limits | rate, limited, rates)
    rows = st.lists(one, min_size=1, max_size=4)
    return rows.map(lambda rows: tuple(Tenant(f"t{i}", default_bid=5, **row) for i, row in enumerate(rows)))


POLICIES = st.builds(
    Policy,
    aging_horizon_s=st.sampled_from([0.0, 0.05, 30.0, inf]),
    fairness_window=st.sampled_from([0.0, 100.0, 2048.0, inf]),
    expected_output=st.sampled_from([None, None, 0, 5]),
    bid_premium=st.sampled_from([0.0, 0.0, 0.25]),
    max_passes=st.sampled_from([0, 2, 64]),
    backfill_depth=st.sampled_from([0, 2, 32]),
    preemption=st.sampled_from(["off", "recompute", "recompute", "swap", "swap"]),
    preempt_margin=st.sampled_from([1, 3]),
    kv_high_watermark=st.sampled_from([1.0, 0.8]),
)
PREEMPTING = st.builds(
    Policy,
    aging_horizon_s=st.sampled_from([1.0, inf]),
    fairness_window=st.sampled_from([500.0, inf]),
    preemption=st.sampled_from(["recompute", "swap"]),
    preempt_margin=st.just(1),
    max_preemptions=st.sampled_from([1, 2, 5]),
    expected_output=st.sampled_from([None, 3]),
)
MICRO = st.builds(
    Policy,
    batching=st.just("micro"),
    batch_window_s=st.sampled_from([0.0, 0.003, 0.01]),
    batch_fill_target=st.sampled_from([0.5, 0.8, 1.0]),
    aging_horizon_s=st.sampled_from([0.0, 30.0]),
)


@st.composite
def some_cases(draw: st.DrawFn) -> Case:
    tenants = draw(some_tenants())
    n = draw(st.one_of(st.integers(0, 30), st.integers(15, 40)))

    def column(values: st.SearchStrategy[int]) -> list[int]:
        return draw(st.lists(values, min_size=n, max_size=n))

    at_ns = np.cumsum(column(st.sampled_from([0, 0, 0, MS // 3, 2 * MS, 7 * MS, 40 * MS]))).tolist()
    after = None
    if draw(st.booleans()):
        after = [draw(st.integers(-1, i - 1)) for i in range(n)]
        think = column(st.sampled_from([0, 0, MS, 9 * MS]))
        at_ns = [at if before < 0 else pause for at, before, pause in zip(at_ns, after, think, strict=True)]
    deadlines = None
    if draw(st.booleans()):
        deadlines = column(st.sampled_from([0, MS, 5 * MS, 30 * MS, FOREVER_NS, FOREVER_NS]))
    block_tokens = draw(st.sampled_from([1, 4, 16]))
    device = st.builds(
        Device,
        slots=st.integers(1, 5),
        kv_blocks=st.integers(60, 300).map(lambda tokens: tokens // block_tokens),
        token_budget=st.sampled_from([None, 16, 40, 3]),
    )
    devices = draw(st.lists(device, min_size=1, max_size=3))
    return Case(
        tenants,
        draw(st.one_of(POLICIES, PREEMPTING, PREEMPTING, MICRO)),
        tuple(replace(device, name=f"gpu{i}") for i, device in enumerate(devices)),
        draw(st.sampled_from([*MODELS, "fast", "physics"])),
        block_tokens,
        Limits(max_queued=draw(st.sampled_from([None, None, 5])), max_context=draw(st.sampled_from([None, None, 90]))),
        {
            "tenants": column(st.integers(0, len(tenants) - 1)),
            "prompt_tokens": column(st.integers(1, 60)),
            "output_tokens": column(st.integers(1, 25)),
            "max_tokens": column(st.sampled_from([1, 8, 25, 40])),
            "bids": column(st.integers(1, 10)),
            "at_ns": at_ns,
            "after": after,
            "deadline_ns": deadlines,
        },
        draw(st.sampled_from([NEVER_NS, NEVER_NS, 20 * MS, 61 * MS + 7])),
        draw(st.sampled_from([1, 3, 8, 64, 1024])),
        draw(st.sampled_from([0, 5, 1000])),
    )


def built(case: Case) -> tuple[Scheduler, list[Engine]]:
    scheduler = Scheduler(
        case.tenants, policy=case.policy, devices=case.devices, limits=case.limits, block_tokens=case.block_tokens
    )
    engines = [
        Engine(
            MODELS[case.model],
            device.slots,
            device.kv_blocks,
            block_tokens=case.block_tokens,
            token_budget=device.token_budget or 0,
        )
        for device in case.devices
    ]
    for engine in engines:
        engine.reserve_accounts(len(case.tenants))
    return scheduler, engines


def replay_of(case: Case) -> tuple[Replay, Scheduler, list[Engine]]:
    scheduler, engines = built(case)
    core = scheduler._core
    columns = case.columns | {"tenants": [1 + tenant for tenant in case.columns["tenants"]]}
    return Replay(core, engines, points=case.points, stays=case.stays, **columns), scheduler, engines


def outcome(replay: Replay) -> dict[str, Any]:
    replay.finish()
    counts = {"now_ns": replay.now_ns, "steps": replay.steps}
    return as_arrays(replay.read() | replay.series() | counts)


def twin_of(case: Case) -> Twin:
    scheduler, engines = built(case)
    names = [tenant.name for tenant in case.tenants]
    requests = []
    for i, tenant in enumerate(case.columns["tenants"]):
        row = {name: values[i] for name, values in case.columns.items() if values is not None}
        request = Request(
            number=i,
            tenant=tenant,
            name=names[tenant],
            prompt_tokens=row["prompt_tokens"],
            output_tokens=row["output_tokens"],
            max_tokens=row["max_tokens"],
            bid=row["bids"],
            at_ns=row["at_ns"],
            after=row.get("after", -1),
            deadline_ns=None if row.get("deadline_ns", FOREVER_NS) == FOREVER_NS else row["deadline_ns"],
        )
        requests.append(request)
    return Twin(scheduler, engines, names, requests, case.until_ns, points=case.points)


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


def crowd(seed: int, **changes: Any) -> Case:
    """Two free tenants that keep two devices full, and urgent requests over them."""
    rng = np.random.default_rng(seed)
    n = 60
    urgent = rng.random(n) < 0.3
    at_ns = np.sort(rng.integers(0, 300, n)) * MS
    after = np.where(rng.random(n) < 0.4, rng.integers(-1, np.arange(n)), -1)
    columns = {
        "tenants": np.where(urgent, 2, rng.integers(0, 2, n)),
        "prompt_tokens": rng.integers(1, 40, n),
        "output_tokens": np.where(urgent, 5, rng.integers(20, 60, n)),
        "max_tokens": np.full(n, 60),
        "bids": np.where(urgent, 9, rng.integers(1, 5, n)),
        "at_ns": np.where(after < 0, at_ns, rng.integers(0, 10, n) * MS),
        "after": after,
        "deadline_ns": None,
    }
    case = Case(
        (Tenant("a"), Tenant("b", weight=2.0), Tenant("urgent")),
        Policy(preemption="recompute", fairness_window=inf),
        (Device(slots=3, kv_blocks=60, token_budget=16), Device(slots=2, kv_blocks=40, token_budget=None, name="gpu1")),
        "reference",
        4,
        Limits(max_queued=None),
        {name: None if values is None else values.tolist() for name, values in columns.items()},
        NEVER_NS,
        64,
        1000,
    )
    return replace(case, **changes)


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

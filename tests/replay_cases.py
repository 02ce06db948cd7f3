"""Small workloads for the virtual-time loop and its twin: random ones, and a crowd that is sure to preempt."""

from dataclasses import dataclass, replace
from math import inf
from typing import Any

import numpy as np
from hypothesis import strategies as st

from aps import Device, Limits, Policy, Scheduler, Tenant
from aps_core.gpu import Engine
from aps_core.physics import PhysicsModel
from aps_core.replay import Replay
from aps_core.step_time import ReferenceModel, StepTimeModel
from tests.twins.replay import NEVER_NS, Request, as_arrays
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

"""A whole simulation: against the live driver, the same workload on the same scheduler, and what a Run says of it."""

import asyncio
from dataclasses import fields, replace
from math import inf
from typing import Any

import numpy as np
import pytest

from aps import Limits, Policy, Scheduler, Tenant
from aps.backends import SimulatedBackend
from aps.driver import Driver
from aps.lab.run import Run, Setup, simulate
from aps.lab.workload import Workload
from aps.profiles import PROFILES
from aps.tickets import Result
from aps.verdicts import REASONS
from tests.virtual_loop import VirtualLoop, run

TENANTS = (Tenant("a", weight=3.0), Tenant("b", rate=300.0, burst=3000.0, over_rate="queue"), Tenant("c", max_bid=7))
REFERENCE, LLAMA = PROFILES["reference"], PROFILES["a100-llama2-7b"]
PREEMPTING: dict[str, Any] = {"aging_horizon_s": inf, "fairness_window": inf, "preempt_margin": 2}
POLICIES = {
    "default": Policy(),
    "micro": Policy(batching="micro"),
    "vtc": Policy.vtc(),
    "recompute": Policy(preemption="recompute", **PREEMPTING),
    "swap": Policy(preemption="swap", **PREEMPTING),
    "forecast": Policy(expected_output=20, bid_premium=0.1),
}


def asked(n: int, seconds: float, seed: int = 0, **changes: Any) -> Workload:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {
        "tenant": rng.integers(0, 3, n),
        "at_s": np.sort(np.round(rng.uniform(0, seconds, n), 6)),
        "prompt_tokens": rng.integers(1, 600, n),
        "output_tokens": rng.integers(1, 200, n),
        "max_tokens": rng.integers(100, 250, n),
        "bid": rng.integers(1, 11, n),
        "deadline_s": np.where(rng.random(n) < 0.2, 1.5, inf),
    }
    return Workload("asked", TENANTS, **columns | changes)


def live(workload: Workload, policy: Policy, setup: Setup) -> list[Result]:
    """The same by the driver, with a backend whose clock is ours."""

    async def main(loop: VirtualLoop) -> list[Result]:
        clock = 0.0
        backend = SimulatedBackend(
            setup.profile,
            gpus=setup.gpus,
            slots=setup.slots,
            kv_tokens=setup.kv_tokens,
            token_budget=setup.token_budget,
            clock=lambda: clock,
        )
        scheduler = Scheduler(workload.tenants, policy=policy, devices=backend.devices, limits=setup.limits)
        assert workload.deadline_s is not None
        async with Driver(scheduler, backend) as driver:
            tickets = []
            for i in range(len(workload)):
                clock = float(workload.at_s[i])
                ticket = driver.submit(
                    workload.tenants[workload.tenant[i]].name,
                    prompt_tokens=int(workload.prompt_tokens[i]),
                    max_tokens=int(workload.max_tokens[i]),
                    bid=int(workload.bid[i]),
                    deadline_s=None if workload.deadline_s[i] == inf else float(workload.deadline_s[i]),
                    simulated_output_tokens=int(workload.output_tokens[i]),
                )
                tickets.append(ticket)
            while driver.outstanding:
                clock += 10.0
                await asyncio.sleep(1)
                driver.snapshot()  # plays what is due
            return [await ticket.result() for ticket in tickets]

    return run(main)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("gpus", [1, 3])
def test_it_is_what_the_live_driver_does(name: str, gpus: int) -> None:
    """The instants agree to the resolution of floats, everything else exactly."""
    setup = Setup(REFERENCE, gpus, slots=4, kv_tokens=2400, token_budget=64, limits=Limits(max_queued=8))
    workload = asked(150, 60.0 / gpus, deadline_s=np.where(np.arange(150) % 5, inf, 3.0))
    found = simulate(workload, POLICIES[name], setup)
    results = live(workload, POLICIES[name], setup)
    assert len({result.status for result in results}) >= 3
    for i, result in enumerate(results):
        assert REASONS[found.reason[i]] == ("admitted" if result.status == "finished" else result.reason)
        assert (found.device[i], found.batch_size[i]) == (result.device, result.batch_size)
        assert found.generated[i] == result.output_tokens
        ends = [(found.started_at, result.queue_wait_s), (found.first_token_at, result.ttft_s)]
        if result.verdict:
            ends.append((found.finished_at, result.e2e_s))
        for instants, duration in ends:
            if duration is None:
                assert np.isnan(instants[i])
            else:
                assert instants[i] - workload.at_s[i] == pytest.approx(duration, abs=3e-9)


def test_a_run_adds_up() -> None:
    workload = asked(400, 60.0)
    setup = Setup(LLAMA, gpus=2, slots=4)
    found = simulate(workload, POLICIES["recompute"], setup, stays=10_000)
    finished = found.reason == 0
    assert finished.sum() > 200 and found.preemptions.sum() > 0
    assert found.prefill_tokens == workload.prompt_tokens[finished].sum() + found.recomputed_tokens.sum()
    assert found.output_tokens == found.generated.sum() == found.series.served[:, 1].sum()
    assert (found.generated[finished] == np.minimum(workload.output_tokens, workload.max_tokens)[finished]).all()
    assert (found.busy_s <= found.ended_at).all() and (found.slot_s <= 4 * found.busy_s).all()
    widths = np.diff(found.series.edges_s)
    assert (found.series.running[:, 1] * widths).sum() == pytest.approx(found.slot_s.sum(), rel=1e-9)
    assert (found.series.held_blocks[:, 1] * widths).sum() == pytest.approx(found.block_s.sum(), rel=1e-9)
    stays = found.stays
    assert stays is not None and stays.dropped == 0
    left_at = found.finished_at.copy()  # the queue: at its first dispatch, if it had one
    left_at[stays.request[::-1]] = stays.began_at[::-1]
    waits = left_at - found.submitted_at
    assert (found.series.waiting[:, 1] * widths).sum() == pytest.approx(waits.sum(), rel=1e-9)
    assert len(stays.request) == (found.order >= 0).sum() + found.preemptions.sum()
    assert (stays.ended_at - stays.began_at).sum() == pytest.approx(found.slot_s.sum(), rel=1e-9)
    assert found.released["continuous"] == found.batch_sizes.sum()
    assert found.ended_at == np.nanmax(found.finished_at)


def test_the_horizon_ends_a_run_in_the_middle_of_things() -> None:
    workload = asked(300, 60.0, deadline_s=None)
    setup = Setup(REFERENCE)
    whole = simulate(workload, Policy(), setup)
    found = simulate(replace(workload, until_s=40.0), Policy(), setup)
    assert found.ended_at == 40.0 < whole.ended_at
    came = workload.at_s <= 40.0
    assert (found.reason[~came] == -1).all() and np.isnan(found.submitted_at[~came]).all()
    assert (found.reason == -2).sum() > 10
    for name in ("submitted_at", "started_at", "first_token_at", "finished_at"):
        expected = getattr(whole, name).copy()
        expected[~(expected <= 40.0)] = np.nan
        if name != "started_at":  # known when the step ends
            np.testing.assert_array_equal(getattr(found, name), expected)
    assert found.busy_s[0] == pytest.approx(40.0 - workload.at_s[0])  # it never ran out of work
    later = simulate(replace(workload, until_s=1000.0), Policy(), setup)
    assert later.ended_at == 1000.0
    assert later.busy_s == whole.busy_s


def test_same_input_same_digest() -> None:
    setup = Setup(LLAMA)
    runs = [simulate(asked(200, 20.0, seed), Policy(), setup, stays=50) for seed in (1, 1, 2)]
    assert runs[0].digest() == runs[1].digest() != runs[2].digest()
    for field in fields(Run):
        if field.name in ("order", "generated", "ended_at", "batch_sizes", "busy_s"):
            changed = replace(runs[0], **{field.name: getattr(runs[0], field.name) + 1})
            assert changed.digest() != runs[0].digest()


def test_progress_is_told_and_ends_at_one() -> None:
    seen: list[float] = []
    simulate(asked(2000, 1000.0), Policy(), Setup(LLAMA), on_progress=seen.append)
    assert seen == sorted(seen) and seen[-1] == 1.0 and len(seen) > 1
    seen.clear()
    simulate(asked(0, 1.0), Policy(), Setup(LLAMA), on_progress=seen.append)
    assert seen == [1.0]


@pytest.mark.parametrize("name", [*POLICIES, "premium"])
def test_the_gap_stays_within_its_bound(name: str) -> None:
    policy = POLICIES.get(name, Policy(bid_premium=0.5, fairness_window=300.0))
    if policy.fairness_window == inf:
        policy = replace(policy, fairness_window=5000.0)
    found = [simulate(asked(300, 20.0, seed), policy, Setup(REFERENCE, slots=4)) for seed in range(4)]
    assert all(0 < one.widest_gap <= one.gap_bound < inf for one in found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus": 0}, "Setup.gpus must be an int in 1"),
        ({"slots": 0}, "Setup.slots must be"),
        ({"kv_tokens": 15}, "Setup.kv_tokens must be an int in 16"),
        ({"token_budget": -1}, "Setup.token_budget must be"),
        ({"block_tokens": 0}, "Setup.block_tokens must be"),
    ],
)
def test_impossible_setups_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Setup(LLAMA, **changes)


def test_closed_loops_go_on_after_every_end() -> None:
    """A client whose requests end in different ways: refused, expired, finished."""
    n = 6
    columns: dict[str, Any] = {
        "tenant": [0] * n,
        "output_tokens": [5] * n,
        "max_tokens": [5] * n,
        "bid": [5] * n,
        "at_s": [1.0, 0.5, 0.25, 2.0, 0.0, 1.0],
        "prompt_tokens": [10, 10**6, 10, 10, 10, 10],
        "after": [-1, 0, 1, -1, 2, 3],
        "deadline_s": [inf, inf, inf, inf, 0.0, inf],
    }
    workload = Workload("client", (Tenant("a"),), **columns)
    found = simulate(workload, Policy(), Setup(LLAMA))
    assert [REASONS[reason] for reason in found.reason] == [
        *("admitted", "exceeds_kv_cache", "admitted", "admitted", "deadline_expired", "admitted")
    ]
    for i, before in [(1, 0), (2, 1), (4, 2), (5, 3)]:
        assert found.submitted_at[i] == pytest.approx(found.finished_at[before] + workload.at_s[i], abs=1e-9)

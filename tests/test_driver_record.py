"""Whatever callers of a driver do, and however late its timer fires: its record replays to the same dispatch order."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aps import Limits, Scheduler, Tenant
from aps.backends import SimulatedBackend
from aps.driver import Driver
from aps.record import Recorder, ReplayResult, replay
from tests.driving import CROWD, POLICIES, assert_nothing_held
from tests.virtual_loop import VirtualLoop, run

SIZES = st.tuples(st.integers(1, 3000), st.integers(1, 60))
# (seconds before, what, tenant, sizes, bid, seconds that count for it)
EVENTS = st.tuples(
    st.sampled_from((0.0, 0.001, 0.05, 0.7, 3.0)),
    st.sampled_from(("ask", "ask", "ask", "due", "leave", "cancel", "rebid", "block", "tenant", "knobs")),
    st.sampled_from("abc"),
    SIZES,
    st.integers(1, 10),
    st.floats(0.0, 5.0),
)


def recorded(
    path: Path, policy: str, gpus: int, events: list[tuple[float, str, str, tuple[int, int], int, float]]
) -> ReplayResult:
    async def main(loop: VirtualLoop) -> None:
        backend = SimulatedBackend(clock=loop.time, gpus=gpus, slots=3, kv_tokens=9000, time_scale=3.7)
        scheduler = Scheduler(CROWD, policy=POLICIES[policy], devices=backend.devices, limits=Limits(max_queued=12))
        tasks: list[asyncio.Task[object]] = []
        ids: list[object] = []
        with Recorder(path) as recorder:
            async with Driver(scheduler, backend, recorder=recorder) as driver:
                for pause, what, tenant, (prompt, output), bid, seconds in events:
                    await asyncio.sleep(pause)
                    if what in ("ask", "due"):
                        due = seconds if what == "due" else None
                        ticket = driver.submit(tenant, prompt_tokens=prompt, max_tokens=output, bid=bid, deadline_s=due)
                        ids.append(ticket.id)
                    elif what == "leave":
                        waits = driver.infer(tenant, prompt_tokens=prompt, max_tokens=output, bid=bid)
                        tasks.append(asyncio.create_task(waits))
                        loop.call_later(seconds, tasks[-1].cancel)
                    elif what == "cancel" and ids:
                        driver.cancel(ids[bid % len(ids)])
                    elif what == "rebid" and ids and driver.ticket(ids[-1]):
                        driver.rebid(ids[-1], bid)
                    elif what == "block":
                        loop.block(seconds)
                    elif what == "tenant":
                        driver.set_tenant(Tenant(tenant, weight=1.0 + bid, rate=50.0 * bid, burst=500.0 * bid))
                    elif what == "knobs":
                        driver.set_policy(aging_horizon_s=seconds, fairness_window=100.0 * bid)
                await driver.drain(seconds)
                await asyncio.gather(*tasks, return_exceptions=True)
                assert_nothing_held(driver)

    run(main)
    return replay(path)


@pytest.mark.parametrize("policy", list(POLICIES))
@settings(max_examples=15)
@given(gpus=st.integers(1, 2), events=st.lists(EVENTS, min_size=1, max_size=40))
def test_any_run_of_a_driver_replays(
    policy: str,
    gpus: int,
    events: list[tuple[float, str, str, tuple[int, int], int, float]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    result = recorded(tmp_path_factory.mktemp("r") / "r.jsonl", policy, gpus, events)
    assert result.same, result.difference
    assert not result.notes


def test_a_driver_that_is_not_recorded_decides_the_same(tmp_path: Path) -> None:
    async def ends(loop: VirtualLoop, recorder: Recorder | None) -> list[object]:
        backend = SimulatedBackend(clock=loop.time, slots=2)
        async with Driver(Scheduler(CROWD, devices=backend.devices), backend, recorder=recorder) as driver:
            asked = [driver.submit("abc"[i % 3], prompt_tokens=10 + i, max_tokens=5, bid=1 + i % 9) for i in range(40)]
            results = [await ticket.result() for ticket in asked]
            return [(r.status, r.queue_wait_s, r.charge, r.e2e_s) for r in results]

    with Recorder(tmp_path / "r.jsonl") as recorder:
        watched = run(lambda loop: ends(loop, recorder))
    assert watched == run(lambda loop: ends(loop, None))
    result = replay(tmp_path / "r.jsonl")
    assert result.same
    assert (result.requests, result.dispatches) == (40, 40)

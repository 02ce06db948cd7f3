"""What callers of the driver see, at exact instants: a loop whose time jumps."""

import asyncio
import re
import runpy
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aps import Policy, Scheduler, Tenant
from aps.backends import SimulatedBackend
from aps.driver import Driver, DriverError, Ticket
from tests.driving import A, opened
from tests.virtual_loop import VirtualLoop, run

# One request


def test_one_request_alone() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            await asyncio.sleep(3)
            result = await driver.infer("a", prompt_tokens=512, max_tokens=3, bid=7)
        assert result.status == result.reason == "finished"
        assert (result.tenant, result.bid, result.device, result.batch_size, result.released) == (
            "a", 7, 0, 1, "continuous",
        )  # fmt: skip
        assert (result.prompt_tokens, result.output_tokens, result.charge) == (512, 3, 515.0)
        assert (result.arrived_at, result.queue_wait_s) == (3.0, 0.0)
        assert result.ttft_s == pytest.approx(0.5078125)  # 512/1024 of prefill and one token
        assert result.e2e_s == pytest.approx(0.5234375)
        assert result.id == result.verdict.id
        assert loop.time() == pytest.approx(3.5234375)

    run(main)


def test_time_scale_is_the_one_clock() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, time_scale=100.0) as driver:
            result = await driver.infer("a", prompt_tokens=512, max_tokens=3)
            assert result.e2e_s == pytest.approx(0.5234375)
            assert loop.time() == pytest.approx(0.005234375)
            assert driver.now == pytest.approx(0.5234375)

    run(main)


def test_a_request_starts_when_it_is_submitted_and_joins_at_a_step_boundary() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            first = driver.submit("a", prompt_tokens=1024, max_tokens=2)
            await asyncio.sleep(0.25)
            second = await driver.infer("a", prompt_tokens=100, max_tokens=1)
            assert second.queue_wait_s == pytest.approx(1 + 1 / 128 - 0.25)
            assert second.batch_size == 2
            assert (await first.result()).queue_wait_s == 0.0

    run(main)


def test_no_is_a_value() -> None:
    async def main(loop: VirtualLoop) -> None:
        slow = Tenant("slow", rate=10.0, burst=100.0)
        async with opened(loop, slow) as driver:
            result = await driver.infer("slow", prompt_tokens=90, max_tokens=20, id="mine")
            assert (result.status, result.reason, result.id) == ("rejected", "exceeds_burst", "mine")
            assert result.verdict.largest == 10
            ticket = driver.submit("slow", prompt_tokens=90, max_tokens=10)
            result = await driver.infer("slow", prompt_tokens=10, max_tokens=5)
            assert (result.status, result.reason, result.verdict.retry_after_s) == ("throttled", "over_rate", 1.5)
            assert (result.queue_wait_s, result.device, result.charge, result.id) == (None, -1, 0.0, None)
            assert (await ticket.result()).status == "finished"
            counted = driver.metrics.tenants["slow"]
            assert (counted.sent, counted.admitted) == (3, 1)
            assert counted.refused == {"exceeds_burst": 1, "over_rate": 1}

    run(main)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"tenant": "nobody"}, KeyError, "nobody"),
        ({"tenant": "nobody", "max_tokens": 1}, KeyError, "nobody"),
        ({"prompt_tokens": 0}, ValueError, "prompt_tokens"),
        ({"prompt_tokens": 1.5}, TypeError, r"prompt_tokens must be an integer, got 1\.5"),
        ({"prompt_tokens": True}, TypeError, "prompt_tokens"),
        ({"max_tokens": 0}, ValueError, "max_tokens"),
        ({"max_tokens": 2.0}, TypeError, "max_tokens"),
        ({"bid": 11}, ValueError, "bid"),
        ({"bid": 5.5}, TypeError, "bid"),
        ({"deadline_s": float("nan")}, ValueError, "deadline_s"),
        ({"id": "taken"}, ValueError, "'taken'"),
        ({"prompt": b"bytes"}, TypeError, "prompt must be a str or None, got b'bytes'"),
        ({"simulated_output_tokens": 0}, ValueError, "simulated_output_tokens must be an integer from 1"),
        ({"simulated_output_tokens": 1.5}, TypeError, "simulated_output_tokens"),
    ],
)
def test_mistakes_are_errors_and_change_nothing(asked: dict[str, Any], error: type[Exception], message: str) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            taken = driver.submit("a", prompt_tokens=10, id="taken")
            before = driver.snapshot()
            full: dict[str, Any] = {"tenant": "a", "prompt_tokens": 10} | asked
            with pytest.raises(error, match=message):
                driver.submit(**full)
            assert driver.snapshot() == before
            assert driver.outstanding == 1
            assert (await taken.result()).status == "finished"

    run(main)


def test_numpy_integers_count_as_ints() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            small: dict[str, Any] = {"max_tokens": np.int16(3), "simulated_output_tokens": np.uint8(2)}
            hundred: Any = np.int8(100)
            for _ in range(3):
                result = await driver.infer("a", prompt_tokens=hundred, **small)
                assert [type(n) for n in (result.prompt_tokens, result.output_tokens)] == [int, int]
            counted = driver.metrics.tenants["a"]
            assert (counted.prompt_tokens, counted.output_tokens) == (300, 6)  # more than an int8 holds
            tokens = [token async for token in driver.stream("a", prompt_tokens=hundred, max_tokens=300)]
            assert len(tokens) == 300

    run(main)


def test_the_simulated_output_may_be_shorter_than_max_tokens() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            result = await driver.infer("a", prompt_tokens=10, max_tokens=100, simulated_output_tokens=7)
            assert (result.output_tokens, result.charge, len(result.text.split())) == (7, 17.0, 7)
            result = await driver.infer("a", prompt_tokens=10, max_tokens=5, simulated_output_tokens=7)
            assert result.output_tokens == 5

    run(main)


# Batching modes, tenants' limits, several devices, preemption


def test_micro_starts_a_lone_request_when_its_window_closes() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, policy=Policy(batching="micro")) as driver:
            await asyncio.sleep(1)
            result = await driver.infer("a", prompt_tokens=10, max_tokens=2)
            assert result.queue_wait_s == pytest.approx(0.010, abs=1e-9)
            assert result.released == "window"
            assert driver.metrics.released == {"window": 1}

    run(main)


def test_micro_starts_a_batch_that_is_full_enough_at_once() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, policy=Policy(batching="micro")) as driver:
            first = [driver.submit("a", prompt_tokens=10, max_tokens=20) for _ in range(12)]
            await asyncio.sleep(0.004)
            assert all(ticket.device < 0 for ticket in first)
            tickets = [*first, driver.submit("a", prompt_tokens=10, max_tokens=20)]  # 13 of 16 is 0.81
            assert all(ticket.device == 0 for ticket in tickets)
            late = driver.submit("a", prompt_tokens=10, max_tokens=1)  # nobody joins a batch
            results = [await ticket.result() for ticket in tickets]
            assert {(r.batch_size, r.released) for r in results} == {(13, "fill")}
            assert [r.queue_wait_s for r in results] == pytest.approx([0.004] * 12 + [0.0])
            done_at = results[-1].arrived_at + results[-1].e2e_s
            alone = await late.result()
            assert alone.queue_wait_s == pytest.approx(done_at + 0.010 - 0.004)
            assert driver.metrics.batch_sizes == {13: 1, 1: 1}

    run(main)


def test_a_shaped_request_starts_when_its_bucket_allows() -> None:
    async def main(loop: VirtualLoop) -> None:
        shaped = Tenant("shaped", rate=100.0, burst=100.0, over_rate="queue")
        async with opened(loop, shaped) as driver:
            first = driver.submit("shaped", prompt_tokens=50, max_tokens=50)
            second = await driver.infer("shaped", prompt_tokens=20, max_tokens=30)
            assert second.queue_wait_s == pytest.approx(0.5, abs=0.11)  # the bucket, then at most a step of the first
            await first.result()
            third = await driver.infer("shaped", prompt_tokens=60, max_tokens=40)
            level_at = (third.queue_wait_s or 0) + third.arrived_at
            assert third.queue_wait_s is not None and third.queue_wait_s > 0
            assert level_at == pytest.approx(1.5, abs=1e-6)  # 200 tokens at 100/s beyond a burst of 100

    run(main)


def test_a_deadline_passes_while_it_waits() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, slots=1) as driver:
            long = driver.submit("a", prompt_tokens=10, max_tokens=1000)
            result = await driver.infer("a", prompt_tokens=10, max_tokens=1, deadline_s=2.5)
            assert (result.status, result.reason, result.queue_wait_s) == ("expired", "deadline_expired", None)
            assert loop.time() == pytest.approx(2.5)
            result = await driver.infer("a", prompt_tokens=10, max_tokens=1, deadline_s=0.0)
            assert (result.status, result.reason) == ("throttled", "deadline_expired")
            assert driver.cancel(long.id)
            counted = driver.metrics.tenants["a"]
            assert (counted.expired, counted.cancelled, counted.queue_wait.count) == (1, 1, 1)

    run(main)


def test_several_devices_pull_from_one_queue() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, gpus=3, slots=2) as driver:
            tickets = [driver.submit("a", prompt_tokens=64, max_tokens=8) for _ in range(12)]
            results = [await ticket.result() for ticket in tickets]
            # The idle devices take the first three alone; the rest join where a step ends first.
            assert [r.device for r in results][:3] == [0, 1, 2]
            assert {r.device for r in results} == {0, 1, 2}
            assert max(r.batch_size for r in results) == 2
            counts = [sum(r.device == i for r in results) for i in range(3)]
            assert counts == [4, 4, 4]

    run(main)


@pytest.mark.parametrize("how", ["recompute", "swap"])
def test_preemption(how: Any) -> None:
    async def main(loop: VirtualLoop) -> None:
        policy = Policy(preemption=how, fairness_window=inf)
        async with opened(loop, slots=1, policy=policy) as driver:
            stream = driver.stream("a", prompt_tokens=512, max_tokens=40, bid=1)
            tokens = []
            vip: Ticket | None = None
            async for token in stream:
                tokens.append(token)
                if len(tokens) == 10:
                    vip = driver.submit("b", prompt_tokens=64, max_tokens=10, bid=10)
            assert vip is not None
            result, urgent = await stream.result(), await vip.result()
            assert urgent.queue_wait_s == pytest.approx(1 / 128, abs=2e-3)  # the next step boundary
            assert result.text == "".join(tokens) and len(tokens) == 40
            alone = 512 / 1024 + 40 / 128
            assert isinstance(driver.backend, SimulatedBackend)
            [engine] = driver.backend.engines
            if how == "recompute":
                out, again, moved, computed = 0.0, (512 + 11) / 1024, 0, 512 + 64 + 512 + 11
            else:
                out = again = (512 + 11) / 47_684
                moved, computed = 2 * (512 + 11), 512 + 64
            assert urgent.e2e_s - (urgent.queue_wait_s or 0) == pytest.approx(64 / 1024 + 10 / 128 + out)
            assert result.e2e_s == pytest.approx(alone + urgent.e2e_s - (urgent.queue_wait_s or 0) + again)
            assert (engine.swapped_tokens, engine.prefill_tokens) == (moved, computed)
            assert driver.snapshot().tenants["a"].preempted == 1

    run(main)


@pytest.mark.parametrize("how", ["recompute", "swap"])
def test_no_preemption_is_free(how: Any) -> None:
    """By swap all is prefilled once, and what was moved out is moved in again; by recompute nothing is moved."""

    async def main(loop: VirtualLoop) -> None:
        rng = np.random.default_rng(5)
        policy = Policy(preemption=how, preempt_margin=1, max_preemptions=5, fairness_window=inf)
        async with opened(loop, slots=2, token_budget=128, policy=policy) as driver:
            tickets = []
            for _ in range(60):
                prompt, output, bid = (int(rng.integers(*bounds)) for bounds in ((50, 400), (5, 30), (1, 11)))
                tickets.append(driver.submit("a", prompt_tokens=prompt, max_tokens=output, bid=bid))
                await asyncio.sleep(float(rng.exponential(0.4)))
            results = [await ticket.result() for ticket in tickets]
            assert isinstance(driver.backend, SimulatedBackend)
            [engine] = driver.backend.engines
            prompts = sum(result.prompt_tokens for result in results)
            assert driver.snapshot().tenants["a"].preempted > 20
            assert engine.output_tokens == sum(result.output_tokens for result in results)
            if how == "swap":
                assert engine.prefill_tokens == prompts
                assert engine.swapped_tokens > 0 and engine.swapped_tokens % 2 == 0
            else:
                assert engine.prefill_tokens > prompts
                assert engine.swapped_tokens == 0

    run(main)


# Its life


def test_drain_waits_and_refuses() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            tickets = [driver.submit("a", prompt_tokens=100, max_tokens=10) for _ in range(40)]
            draining = asyncio.create_task(driver.drain())
            await asyncio.sleep(0.1)
            late = await driver.infer("a", prompt_tokens=10)
            assert (late.status, late.reason) == ("throttled", "draining")
            assert await draining == 0
            assert all(ticket.done for ticket in tickets)

    run(main)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"tenant": "nobody", "max_tokens": 1, "bid": 1}, KeyError, "nobody"),
        ({"prompt_tokens": -5}, ValueError, "prompt_tokens"),
        ({"max_tokens": 0}, ValueError, "max_tokens"),
        ({"bid": 11}, ValueError, "bid"),
        ({"bid": "x"}, TypeError, "bid"),
    ],
)
def test_mistakes_are_errors_while_draining_too(asked: dict[str, Any], error: type[Exception], message: str) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, Tenant("a", max_bid=7), time_scale=20.0) as driver:
            await driver.drain()
            full: dict[str, Any] = {"tenant": "a", "prompt_tokens": 10} | asked
            with pytest.raises(error, match=message):
                driver.submit(**full)
            assert not driver.metrics.tenants
            verdict = driver.submit("a", prompt_tokens=10, bid=9).verdict
            assert (verdict.reason, verdict.bid, verdict.clamped) == ("draining", 7, True)
            assert verdict.retry_after_s == 20.0  # a wall second

    run(main)


def test_drain_cancels_what_is_left_after_its_time() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, time_scale=2.0, slots=2) as driver:
            tickets = [driver.submit("a", prompt_tokens=512, max_tokens=10) for _ in range(10)]
            left = await driver.drain(1.5)
            assert loop.time() == 1.5  # wall seconds
            statuses = [(await ticket.result()).status for ticket in tickets]
            assert statuses.count("cancelled") == left
            assert 0 < left < 10

    run(main)


def test_leaving_the_block_cancels_what_is_outstanding() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, slots=1) as driver:
            pass
        with pytest.raises(DriverError, match="not open"):
            driver.submit("a", prompt_tokens=1)
        backend = SimulatedBackend(clock=loop.time)
        async with Driver(Scheduler([A], devices=backend.devices), backend) as driver:
            task = asyncio.create_task(driver.infer("a", prompt_tokens=100, max_tokens=100))
            await asyncio.sleep(0.2)
        assert (await task).status == "cancelled"
        assert not driver.cancel(1)
        with pytest.raises(DriverError, match="opened once"):
            await driver.__aenter__()

    run(main)


def test_the_schedulers_own_calls() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, slots=1) as driver:
            first = driver.submit("a", prompt_tokens=100, max_tokens=50, id="first")
            low = driver.submit("a", prompt_tokens=10, max_tokens=5, bid=1, id="low")
            driver.submit("b", prompt_tokens=10, max_tokens=5, bid=5, id="middle")
            assert driver.explain("low").state == "waiting"
            assert driver.explain("first").device == 0
            assert driver.rebid("low", 10).bid == 10
            with pytest.raises(KeyError, match="ghost"):
                driver.explain("ghost")
            with pytest.raises(KeyError, match="ghost"):
                driver.rebid("ghost", 1)
            result = await low.result()
            assert (result.bid, result.batch_size) == (10, 1)
            assert (await first.result()).status == "finished"
            driver.add_tenant(Tenant("c"))
            assert (await driver.infer("c", prompt_tokens=10, max_tokens=1)).status == "finished"
            stuck = driver.submit("a", prompt_tokens=100, max_tokens=50)
            waits = driver.submit("c", prompt_tokens=100, max_tokens=50)
            driver.set_tenant(Tenant("c", kv_share=0.001))
            dropped = await waits.result()
            assert (dropped.status, dropped.reason) == ("rejected", "exceeds_kv_share")
            driver.set_policy(aging_horizon_s=inf)
            assert driver.scheduler.policy.aging_horizon_s == inf
            driver.remove_tenant("c")
            with pytest.raises(KeyError):
                driver.submit("c", prompt_tokens=1)
            await stuck.result()
            assert driver.metrics.tenants["c"].dropped == 1

    run(main)


def test_the_library_example(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(root / "examples/asyncio_driver.py"))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines[0].split()) == 8
    waits = [float(re.search(r"waited ([0-9.]+)", line)[1]) for line in lines[1:]]  # type: ignore[index]
    assert waits[0] < waits[1]


def test_changes_together_of_which_one_raises_are_looked_at() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, Tenant("x", rate=1e-6, burst=100.0, over_rate="queue")) as driver:
            await driver.infer("x", prompt_tokens=90, max_tokens=10)
            waits = driver.submit("x", prompt_tokens=90, max_tokens=10)
            with pytest.raises(KeyError), driver.together():
                driver.set_tenant(Tenant("x"))
                driver.remove_tenant("nobody")
            assert (await waits.result()).status == "finished"

    run(main)

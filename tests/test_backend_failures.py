"""Backends that fail, hang and lie: what runs is started again or ends, and nothing is lost or held."""

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aps import Policy, Scheduler, Tenant, UnfinishedError
from aps.backends import Health, Job, Progress
from aps.driver import Driver, DriverError, Result
from tests.faulty_backend import ALL_IS_WELL, STEP_S, Faulty, assert_all_is_well, driven
from tests.test_lying_backends import LIES
from tests.virtual_loop import VirtualLoop, run

# Lost and started again


def test_what_is_lost_is_started_again_and_pays_once() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop, plan=lambda device, job, start: 5 if start == 1 else None)
        tenant = Tenant("a", rate=1e-6, burst=1000.0)
        async with driven(backend, tenant) as driver:
            result = await driver.infer("a", prompt_tokens=10, max_tokens=20)
            assert (result.status, result.output_tokens, result.charge) == ("finished", 20, 30.0)
            assert result.text == "".join(f"{n} " for n in range(20))
            assert result.queue_wait_s == pytest.approx(0.0, abs=1e-6)
            assert result.ttft_s == pytest.approx(6 * STEP_S, abs=1e-3)  # the first of those that it was given
            assert result.e2e_s == pytest.approx(25 * STEP_S, abs=1e-3)
            row = driver.snapshot().tenants["a"]
            assert row.level == pytest.approx(970.0)
            assert row.preempted == 0
            counted = driver.metrics.tenants["a"]
            assert (counted.retried, counted.finished, counted.failed, counted.output_tokens) == (1, 1, 0, 20)
            assert driver.metrics.recomputed_tokens == 10 + 5
            assert_all_is_well(driver)

    run(main)


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_it_is_started_again_so_often_and_then_it_ends(retries: int) -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop, plan=lambda device, job, start: 5)
        async with driven(backend, retries=retries) as driver:
            ticket = driver.submit("a", prompt_tokens=10, max_tokens=20)
            result = await ticket.result()
            assert (result.status, result.reason, result.text) == ("failed", "backend_failed", "")
            assert (result.output_tokens, result.charge) == (5, 15.0)
            assert (ticket.retries, backend.starts[ticket.handle]) == (retries, retries + 1)
            assert driver.metrics.tenants["a"].failed == 1
            assert_all_is_well(driver)

    run(main)


def test_what_its_caller_has_seen_is_not_started_again() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop, plan=lambda device, job, start: 5 if start == 1 else None)
        async with driven(backend) as driver:
            stream = driver.stream("a", prompt_tokens=10, max_tokens=20)
            tokens = []
            with pytest.raises(UnfinishedError, match=r"ended as failed \(backend_failed\) after 5 tokens") as caught:
                async for token in stream:
                    tokens.append(token)
            assert tokens == ["0 ", "1 ", "2 ", "3 ", "4 "]
            result = await stream.result()
            assert caught.value.result == result
            assert (result.status, result.reason, result.output_tokens) == ("failed", "backend_failed", 5)
            assert_all_is_well(driver)

    run(main)


def test_a_stream_that_has_got_nothing_gets_all_of_it() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop, plan=lambda device, job, start: 0 if start < 3 else None)
        async with driven(backend) as driver:
            stream = driver.stream("a", prompt_tokens=10, max_tokens=3)
            assert [token async for token in stream] == ["0 ", "1 ", "2 "]
            assert stream.ticket.retries == 2
            assert_all_is_well(driver)

    run(main)


def test_a_device_that_cannot_start_anything_is_left_alone_and_another_takes_over() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop, devices=2)
        backend.broken["start"] = {0}
        async with driven(backend) as driver:
            results = await asyncio.gather(*(driver.infer("a", prompt_tokens=9, max_tokens=5) for _ in range(3)))
            assert {(r.status, r.device) for r in results} == {("finished", 1)}
            assert driver.metrics.faults == {"raised": 1}
            assert not driver.health(0).ok and "gets no work" in driver.health(0).detail
            backend.broken.clear()
            await asyncio.sleep(1.5)
            assert driver.health(0).ok
            result = await driver.infer("a", prompt_tokens=9, max_tokens=5)
            assert (result.status, result.device) == ("finished", 0)
            assert_all_is_well(driver)

    run(main)


def test_a_device_that_loses_all_it_gets_does_not_eat_up_the_retries_of_everybody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop, devices=2, plan=lambda device, job, start: 1 if device == 0 else None)
        async with driven(backend) as driver:
            results = await asyncio.gather(*(driver.infer("a", prompt_tokens=9, max_tokens=5) for _ in range(40)))
            assert [r.status for r in results].count("finished") >= 37
            assert driver.metrics.tenants["a"].retried < 20
            assert not driver.health(0).ok
            assert_all_is_well(driver)

    run(main)
    assert "faulty0 has failed and gets no work for 1 s: 3 requests lost in a row" in caplog.text


# Health


def test_a_device_that_is_not_healthy_gets_no_work() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop, devices=2)
        async with driven(backend) as driver:
            backend.set_health(0, Health(False, "too hot"))
            results = await asyncio.gather(*(driver.infer("a", prompt_tokens=9, max_tokens=5) for _ in range(10)))
            assert {r.device for r in results} == {1}
            backend.set_health(1, Health(False, "too hot"))
            waiting = asyncio.create_task(driver.infer("a", prompt_tokens=9, max_tokens=5))
            await asyncio.sleep(7.3)
            assert not waiting.done() and driver.scheduler.waiting == 1
            began = loop.time()
            backend.set_health(0, Health(True))
            assert (await waiting).device == 0
            assert loop.time() - began == pytest.approx(5 * STEP_S, abs=1e-3)
            assert_all_is_well(driver)

    run(main)


def test_a_device_is_looked_at_again_though_it_does_not_say_that_it_is_well() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop)
        backend._health[0] = Health(False, "too hot")
        async with driven(backend, Tenant("a", max_queued=10)) as driver:
            waiting = asyncio.create_task(driver.infer("a", prompt_tokens=9, max_tokens=5))
            await asyncio.sleep(5)
            backend._health[0] = Health(True)
            assert (await waiting).status == "finished"
            assert loop.time() < 6.2
            assert_all_is_well(driver)

    run(main)


def test_in_micro_batches_too_and_without_looking_all_the_time() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop)
        backend._health[0] = Health(False, "too hot")
        scheduler = Scheduler([Tenant("a")], devices=backend.devices, policy=Policy(batching="micro"))
        async with Driver(scheduler, backend) as driver:
            fills = 0
            fill = driver._pump.fill

            def counted() -> None:
                nonlocal fills
                fills += 1
                fill()

            driver._pump.fill = counted  # type: ignore[method-assign]
            waiting = [asyncio.create_task(driver.infer("a", prompt_tokens=9, max_tokens=5)) for _ in range(4)]
            await asyncio.sleep(20)
            assert fills < 30
            backend.set_health(0, Health(True))
            assert {r.status for r in await asyncio.gather(*waiting)} == {"finished"}
            assert_all_is_well(driver)

    run(main)


# Hanging


def test_what_hangs_is_lost_after_its_time() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop, plan=lambda device, job, start: -3 if start == 1 and job.max_tokens == 20 else None)
        async with driven(backend, stall_s=8.0) as driver:
            hanging = asyncio.create_task(driver.infer("a", prompt_tokens=10, max_tokens=20))
            others = asyncio.create_task(driver.infer("b", prompt_tokens=10, max_tokens=3000))
            result = await hanging
            assert (result.status, result.output_tokens) == ("finished", 20)
            assert 8.0 <= result.e2e_s < 10.5
            assert driver.metrics.faults == {"no_progress": 1}
            assert driver.health(0).ok  # the other one goes on
            assert (await others).output_tokens == 3000
            assert_all_is_well(driver)

    run(main)


def test_a_device_on_which_all_hang_rests(caplog: pytest.LogCaptureFixture) -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop, devices=2, plan=lambda device, job, start: -2 if device == 0 else None)
        async with driven(backend, stall_s=4.0) as driver:
            results = await asyncio.gather(*(driver.infer("a", prompt_tokens=10, max_tokens=20) for _ in range(4)))
            assert {(r.status, r.device) for r in results} == {("finished", 1)}
            assert set(driver.metrics.faults) == {"no_progress"}
            assert_all_is_well(driver)

    run(main)
    assert "faulty0 has failed and gets no work for 1 s: nothing that runs there makes progress" in caplog.text


def test_whoever_hangs_for_ever_ends() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop, plan=lambda device, job, start: -2)
        async with driven(backend, stall_s=1.0) as driver:
            reading = driver.stream("a", prompt_tokens=10, max_tokens=20)
            results = asyncio.gather(*(driver.infer("a", prompt_tokens=10, max_tokens=20) for _ in range(9)))
            tokens = []
            with pytest.raises(UnfinishedError, match="after 2 tokens"):
                async for token in reading:
                    tokens.append(token)
            assert tokens == ["0 ", "1 "]
            assert (await reading.result()).status == "failed"
            assert {r.status for r in await results} == {"failed"}
            assert_all_is_well(driver)

    run(main)


def test_a_loop_that_was_blocked_takes_nobody_to_hang() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop)
        async with driven(backend, stall_s=4.0) as driver:
            task = asyncio.create_task(driver.infer("a", prompt_tokens=10, max_tokens=3000))
            for _ in range(8):
                await asyncio.sleep(0.5)
                loop.block(60.0)
            assert (await task).status == "finished"
            assert not driver.metrics.faults

    run(main)


def test_nobody_hangs_where_nobody_looks() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop, plan=lambda device, job, start: -2)
        async with driven(backend, stall_s=None) as driver:
            task = asyncio.create_task(driver.infer("a", prompt_tokens=10, max_tokens=20))
            await asyncio.sleep(1e5)
            assert not task.done() and driver._player._look_timer is None
        assert (await task).status == "cancelled"

    run(main)


@pytest.mark.parametrize(
    ("given", "error"), [({"stall_s": 0}, ValueError), ({"retries": -1}, ValueError), ({"retries": 1.5}, TypeError)]
)
def test_options_out_of_range(given: dict[str, Any], error: type[Exception]) -> None:
    async def main(loop: VirtualLoop) -> None:
        with pytest.raises(error, match=next(iter(given))):
            driven(Faulty(loop), **given)

    run(main)


# Exceptions


@pytest.mark.parametrize("method", ["ready", "health", "start", "abort", "texts", "tokens", "served"])
def test_an_exception_about_a_device_is_the_failure_of_that_device(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop, slots=2)
        async with driven(backend, retries=9) as driver:

            async def read() -> Result:
                stream = driver.stream("b", prompt_tokens=10, max_tokens=20)
                with suppress(UnfinishedError):
                    async for _ in stream:
                        pass
                return await stream.result()

            asked = [asyncio.create_task(driver.infer("a", prompt_tokens=10, max_tokens=20)) for _ in range(4)]
            asked.append(asyncio.create_task(read()))
            await asyncio.sleep(0.05)
            backend.broken[method] = {0}
            gone = asked.pop(0)
            gone.cancel()
            await asyncio.sleep(0.5)
            assert driver.failed is None
            backend.broken.clear()
            results = await asyncio.gather(*asked)
            assert {r.status for r in results} <= {"finished", "failed"}
            assert sum(r.status == "failed" for r in results) <= 1  # the stream, which has been seen
            assert driver.metrics.faults["raised"]
            assert_all_is_well(driver)

    run(main)
    if method != "served":  # is asked for figures alone
        told = [record for record in caplog.records if "faulty0 has failed and gets no work" in record.getMessage()]
        assert told and all(record.exc_info for record in told)


def test_a_generator_that_yields_no_text_is_told_so(caplog: pytest.LogCaptureFixture) -> None:
    class Ids(Faulty):
        async def generate(self, device: int, job: Job) -> AsyncGenerator[str, None]:
            yield 17  # type: ignore[misc]

    async def main(loop: VirtualLoop) -> None:
        async with driven(Ids(loop)) as driver:
            result = await driver.infer("a", prompt_tokens=10, max_tokens=20)
            assert (result.status, result.reason, result.output_tokens) == ("failed", "backend_failed", 0)
            assert_all_is_well(driver)

    run(main)
    assert "TypeError('generate must yield a str for each token, got 17')" in caplog.text


@pytest.mark.parametrize("method", ["now", "next_event_at", "take"])
def test_an_exception_about_everything_stops_the_driver_and_nothing_is_left(method: str) -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop, slots=2)

        def broken() -> Any:
            raise OSError(f"no {method}")

        async with driven(backend) as driver:
            asked = [asyncio.create_task(driver.infer("a", prompt_tokens=10, max_tokens=20)) for _ in range(5)]
            await asyncio.sleep(0.05)
            setattr(backend, method, broken)
            assert driver._pump.guard is not None
            for task in asked:
                with pytest.raises(DriverError, match=f"no {method}"):
                    await task
            assert isinstance(driver.failed, OSError)
            assert_all_is_well(driver)
            with pytest.raises(DriverError):
                driver.submit("a", prompt_tokens=1)

    run(main)


# Clocks


def test_a_clock_that_goes_back_goes_on_from_where_it_stood() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop)
        jump = 0.0
        backend._clock = lambda: loop.time() + jump
        async with driven(backend, Tenant("a", rate=100.0, burst=100.0, over_rate="queue")) as driver:
            await asyncio.sleep(1000)
            task = asyncio.create_task(driver.infer("a", prompt_tokens=10, max_tokens=90))
            shaped = asyncio.create_task(driver.infer("a", prompt_tokens=10, max_tokens=40))
            late = asyncio.create_task(driver.infer("a", prompt_tokens=10, max_tokens=90, deadline_s=3.0))
            await asyncio.sleep(0.1)
            before = driver.now
            jump = -5000.0
            await asyncio.sleep(0.1)
            assert driver.now == pytest.approx(before + 0.1, abs=0.02)
            result = await task
            assert result.status == "finished"
            assert result.e2e_s == pytest.approx(0.9, abs=0.05)
            assert (await shaped).queue_wait_s == pytest.approx(0.5, abs=0.05)
            assert (await late).status == "finished"
            assert driver.metrics.faults == {"clock_went_back": 1}
            assert_all_is_well(driver)

    run(main)


def test_a_clock_that_leaps_forward_ends_what_is_due() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop, slots=1)
        jump = 0.0
        backend._clock = lambda: loop.time() + jump
        async with driven(backend) as driver:
            task = asyncio.create_task(driver.infer("a", prompt_tokens=10, max_tokens=90))
            await asyncio.sleep(0)
            late = asyncio.create_task(driver.infer("a", prompt_tokens=10, max_tokens=5, deadline_s=60.0))
            waits = asyncio.create_task(driver.infer("a", prompt_tokens=10, max_tokens=5))
            await asyncio.sleep(0.1)
            jump = 3600.0
            assert (await late).status == "expired"
            assert (await task).status == (await waits).status == "finished"  # nobody hangs because of it
            assert not driver.metrics.faults
            jump = 0.0
            assert (await driver.infer("a", prompt_tokens=10, max_tokens=5)).status == "finished"
            assert_all_is_well(driver)

    run(main)


@pytest.mark.parametrize("now", [float("nan"), float("inf"), 1e300])
def test_a_clock_without_a_time_stops_the_driver(now: float) -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop)
        async with driven(backend) as driver:
            task = asyncio.create_task(driver.infer("a", prompt_tokens=10, max_tokens=90))
            await asyncio.sleep(0.1)
            backend._clock = lambda: now
            with pytest.raises(DriverError, match="clock ends"):
                await task
            assert_all_is_well(driver)

    run(main)


# Everything at once


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from(["continuous", "micro", "recompute", "swap"]))
def test_whatever_goes_wrong_everybody_is_told_and_nothing_is_left(seed: int, mode: str) -> None:
    rng = random.Random(seed)
    policy = Policy(batching="micro") if mode == "micro" else Policy(preemption="off" if mode == "continuous" else mode)  # type: ignore[arg-type]

    # not those after which the backend goes on with what it has said to be over
    lies = [twist for name, (twist, *_) in LIES.items() if name not in ("an early end", "both ends", "twice")]

    def plan(device: int, job: Job, start: int) -> int | None:
        draw = rng.random()
        return rng.randint(0, 8) if draw < 0.25 else -rng.randint(1, 8) if draw < 0.35 else None

    def twist(news: Progress) -> Progress:
        if rng.random() < 0.03:
            return rng.choice(lies)(news)
        return news

    async def main(loop: VirtualLoop) -> None:
        backend = Faulty(loop, devices=rng.randint(1, 3), slots=rng.randint(1, 4), plan=plan, twist=twist)
        tenants = [Tenant("a"), Tenant("b", rate=2000.0, burst=2000.0, over_rate="queue")]
        async with Driver(Scheduler(tenants, devices=backend.devices, policy=policy), backend, stall_s=2.0) as driver:

            async def ask(i: int) -> Result:
                await asyncio.sleep(rng.uniform(0, 3))
                asked: dict[str, Any] = {"prompt_tokens": rng.randint(1, 50), "max_tokens": rng.randint(1, 12)}
                asked |= {"bid": rng.randint(1, 10), "deadline_s": rng.choice([None, None, 2.0])}
                if i % 3:
                    return await driver.infer(rng.choice("ab"), **asked)
                stream = driver.stream(rng.choice("ab"), **asked)
                with suppress(UnfinishedError):
                    async for _ in stream:
                        pass
                return await stream.result()

            tasks = [asyncio.create_task(ask(i)) for i in range(40)]
            while not all(task.done() for task in tasks):
                await asyncio.sleep(rng.choice([0.0, 0.003, 0.1, 1.0]))
                assert driver.invariants() == ALL_IS_WELL
                if rng.random() < 0.2:
                    rng.choice(tasks).cancel()
                if rng.random() < 0.1:
                    device = rng.randrange(len(backend.devices))
                    backend.set_health(device, Health(rng.random() < 0.7))
                if rng.random() < 0.1:
                    backend.broken = (
                        {rng.choice(["ready", "start", "abort", "texts"]): {0}} if rng.random() < 0.5 else {}
                    )
            for device in range(len(backend.devices)):
                backend.set_health(device, Health(True))
            assert all(task.cancelled() or task.exception() is None for task in tasks)
            assert driver.failed is None
            assert_all_is_well(driver)

    run(main)

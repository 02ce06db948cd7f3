"""Streams of tokens, and cancels at every stage: nothing is held afterwards."""

import asyncio
import pickle
import random
import time
from math import inf
from typing import Any

import pytest

from aps import Policy, Scheduler, Tenant, UnfinishedError
from aps.backends import SimulatedBackend
from aps.driver import Driver, Result, Stream
from tests.driving import CROWD, POLICIES, assert_nothing_held, opened
from tests.virtual_loop import VirtualLoop, run

# Streams


def test_a_stream_wakes_once_for_all_its_ready_tokens() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            ticket = driver.submit("a", prompt_tokens=128, max_tokens=50)
            chunks = []
            async for chunk in ticket.chunks():
                chunks.append(chunk)
                if len(chunks) == 3:
                    loop.block(20.5 / 128)
            result = await ticket.result()
            assert [len(chunk) for chunk in chunks[:5]] == [1, 1, 1, 20, 1]
            assert "".join(token for chunk in chunks for token in chunk) == result.text
            assert sum(map(len, chunks)) == 50

    run(main)


def test_streams_that_begin_late() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            ticket = driver.submit("a", prompt_tokens=128, max_tokens=50)
            await asyncio.sleep(0.2)
            chunks = [chunk async for chunk in ticket.chunks()]
            result = await ticket.result()
            assert len(chunks[0]) > 5
            assert "".join(token for chunk in chunks for token in chunk) == result.text
            assert [chunk async for chunk in ticket.chunks()] == [[result.text]]
            waiting = driver.submit("a", prompt_tokens=10, max_tokens=2)
            first, second = waiting.chunks(), waiting.chunks()
            assert len(await anext(first)) == 1
            with pytest.raises(RuntimeError, match="streamed already"):
                await anext(second)
            assert [len(chunk) async for chunk in first] == [1]

    run(main)


async def read_until(stream: Stream, tokens: list[str]) -> UnfinishedError:
    """The tokens there were, and the error that came after them."""
    with pytest.raises(UnfinishedError) as caught:
        async for token in stream:
            tokens.append(token)
    assert caught.value.result == await stream.result()
    assert caught.value.delivered == len(tokens)
    return caught.value


def test_a_stream_that_is_not_admitted_says_so() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, Tenant("a", rate=10.0, burst=100.0)) as driver:
            error = await read_until(driver.stream("a", prompt_tokens=10**6, id="mine"), [])
            assert str(error) == "the request was not admitted: rejected (exceeds_kv_cache)"
            assert (await driver.infer("a", prompt_tokens=80, max_tokens=20)).status == "finished"
            error = await read_until(driver.stream("a", prompt_tokens=80, max_tokens=20), [])
            assert str(error) == "the request was not admitted: throttled (over_rate)"
            assert error.result.verdict.retry_after_s > 0

    run(main)


@pytest.mark.parametrize("how", ["cancelled", "closed", "drained"])
def test_a_stream_whose_request_is_ended_raises_after_its_tokens(how: str) -> None:
    async def main(loop: VirtualLoop) -> None:
        tokens: list[str] = []
        backend = SimulatedBackend(clock=loop.time)
        async with Driver(Scheduler([Tenant("a")], devices=backend.devices), backend) as driver:
            stream = driver.stream("a", prompt_tokens=10, max_tokens=100)
            reading = asyncio.create_task(read_until(stream, tokens))
            await asyncio.sleep(0.1)
            if how == "cancelled":
                assert driver.cancel(stream.ticket.id)
            elif how == "drained":
                assert await driver.drain(0.1) == 1
        error = await reading
        assert 5 < len(tokens) == error.result.output_tokens < 100
        assert str(error) == f"request {stream.ticket.id} ended as cancelled (cancelled) after {len(tokens)} tokens"
        copied = pickle.loads(pickle.dumps(error))
        assert (str(copied), copied.result) == (str(error), error.result)

    run(main)


def test_a_stream_whose_deadline_passes_raises() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, slots=1) as driver:
            long = driver.submit("a", prompt_tokens=10, max_tokens=1000)
            error = await read_until(driver.stream("a", prompt_tokens=10, max_tokens=5, deadline_s=0.5, id="late"), [])
            assert str(error) == "request 'late' ended as expired (deadline_expired) after 0 tokens"
            driver.cancel(long.id)

    run(main)


def test_a_stream_is_iterated_once() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            stream = driver.stream("a", prompt_tokens=10, max_tokens=5)
            assert len([token async for token in stream]) == 5
            async with driver.stream("a", prompt_tokens=10, max_tokens=5) as left:
                async for _ in left:
                    break
            for again in (stream, left):
                with pytest.raises(RuntimeError, match="has been streamed already"):
                    await anext(aiter(again))
            assert (await stream.result()).status == "finished"

    run(main)


def test_a_second_reader_of_a_stream_does_not_end_the_first() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            stream = driver.stream("a", prompt_tokens=10, max_tokens=20)
            tokens = []
            async for token in stream:
                tokens.append(token)
                if len(tokens) == 5:
                    with pytest.raises(RuntimeError, match="streamed already"):
                        await anext(aiter(stream))
            assert len(tokens) == 20
            assert (await stream.result()).status == "finished"

    run(main)


def test_leaving_a_stream_cancels_its_request() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            async with driver.stream("a", prompt_tokens=10, max_tokens=50) as stream:
                async for _ in stream:
                    break
            result = await stream.result()
            assert (result.status, result.output_tokens, result.charge) == ("cancelled", 1, 11.0)

            async def read() -> None:
                async for _ in driver.stream("a", prompt_tokens=10, max_tokens=500):
                    pass

            task = asyncio.create_task(read())
            await asyncio.sleep(1)
            assert driver.outstanding == 1
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert driver.outstanding == 0

    run(main)


# Cancelling


def test_cancelling_the_caller_at_every_stage_frees_everything() -> None:
    async def main(loop: VirtualLoop) -> None:
        limited = Tenant("a", rate=1.0, burst=10_000.0)
        async with opened(loop, limited, slots=1) as driver:

            def ask() -> asyncio.Task[Result]:
                return asyncio.create_task(driver.infer("a", prompt_tokens=100, max_tokens=20))

            async def cancelled(task: asyncio.Task[Result]) -> None:
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task

            task = ask()
            await cancelled(task)  # before it ran at all
            assert driver.metrics.tenants.get("a") is None

            task = ask()
            await asyncio.sleep(0)
            queued = ask()
            await asyncio.sleep(0)
            assert driver.snapshot().waiting == 1
            await cancelled(queued)
            assert driver.snapshot().waiting == 0
            assert driver.snapshot().tenants["a"].level == pytest.approx(10_000 - 120)

            await asyncio.sleep(0.05)  # in the middle of its prefill
            await cancelled(task)
            assert_nothing_held(driver)
            assert driver.snapshot().tenants["a"].level == pytest.approx(10_000)

            await asyncio.sleep(1)  # the step ends empty
            task = ask()
            await asyncio.sleep(100 / 1024 + 3.5 / 128)  # three tokens are out
            await cancelled(task)
            assert_nothing_held(driver)
            assert driver.snapshot().tenants["a"].level == pytest.approx(10_000 - 103, abs=0.5)

            task = ask()
            await asyncio.sleep(0)
            [ticket] = driver._pump.desk.tickets()
            loop.block(1.0)
            driver.snapshot()
            assert ticket.done and not task.done()
            await cancelled(task)  # its answer is there, it has not seen it yet
            counted = driver.metrics.tenants["a"]
            assert (counted.admitted, counted.finished, counted.cancelled) == (4, 1, 3)

    run(main)


def test_cancelled_in_a_micro_window() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, policy=Policy(batching="micro")) as driver:
            kept = driver.submit("a", prompt_tokens=10, max_tokens=2)
            gone = driver.submit("b", prompt_tokens=10, max_tokens=2, id="gone")
            await asyncio.sleep(0.005)
            assert driver.cancel("gone") and not driver.cancel("gone") and not driver.cancel("never was")
            assert (await gone.result()).status == "cancelled"
            assert (await kept.result()).batch_size == 1

    run(main)


@pytest.mark.parametrize("mode", POLICIES)
@pytest.mark.parametrize("gpus", [1, 2])
def test_a_storm_of_cancels(mode: str, gpus: int) -> None:
    async def main(loop: VirtualLoop) -> None:
        rng = random.Random(gpus)
        async with opened(loop, *CROWD, policy=POLICIES[mode], gpus=gpus, slots=6, kv_tokens=3000) as driver:

            async def ask() -> Result:
                await asyncio.sleep(rng.uniform(0, 20))
                return await driver.infer(
                    rng.choice("abc"),
                    prompt_tokens=rng.randint(1, 300),
                    max_tokens=rng.randint(1, 40),
                    bid=rng.randint(1, 10),
                    deadline_s=rng.choice([None, 5.0]),
                    id=rng.choice([None, object()]),
                )

            async def read() -> None:
                async for _ in driver.stream(rng.choice("abc"), prompt_tokens=rng.randint(1, 300), max_tokens=20):
                    pass

            tasks: list[asyncio.Task[Any]] = [asyncio.create_task(read() if i % 5 == 0 else ask()) for i in range(400)]
            while not all(task.done() for task in tasks):
                await asyncio.sleep(rng.choice([0, 0.001, 0.05]))
                for task in rng.sample(tasks, 4 if rng.random() < 0.3 else 0):
                    task.cancel()
            gone = sum(task.cancelled() for task in tasks)
            assert 50 < gone < 400
            assert all(task.cancelled() or task.exception() is None for task in tasks)

    run(main)


def test_two_thousand_at_once_on_real_time() -> None:
    async def main() -> None:
        stop = 0.02  # the clock stands there until the cancels are made, however slow the machine is
        zero = time.monotonic()
        backend = SimulatedBackend(time_scale=1000.0, gpus=2, clock=lambda: min(time.monotonic() - zero, stop))
        tenants = [Tenant("vip", weight=4.0), Tenant("free")]
        async with Driver(Scheduler(tenants, devices=backend.devices), backend) as driver:
            tasks = [
                asyncio.create_task(driver.infer(("vip", "free")[i % 2], prompt_tokens=1000, max_tokens=20 + i % 10))
                for i in range(2000)
            ]
            await asyncio.sleep(0.02)
            for task in tasks[::7]:
                task.cancel()
            stop = inf
            results = await asyncio.gather(*tasks, return_exceptions=True)
            finished = [r for r in results if isinstance(r, Result)]
            assert all(r.status == "finished" and r.output_tokens for r in finished)
            assert all(isinstance(r, asyncio.CancelledError) for r in results if not isinstance(r, Result))
            assert 1700 < len(finished) < 2000
            assert_nothing_held(driver)
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())

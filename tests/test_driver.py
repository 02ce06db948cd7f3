"""The driver on a loop whose time jumps, so that every instant is exact; a few tests on real time."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from math import inf
from typing import Any

import pytest
from aps import Policy, Scheduler, Tenant
from aps.backends import SimulatedBackend
from aps.driver import Driver, DriverError, Result, Ticket
from aps.policy import Limits
from virtual_loop import VirtualLoop, run

A, B = Tenant("a"), Tenant("b")


@asynccontextmanager
async def opened(
    loop: VirtualLoop, *tenants: Tenant, policy: Policy | None = None, limits: Limits | None = None, **options: Any
) -> AsyncIterator[Driver]:
    backend = SimulatedBackend(clock=loop.time, **options)
    scheduler = Scheduler(
        tenants or (A, B), policy=policy or Policy(), devices=backend.devices, limits=limits or Limits()
    )
    async with Driver(scheduler, backend) as driver:
        yield driver
        assert_nothing_held(driver)


def assert_nothing_held(driver: Driver) -> None:
    """Slots, KV, reservations and counters are back to zero."""
    snapshot = driver.snapshot()
    assert (snapshot.waiting, snapshot.waiting_tokens, snapshot.returning, driver.outstanding) == (0, 0, 0, 0)
    for device in snapshot.devices.values():
        assert (device.running, device.held_blocks, device.max_blocks, device.reserved) == (0, 0, 0, None)
    for name, tenant in snapshot.tenants.items():
        assert (tenant.waiting, tenant.in_flight, tenant.held_blocks) == (0, 0, 0)
        counted = driver.metrics.tenant(name)
        assert (counted.waiting, counted.outstanding, counted.admitted) == (0, 0, tenant.admitted)
        assert counted.finished == tenant.finished
        assert (counted.prompt_tokens, counted.output_tokens) == (tenant.prompt_tokens, tenant.output_tokens)
        ended = counted.finished + counted.cancelled + counted.expired + counted.dropped + counted.failed
        assert ended == counted.admitted
        assert counted.charged == pytest.approx(tenant.charged_tokens)
    for i in range(len(driver.backend.devices)):
        usage = driver.backend.usage(i)
        assert usage is not None
        assert (usage.running, usage.held_blocks) == (0, 0)
    pump = driver._pump
    assert not pump.named and not pump._streams and not any(pump._running)


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
        ({"max_tokens": 0}, ValueError, "max_tokens"),
        ({"bid": 11}, ValueError, "bid"),
        ({"bid": 5.5}, TypeError, "bid"),
        ({"deadline_s": float("nan")}, ValueError, "deadline_at"),
        ({"id": "taken"}, ValueError, "'taken'"),
        ({"simulated_output_tokens": 0}, ValueError, "simulated_output_tokens must be at least 1, got 0"),
    ],
)
def test_mistakes_are_errors_and_change_nothing(asked: dict[str, Any], error: type[Exception], message: str) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            taken = driver.submit("a", prompt_tokens=10, id="taken")
            before = driver.snapshot()
            with pytest.raises(error, match=message):
                driver.submit(**{"tenant": "a", "prompt_tokens": 10} | asked)
            assert driver.snapshot() == before
            assert driver.outstanding == 1
            assert (await taken.result()).status == "finished"

    run(main)


def test_the_simulated_output_may_be_shorter_than_max_tokens() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            result = await driver.infer("a", prompt_tokens=10, max_tokens=100, simulated_output_tokens=7)
            assert (result.output_tokens, result.charge, len(result.text.split())) == (7, 17.0, 7)
            result = await driver.infer("a", prompt_tokens=10, max_tokens=5, simulated_output_tokens=7)
            assert result.output_tokens == 5

    run(main)


# The clock: late timers, determinism


def arrivals(seed: int, n: int) -> list[tuple[float, dict[str, Any]]]:
    rng = random.Random(seed)
    times = sorted(rng.uniform(0, 20) for _ in range(n))
    return [
        (
            at,
            {
                "tenant": rng.choice("abc"),
                "prompt_tokens": rng.randint(1, 400),
                "max_tokens": rng.randint(1, 60),
                "bid": rng.randint(1, 10),
                "deadline_s": rng.choice([None, None, rng.uniform(0.5, 30)]),
            },
        )
        for at in times
    ]


CROWD = (Tenant("a", weight=3.0), Tenant("b", rate=300.0, burst=3000.0, over_rate="queue"), Tenant("c"))
POLICIES = {
    "continuous": Policy(),
    "micro": Policy(batching="micro"),
    "preemption": Policy(preemption="recompute", aging_horizon_s=inf, fairness_window=inf),
    "swap": Policy(preemption="swap", aging_horizon_s=inf, fairness_window=inf),
}


def injected(policy: Policy, gpus: int, between: Callable[[random.Random], Awaitable[None]]) -> list[Result]:
    """Arrivals at given instants of a clock of our own, whatever the loop does in between."""

    async def main(loop: VirtualLoop) -> list[Result]:
        rng = random.Random(1)
        clock = 0.0
        backend = SimulatedBackend(gpus=gpus, slots=4, kv_tokens=2400, clock=lambda: clock)
        async with Driver(Scheduler(CROWD, policy=policy, devices=backend.devices), backend) as driver:
            tickets = []
            for i, (at, asked) in enumerate(arrivals(5, 120 * gpus)):
                clock = at
                await between(rng)
                tickets.append(driver.submit(**asked, id=i))
            while driver.outstanding:
                clock += rng.choice([0.001, 0.5, 20.0])
                await asyncio.sleep(1)
                driver.snapshot()  # plays what is due
            assert_nothing_held(driver)
            return [await ticket.result() for ticket in tickets]

    return run(main)


@pytest.mark.parametrize("gpus", [1, 3])
@pytest.mark.parametrize("mode", POLICIES)
def test_when_timers_fire_changes_nothing(mode: str, gpus: int) -> None:
    async def never(rng: random.Random) -> None:
        return None

    async def often(rng: random.Random) -> None:
        await asyncio.sleep(rng.choice([0, 0.01, 1]))

    late, prompt = injected(POLICIES[mode], gpus, never), injected(POLICIES[mode], gpus, often)
    assert late == prompt
    assert {"finished", "expired"} <= {r.status for r in late}
    assert any(r.queue_wait_s and r.queue_wait_s > 1 for r in late)


def test_a_blocked_loop_does_not_stretch_simulated_time() -> None:
    def burst(blocks: bool) -> tuple[list[Result], float]:
        async def main(loop: VirtualLoop) -> tuple[list[Result], float]:
            async with opened(loop, time_scale=10.0) as driver:
                tickets = [driver.submit("a", prompt_tokens=200 + i, max_tokens=5 + i, id=i) for i in range(60)]
                rng = random.Random(2)
                while driver.outstanding:
                    await asyncio.sleep(0.01)
                    if blocks:
                        loop.block(rng.choice([0.0, 0.05, 0.3]))
                return [await ticket.result() for ticket in tickets], loop.time()

        return run(main)

    assert burst(True)[0] == burst(False)[0]


def test_a_blocked_loop_on_real_time() -> None:
    async def burst(block: bool) -> list[Result]:
        began = inf  # the clock stands until all have been submitted
        backend = SimulatedBackend(time_scale=50.0, clock=lambda: max(0.0, time.monotonic() - began))
        async with Driver(Scheduler([A], devices=backend.devices), backend) as driver:
            tickets = [driver.submit("a", prompt_tokens=100, max_tokens=10 + i, id=i) for i in range(40)]
            began = time.monotonic()
            if block:
                await asyncio.sleep(0.01)
                time.sleep(0.05)
            results = [await ticket.result() for ticket in tickets]
            assert driver.metrics.slipped_s == 0
            return results

    assert asyncio.run(burst(True)) == asyncio.run(burst(False))


def test_when_the_machine_cannot_keep_up_the_clock_slips_and_the_loop_lives() -> None:
    async def main() -> None:
        backend = SimulatedBackend(time_scale=1e6)
        async with Driver(Scheduler([A], devices=backend.devices), backend) as driver:
            tickets = [driver.submit("a", prompt_tokens=1, max_tokens=8_000) for _ in range(16)]
            turns = 0
            while not all(ticket.done for ticket in tickets):
                await asyncio.sleep(0)
                turns += 1
            assert turns >= 2
            assert driver.metrics.slipped_s > 0
            results = [await ticket.result() for ticket in tickets]
            assert {r.output_tokens for r in results} == {8_000}

    asyncio.run(main())


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
            again = (512 + 11) / 1024 if how == "recompute" else 0.0
            assert result.e2e_s == pytest.approx(alone + urgent.e2e_s - (urgent.queue_wait_s or 0) + again)
            assert driver.snapshot().tenants["a"].preempted == 1

    run(main)


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
            refused = driver.stream("a", prompt_tokens=10**6)
            assert [token async for token in refused] == []
            assert (await refused.result()).status == "rejected"
            waiting = driver.submit("a", prompt_tokens=10, max_tokens=2)
            first, second = waiting.chunks(), waiting.chunks()
            assert len(await anext(first)) == 1
            with pytest.raises(RuntimeError, match="streamed already"):
                await anext(second)
            assert [len(chunk) async for chunk in first] == [1]

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
            [ticket] = driver._pump.tickets.values()
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

            tasks: list[asyncio.Task[Any]] = [
                asyncio.create_task(read() if i % 5 == 0 else ask()) for i in range(400)
            ]
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
        backend = SimulatedBackend(time_scale=1000.0, gpus=2)
        tenants = [Tenant("vip", weight=4.0), Tenant("free")]
        async with Driver(Scheduler(tenants, devices=backend.devices), backend) as driver:
            tasks = [
                asyncio.create_task(driver.infer(("vip", "free")[i % 2], prompt_tokens=1000, max_tokens=20 + i % 10))
                for i in range(2000)
            ]
            await asyncio.sleep(0.02)
            for task in tasks[::7]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
            finished = [r for r in results if isinstance(r, Result)]
            assert all(r.status == "finished" and r.output_tokens for r in finished)
            assert all(isinstance(r, asyncio.CancelledError) for r in results if not isinstance(r, Result))
            assert 1700 < len(finished) < 2000
            assert_nothing_held(driver)
            assert len(asyncio.all_tasks()) == 1

    asyncio.run(main())


# Its life


def test_drain_waits_and_refuses() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            tickets = [driver.submit("a", prompt_tokens=100, max_tokens=10) for _ in range(40)]
            draining = asyncio.create_task(driver.drain())
            await asyncio.sleep(0.1)
            late = await driver.infer("a", prompt_tokens=10)
            assert (late.status, late.reason) == ("throttled", "draining")
            with pytest.raises(KeyError, match="nobody"):
                driver.submit("nobody", prompt_tokens=1)
            assert await draining == 0
            assert all(ticket.done for ticket in tickets)

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


def test_an_error_inside_stops_the_driver_and_hangs_nobody() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = SimulatedBackend(clock=loop.time)
        async with Driver(Scheduler([A], devices=backend.devices), backend) as driver:
            waiting = asyncio.create_task(driver.infer("a", prompt_tokens=100, max_tokens=100))
            reading = asyncio.create_task(anext(aiter(driver.stream("a", prompt_tokens=10**4, max_tokens=100))))
            draining = asyncio.create_task(driver.drain())
            await asyncio.sleep(0.05)
            broken = OSError("the cable")

            def take() -> None:
                raise broken

            backend.take = take  # type: ignore[assignment,method-assign]
            for task in (waiting, reading, draining):
                with pytest.raises(DriverError, match="the cable") as caught:
                    await task
                assert caught.value.__cause__ is broken
            assert driver.failed is broken
            with pytest.raises(DriverError, match="failed"):
                driver.submit("a", prompt_tokens=1)
            assert not driver.cancel(waiting)
            assert driver.outstanding == 0

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
            del driver.metrics.tenants["c"]  # the scheduler has forgotten it too

    run(main)


def test_the_devices_must_be_the_backends() -> None:
    with pytest.raises(ValueError, match="devices must be the backend's"):
        Driver(Scheduler([A]), SimulatedBackend())

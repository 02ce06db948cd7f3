"""The driver's life, and what breaks it: drain, close, errors of a backend; at exact instants."""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any

import pytest

from aps import Scheduler, Tenant
from aps.backends import SimulatedBackend
from aps.driver import Driver, DriverError, Stream
from tests.driving import A, B, opened
from tests.virtual_loop import VirtualLoop, run


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


async def first_token(stream: Stream) -> str:
    return await anext(aiter(stream))


def test_an_error_inside_stops_the_driver_and_hangs_nobody() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = SimulatedBackend(clock=loop.time)
        async with Driver(Scheduler([A], devices=backend.devices), backend) as driver:
            waiting = asyncio.create_task(driver.infer("a", prompt_tokens=100, max_tokens=100))
            reading = asyncio.create_task(first_token(driver.stream("a", prompt_tokens=10**4, max_tokens=100)))
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


class Breaking(SimulatedBackend):
    """One of its methods breaks when told to."""

    broken = ""

    def __getattribute__(self, name: str) -> Any:
        if name == object.__getattribute__(self, "broken"):
            raise OSError(f"no {name}")
        return super().__getattribute__(name)


@pytest.mark.parametrize("method", ["now", "ready", "start", "run", "abort", "next_event_at", "take", "tokens"])
def test_wherever_a_backend_breaks_the_driver_fails_and_nobody_hangs(method: str) -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Breaking(clock=loop.time, slots=3)
        async with Driver(Scheduler([A, B], devices=backend.devices), backend) as driver:

            async def read() -> None:
                async for _ in driver.stream("a", prompt_tokens=5, max_tokens=50):
                    pass

            asked: list[asyncio.Task[Any]] = [
                asyncio.create_task(driver.infer("a", prompt_tokens=100, max_tokens=30 + i)) for i in range(5)
            ]
            asked.append(asyncio.create_task(read()))
            await asyncio.sleep(0.2)
            backend.broken = method
            late = asyncio.create_task(driver.infer("b", prompt_tokens=10, max_tokens=1))
            await asyncio.sleep(0.05)
            asked[0].cancel()
            done, pending = await asyncio.wait([*asked, late], timeout=60)
            assert not pending
            assert isinstance(driver.failed, OSError) and str(driver.failed) == f"no {method}"
            assert all(task.cancelled() or isinstance(task.exception(), DriverError) for task in done)
            assert driver.outstanding == 0
            assert 0.1 < driver.now < 2.0
            with pytest.raises(DriverError, match=f"no {method}|has failed"):
                driver.submit("a", prompt_tokens=1)
            driver._wake()  # news that come too late
            assert driver._timer is None

    run(main)


def test_a_cancelled_caller_is_cancelled_though_the_backend_breaks_over_it() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Breaking(clock=loop.time)
        async with Driver(Scheduler([A], devices=backend.devices), backend) as driver:
            first, second = (
                asyncio.create_task(driver.infer("a", prompt_tokens=100, max_tokens=100)) for _ in range(2)
            )
            await asyncio.sleep(0.2)
            backend.broken = "abort"
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            with pytest.raises(DriverError, match="no abort"):
                await second
            assert isinstance(driver.failed, OSError)

    run(main)


@pytest.mark.parametrize("method", ["now", "abort"])
def test_a_backend_that_breaks_when_the_driver_closes(method: str) -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = Breaking(clock=loop.time)
        async with Driver(Scheduler([A], devices=backend.devices), backend) as driver:
            task = asyncio.create_task(driver.infer("a", prompt_tokens=100, max_tokens=100))
            await asyncio.sleep(0.2)
            backend.broken = method
        assert isinstance(driver.failed, OSError)
        with pytest.raises(DriverError, match=f"no {method}"):
            await task

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


@pytest.mark.parametrize("starts", [False, True])
def test_a_scheduler_with_requests_of_others_is_refused(starts: bool) -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = SimulatedBackend(clock=loop.time)
        scheduler = Scheduler([A], devices=backend.devices)
        others = scheduler.submit("a", prompt_tokens=5, max_tokens=5, now=0.0).id
        if starts:
            assert scheduler.next_batch(now=0.0).started == (others,)
        driver = Driver(scheduler, backend)
        with pytest.raises(ValueError, match="scheduler must have no live requests when a driver opens, got 1"):
            await driver.__aenter__()
        scheduler.cancel(others, now=1.0)
        async with driver:
            assert (await driver.infer("a", prompt_tokens=5, max_tokens=5)).arrived_at == 1.0

    run(main)


def test_a_backend_that_does_not_open_leaves_the_driver_closed() -> None:
    class Closed(SimulatedBackend):
        async def open(self, now: float, wake: Callable[[], None]) -> None:
            wake()
            raise OSError("no route")

    async def main(loop: VirtualLoop) -> None:
        backend = Closed(clock=loop.time)
        driver = Driver(Scheduler([A], devices=backend.devices), backend)
        with pytest.raises(OSError, match="no route"):
            await driver.__aenter__()
        with pytest.raises(DriverError, match="not open"):
            driver.submit("a", prompt_tokens=1)
        assert driver._timer is None

    run(main)


def test_the_devices_must_be_the_backends() -> None:
    with pytest.raises(ValueError, match="devices must be the backend's"):
        Driver(Scheduler([A]), SimulatedBackend())

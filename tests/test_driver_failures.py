"""A driver that cannot go on, or cannot begin: everybody hears of it, and nobody hangs."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from aps import Scheduler
from aps.backends import SimulatedBackend
from aps.driver import Driver, DriverError, Stream
from tests.driving import A, B
from tests.virtual_loop import VirtualLoop, run


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


METHODS = ("now", "ready", "start", "abort", "next_event_at", "take", "tokens", "texts", "served")


class Breaking(SimulatedBackend):
    """One of its methods breaks when told to."""

    broken = ""


def breaking(name: str) -> Callable[..., Any]:
    def method(self: Breaking, *arguments: Any, **options: Any) -> Any:
        if self.broken == name:
            raise OSError(f"no {name}")
        return getattr(SimulatedBackend, name)(self, *arguments, **options)

    return method


for name in METHODS:
    setattr(Breaking, name, breaking(name))


@pytest.mark.parametrize("method", METHODS)
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
            for task in done:
                if method == "tokens" and not task.cancelled() and task.exception() is None:
                    assert task.result().status == "finished"  # before the stream got its next token
                else:
                    assert task.cancelled() or isinstance(task.exception(), DriverError)
            assert driver.outstanding == 0
            assert 0.1 < driver.now < 2.0
            counted = driver.metrics.tenants.values()
            assert sum(t.admitted for t in counted) == sum(t.finished + t.cancelled + t.failed for t in counted)
            backend.broken = ""
            apart = driver.invariants()
            if method == "abort":  # nothing can be taken back from it
                assert (apart.pop("slots"), apart.pop("blocks")) == (3, 21)
            assert set(apart.values()) == {0}
            with pytest.raises(DriverError, match=f"no {method}|has failed"):
                driver.submit("a", prompt_tokens=1)
            driver._player._wake()  # news that come too late
            assert driver._player._timer is None

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
        assert driver._player._timer is None

    run(main)


def test_the_devices_must_be_the_backends() -> None:
    with pytest.raises(ValueError, match="devices must be the backend's"):
        Driver(Scheduler([A]), SimulatedBackend())


def test_an_id_never_captures_another_request() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = SimulatedBackend(clock=loop.time)
        async with Driver(Scheduler([A], devices=backend.devices), backend) as driver:
            ticket = driver.submit("a", prompt_tokens=10, max_tokens=5)
            with pytest.raises(ValueError, match="id must not equal"):
                driver.submit("a", prompt_tokens=10, max_tokens=5, id=ticket.id)
            assert driver.ticket(ticket.id) is ticket
            assert (await ticket.result()).status == "finished"

    run(main)


@pytest.mark.parametrize("number", [-(2**70), -1, 0, 1, 2**53, 2**63 - 1, 2**63, 2**64 + 2**53, 2**70])
def test_a_number_that_no_request_has(number: int) -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = SimulatedBackend(clock=loop.time)
        async with Driver(Scheduler([A], devices=backend.devices), backend) as driver:
            driver.submit("a", prompt_tokens=10, max_tokens=5)
            assert driver.ticket(number) is None and driver.cancel(number) is False
            with pytest.raises(KeyError, match="no outstanding request"):
                driver.explain(number)

    run(main)

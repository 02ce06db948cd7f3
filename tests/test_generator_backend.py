"""`GeneratorBackend`: what becomes of the generator when something in it is cancelled, and when the driver closes."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from aps import Device, Driver, Scheduler, Tenant
from aps.backends import GeneratorBackend, Job
from tests.virtual_loop import VirtualLoop, run


class Around(GeneratorBackend):
    """Around a function."""

    def __init__(self, loop: VirtualLoop, generate: Callable[[Job], AsyncGenerator[str, None]]) -> None:
        super().__init__([Device(slots=4, token_budget=None)], clock=loop.time)
        self.around = generate

    def generate(self, device: int, job: Job) -> AsyncGenerator[str, None]:
        return self.around(job)


def driven(backend: GeneratorBackend, **options: Any) -> Driver:
    return Driver(Scheduler([Tenant("a")], devices=backend.devices), backend, **options)


@pytest.mark.parametrize("tokens", [0, 3])
def test_a_request_whose_engine_cancels_it_is_lost(tokens: int, caplog: pytest.LogCaptureFixture) -> None:
    async def cancelled(job: Job) -> AsyncGenerator[str, None]:
        for _ in range(tokens):
            await asyncio.sleep(0.01)
            yield "word "
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async def main(loop: VirtualLoop) -> None:
        backend = Around(loop, cancelled)
        async with driven(backend, retries=1, stall_s=None) as driver:
            ticket = driver.submit("a", prompt_tokens=10, max_tokens=20)
            result = await ticket.result()
            assert (result.status, result.reason, result.output_tokens) == ("failed", "backend_failed", tokens)
            assert ticket.retries == 1
            assert driver.snapshot().tenants["a"].in_flight == 0
            assert len(asyncio.all_tasks()) == 1

    run(main)
    assert caplog.text.count("has lost request") == 2


def test_an_abort_is_not_taken_for_a_failure(caplog: pytest.LogCaptureFixture) -> None:
    async def endless(_: Job) -> AsyncGenerator[str, None]:
        while True:
            await asyncio.sleep(0.01)
            yield "word "

    async def main(loop: VirtualLoop) -> None:
        backend = Around(loop, endless)
        async with driven(backend) as driver:
            ticket = driver.submit("a", prompt_tokens=10, max_tokens=200)
            await asyncio.sleep(0.1)
            assert driver.cancel(ticket.id)
            await asyncio.sleep(0.1)
            assert (await ticket.result()).status == "cancelled"
            assert not driver.metrics.faults and not backend._leaving

    run(main)
    assert not caplog.text


def test_closing_waits_until_every_generator_has_cleaned_up() -> None:
    cleaned = []

    async def careful(job: Job) -> AsyncGenerator[str, None]:
        try:
            while True:
                await asyncio.sleep(0.01)
                yield "word "
        finally:
            await asyncio.sleep(1.0)
            cleaned.append(job.handle)

    async def main(loop: VirtualLoop) -> None:
        backend = Around(loop, careful)
        async with driven(backend) as driver:
            tickets = [driver.submit("a", prompt_tokens=10, max_tokens=200) for _ in range(3)]
            await asyncio.sleep(0.1)
            assert driver.cancel(tickets[0].id)
        assert sorted(cleaned) == [ticket.handle for ticket in tickets]
        assert len(asyncio.all_tasks()) == 1

        backend = Around(loop, careful)  # closed by somebody else, with requests that run
        async with driven(backend) as driver:
            ticket = driver.submit("a", prompt_tokens=10, max_tokens=200)
            await asyncio.sleep(0.1)
            await backend.close()
            assert cleaned[-1] == ticket.handle and not any(backend._running)

    run(main)

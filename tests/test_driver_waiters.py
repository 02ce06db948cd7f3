"""Who waits for a ticket: all are woken, and those that have given up are not kept."""

import asyncio

from aps.driver import Ticket
from tests.driving import opened
from tests.virtual_loop import VirtualLoop, run


async def gives_up(ticket: Ticket, after_s: float) -> None:
    try:
        async with asyncio.timeout(after_s):
            await ticket.result()
    except TimeoutError:
        pass


def test_waits_that_are_given_up_leave_nothing() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            ticket = driver.submit("a", prompt_tokens=10, max_tokens=1000)
            told: list[Ticket] = []
            ticket.add_done_callback(told.append)
            waiting = [asyncio.create_task(ticket.result()) for _ in range(3)]
            await asyncio.sleep(0)
            for _ in range(100):
                await gives_up(ticket, 0.001)
                assert len(ticket.waiter) <= 5  # the one that has just been given up, too
            result = await ticket.result()
            assert [await task for task in waiting] == [result] * 3
            await asyncio.sleep(0)
            assert told == [ticket] and ticket.waiter is None

    run(main)


def test_a_stream_that_is_polled_keeps_one_waiter() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            ticket = driver.submit("a", prompt_tokens=4096, max_tokens=5)
            chunks = []
            polls = 0
            while not ticket.done:
                try:
                    async with asyncio.timeout(0.01):
                        chunks += await ticket.more()
                except TimeoutError:
                    polls += 1
                    assert len(ticket.waiter if type(ticket.waiter) is list else [ticket.waiter]) == 1
            assert polls > 100 and len(chunks) == 5

    run(main)

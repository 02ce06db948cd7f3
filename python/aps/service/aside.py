"""Calls that may wait for the store, beside the event loop, in threads that nobody waits for when the service ends.

The threads of `asyncio.to_thread` would not do: the interpreter joins them before it exits, and one of them may hang in
a database for as long as that is frozen.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Thread
from typing import TypeVar

from aps.store.database import Unsure

ANSWER_S = 10.0  # wall seconds: more than the store waits for a lock

Made = TypeVar("Made")


class Unanswered(Unsure):
    """The store has not answered in time."""


async def aside(work: Callable[[], Made]) -> Made:
    """What `work` returns or raises, in a thread of its own. Unanswered: neither within ANSWER_S.

    How many hang at once is bounded by the connections that the store opens: who gets none fails.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[Made] = loop.create_future()

    def settle(tell: Callable[[], None]) -> None:
        if not answer.done():
            tell()

    def run() -> None:
        try:
            tell = partial(answer.set_result, work())
        except BaseException as error:
            tell = partial(answer.set_exception, error)
        with suppress(RuntimeError):  # the loop has been closed
            loop.call_soon_threadsafe(settle, tell)

    Thread(target=run, name="aps-store-call", daemon=True).start()
    try:
        done, _ = await asyncio.wait([answer], timeout=ANSWER_S)
        if not done:
            raise Unanswered(f"the store has not answered within {ANSWER_S:g} s")
        return answer.result()
    finally:
        answer.cancel()

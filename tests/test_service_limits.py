"""Bodies that are being read when the service drains."""

import asyncio

import pytest
from starlette.types import Message

from aps.service.errors import Refusal
from aps.service.limits import BodyReader
from aps.service.pending import Pending


async def test_a_second_stop_right_behind_the_first_is_no_error() -> None:
    async def receive() -> Message:
        return await asyncio.Future()

    bodies = BodyReader(1000, 30.0, Pending(None, ()))
    reading = asyncio.create_task(bodies.read([], receive))
    await asyncio.sleep(0)
    bodies.stop()
    await asyncio.sleep(0)  # now the first has expired, and its reader has not heard
    bodies.stop()
    with pytest.raises(Refusal, match="stopped"):
        await reading

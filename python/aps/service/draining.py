"""The end of a service that is told to stop: what it accepted is finished and fetched, and what is lost is said."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from itertools import islice

from aps.driver import Driver, DriverError
from aps.service.limits import BodyReader
from aps.service.requests import Requests, Stood

LOG = logging.getLogger(__name__)

LOOK_S = 0.05  # wall seconds between looks at what is still to be fetched
MOST_LINES = 100


class Drain:
    """Drains one service, once, or again in place of a drain that takes longer. say: for people who look on."""

    def __init__(self, driver: Driver, bodies: BodyReader, requests: Requests, say: Callable[[str], None]) -> None:
        self._driver, self._bodies, self._requests, self._say = driver, bodies, requests, say

    async def within(self, seconds: float) -> None:
        """Refuse new requests, finish the others, and go on until their answers have been fetched (`wait: false`).

        After so many wall seconds what has not finished is cancelled. That and what nobody has fetched is in the log.
        """
        until = asyncio.get_running_loop().time() + seconds
        self._say(f"draining {self._driver.outstanding} requests, at most {seconds:g} s")
        self._bodies.stop()
        try:
            number = await self._driver.drain(seconds)
        except DriverError:  # who waited has been told; what had ended can be fetched
            number = 0
        cancelled = list(self._requests.cancelled()) if number else []
        await asyncio.sleep(0)  # who waits is told
        await self._fetched(until)
        before = set(cancelled)
        unread = [one for one in self._requests.unread() if one not in before]
        _warn(cancelled, "it had not finished when the service stopped")
        _warn(unread, "nobody had fetched its answer when the service stopped")
        lost = [f"{many} {how}" for many, how in ((number, "cancelled"), (len(unread), "unread")) if many]
        self._say(f"drained; {', '.join(lost)}" if lost else "drained")

    async def _fetched(self, until: float) -> None:
        """Return when no answer is unread, or at that time of the loop."""
        loop, said = asyncio.get_running_loop(), False
        while (left_s := until - loop.time()) > 0 and (unread := self._requests.unread()):
            if not said:
                said = True
                self._say(f"finished; {len(unread)} unread, at most {left_s:.0f} s more")
            await asyncio.sleep(min(LOOK_S, left_s))


def _warn(lost: Sequence[Stood], why: str) -> None:
    for id, tenant, ended in islice(lost, MOST_LINES):
        LOG.warning("request %s of %s, %s: %s", id, tenant, ended, why)
    if len(lost) > MOST_LINES:
        LOG.warning("and %d requests more: %s", len(lost) - MOST_LINES, why)

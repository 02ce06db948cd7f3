"""What the running service keeps: usage by the hour, where its scheduler stands, when keys were last used.

The loop takes what has happened since the last time, which costs what has changed; `writer` has a thread that writes
it. Nothing on a request's way waits for the store.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from aps.cuts import Cut
from aps.driver import Driver
from aps.service.condition import Condition
from aps.service.writer import Taken, Writer, instant
from aps.state import SchedulerState
from aps.store.database import Database
from aps.store.pruning import Pruner
from aps.store.saves import Saves
from aps.store.usage import hour_of
from aps.tickets import DriverError

LOG = logging.getLogger("aps.store")
HOUR_S = 3600
ALIVE = 3  # intervals: a run that saved within them may still run
LATE_S = 5.0  # wall seconds that a save may take, however short the interval: the store's own waits are no longer
STOP_S = 10.0  # wall seconds for the last save
USES_S = 60.0  # wall seconds from one look at keys' uses to the next: nobody needs them to the second


class Keeper:
    """Keeps the books of one driver, which is opened within: `keeper.restore()`, then `async with keeper, driver`.

    database: its tables are there. service: whose state it is. interval_s: wall seconds from one save to the next.
    keep_days: for how many days usage, the audit and ended runs stay in the database; None: for ever.
    uses: digests of the keys that were used since its last call. wall: Unix time. writer: how saving does. reading: how
    reading the tenants there does, where somebody follows them. lost: the last save could not be made.
    """

    def __init__(
        self,
        database: Database,
        driver: Driver,
        *,
        service: str = "aps",
        interval_s: float = 5.0,
        keep_days: int | None = None,
        uses: Callable[[], Iterable[bytes]] = tuple,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.database = database
        self._driver, self._service, self._interval_s = driver, service, interval_s
        self._uses, self._wall = uses, wall
        self._saves = Saves(database, service)
        self._began_at = wall()
        self._hour = hour_of(self._began_at)
        self._used_at = self._began_at
        late_s = max(LATE_S, ALIVE * interval_s)
        self.writer = Writer(self._saves, Pruner(database, keep_days), self._began_at, STOP_S, wall, late_s)
        self.reading: Condition | None = None
        self.lost = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def unsaved_s(self) -> float:
        """Wall seconds up to now of which nothing is in the store: what is lost if the process is killed now."""
        return max(0.0, self._wall() - self.writer.status.saved_at)

    def restore(self) -> None:
        """Begin the run: the driver, not open yet, goes on from where the service's last run stood. StoreError.

        Buckets refill for the time since then; a clock that was set back tells nothing, and none has passed.
        """
        now = self._began_at
        begun = self._saves.begin(instant(now), ALIVE * self._interval_s)
        for saved_at in begun.alive:
            LOG.warning(
                "a run of the service %r saved at %s and has not stopped: it was killed, or it still runs. "
                "Two services of one name overwrite each other's state: give each its own store.service",
                self._service,
                saved_at.isoformat(timespec="seconds"),
            )
        if begun.state is not None:
            state, saved_at = begun.state
            passed_s = max(0.0, now - saved_at.timestamp()) * self._driver.backend.time_scale
            self._driver.restore(state, passed_s=passed_s)

    async def __aenter__(self) -> Self:
        self.writer.start()
        self._arm()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._take(last=True)
        self.lost = not await asyncio.to_thread(self.writer.finish)

    def _arm(self) -> None:
        """Wake at the next save, or at the end of the hour."""
        wait_s = min(self._interval_s, HOUR_S - self._wall() % HOUR_S)
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._tick)

    def _tick(self) -> None:
        self._arm()
        self.writer.saving.look()
        # While a save takes longer than the interval, the driver's own counters go on adding up.
        if self.writer.idle or hour_of(self._wall()) != self._hour:
            self._take()

    def _take(self, *, last: bool = False) -> None:
        driver, now = self._driver, self._wall()
        state: SchedulerState | None
        cuts: list[Cut] = []
        try:
            with driver.together():  # at one instant
                state = driver.state()
                cuts.append(driver.cut())
        except DriverError:  # not open, or it has failed, maybe after the cut: then where it stands means nothing
            state = None if driver.failed else driver.state()
            cuts.append(driver.cut())
        cut = cuts[0] if len(cuts) == 1 else Cut.together(cuts)
        keys: Iterable[bytes] = ()
        if last or not 0.0 <= now - self._used_at < USES_S:
            keys, self._used_at = self._uses(), now
        self.writer.put(Taken(now, self._hour, cut, state, keys, last))
        self._hour = hour_of(now)

"""The thread that writes to the store. What cannot be written waits, summed up, and is tried again."""

import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Literal, NamedTuple

from aps.cuts import Cut
from aps.state import SchedulerState
from aps.store.database import StoreError
from aps.store.saves import Saves
from aps_core.histogram import Histogram

LOG = logging.getLogger("aps.store")
PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0  # wall seconds before another try: doubled each time


class Taken(NamedTuple):
    """What happened until `at` (Unix time), in the hour `hour`. keys: digests of those used. last: nothing follows."""

    at: float
    hour: datetime
    cut: Cut
    state: SchedulerState | None
    keys: Iterable[bytes]
    last: bool = False


class Keeping(NamedTuple):
    """How the store does. Instants are Unix times.

    status: of the last try; since: when it became so. saved_at: everything up to then is in the store. error: why it
    fails. saves, errors: tries that did, and that did not.
    """

    status: Literal["ok", "failing"]
    since: float
    saved_at: float
    error: str | None = None
    saves: int = 0
    errors: int = 0


class Writer:
    """Writes what it is given, in order. Whatever the database does, it goes on, and raises nothing.

    stop_s: wall seconds in which the last is tried. status: how the store does. seconds: how long tries took, in wall
    seconds. ended: the last has been written, or given up. Read on any thread.
    """

    def __init__(self, saves: Saves, began_at: float, stop_s: float, wall: Callable[[], float]) -> None:
        self.status = Keeping("ok", began_at, began_at)
        self.seconds = Histogram()
        self.ended = Event()
        self._saves, self._stop_s, self._wall = saves, stop_s, wall
        self._queue: SimpleQueue[Taken] = SimpleQueue()
        self._newest: Taken | None = None
        self._thread = Thread(target=self._work, name="aps-store", daemon=True)

    def start(self) -> None:
        """Once."""
        self._thread.start()

    def put(self, taken: Taken) -> None:
        """To be written soon."""
        self._queue.put(taken)

    @property
    def idle(self) -> bool:
        """Whether it has begun with all that it was given."""
        return self._queue.empty()

    @property
    def pending_rows(self) -> int:
        """Rows of usage that wait."""
        return len(self._saves)

    # On the thread

    def _work(self) -> None:
        pause_s = 0.0
        while not self._collect(pause_s):
            pause_s = 0.0 if self._try() else min(max(PAUSE_S, 2 * pause_s), LONGEST_PAUSE_S)
        deadline = time.monotonic() + self._stop_s
        while not self._try():
            if time.monotonic() + PAUSE_S > deadline:
                unsaved_s = self._wall() - self.status.saved_at
                LOG.error("the last save failed: %d rows of usage, of %.1f s, are lost", self.pending_rows, unsaved_s)
                break
            time.sleep(PAUSE_S)
        self.ended.set()

    def _collect(self, pause_s: float) -> bool:
        """Wait so long, and at least for something to write; True: it is the last."""
        until = time.monotonic() + pause_s
        while True:
            wait_s = until - time.monotonic()
            try:
                taken = self._queue.get(timeout=wait_s if wait_s > 0 else None if self._newest is None else 0)
            except Empty:
                if self._newest is None:
                    continue  # nothing came within the pause
                return False
            self._note(taken)
            if taken.last:
                return True

    def _note(self, taken: Taken) -> None:
        self._newest = taken
        self._saves.deltas.note(taken.hour, taken.cut.names, taken.cut.numbers.tolist(), taken.cut.refused)
        self._saves.used(taken.keys, instant(taken.at))

    def _try(self) -> bool:
        newest = self._newest
        assert newest is not None
        began = time.perf_counter()
        try:
            self._saves.save(instant(newest.at), newest.state, stopped=newest.last)
        except StoreError as error:
            self._failed(str(error))
            return False
        except Exception as error:  # nothing may end this thread
            LOG.debug("while saving", exc_info=True)
            self._failed(repr(error))
            return False
        finally:
            self.seconds.extend([time.perf_counter() - began])
        self._saved(newest.at)
        self._newest = None
        return True

    def _saved(self, at: float) -> None:
        before, now = self.status, self._wall()
        if before.status == "failing":
            LOG.warning("the store works again after %.0f s; what waited is saved", now - before.since)
            before = before._replace(status="ok", since=now, error=None)
        self.status = before._replace(saved_at=at, saves=before.saves + 1)

    def _failed(self, error: str) -> None:
        before = self.status
        if before.status == "ok":
            LOG.error("the store fails: %s. Scheduling goes on; what is to be saved waits and is tried again", error)
            before = before._replace(status="failing", since=self._wall())
        self.status = before._replace(error=error, errors=before.errors + 1)


def instant(seconds: float) -> datetime:
    """Of a Unix time."""
    return datetime.fromtimestamp(seconds, UTC)

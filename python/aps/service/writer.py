"""The thread that writes to the store. What cannot be written waits, summed up, and is tried again."""

import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Literal, NamedTuple

from aps.cuts import Cut
from aps.service.condition import Condition
from aps.state import SchedulerState
from aps.store.database import StoreError
from aps.store.pruning import Pruner
from aps.store.saves import Saves
from aps.store.usage import Deltas, lines
from aps_core.histogram import Histogram

LOG = logging.getLogger("aps.store")
PAUSE_S, LONGEST_PAUSE_S = 0.5, 15.0  # wall seconds before another try: doubled each time
FAILS = "the store fails: %s. Scheduling goes on; what is to be saved waits and is tried again"
WORKS = "the store works again after %.0f s; what waited is saved"


class Taken(NamedTuple):
    """What happened until `at` (Unix time), in the hour `hour`. keys: digests of those used. last: nothing follows."""

    at: float
    hour: datetime
    cut: Cut
    state: SchedulerState | None
    keys: Iterable[bytes]
    last: bool = False


class Keeping(NamedTuple):
    """How saving does. Instants are Unix times.

    status, since, error, errors: as of `Standing`. saved_at: everything up to then is in the store. saves: tries that
    did.
    """

    status: Literal["ok", "failing"]
    since: float
    saved_at: float
    error: str | None = None
    saves: int = 0
    errors: int = 0


class Writer:
    """Writes what it is given, in order. Whatever the database does, it goes on, and raises nothing.

    pruner: gets a turn after each save but the last. late_s: wall seconds after which a save that has not ended counts
    as failing. stop_s: wall seconds in which the last is tried. saving: how that goes. seconds: how long tries took, in
    wall seconds. ended: the last has been written, or given up. Read on any thread.
    """

    def __init__(
        self,
        saves: Saves,
        pruner: Pruner,
        began_at: float,
        stop_s: float,
        wall: Callable[[], float],
        late_s: float,
    ) -> None:
        self.saving = Condition(FAILS, WORKS, late_s, wall)
        self.seconds = Histogram()
        self.ended = Event()
        self._saves, self._pruner, self._stop_s, self._wall = saves, pruner, stop_s, wall
        self._saved_at, self._saved = began_at, 0
        self._queue: SimpleQueue[Taken] = SimpleQueue()
        self._newest: Taken | None = None
        self._thread = Thread(target=self._work, name="aps-store", daemon=True)

    @property
    def status(self) -> Keeping:
        """How it does."""
        now = self.saving.now
        return Keeping(now.status, now.since, self._saved_at, now.error, self._saved, now.errors)

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

    def finish(self) -> bool:
        """Wait for the last save, a second longer than the thread gives itself: it may hang in the database.

        False: it is not known to be in the store, and the log has what was to be written.
        """
        if self.ended.wait(self._stop_s + 1.0) and self._newest is None:
            return True
        lost = self._saves.unsaved()
        while True:
            try:
                _note(lost, self._queue.get_nowait())
            except Empty:
                break
        LOG.error(
            "the last save could not be made within %g s (%s): %d rows of usage, of %.1f s, are lost",
            self._stop_s,
            self.saving.now.error or "no answer",
            len(lost),
            self._wall() - self._saved_at,
        )
        for line in lines(lost):
            LOG.error("lost: %s", line)
        return False

    # On the thread

    def _work(self) -> None:
        pause_s = 0.0
        while not self._collect(pause_s):
            pause_s = 0.0 if self._try() else min(max(PAUSE_S, 2 * pause_s), LONGEST_PAUSE_S)
        deadline = time.monotonic() + self._stop_s
        while not self._try() and time.monotonic() + PAUSE_S <= deadline:
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
            self._newest = taken
            _note(self._saves.deltas, taken)
            self._saves.used(taken.keys, instant(taken.at))
            if taken.last:
                return True

    def _try(self) -> bool:
        newest = self._newest
        assert newest is not None
        began = time.perf_counter()
        self.saving.begin()
        try:
            self._saves.save(instant(newest.at), newest.state, stopped=newest.last)
        except Exception as error:  # nothing may end this thread
            if not isinstance(error, StoreError):
                LOG.debug("while saving", exc_info=True)
            self.saving.end(str(error) if isinstance(error, StoreError) else repr(error))
            return False
        finally:
            self.seconds.extend([time.perf_counter() - began])
        self._saved_at, self._saved = newest.at, self._saved + 1
        self._newest = None
        self.saving.end()
        if not newest.last:
            self._prune(instant(newest.at))
        return True

    def _prune(self, at: datetime) -> None:
        self.saving.begin()  # nothing is saved meanwhile
        try:
            self._pruner.step(at)
        except Exception as error:  # nothing may end this thread, and nothing is lost: it is tried again
            LOG.warning("what is too old cannot be deleted: %s", error)
        finally:
            self.saving.end()


def _note(deltas: Deltas, taken: Taken) -> None:
    deltas.note(taken.hour, taken.cut.names, taken.cut.numbers.tolist(), taken.cut.refused)


def instant(seconds: float) -> datetime:
    """Of a Unix time."""
    return datetime.fromtimestamp(seconds, UTC)

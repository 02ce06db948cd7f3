"""What one run of a service saves: usage, state, keys' last use; in one transaction each time, and each thing once."""

import logging
from collections.abc import Iterable
from datetime import datetime, timedelta
from secrets import token_hex
from typing import NamedTuple

from sqlalchemy import Connection, func, insert, select, update

from aps.state import SchedulerState
from aps.store import schema, states, usage
from aps.store.database import Database, StoreError
from aps.store.keys import note_uses
from aps.store.usage import Deltas

LOG = logging.getLogger("aps.store")


class Begun(NamedTuple):
    """state: the last that the service saved, and when; None: never. alive: when each run that looks so has saved."""

    state: tuple[SchedulerState, datetime] | None
    alive: list[datetime]


class Saves:
    """The saves of one run. One thread at a time.

    service: whose state it is. database: is up to date. What `note` and `used` are told waits for the next `save`; when
    that fails it waits on. A save whose connection broke while it was committed is looked for by its number, so it is
    neither lost nor counted twice. What the database itself loses later is lost: a warning in the log "aps.store".
    """

    def __init__(self, database: Database, service: str) -> None:
        self.run = token_hex(16)
        self._database, self._service = database, service
        self._waiting, self._doubtful = _Unsaved(), _Unsaved()
        self._number = 0  # saves that are in the tables; the doubtful one may be one more
        self._known: SchedulerState | None = None  # that whose rows are in the tables, when we know

    def __len__(self) -> int:
        """Rows of usage that wait."""
        return len(self._waiting.deltas) + len(self._doubtful.deltas)

    @property
    def deltas(self) -> Deltas:
        """What waits, for `note`."""
        return self._waiting.deltas

    def unsaved(self) -> Deltas:
        """What is not known to be in the tables. Any thread may ask, while the one that saves hangs."""
        both = Deltas()
        both.merge(self._doubtful.deltas)
        both.merge(self._waiting.deltas)
        return both

    def used(self, keys: Iterable[bytes], at: datetime) -> None:
        """Keys, by their digests, that were used until then."""
        self._waiting.keys.update(dict.fromkeys(keys, at))

    def begin(self, at: datetime, alive_s: float) -> Begun:
        """The run begins. alive_s: another run looks alive that saved within so many seconds and has not stopped."""
        runs = schema.runs
        last = func.coalesce(runs.c.saved_at, runs.c.started_at)
        with self._database.writing() as connection:
            others = connection.execute(
                select(runs.c.saved_at, runs.c.started_at).where(
                    runs.c.service == self._service,
                    runs.c.stopped_at.is_(None),
                    last > at - timedelta(seconds=alive_s),
                )
            ).all()
            self._insert(connection, at, 0)
            try:
                state = states.load(connection, self._service)
            except (TypeError, ValueError) as error:
                raise StoreError(f"{self._database.shown}: the state of service {self._service!r}: {error}") from error
        return Begun(state, [saved_at or started_at for saved_at, started_at in others])

    def save(self, at: datetime, state: SchedulerState | None, *, stopped: bool = False) -> None:
        """All that waits, and where the scheduler stood then. stopped: it is the last. StoreError: it waits on."""
        runs = schema.runs
        with self._database.writing() as connection:
            number = connection.execute(
                select(runs.c.saves).where(runs.c.id == self.run).with_for_update()
            ).scalar_one_or_none()
            if number is None:
                self._insert(connection, at, self._number)
            self._resolve(number)
            self._doubtful, self._waiting = self._waiting, _Unsaved()
            known, self._known = self._known, None  # until this is known to be in the tables
            usage.add(connection, self._doubtful.deltas)
            note_uses(connection, dict(sorted(self._doubtful.keys.items())))
            if state is not None:
                states.save(connection, self._service, at, state, known)
            values = {"saves": self._number + 1, "saved_at": at} | ({"stopped_at": at} if stopped else {})
            connection.execute(update(runs).where(runs.c.id == self.run).values(values))
        self._number += 1
        self._doubtful = _Unsaved()
        self._known = known if state is None else state

    def _insert(self, connection: Connection, at: datetime, number: int) -> None:
        row = {"id": self.run, "service": self._service, "started_at": at, "saves": number}
        connection.execute(insert(schema.runs), row)

    def _resolve(self, number: int | None) -> None:
        """Whether the doubtful save is in the tables, which have so many of ours; None: the run's row is gone."""
        if number == self._number + 1:
            self._number = number
        else:
            self._waiting.merge(self._doubtful)
        self._doubtful = _Unsaved()
        if number != self._number:
            LOG.warning(
                "%s is not what it was: of the %d saves of this run %s are in it. It was restored, or lost them "
                "when it failed; saving goes on",
                self._database.shown,
                self._number,
                "none" if number is None else number,
            )
            self._known = None
            if number is not None:
                self._number = number


class _Unsaved:
    """Usage, and keys with the instant of their last use."""

    __slots__ = ("deltas", "keys")

    def __init__(self) -> None:
        self.deltas = Deltas()
        self.keys: dict[bytes, datetime] = {}

    def merge(self, older: "_Unsaved") -> None:
        self.deltas.merge(older.deltas)
        self.keys = older.keys | self.keys

"""What one run of a service saves: usage, state, keys' last use; in one transaction each time, and each thing once."""

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from secrets import token_hex
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, func, insert, select, update

from aps.store import schema, states, usage
from aps.store.database import Database, StoreError
from aps.store.states import State, TenantState
from aps.store.usage import Deltas


class Begun(NamedTuple):
    """state: the last that the service saved, and when; None: never. alive: when each run that looks so has saved."""

    state: tuple[State, datetime] | None
    alive: list[datetime]


class Saves:
    """The saves of one run. One thread at a time.

    service: whose state it is. database: is up to date. What `note` and `used` are told waits for the next `save`; when
    that fails it waits on. A save whose connection broke while it was committed is looked for by its number, so it is
    neither lost nor counted twice.
    """

    def __init__(self, database: Database, service: str) -> None:
        self.run = token_hex(16)
        self._database, self._service = database, service
        self._waiting, self._doubtful = _Unsaved(), _Unsaved()
        self._number = 0  # saves that are in the tables; the doubtful one may be one more
        self._known: Mapping[str, TenantState] | None = None  # the tenants' rows, where we know them

    def __len__(self) -> int:
        """Rows of usage that wait."""
        return len(self._waiting.deltas) + len(self._doubtful.deltas)

    @property
    def deltas(self) -> Deltas:
        """What waits, for `note`."""
        return self._waiting.deltas

    def used(self, keys: Iterable[str], at: datetime) -> None:
        """Keys, by their digests in hexadecimal, that were used until then."""
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
            connection.execute(insert(runs), {"id": self.run, "service": self._service, "started_at": at})
            state = states.load(connection, self._service)
        return Begun(state, [saved_at or started_at for saved_at, started_at in others])

    def save(self, at: datetime, state: State | None, *, stopped: bool = False) -> None:
        """All that waits, and where the scheduler stood then. stopped: it is the last. StoreError: it waits on."""
        runs = schema.runs
        with self._database.writing() as connection:
            number = connection.execute(
                select(runs.c.saves).where(runs.c.id == self.run).with_for_update()
            ).scalar_one_or_none()
            self._resolve(number)
            self._doubtful, self._waiting = self._waiting, _Unsaved()
            known, self._known = self._known, None  # until this is known to be in the tables
            usage.add(connection, self._doubtful.deltas)
            _touch(connection, self._doubtful.keys)
            if state is not None:
                states.save(connection, self._service, at, state, known)
            values = {"saves": self._number + 1, "saved_at": at} | ({"stopped_at": at} if stopped else {})
            connection.execute(update(runs).where(runs.c.id == self.run).values(values))
        self._number += 1
        self._doubtful = _Unsaved()
        self._known = known if state is None else state.tenants

    def _resolve(self, number: int | None) -> None:
        """Whether the doubtful save is in the tables."""
        if number == self._number:
            self._waiting.merge(self._doubtful)
        elif number == self._number + 1:
            self._number = number
        else:
            what = "is gone" if number is None else f"has {number} saves, not {self._number}: somebody else writes it"
            raise StoreError(f"{self._database.shown}: the row of this run in the table runs {what}")
        self._doubtful = _Unsaved()


class _Unsaved:
    """Usage, and keys with the instant of their last use."""

    __slots__ = ("deltas", "keys")

    def __init__(self) -> None:
        self.deltas = Deltas()
        self.keys: dict[str, datetime] = {}

    def merge(self, older: "_Unsaved") -> None:
        self.deltas.merge(older.deltas)
        self.keys = older.keys | self.keys


def _touch(connection: Connection, keys: Mapping[str, datetime]) -> None:
    table = schema.keys
    rows = [{"used": digest, "at": at} for digest, at in sorted(keys.items())]
    if rows:
        statement = update(table).where(table.c.digest == bindparam("used")).values(last_used_at=bindparam("at"))
        connection.execute(statement, rows)

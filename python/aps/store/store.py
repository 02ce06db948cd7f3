"""The store of tenants and keys: read, what has changed since, changes, who made them."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from sqlalchemy import select, update

from aps.store import audit, book
from aps.store.book import Book, News
from aps.store.changing import Changing
from aps.store.database import Database
from aps.store.schema import audit as audit_table
from aps.store.schema import revision

MANY = 500  # tenants that have changed; more of them are read with all the others


class Store:
    """Tenants and keys in a database whose tables are there (`Database.upgrade`). Any thread; every call may wait.

    StoreError: the database failed, or has a row that is no tenant. Nothing has changed then. Unsure: maybe it has.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def read(self) -> Book:
        """Everything, at one instant."""
        with self.database.reading() as connection:
            return book.whole(connection)

    def some(self, names: Collection[str]) -> Book:
        """Of these tenants alone, at most a few hundred; unknown ones are let be."""
        with self.database.reading() as connection:
            return book.some(connection, names)

    def number(self) -> int:
        """Of the last change: it rises by 1 with each."""
        with self.database.reading() as connection:
            return book.number(connection)

    def since(self, base: int) -> News | None:
        """What has changed since the change of this number; None: nothing."""
        with self.database.reading() as connection:
            number = book.number(connection)
            if number == base:
                return None
            changed = select(audit_table.c.revision, audit_table.c.subject).where(audit_table.c.revision > base)
            rows = connection.execute(changed).all()
            names = frozenset(row.subject for row in rows if row.subject)
            # Entries may have been pruned, or the database be an older one, brought back.
            complete = base < number and {row.revision for row in rows} == set(range(base + 1, number + 1))
            if not complete or len(names) > MANY:
                return News(base, book.whole(connection), whole=True)
            return News(base, book.some(connection, names), whole=False, names=names)

    @contextmanager
    def changing(self, actor: str, at: datetime | None = None) -> Iterator[Changing]:
        """One change, made when the block ends; nothing is when something is raised.

        actor: who, for the audit. Changes come one after the other, whoever makes them: what a block reads stays true
        until it ends.
        """
        with self.database.writing() as connection:
            # Locks the row in PostgreSQL; SQLite has locked the file.
            row = connection.execute(select(revision).with_for_update()).one()
            change = Changing(connection, row.number, at or datetime.now(UTC))
            yield change
            if change.deeds:
                audit.write(connection, actor, change.at, row.number + 1, change.deeds)
                values = {"number": row.number + 1, "keyed": row.keyed or change.keyed}
                connection.execute(update(revision).values(values))

    def audit(
        self, *, limit: int = 100, before: int | None = None, tenant: str | None = None
    ) -> tuple[audit.Entry, ...]:
        """Changes, the newest first, at most `limit`; before: an entry's id; tenant: of this one alone."""
        with self.database.reading() as connection:
            return audit.entries(connection, limit=limit, before=before, subject=tenant)

"""The store: all tenants and keys at once, what has changed since, and changes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

from sqlalchemy import Connection, select, update

from aps.store import audit
from aps.store.changing import Changing
from aps.store.database import Database
from aps.store.keys import Key, by_tenant, key_of
from aps.store.schema import audit as audit_table
from aps.store.schema import keys, revision, tenants
from aps.store.tenants import COLUMNS, tenant_of
from aps.tenants import Tenant

MANY = 500  # tenants that have changed; more of them are read with all the others


@dataclass(frozen=True, slots=True)
class Book:
    """What is in the store at one instant.

    number: of the last change; 0: nothing has ever been. keyed: there has been a key, though none may be left.
    tenants: by name, in the order of names. keys: each tenant's, the oldest first, those included that do not work.
    """

    number: int
    keyed: bool
    tenants: Mapping[str, Tenant]
    keys: Mapping[str, tuple[Key, ...]]


@dataclass(frozen=True, slots=True)
class News:
    """What has changed since the change `base`. whole: the book has everything; else the `names` that have changed.

    A name of `names` that is not in the book has been removed.
    """

    base: int
    book: Book
    whole: bool
    names: frozenset[str] = field(default_factory=frozenset)


class Store:
    """Tenants and keys in a database whose tables are there (`Database.upgrade`). Any thread; every call may wait.

    StoreError: the database failed, or has a row that is no tenant. Nothing has changed then.
    """

    def __init__(self, database: Database) -> None:
        self.database = database

    def read(self) -> Book:
        """Everything, at one instant."""
        with self.database.reading() as connection:
            return _whole(connection)

    def number(self) -> int:
        """Of the last change: it rises by 1 with each."""
        with self.database.reading() as connection:
            return _number(connection)

    def since(self, base: int) -> News | None:
        """What has changed since the change of this number; None: nothing."""
        with self.database.reading() as connection:
            number = _number(connection)
            if number == base:
                return None
            changed = select(audit_table.c.revision, audit_table.c.subject).where(audit_table.c.revision > base)
            rows = connection.execute(changed).all()
            names = frozenset(row.subject for row in rows)
            # Entries may have been pruned, or the database be an older one, brought back.
            complete = base < number and {row.revision for row in rows} == set(range(base + 1, number + 1))
            if not complete or len(names) > MANY:
                return News(base, _whole(connection), whole=True)
            return News(base, _some(connection, names), whole=False, names=names)

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


def _number(connection: Connection) -> int:
    return int(connection.execute(select(revision.c.number)).scalar_one())


def _whole(connection: Connection) -> Book:
    row = connection.execute(select(revision)).one()
    found = connection.execute(select(*COLUMNS)).mappings()
    known = sorted((tenant_of(one) for one in found), key=lambda tenant: tenant.name)
    theirs = by_tenant(map(key_of, connection.execute(select(keys)).mappings()))
    return Book(row.number, row.keyed, {tenant.name: tenant for tenant in known}, theirs)


def _some(connection: Connection, names: frozenset[str]) -> Book:
    row = connection.execute(select(revision)).one()
    found = connection.execute(select(*COLUMNS).where(tenants.c.name.in_(names))).mappings()
    theirs = connection.execute(select(keys).where(keys.c.tenant.in_(names))).mappings()
    known = {tenant.name: tenant for tenant in map(tenant_of, found)}
    return Book(row.number, row.keyed, known, by_tenant(map(key_of, theirs)))

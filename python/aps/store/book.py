"""What is in the store at one instant: everything, or some of the tenants."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, select

from aps.store.keys import COLUMNS as KEY_COLUMNS
from aps.store.keys import Key, by_tenant, key_of
from aps.store.schema import keys, revision, tenants
from aps.store.tenants import COLUMNS, tenant_of
from aps.tenants import Tenant


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


def number(connection: Connection) -> int:
    """Of the last change."""
    return int(connection.execute(select(revision.c.number)).scalar_one())


def whole(connection: Connection) -> Book:
    """Everything, in three queries."""
    row = connection.execute(select(revision)).one()
    found = connection.execute(select(*COLUMNS)).all()  # at once: row by row takes longer
    known = sorted(map(tenant_of, found), key=lambda tenant: tenant.name)
    theirs = by_tenant(map(key_of, connection.execute(select(*KEY_COLUMNS)).all()))
    return Book(row.number, row.keyed, {tenant.name: tenant for tenant in known}, theirs)


def some(connection: Connection, names: Collection[str]) -> Book:
    """The same of these tenants alone, at most a few hundred."""
    row = connection.execute(select(revision)).one()
    found = connection.execute(select(*COLUMNS).where(tenants.c.name.in_(names)))
    theirs = connection.execute(select(*KEY_COLUMNS).where(keys.c.tenant.in_(names)))
    known = {tenant.name: tenant for tenant in map(tenant_of, found)}
    return Book(row.number, row.keyed, known, by_tenant(map(key_of, theirs)))

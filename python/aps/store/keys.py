"""API keys as rows: what is kept of a key, and how long it works. No key ever comes here, only its SHA-256."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple

from sqlalchemy import Connection, Row, bindparam, or_, update

from aps import _checks as check
from aps.store.database import StoreError
from aps.store.schema import keys as table

ID_DIGITS = 12  # of the digest, in hexadecimal: enough to tell keys apart, and nothing to guess a key by
LABEL = "a str of at most 256 printable characters"
State = Literal["valid", "expiring", "expired", "revoked"]


class Key(NamedTuple):
    """A tenant's key. Instants are aware datetimes, in UTC.

    id: public: the first 12 hexadecimal digits of the digest. digest: SHA-256 of the key. label: what its owner calls
    it. expires_at: it works until then; None: for ever. revoked_at: since then it does not. last_used_at: to within
    the minute after which a service writes it down.
    """

    id: str
    tenant: str
    digest: bytes
    label: str
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    def state(self, at: datetime) -> State:
        """How it stands at an instant."""
        if self.revoked_at is not None:
            return "revoked"
        if self.expires_at is None:
            return "valid"
        return "expiring" if at < self.expires_at else "expired"

    def works(self, at: datetime) -> bool:
        """Whether it opens anything at an instant."""
        return self.state(at) in ("valid", "expiring")


COLUMNS = tuple(table.c[name] for name in Key._fields)


def plain(key: Key, at: datetime) -> dict[str, Any]:
    """As JSON has it, without its digest, as it stands at an instant."""
    instants = ("created_at", "expires_at", "revoked_at", "last_used_at")
    times = {name: said(getattr(key, name)) for name in instants}
    return {"id": key.id, "tenant": key.tenant, "label": key.label, "state": key.state(at), **times}


def said(at: datetime | None) -> str | None:
    """An instant in UTC as JSON has it."""
    return None if at is None else at.isoformat().replace("+00:00", "Z")


def id_of(digest: bytes) -> str:
    """The public name of the key with this digest."""
    return digest.hex()[:ID_DIGITS]


def checked_label(label: str) -> str:
    """ValueError, TypeError: it is none."""
    if label != "":
        check.text("label", label, LABEL, lambda text: len(text) <= 256 and text.isprintable())
    return label


def key_of(row: Row[Any]) -> Key:
    """The key in a row of COLUMNS. StoreError: the row is none."""
    id, tenant, digest, *rest = tuple(row)
    try:
        return Key(id, tenant, bytes.fromhex(digest), *rest)
    except (TypeError, ValueError) as error:
        raise StoreError(f"key {id!r} in the store: {error}") from error


def row_of(key: Key) -> dict[str, Any]:
    """The row of a key."""
    return {column.name: getattr(key, column.name) for column in table.c} | {"digest": key.digest.hex()}


def note_uses(connection: Connection, uses: Mapping[bytes, datetime]) -> None:
    """Write down when keys were last used, by digest. An earlier instant than the one that is there changes nothing.

    Unknown digests are let be. It is no change of the tenants: `revision` stays.
    """
    rows = [{"key": digest.hex(), "at": at} for digest, at in uses.items()]
    later = or_(table.c.last_used_at.is_(None), table.c.last_used_at < bindparam("at"))
    if rows:
        connection.execute(
            update(table).where(table.c.digest == bindparam("key"), later).values(last_used_at=bindparam("at")), rows
        )


def by_tenant(keys: Iterable[Key]) -> dict[str, tuple[Key, ...]]:
    """Each tenant's keys, the oldest first."""
    found: dict[str, list[Key]] = {}
    for key in keys:
        found.setdefault(key.tenant, []).append(key)
    for some in found.values():
        if len(some) > 1:
            some.sort(key=lambda key: (key.created_at, key.id))
    return {name: tuple(some) for name, some in found.items()}

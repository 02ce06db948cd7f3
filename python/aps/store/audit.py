"""Who changed what, and when: written in the transaction of the change, never changed."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, insert, select

from aps.store.keys import said
from aps.store.schema import audit as table

LONGEST_ACTOR = 256


@dataclass(frozen=True, slots=True)
class Entry:
    """One change. id: rises. at: an aware datetime. revision: the number of the transaction.

    actor: who; action: what (`tenant.add`, `tenant.set`, `tenant.remove`, `key.add`, `key.issue`, `key.revoke`,
    `key.expire`, `policy.set`); subject: the tenant, "" for the policy; details: old and new values by field, or the
    key's public id. Never a key.
    """

    id: int
    at: datetime
    revision: int
    actor: str
    action: str
    subject: str
    details: dict[str, Any]


def plain(entry: Entry) -> dict[str, Any]:
    """As JSON."""
    fields = {name: getattr(entry, name) for name in ("id", "revision", "actor", "action", "subject", "details")}
    return {"at": said(entry.at), **fields}


@dataclass(frozen=True, slots=True)
class Deed:
    """A change that is being written."""

    action: str
    subject: str
    details: dict[str, Any]


def write(connection: Connection, actor: str, at: datetime, revision: int, deeds: Iterable[Deed]) -> None:
    """Leave an entry for each."""
    rows = [
        {
            "at": at,
            "revision": revision,
            "actor": actor[:LONGEST_ACTOR],
            "action": deed.action,
            "subject": deed.subject,
            "details": json.dumps(deed.details, ensure_ascii=False),
        }
        for deed in deeds
    ]
    connection.execute(insert(table), rows)


def entries(
    connection: Connection, *, limit: int = 100, before: int | None = None, subject: str | None = None
) -> tuple[Entry, ...]:
    """The newest first, at most `limit`; before: with a lower id; subject: of this tenant alone."""
    query = select(table).order_by(table.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(table.c.id < before)
    if subject is not None:
        query = query.where(table.c.subject == subject)
    rows = connection.execute(query).mappings()
    return tuple(Entry(**{**row, "details": json.loads(row["details"])}) for row in rows)

"""Changes of tenants and keys within one transaction, each with its deed for the audit."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from aps.store.audit import Deed
from aps.store.book import Book, whole
from aps.store.keys import COLUMNS as KEY_COLUMNS
from aps.store.keys import Key, by_tenant, checked_label, id_of, key_of, row_of, said
from aps.store.schema import keys as key_table
from aps.store.schema import tenants as tenant_table
from aps.store.tenants import COLUMNS, differences, plain, tenant_of
from aps.tenants import Tenant


class Conflict(ValueError):
    """What is asked cannot be, as things stand: the name is taken, the key somebody's or revoked."""


class Changing:
    """One change that is under way (`Store.changing`). A KeyError has the name of a tenant or the id of a key.

    number: of the last change before it. at: its instant. deeds: what it has done so far; keyed: it has added a key.
    """

    def __init__(self, connection: Connection, number: int, at: datetime) -> None:
        self._connection, self.number, self.at = connection, number, at
        self.deeds: list[Deed] = []
        self.keyed = False

    def book(self) -> Book:
        """All that there is, this change included."""
        return whole(self._connection)

    # ---- tenants

    def tenant(self, name: str) -> Tenant:
        """KeyError: unknown."""
        row = self._connection.execute(select(*COLUMNS).where(tenant_table.c.name == name)).one_or_none()
        if row is None:
            raise KeyError(name)
        return tenant_of(row)

    def add(self, *tenants: Tenant) -> None:
        """New tenants. Conflict: there is one of that name."""
        names = [tenant.name for tenant in tenants]
        for some in _portions(names):
            taken = self._connection.execute(
                select(tenant_table.c.name).where(tenant_table.c.name.in_(some)).limit(1)
            ).scalar_one_or_none()
            if taken is not None:
                raise Conflict(f"there is a tenant {taken!r} already")
        times = {"created_at": self.at, "changed_at": self.at}
        rows = [{"name": tenant.name, **plain(tenant), **times} for tenant in tenants]
        if rows:
            self._connection.execute(insert(tenant_table), rows)
        self.deeds += [Deed("tenant.add", tenant.name, {"new": plain(tenant)}) for tenant in tenants]

    def put(self, tenant: Tenant) -> bool:
        """A tenant as it is to be; True: it is new."""
        try:
            old = self.tenant(tenant.name)
        except KeyError:
            self.add(tenant)
            return True
        changed = differences(old, tenant)
        if changed:
            # All of it: what the row has otherwise, by an earlier APS, is not what has been read.
            values = plain(tenant) | {"changed_at": self.at}
            self._connection.execute(update(tenant_table).where(tenant_table.c.name == tenant.name).values(values))
            details = {"old": {key: old for key, (old, _) in changed.items()}}
            details["new"] = {key: new for key, (_, new) in changed.items()}
            self.deeds.append(Deed("tenant.set", tenant.name, details))
        return False

    def set(self, name: str, fields: Mapping[str, Any]) -> Tenant:
        """Change some fields; the rest stay. KeyError: unknown. ValueError, TypeError as of `aps.Tenant`."""
        tenant = replace(self.tenant(name), **fields)
        self.put(tenant)
        return tenant

    def remove(self, name: str) -> None:
        """A tenant and its keys; its usage stays. KeyError: unknown."""
        old = self.tenant(name)
        ids = [key.id for key in self.keys(name)]
        self._connection.execute(delete(tenant_table).where(tenant_table.c.name == name))
        self.deeds.append(Deed("tenant.remove", name, {"old": plain(old), "keys": ids}))

    # ---- keys

    def keys(self, name: str) -> tuple[Key, ...]:
        """A tenant's, the oldest first."""
        query = select(*KEY_COLUMNS).where(key_table.c.tenant == name)
        return by_tenant(map(key_of, self._connection.execute(query))).get(name, ())

    def key(self, name: str, id: str) -> Key:
        """KeyError: the tenant has no key of this id."""
        query = select(*KEY_COLUMNS).where(key_table.c.tenant == name, key_table.c.id == id)
        row = self._connection.execute(query).one_or_none()
        if row is None:
            raise KeyError(id)
        return key_of(row)

    def add_keys(self, digests: Mapping[str, Iterable[bytes]]) -> None:
        """Keys that were made elsewhere, by tenants that there are. Those they have already stay as they are.

        Conflict: a key is another's, or revoked.
        """
        pairs = {digest: name for name, some in digests.items() for digest in some}
        known: dict[bytes, Key] = {}
        for some in _portions([digest.hex() for digest in pairs]):
            rows = self._connection.execute(select(*KEY_COLUMNS).where(key_table.c.digest.in_(some)))
            known |= {key.digest: key for key in map(key_of, rows)}
        for key in known.values():
            if key.tenant != pairs[key.digest]:
                raise Conflict(f"key {key.id} of tenant {pairs[key.digest]!r} is tenant {key.tenant!r}'s")
            if key.revoked_at is not None:
                raise Conflict(f"key {key.id} of tenant {key.tenant!r} is revoked: issue another")
        new = [Key(id_of(digest), name, digest, "", self.at) for digest, name in pairs.items() if digest not in known]
        self._insert(new, "key.add")

    def set_keys(self, name: str, digests: Iterable[bytes]) -> None:
        """These are a tenant's keys from now on: others are revoked. Errors as of `add_keys`."""
        wanted = set(digests)
        self.add_keys({name: wanted})
        for key in self.keys(name):
            if key.digest not in wanted:
                self.revoke(name, key.id)

    def issue(self, name: str, digest: bytes, label: str = "", expires_at: datetime | None = None) -> Key:
        """A new key, by its digest. KeyError: no such tenant. ValueError: the label, or an expiry that has passed."""
        self.tenant(name)
        if expires_at is not None and expires_at <= self.at:
            raise ValueError(f"expires_at must be an instant to come, got {expires_at.isoformat()}")
        key = Key(id_of(digest), name, digest, checked_label(label), self.at, expires_at)
        self._insert([key], "key.issue")
        return key

    def revoke(self, name: str, id: str) -> Key:
        """It stops working. KeyError: no such key. Revoked once more it stays as it is."""
        key = self.key(name, id)
        if key.revoked_at is not None:
            return key
        return self._set(key, "key.revoke", revoked_at=self.at)

    def rotate(self, name: str, id: str, digest: bytes, overlap_s: float) -> tuple[Key, Key]:
        """A new key in place of one that goes on working for `overlap_s` seconds, or as long as it would have anyway.

        Returns the old key and the new one, which has its label. KeyError: no such key. Conflict: it does not work.
        """
        old = self.key(name, id)
        if not old.works(self.at):
            raise Conflict(f"key {id} of tenant {name!r} is {old.state(self.at)}: issue another")
        until = self.at + timedelta(seconds=overlap_s)
        if overlap_s <= 0:
            old = self._set(old, "key.revoke", revoked_at=self.at)
        elif old.expires_at is None or until < old.expires_at:
            old = self._set(old, "key.expire", expires_at=until)
        new = self.issue(name, digest, old.label)
        return old, new

    def _insert(self, keys: list[Key], action: str) -> None:
        if not keys:
            return
        self._connection.execute(insert(key_table), [row_of(key) for key in keys])
        self.keyed = True
        self.deeds += [Deed(action, key.tenant, _details(key)) for key in keys]

    def _set(self, key: Key, action: str, **changes: Any) -> Key:
        self._connection.execute(update(key_table).where(key_table.c.id == key.id).values(changes))
        changed = key._replace(**changes)
        self.deeds.append(Deed(action, key.tenant, _details(changed)))
        return changed


def _details(key: Key) -> dict[str, Any]:
    return {"key": key.id, "label": key.label, "expires_at": said(key.expires_at)}


def _portions(names: list[str], size: int = 500) -> Iterable[list[str]]:
    return (names[at : at + size] for at in range(0, len(names), size))

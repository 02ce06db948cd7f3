"""How the store differs from what a file says, and making it so."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aps.store.book import Book
from aps.store.changing import Changing
from aps.store.keys import id_of
from aps.store.tenants import differences
from aps.tenants import Tenant

Digests = Mapping[str, Iterable[bytes]]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same. tenant: whose. field: which; "": the tenant is missing on one side.

    stored, given: what the store has and what the file says; None: no limit. Of the field `keys`: the public id of a
    key of the file, and how it stands in the store ("missing", "revoked").
    """

    tenant: str
    field: str
    stored: Any
    given: Any

    @property
    def line(self) -> str:
        """In words."""
        if not self.field:
            return f"tenant {self.tenant}: not in the {'store' if self.given else 'file'}"
        where = f"tenant {self.tenant}, {self.field}"
        if self.field == "keys":
            return f"{where}: {self.given} of the file is {self.stored} in the store"
        return f"{where}: {_said(self.stored)} in the store, {_said(self.given)} in the file"

    @property
    def mendable(self) -> bool:
        """Whether `apply` makes it so. A key that is revoked stays revoked."""
        return not (self.field == "keys" and self.stored == "revoked")

    @property
    def mended(self) -> str:
        """What `apply` has done about it, in a word."""
        if self.field:
            return "added" if self.field == "keys" else "set"
        return "added" if self.given else "removed"

    @property
    def plain(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"tenant": self.tenant, "field": self.field or None, "store": self.stored, "file": self.given}


def compared(book: Book, tenants: Iterable[Tenant], keys: Digests) -> tuple[Difference, ...]:
    """Each difference between the store and what a file says.

    Keys that only the store has are none: they were issued there. A key of the file that the store has revoked is.
    """
    given = {tenant.name: tenant for tenant in tenants}
    found: list[Difference] = []
    for name, tenant in given.items():
        old = book.tenants.get(name)
        if old is None:
            found.append(Difference(name, "", False, True))
            continue
        fields = differences(old, tenant).items()
        found += [Difference(name, field, stored, wanted) for field, (stored, wanted) in fields]
        known = {key.digest: key.revoked_at is not None for key in book.keys.get(name, ())}
        for digest in keys.get(name, ()):
            if known.get(digest, True):
                state = "revoked" if digest in known else "missing"
                found.append(Difference(name, "keys", state, id_of(digest)))
    found += [Difference(name, "", True, False) for name in book.tenants if name not in given]
    return tuple(found)


def apply(change: Changing, tenants: Iterable[Tenant], keys: Digests, *, remove: bool = True) -> None:
    """Make the store what a file says. Keys that only the store has stay; a revoked one stays revoked.

    remove: tenants that are not in the file are removed. Conflict: a key is another tenant's.
    """
    book = change.book()
    given = {tenant.name: tenant for tenant in tenants}
    if remove:  # first: their keys may go to others
        for name in book.tenants:
            if name not in given:
                change.remove(name)
    change.add(*(tenant for name, tenant in given.items() if name not in book.tenants))
    for name, tenant in given.items():
        if name in book.tenants and book.tenants[name] != tenant:
            change.put(tenant)
    revoked = {key.digest for some in book.keys.values() for key in some if key.revoked_at is not None}
    change.add_keys({name: [digest for digest in keys.get(name, ()) if digest not in revoked] for name in given})


def _said(value: Any) -> str:
    return "no limit" if value is None else f"{value:,.10g}" if isinstance(value, float) else str(value)

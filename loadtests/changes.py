"""Administrators who change tenants and keys of a service over HTTP, and what must be there of it after kill -9.

Each has tenants of its own and makes one change after the other. A change that was answered is there; one that was cut
off is there or is not; and there is nothing else.
"""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from math import inf
from random import Random
from typing import Any, NamedTuple

from aps.store.book import Book
from aps.tenants import Tenant
from loadtests.wire import Connection, request

NEW = "new "  # and a number: what keys are called here whose ids nobody was told
OVERLAP_S = 86_400.0


@dataclass(frozen=True)
class Row:
    """A tenant as it is kept. settings None: there is none. keys: valid, expiring or revoked, by id."""

    settings: Tenant | None = None
    keys: Mapping[str, str] = field(default_factory=dict)


class Change(NamedTuple):
    """A request, and the tenant's row once it is made; a key that it makes is called `NEW 0` there."""

    what: str
    method: str
    path: str
    body: Mapping[str, Any] | None
    row: Row


def drawn(name: str, row: Row, random: Random) -> Change:
    """Some change of a tenant that has this row."""
    path, made = f"/admin/tenants/{name}", f"{NEW}0"
    rate = random.choice((None, random.randint(10, 1000)))
    fields = {"weight": random.randint(1, 9), "rate": rate, "burst": None if rate is None else 10 * rate}
    valid = sorted(id for id, state in row.keys.items() if state == "valid")
    kinds = ["patch", "patch", "issue", "delete", *(("revoke", "rotate", "rotate") if valid else ())]
    kind = random.choice(kinds) if row.settings is not None else "put"
    if kind in ("put", "patch"):
        settings = _tenant(name, fields["weight"], fields["rate"], fields["burst"])
        return Change(kind, kind.upper(), path, fields, replace(row, settings=settings))
    if kind == "delete":
        return Change(kind, "DELETE", path, None, Row())
    if kind == "issue":
        return Change(kind, "POST", f"{path}/keys", {}, replace(row, keys={**row.keys, made: "valid"}))
    id = random.choice(valid)
    if kind == "revoke":
        return Change(kind, "DELETE", f"{path}/keys/{id}", None, replace(row, keys={**row.keys, id: "revoked"}))
    overlap_s = random.choice((0.0, OVERLAP_S))
    keys = {**row.keys, id: "expiring" if overlap_s else "revoked", made: "valid"}
    return Change(kind, "POST", f"{path}/keys/{id}/rotate", {"overlap_s": overlap_s}, replace(row, keys=keys))


class Administrator:
    """One of them.

    rows: of its tenants, as they must be. answered: changes so far. cut_off: of which tenant a change was not answered,
    and what it was. secrets: tenant and key, by id; those that are gone until `held` has tried them.
    """

    def __init__(self, names: tuple[str, ...], admin_key: str, random: Random) -> None:
        self.rows = {name: Row() for name in names}
        self.answered = 0
        self.cut_off: tuple[str, Change] | None = None
        self._admin_key, self._random = admin_key, random
        self.secrets: dict[str, tuple[str, str]] = {}

    async def work(self, port: int) -> None:
        """One change after the other, until the service is gone."""
        with suppress(OSError, asyncio.IncompleteReadError):
            connection = await Connection.open(port)
            try:
                while True:
                    await self._change(connection, port)
            finally:
                connection.vanish(abort=False)

    async def _change(self, connection: Connection, port: int) -> None:
        name = self._random.choice(sorted(self.rows))
        change = drawn(name, self.rows[name], self._random)
        self.cut_off = name, change
        status, said = await connection.ask(request(change.method, change.path, port, change.body, key=self._admin_key))
        if status not in (200, 201):
            raise RuntimeError(f"{change.method} {change.path}: {status}: {said}")
        issued = said.get("new", said)
        keys = {issued["id"] if id.startswith(NEW) else id: state for id, state in change.row.keys.items()}
        if keys.keys() - change.row.keys.keys():
            self.secrets[issued["id"]] = name, issued["key"]
        self.rows[name] = replace(change.row, keys=keys)
        self.cut_off = None
        self.answered += 1

    def kept(self, book: Book) -> Iterator[str]:
        """What is wrong with the store, of its tenants; then what is there is what there must be."""
        for name, row in self.rows.items():
            found = _row(book, name)
            unknown = found.keys.keys() - row.keys.keys()
            aliases = {id: f"{NEW}{number}" for number, id in enumerate(unknown)}
            called = replace(found, keys={aliases.get(id, id): state for id, state in found.keys.items()})
            cut = self.cut_off[1] if self.cut_off is not None and self.cut_off[0] == name else None
            if called != row and (cut is None or called != cut.row):
                perhaps = "" if cut is None else f", or after a {cut.what} that was cut off {cut.row}"
                yield f"{name} is {called}, and must be {row}{perhaps}"
            self.rows[name] = found
        self.cut_off = None

    async def held(self, port: int) -> list[str]:
        """What is wrong with a running service, of its tenants and of every key that anybody was told."""
        problems = []
        connection = await Connection.open(port)
        for name, row in self.rows.items():
            message = request("GET", f"/tenants/{name}/status", port, key=self._admin_key)
            status, said = await connection.ask(message)
            found = None
            if status == 200:
                found = _tenant(name, said["share"]["weight"], said["bucket"]["rate"], said["bucket"]["burst"])
            if status not in (200, 404) or found != row.settings:
                problems.append(f"{name} is served as {found} ({status}), and must be as {row.settings}")
        for id, (name, key) in self.secrets.items():
            state = self.rows[name].keys.get(id, "gone")
            status, _ = await connection.ask(request("GET", f"/tenants/{name}/status", port, key=key))
            if status != (200 if state in ("valid", "expiring") else 401):
                problems.append(f"key {id} of {name} is {state}, and {status} is its answer")
        await connection.close()
        self.secrets = {id: told for id, told in self.secrets.items() if id in self.rows[told[0]].keys}
        return problems


def _row(book: Book, name: str) -> Row:
    """A tenant as it is in the store."""
    now = datetime.now(UTC)
    return Row(book.tenants.get(name), {key.id: key.state(now) for key in book.keys.get(name, ())})


def _tenant(name: str, weight: Any, rate: Any, burst: Any) -> Tenant:
    """With the fields that are changed here, as JSON has them."""
    return Tenant(name, weight=weight, rate=inf if rate is None else rate, burst=inf if burst is None else burst)

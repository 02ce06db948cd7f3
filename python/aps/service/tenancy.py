"""Changing tenants and keys of a running service: in memory, or in a store first."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from math import inf
from typing import Any, Protocol, TypeVar

from aps.service.aside import aside
from aps.service.condition import Condition
from aps.service.config_reader import ConfigError
from aps.service.kept import digests, expiries
from aps.service.running import Changes, Running
from aps.store.audit import Deed
from aps.store.book import News
from aps.store.changing import Changing, Conflict
from aps.store.database import StoreError
from aps.store.keys import Key
from aps.store.store import Store
from aps.tenants import Tenant

log = logging.getLogger(__name__)

MADE = "%s %s by %s"
LATE_S = 5.0  # wall seconds that a look may take, however often there is one
UNREADABLE = "the store cannot be read, the service goes on with what it knows: %s"
READABLE = "the store can be read again after %.0f s"

Made = TypeVar("Made")
Keys = tuple[bytes, ...]


class Tenancy(Protocol):
    """What administration changes. Called on the driver's loop; actor: who asks, for the audit.

    KeyError: no such tenant. ConfigError: the service cannot be that. ValueError, TypeError as of `aps.Tenant`.
    StoreError: it cannot be written. Nothing has changed then. Unsure: maybe it has.
    """

    async def put(self, tenant: Tenant, keys: Keys | None, actor: str, *, only_new: bool = False) -> bool:
        """Add or replace a tenant; keys None: those it has stay. True: it is new. only_new: else it is a Conflict."""

    async def set(self, name: str, fields: Mapping[str, Any], keys: Keys | None, actor: str) -> Tenant:
        """Change some fields of a tenant, which is returned."""

    async def remove(self, name: str, actor: str) -> Changes:
        """Take no more requests of a tenant, and forget its keys."""

    async def turn(self, knobs: Mapping[str, Any], actor: str) -> Changes:
        """Turn the two knobs, until the service ends. ValueError as of `aps.Policy`."""


class InMemory:
    """Changes that last until the service ends or reads its file again."""

    def __init__(self, running: Running) -> None:
        self._running = running

    async def put(self, tenant: Tenant, keys: Keys | None, actor: str, *, only_new: bool = False) -> bool:
        """See Tenancy."""
        if only_new and any(other.name == tenant.name for other in self._running.config.tenants):
            raise Conflict(f"there is a tenant {tenant.name!r} already")
        new = bool(self._running.put_tenant(tenant, keys).added)
        log.info(MADE, "tenant.put", tenant.name, actor)
        return new

    async def set(self, name: str, fields: Mapping[str, Any], keys: Keys | None, actor: str) -> Tenant:
        """See Tenancy."""
        tenant = replace(self._running.tenant(name), **fields)
        self._running.put_tenant(tenant, keys)
        log.info(MADE, "tenant.set", name, actor)
        return tenant

    async def remove(self, name: str, actor: str) -> Changes:
        """See Tenancy."""
        changes = self._running.remove_tenant(name)
        log.info(MADE, "tenant.remove", name, actor)
        return changes

    async def turn(self, knobs: Mapping[str, Any], actor: str) -> Changes:
        """See Tenancy."""
        changes = self._running.set_knobs(**knobs)
        if knobs:
            log.info(MADE, "policy.set", ", ".join(knobs), actor)
        return changes


class InStore:
    """Changes that are written to a store and then made; and those that others write there, soon after.

    store: whose tenants the service has, as of its change `number`. poll_s: wall seconds between two looks.
    reading: how they go.
    """

    def __init__(self, store: Store, number: int, running: Running, poll_s: float) -> None:
        self.store, self.number = store, number
        self._running, self._poll_s = running, poll_s
        self._stop = threading.Event()
        self.reading = Condition(UNREADABLE, READABLE, max(LATE_S, 3 * poll_s))

    async def put(self, tenant: Tenant, keys: Keys | None, actor: str, *, only_new: bool = False) -> bool:
        """See Tenancy."""

        def put(change: Changing) -> bool:
            self._running.rehearse_tenant(tenant, keys or ())
            if only_new:
                change.add(tenant)
            new = only_new or change.put(tenant)
            if keys is not None:
                change.set_keys(tenant.name, keys)
            return new

        return await self.write(actor, put)

    async def set(self, name: str, fields: Mapping[str, Any], keys: Keys | None, actor: str) -> Tenant:
        """See Tenancy."""

        def set_fields(change: Changing) -> Tenant:
            tenant = change.set(name, fields)
            self._running.rehearse_tenant(tenant, keys or ())
            if keys is not None:
                change.set_keys(name, keys)
            return tenant

        return await self.write(actor, set_fields)

    async def remove(self, name: str, actor: str) -> Changes:
        """See Tenancy."""

        def remove(change: Changing) -> Changes:
            keyed = (name,) if any(key.revoked_at is None for key in change.keys(name)) else ()
            change.remove(name)
            return Changes(removed=(name,), rekeyed=keyed)

        return await self.write(actor, remove)

    async def turn(self, knobs: Mapping[str, Any], actor: str) -> Changes:
        """See Tenancy. It is in the audit, and nowhere else in the store."""
        now = self._running.config.policy
        then = replace(now, **knobs)
        old = {name: getattr(now, name) for name in knobs if getattr(now, name) != getattr(then, name)}
        new = {name: getattr(then, name) for name in old}

        def note(change: Changing) -> None:
            if old:
                change.deeds.append(Deed("policy.set", "", {"old": _finite(old), "new": _finite(new)}))

        await self.write(actor, note)
        return self._running.set_knobs(**knobs)

    async def write(self, actor: str, change: Callable[[Changing], Made]) -> Made:
        """Make a change in the store, in a thread, and then in the service. What `change` returns, or raises.

        StoreError: it could not be written. Unsure: maybe it was; then the next look finds it.
        """

        def work() -> tuple[Made, News | None]:
            with self.store.changing(actor) as changing:
                made = change(changing)
            for deed in changing.deeds:
                whose = deed.subject or ", ".join(deed.details["new"])  # of the policy: its knobs
                log.info(MADE, deed.action, whose, actor)
            try:
                return made, self.store.since(self.number)
            except StoreError:  # it is written; the next look finds it
                return made, None

        made, news = await aside(work)
        if news is not None and not self._take(news):
            await self._catch_up()
        return made

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """As long as this lasts, changes that others make take hold here."""
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._look, args=(loop,), name="aps-store-look", daemon=True)
        thread.start()
        watch = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watch.cancel()
            self._stop.set()
            await asyncio.to_thread(thread.join, 1.0)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stop.wait(self._poll_s):
            self.reading.begin()
            try:
                news = self.store.since(self.number)
            except Exception as error:  # nothing may end this thread
                self.reading.end(str(error))
                continue
            self.reading.end()
            if news is not None and not self._stop.is_set():
                loop.call_soon_threadsafe(self._take, news)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._poll_s)
            self.reading.look()

    async def _catch_up(self) -> None:
        """Until nothing is new."""
        try:
            while (news := await aside(partial(self.store.since, self.number))) is not None:
                self._take(news)
        except StoreError as error:
            log.warning("the store cannot be read: %s", error)

    def _take(self, news: News) -> bool:
        """Make the service what the store says. False: it has gone on since this was read."""
        if news.base != self.number:
            return False
        self.number = news.book.number
        if news.whole:
            known = [tenant.name for tenant in self._running.config.tenants]
            names = list(dict.fromkeys((*known, *self._running.config.keys, *news.book.tenants)))
        else:
            names = sorted(news.names)
        try:
            self._change(news, names)
        except ConfigError:
            self._change_each(news, names)
        return True

    def _change(self, news: News, names: list[str]) -> None:
        tenants = {name: news.book.tenants.get(name) for name in names}
        self._make(tenants, {name: news.book.keys.get(name, ()) for name in names}, news.book.keyed)

    def _make(self, tenants: Mapping[str, Tenant | None], keys: Mapping[str, tuple[Key, ...]], keyed: bool) -> None:
        known = {name: digests(theirs) for name, theirs in keys.items()}
        self._running.change_tenants(tenants, known, expiries(keys), keyed=keyed)

    def _change_each(self, news: News, names: list[str]) -> None:
        """What one of them cannot be must not keep the others back, nor keep a key that is taken from it."""
        now = self._running.config.keys
        kept = {
            name: tuple(key for key in news.book.keys.get(name, ()) if key.digest in now[name])
            for name in names
            if name in now
        }
        self._make({}, kept, news.book.keyed)
        for name in names:
            try:
                self._change(news, [name])
            except ConfigError as error:
                log.error("tenant %s stays as it was, the store's cannot be taken: %s", name, error)


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON: null is infinite."""
    return {name: None if value == inf else value for name, value in values.items()}

"""Changing tenants and keys of a running service: in memory, or in a store first."""

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from aps.service.config_reader import ConfigError
from aps.service.kept import digests, expiries
from aps.service.running import Changes, Running
from aps.store.book import News
from aps.store.changing import Changing, Conflict
from aps.store.database import StoreError
from aps.store.keys import Key
from aps.store.store import Store
from aps.tenants import Tenant

log = logging.getLogger(__name__)

Made = TypeVar("Made")
Keys = tuple[bytes, ...]


class Tenancy(Protocol):
    """What administration changes. Called on the driver's loop; actor: who asks, for the audit.

    KeyError: no such tenant. ConfigError: the service cannot be that. ValueError, TypeError as of `aps.Tenant`.
    StoreError: it cannot be written. Nothing has changed then.
    """

    async def put(self, tenant: Tenant, keys: Keys | None, actor: str, *, only_new: bool = False) -> bool:
        """Add or replace a tenant; keys None: those it has stay. True: it is new. only_new: else it is a Conflict."""

    async def set(self, name: str, fields: Mapping[str, Any], keys: Keys | None, actor: str) -> Tenant:
        """Change some fields of a tenant, which is returned."""

    async def remove(self, name: str, actor: str) -> Changes:
        """Take no more requests of a tenant, and forget its keys."""


class InMemory:
    """Changes that last until the service ends or reads its file again."""

    def __init__(self, running: Running) -> None:
        self._running = running

    async def put(self, tenant: Tenant, keys: Keys | None, actor: str, *, only_new: bool = False) -> bool:
        """See Tenancy."""
        if only_new and any(other.name == tenant.name for other in self._running.config.tenants):
            raise Conflict(f"there is a tenant {tenant.name!r} already")
        return bool(self._running.put_tenant(tenant, keys).added)

    async def set(self, name: str, fields: Mapping[str, Any], keys: Keys | None, actor: str) -> Tenant:
        """See Tenancy."""
        tenant = replace(self._running.tenant(name), **fields)
        self._running.put_tenant(tenant, keys)
        return tenant

    async def remove(self, name: str, actor: str) -> Changes:
        """See Tenancy."""
        return self._running.remove_tenant(name)


class InStore:
    """Changes that are written to a store and then made; and those that others write there, soon after.

    store: whose tenants the service has, as of its change `number`. poll_s: wall seconds between two looks.
    """

    def __init__(self, store: Store, number: int, running: Running, poll_s: float) -> None:
        self.store, self.number = store, number
        self._running, self._poll_s = running, poll_s
        self._stop = threading.Event()
        self._failing = False

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

    async def write(self, actor: str, change: Callable[[Changing], Made]) -> Made:
        """Make a change in the store, in a thread, and then in the service. What `change` returns, or raises.

        StoreError: it could not be written.
        """

        def work() -> tuple[Made, News | None]:
            with self.store.changing(actor) as changing:
                made = change(changing)
            try:
                return made, self.store.since(self.number)
            except StoreError:  # it is written; the next look finds it
                return made, None

        made, news = await asyncio.to_thread(work)
        if news is not None and not self._take(news):
            await self._catch_up()
        return made

    @asynccontextmanager
    async def following(self) -> AsyncIterator[None]:
        """As long as this lasts, changes that others make take hold here."""
        loop = asyncio.get_running_loop()
        thread = threading.Thread(target=self._look, args=(loop,), name="aps-store", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            await asyncio.to_thread(thread.join, 1.0)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stop.wait(self._poll_s):
            try:
                news = self.store.since(self.number)
            except Exception as error:
                if not self._failing:
                    log.warning("the store cannot be read, the service goes on with what it knows: %s", error)
                self._failing = True
                continue
            if self._failing:
                log.warning("the store can be read again")
            self._failing = False
            if news is not None and not self._stop.is_set():
                loop.call_soon_threadsafe(self._take, news)

    async def _catch_up(self) -> None:
        """Until nothing is new."""
        try:
            while (news := await asyncio.to_thread(self.store.since, self.number)) is not None:
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

    def _make(
        self, tenants: Mapping[str, Tenant | None], keys: Mapping[str, tuple[Key, ...]], keyed: bool
    ) -> None:
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

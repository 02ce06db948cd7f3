"""The tenants of a database, or of a running service: two ways to the same verbs."""

import argparse
import getpass
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from urllib.parse import quote

from aps.cli.common import UsageError, need_service_extra

if TYPE_CHECKING:
    import httpx

    from aps.store.changing import Changing
    from aps.store.store import Store

Row = dict[str, Any]
Made = TypeVar("Made")
WHICH = "say which tenants: --store FILE|URL, --config FILE, APS_STORE_URL, or --url of a running service"


class Books(Protocol):
    """Tenants and their keys, as JSON has them: no limit is None, instants are text.

    UsageError: what is asked cannot be; the message says why. Nothing has changed then, unless it says otherwise.
    """

    def tenants(self) -> dict[str, Row]:
        """Every tenant's fields and number of keys, by name."""

    def tenant(self, name: str) -> Row:
        """One of them."""

    def add(self, name: str, fields: Mapping[str, Any]) -> None:
        """A new one; fields that are left out have their default."""

    def set(self, name: str, fields: Mapping[str, Any]) -> None:
        """Change fields of one; the rest stay."""

    def remove(self, name: str) -> None:
        """One, and its keys."""

    def keys(self, name: str) -> list[Row]:
        """Its keys, the oldest first."""

    def issue(self, name: str, label: str, expires_in_s: float | None) -> Row:
        """A new key; `key` is the key itself."""

    def revoke(self, name: str, id: str) -> Row:
        """It stops working."""

    def rotate(self, name: str, id: str, overlap_s: float) -> Row:
        """A new key for an old one: `new` and `old`."""

    def audit(self, limit: int, tenant: str | None) -> list[Row]:
        """Who changed what, the newest first, at most `limit`; tenant: this one alone."""


def add_where(parser: argparse.ArgumentParser, *, service: bool = True) -> None:
    """Options that say whose tenants. service: a running service's too."""
    where = parser.add_argument_group("which database").add_mutually_exclusive_group()
    where.add_argument(
        "--store", metavar="FILE|URL", help="an SQLite file, or postgresql://... (default: what APS_STORE_URL names)"
    )
    where.add_argument("--config", type=Path, metavar="FILE", help="the store that this configuration names")
    if service:
        where.add_argument("--url", metavar="URL", help="through this running service, with the key in APS_ADMIN_KEY")


def opened_store(options: argparse.Namespace, *, writes: bool, make: bool = False) -> "Store":
    """The store that the options or the environment name. writes: else nothing of it can be changed.

    make: its tables are made when there are none. UsageError: none is named, or it cannot be had.
    """
    need_service_extra()
    from aps.store.database import Database, StoreError
    from aps.store.store import Store

    url = _store_url(options)
    if url is None:
        raise UsageError(WHICH)
    try:
        database = Database(url, read_only=not writes)
        if make and database.version() is None:
            database.upgrade()
            print(f"made {database.shown}", file=sys.stderr)
        database.check()
    except StoreError as error:
        raise UsageError(str(error)) from error
    except ValueError as error:
        raise UsageError(f"the store {error}") from error
    return Store(database)


def _store_url(options: argparse.Namespace) -> str | None:
    from aps.service.config_reader import ConfigError, config_file, read_config

    if options.store is not None:
        return str(options.store)
    if options.config is None and os.environ.get("APS_STORE_URL"):
        return os.environ["APS_STORE_URL"]
    file = config_file(options.config, os.environ)
    if file is None:
        return None
    try:
        url = read_config(file, os.environ).settings.store
    except ConfigError as error:
        raise UsageError("\n  ".join(error.problems)) from error
    if url is None:
        raise UsageError(f"{file} names no store ([store] url)")
    return url


@contextmanager
def books(options: argparse.Namespace, *, writes: bool) -> Iterator[Books]:
    """Whatever the options name. writes: else a database is only read."""
    if options.url is not None:
        with client_of(options.url) as client:
            yield OfService(client)
        return
    store = opened_store(options, writes=writes)
    try:
        yield OfDatabase(store)
    finally:
        store.database.close()


def actor() -> str:
    """Who works on the database, for the audit."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name
        user = str(os.getuid())
    return f"cli {user}@{platform.node()}"


@contextmanager
def refusing(name: str, key: str | None = None) -> Iterator[None]:
    """Errors of the store as UsageErrors."""
    from aps.store.database import MAYBE, StoreError, Unsure

    try:
        yield
    except StoreError as error:
        raise UsageError(f"{error}; {MAYBE}" if isinstance(error, Unsure) else str(error)) from error
    except KeyError as error:
        raise UsageError(
            f"there is no tenant {name!r}" if key is None else f"tenant {name!r} has no key {key!r}"
        ) from error
    except (TypeError, ValueError) as error:
        raise UsageError(said(error)) from error


def said(error: Exception) -> str:
    """An error of `aps.Tenant`, with fields as the caller calls them."""
    return str(error).replace("Tenant.name", "the tenant's name").replace("Tenant.", "")


class OfDatabase:
    """Of a store, directly. A running service on it follows within its `store.poll_s`."""

    def __init__(self, store: "Store") -> None:
        self._store = store

    def tenants(self) -> dict[str, Row]:
        """See Books."""
        with refusing(""):
            book = self._store.read()
        at = datetime.now(UTC)
        return {name: _row(tenant, book.keys.get(name, ()), at) for name, tenant in book.tenants.items()}

    def tenant(self, name: str) -> Row:
        """See Books."""
        with refusing(name):
            book = self._store.some([name])
            return _row(book.tenants[name], book.keys.get(name, ()), datetime.now(UTC))

    def add(self, name: str, fields: Mapping[str, Any]) -> None:
        """See Books."""
        from aps.tenants import Tenant

        self._change(lambda change: change.add(Tenant(name, **fields)), name)

    def set(self, name: str, fields: Mapping[str, Any]) -> None:
        """See Books."""
        self._change(lambda change: change.set(name, fields), name)

    def remove(self, name: str) -> None:
        """See Books."""
        self._change(lambda change: change.remove(name), name)

    def keys(self, name: str) -> list[Row]:
        """See Books."""
        from aps.store.keys import plain

        with refusing(name):
            book = self._store.some([name])
            book.tenants[name]
        at = datetime.now(UTC)
        return [plain(key, at) for key in book.keys.get(name, ())]

    def issue(self, name: str, label: str, expires_in_s: float | None) -> Row:
        """See Books."""
        from aps.service.keys import digest_of, new_key
        from aps.store.keys import plain

        secret = new_key()

        def issue(change: "Changing") -> Row:
            expires_at = None if expires_in_s is None else change.at + timedelta(seconds=expires_in_s)
            key = change.issue(name, digest_of(secret.encode()), label, expires_at)
            return plain(key, change.at) | {"key": secret}

        return self._change(issue, name)

    def revoke(self, name: str, id: str) -> Row:
        """See Books."""
        from aps.store.keys import plain

        return self._change(lambda change: plain(change.revoke(name, id), change.at), name, id)

    def rotate(self, name: str, id: str, overlap_s: float) -> Row:
        """See Books."""
        from aps.service.keys import digest_of, new_key
        from aps.store.keys import plain

        secret = new_key()

        def rotate(change: "Changing") -> Row:
            old, new = change.rotate(name, id, digest_of(secret.encode()), overlap_s)
            return {"new": plain(new, change.at) | {"key": secret}, "old": plain(old, change.at)}

        return self._change(rotate, name, id)

    def audit(self, limit: int, tenant: str | None) -> list[Row]:
        """See Books."""
        from aps.store.audit import plain

        with refusing(""):
            return [plain(entry) for entry in self._store.audit(limit=limit, tenant=tenant)]

    def _change(self, change: "Callable[[Changing], Made]", name: str, key: str | None = None) -> Made:
        with refusing(name, key), self._store.changing(actor()) as changing:
            return change(changing)


class OfService:
    """Of a running service, over its administration. A change has taken hold when it is answered."""

    def __init__(self, client: "httpx.Client") -> None:
        self._client = client

    def tenants(self) -> dict[str, Row]:
        """See Books."""
        return dict(self._call("GET", "/admin/tenants"))

    def tenant(self, name: str) -> Row:
        """See Books."""
        return dict(self._call("GET", _path(name)))

    def add(self, name: str, fields: Mapping[str, Any]) -> None:
        """See Books."""
        self._call("PUT", _path(name), headers={"if-none-match": "*"}, json=_json(fields))

    def set(self, name: str, fields: Mapping[str, Any]) -> None:
        """See Books."""
        self._call("PATCH", _path(name), json=_json(fields))

    def remove(self, name: str) -> None:
        """See Books."""
        self._call("DELETE", _path(name))

    def keys(self, name: str) -> list[Row]:
        """See Books."""
        return list(self._call("GET", f"{_path(name)}/keys"))

    def issue(self, name: str, label: str, expires_in_s: float | None) -> Row:
        """See Books."""
        return dict(self._call("POST", f"{_path(name)}/keys", json={"label": label, "expires_in_s": expires_in_s}))

    def revoke(self, name: str, id: str) -> Row:
        """See Books."""
        return dict(self._call("DELETE", f"{_path(name)}/keys/{quote(id, safe='')}"))

    def rotate(self, name: str, id: str, overlap_s: float) -> Row:
        """See Books."""
        path = f"{_path(name)}/keys/{quote(id, safe='')}/rotate"
        return dict(self._call("POST", path, json={"overlap_s": overlap_s}))

    def audit(self, limit: int, tenant: str | None) -> list[Row]:
        """See Books."""
        asked = {"limit": limit} | ({} if tenant is None else {"tenant": tenant})
        return list(self._call("GET", "/admin/audit", params=asked))

    def _call(self, method: str, path: str, **options: Any) -> Any:
        import httpx

        from aps.store.database import MAYBE

        try:
            reply = self._client.request(method, path, **options)
            answer = reply.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            text = f"{self._client.base_url} does not answer: {str(error) or type(error).__name__}"
            never = (httpx.ConnectError, httpx.ConnectTimeout, httpx.UnsupportedProtocol, httpx.InvalidURL)  # sent
            raise UsageError(text if method == "GET" or isinstance(error, never) else f"{text}; {MAYBE}") from error
        if reply.is_success:
            return answer
        said = error_of(answer)
        if reply.status_code == 404 and said.get("reason") == "not_found":
            raise UsageError(f"{self._client.base_url} has no administration: it was started without APS_ADMIN_KEY")
        raise UsageError(str(said.get("message", f"{reply.status_code} {reply.reason_phrase}")))


def error_of(answer: Any) -> dict[str, Any]:
    """What a service says is wrong; empty when the answer is of something else."""
    said = answer.get("error") if isinstance(answer, dict) else None
    return said if isinstance(said, dict) else {}


def client_of(url: str) -> "httpx.Client":
    """Of a running service, with its admin key; no proxy gets that. UsageError: there is none, or it is none."""
    need_service_extra()
    import httpx

    key = os.environ.get("APS_ADMIN_KEY", "")
    if not key or not key.isascii() or not key.isprintable() or key.startswith("sha256:"):
        raise UsageError("--url needs the service's admin key, the key itself, in APS_ADMIN_KEY")
    try:
        return httpx.Client(base_url=url, headers={"authorization": f"Bearer {key}"}, timeout=60, trust_env=False)
    except (httpx.InvalidURL, ValueError) as error:
        raise UsageError(f"--url {url}: {error}") from error


def _path(name: str) -> str:
    return f"/admin/tenants/{quote(name, safe='')}"


def _json(fields: Mapping[str, Any]) -> Row:
    return {name: None if value == float("inf") else value for name, value in fields.items()}


def _row(tenant: Any, keys: Any, at: datetime) -> Row:
    from aps.store.tenants import plain

    return plain(tenant) | {"keys": sum(key.works(at) for key in keys)}

"""Who asks, by the key in `Authorization: Bearer KEY`, and what they may do."""

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2s
from time import time
from typing import Annotated, Any, Literal, NamedTuple

from fastapi import Depends, Request

from aps.service.bodies import no_tenant
from aps.service.config import Config
from aps.service.errors import MEANING, Refusal
from aps.service.keys import digest_of

SCHEME = b"bearer "


def refused_with(meanings: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    """Refusals by status, as the OpenAPI document describes them."""
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
    return {status: {"description": text, "content": content} for status, text in meanings.items()}


REFUSALS = refused_with({status: MEANING[status] for status in (401, 403)})


class Role(NamedTuple):
    """What a key makes of its bearer.

    kind: "tenant" (its own requests and status), "metrics" (`GET /metrics`), "admin" (everything), "open" (everything
    but administration: the service has no keys). tenant: whose key it is; else None.
    """

    kind: Literal["open", "tenant", "metrics", "admin"]
    tenant: str | None = None

    def tenant_for(self, asked: str | None) -> str:
        """Whom a request is charged to, when its body says `asked`.

        Refusal: 403 for another tenant's name or a metrics key; 422 when it needs a name and has none.
        """
        if self.tenant is not None:
            if asked is not None and asked != self.tenant:
                raise Refusal("forbidden", "the key is another tenant's", field="tenant_id")
            return self.tenant
        if self.kind == "metrics":
            raise Refusal("forbidden", "a metrics key reads GET /metrics and nothing else")
        if asked is None:
            raise no_tenant()
        return asked

    def may_see(self, tenant: str) -> None:
        """Refusal (403) unless what belongs to this tenant may be read and cancelled."""
        if self.tenant == tenant or self.kind in ("admin", "open"):
            return
        if self.kind == "metrics":
            raise Refusal("forbidden", "a metrics key reads GET /metrics and nothing else")
        raise Refusal("forbidden", "the key is another tenant's")


OPEN, METRICS, ADMIN = Role("open"), Role("metrics"), Role("admin")


class Access:
    """Roles by key. tenants: digests of each tenant's keys; admin, metrics: of theirs. Without any it is open.

    expiries: when keys stop working, by digest, in seconds of `clock`. keyed: it is not open, though there are no keys;
    whoever has had keys never opens again. ValueError: one key has two roles.

    A digest is looked up in a dictionary. What the time of that tells is about digests, and nobody can choose a key by
    its digest. `identify` remembers the keys it has seen by a quicker digest (BLAKE2s of the whole header), but those
    that expire: they alone are looked up, and the clock read, each time. Neither keys nor headers are kept.
    """

    __slots__ = ("_clock", "_expiries", "_roles", "_seen", "_used", "admin", "open")

    def __init__(
        self,
        tenants: Mapping[str, Iterable[bytes]] | None = None,
        *,
        admin: bytes | None = None,
        metrics: bytes | None = None,
        expiries: Mapping[bytes, float] | None = None,
        keyed: bool = False,
        clock: Callable[[], float] = time,
    ) -> None:
        self.admin = admin is not None
        self._clock = clock
        self._seen: dict[bytes, tuple[Role, bytes]] = {}
        self._roles: dict[bytes, Role] = {}
        self._expiries: dict[bytes, float] = {}
        self._used: set[bytes] = set()
        self.open = not keyed
        self.replace(tenants or {}, admin=admin, metrics=metrics, expiries=expiries)

    @classmethod
    def of(cls, config: Config) -> "Access":
        """The keys of a configuration."""
        return cls(
            config.keys,
            admin=config.admin_key,
            metrics=config.metrics_key,
            expiries=config.expiries,
            keyed=config.keyed,
        )

    def replace(
        self,
        tenants: Mapping[str, Iterable[bytes]],
        *,
        admin: bytes | None = None,
        metrics: bytes | None = None,
        expiries: Mapping[bytes, float] | None = None,
    ) -> None:
        """Other keys from now on. ValueError as above; nothing has changed then."""
        self._roles = _roles(tenants, admin, metrics)
        self._expiries, self._seen = dict(expiries or {}), {}
        self.open = self.open and not self._roles

    def change(
        self,
        old: Iterable[bytes],
        new: Mapping[str, Iterable[bytes]],
        expiries: Mapping[bytes, float],
        *,
        keyed: bool = False,
    ) -> None:
        """Some tenants' keys from now on, in place of their old ones. ValueError as above; nothing has changed then."""
        gone, roles = set(old), dict[bytes, Role]()
        for name, digests in new.items():
            role = Role("tenant", name)
            for digest in digests:
                other = roles.get(digest) or (None if digest in gone else self._roles.get(digest))
                if other is not None and other != role:
                    raise ValueError(f"keys must have one role each, {_named(other)} and {_named(role)} share one")
                roles[digest] = role
        stale = bool(expiries) or any(roles.get(digest) != self._roles.get(digest) for digest in gone)
        for digest in gone:
            self._roles.pop(digest, None)
            self._expiries.pop(digest, None)
        self._roles |= roles
        self._expiries |= expiries
        if stale:  # a key that is gone, expires, or is another tenant's now
            self._seen = {}
        self.open = self.open and not keyed and not self._roles

    def identify(self, authorization: bytes | None) -> Role:
        """The role of a request with this `Authorization` header. Refusal (401): no key, or none that is known."""
        if authorization is not None:
            seen = self._seen.get(blake2s(authorization).digest())
            if seen is not None:
                self._used.add(seen[1])
                return seen[0]
        return self._look_up(authorization)

    def uses(self) -> set[bytes]:
        """Digests of the keys that were used since this was called last, the admin's and the metrics key's too."""
        used, self._used = self._used, set()
        return used

    def _look_up(self, authorization: bytes | None) -> Role:
        if self.open:
            return OPEN
        if authorization is None:
            raise Refusal("unauthorized", "a key is needed: Authorization: Bearer KEY")
        if authorization[: len(SCHEME)].lower() != SCHEME:
            raise Refusal("unauthorized", "the key must come as Authorization: Bearer KEY")
        digest = digest_of(authorization[len(SCHEME) :].strip())
        role = self._roles.get(digest)
        expires_at = self._expiries.get(digest)
        if role is None or (expires_at is not None and self._clock() >= expires_at):
            raise Refusal("unauthorized", "the key is not known")
        self._used.add(digest)
        if expires_at is None:
            if len(self._seen) >= 2 * len(self._roles):  # spellings of the header that differ
                self._seen.clear()
            self._seen[blake2s(authorization).digest()] = role, digest
        return role


def _roles(tenants: Mapping[str, Iterable[bytes]], admin: bytes | None, metrics: bytes | None) -> dict[bytes, Role]:
    roles: dict[bytes, Role] = {}
    pairs = [
        (digest, role) for name, digests in tenants.items() for role in (Role("tenant", name),) for digest in digests
    ]
    pairs += [(digest, role) for digest, role in ((admin, ADMIN), (metrics, METRICS)) if digest is not None]
    for digest, role in pairs:
        if roles.setdefault(digest, role) != role:
            raise ValueError(f"keys must have one role each, {_named(roles[digest])} and {_named(role)} share one")
    return roles


def _named(role: Role) -> str:
    return f"tenant {role.tenant}" if role.tenant is not None else f"the {role.kind} key"


# Dependencies are coroutines because the framework calls others in threads, and `Access` belongs to the loop.


async def identified(request: Request) -> Role:
    """FastAPI dependency: the role of the request."""
    access: Access = request.app.state.access
    header = request.headers.get("authorization")
    return access.identify(None if header is None else header.encode("latin-1"))


Identified = Annotated[Role, Depends(identified)]


async def is_operator(request: Request) -> bool:
    """FastAPI dependency of what anybody may read, some of it not by everybody: whether that is to be there."""
    try:
        return (await identified(request)).kind != "tenant"
    except Refusal:
        return False


async def reads_metrics(role: Identified) -> None:
    """FastAPI dependency of `GET /metrics`: not for tenants' keys."""
    if role.kind == "tenant":
        raise Refusal("forbidden", "GET /metrics needs the metrics key or the admin key")


async def reads_tenant(tenant_id: str, role: Identified) -> None:
    """FastAPI dependency of routes under `/tenants/{tenant_id}`."""
    role.may_see(tenant_id)


async def administers(role: Identified) -> None:
    """FastAPI dependency of administration."""
    if role.kind != "admin":
        raise Refusal("forbidden", "this needs the admin key")

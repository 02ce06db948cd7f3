"""Administration of API keys, and who changed what: of a service that keeps its tenants in a store."""

from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from aps.service.access import REFUSALS, administers, refused_with
from aps.service.administering import UNAVAILABLE, actor_of, asks_what_there_is, body_of, refusing, store_of
from aps.service.aside import aside
from aps.service.keys import digest_of, new_key
from aps.store.changing import Changing
from aps.store.keys import Key

DAY_S = 86_400.0
LONGEST_S = 366 * DAY_S

NO_STORE = refused_with({409: "The service keeps nothing: it was started without a store."})
UNKNOWN = refused_with({404: "No such tenant, or it has no such key."})

router = APIRouter(
    prefix="/admin",
    tags=["administration"],
    dependencies=[Depends(administers), Depends(asks_what_there_is)],
    responses=REFUSALS | NO_STORE | UNAVAILABLE,
)


class IssueBody(BaseModel):
    """A key to be issued."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    label: Annotated[str, Field(max_length=256, description="What its owner calls it.")] = ""
    expires_in_s: Annotated[
        float | None, Field(gt=0, le=10 * LONGEST_S, description="Wall seconds that it works; null: for ever.")
    ] = None


class RotateBody(BaseModel):
    """How long the old key goes on working beside the new one."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    overlap_s: Annotated[float, Field(ge=0, le=LONGEST_S, description="Wall seconds; 0: it stops at once.")] = DAY_S


class KeyAnswer(BaseModel):
    """A key, without what opens anything."""

    id: Annotated[str, Field(description="Public: the first 12 hexadecimal digits of its SHA-256.")]
    tenant: str
    label: str
    state: Annotated[str, Field(description="valid, expiring (valid until `expires_at`), expired or revoked.")]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: Annotated[datetime | None, Field(description="To within a minute and `store.interval_s`.")]

    @classmethod
    def of(cls, key: Key, at: datetime) -> "KeyAnswer":
        """As it stands at an instant."""
        fields = {name: getattr(key, name) for name in cls.model_fields if name != "state"}
        return cls(state=key.state(at), **fields)


class IssuedAnswer(KeyAnswer):
    """A key that has just been made."""

    key: Annotated[str, Field(description="The key itself: it is shown this once, and kept nowhere.")]


class RotatedAnswer(BaseModel):
    """The new key, and the old one as it stands now."""

    new: IssuedAnswer
    old: KeyAnswer


class EntryAnswer(BaseModel):
    """One change."""

    id: int
    at: datetime
    revision: Annotated[int, Field(description="Changes that were made together have the same.")]
    actor: str
    action: str
    subject: Annotated[str, Field(description="The tenant; empty: the policy.")]
    details: Annotated[dict[str, Any], Field(description="Old and new values by field, or the key's id. Never a key.")]


@router.get("/tenants/{tenant_id}/keys", response_model=list[KeyAnswer], responses=UNKNOWN)
async def keys(request: Request, tenant_id: str) -> list[KeyAnswer]:
    """A tenant's keys, the oldest first; revoked and expired ones too."""
    store = store_of(request).store
    with refusing(tenant_id):
        book = await aside(partial(store.some, [tenant_id]))
        name, at = book.tenants[tenant_id].name, datetime.now(UTC)
    return [KeyAnswer.of(key, at) for key in book.keys.get(name, ())]


@router.post(
    "/tenants/{tenant_id}/keys",
    response_model=IssuedAnswer,
    status_code=201,
    responses=UNKNOWN | refused_with({422: "The body is wrong."}),
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": IssueBody.model_json_schema()}}}},
)
async def issue_key(request: Request, response: Response, tenant_id: str) -> IssuedAnswer:
    """Make a key of a tenant. It works at once, and is shown in this answer and never again."""
    store, body = store_of(request), await body_of(request, IssueBody, optional=True)
    key = new_key()

    def issue(change: Changing) -> IssuedAnswer:
        expires_at = None if body.expires_in_s is None else change.at + timedelta(seconds=body.expires_in_s)
        made = change.issue(tenant_id, digest_of(key.encode()), body.label, expires_at)
        return _issued(made, key, change.at)

    with refusing(tenant_id):
        answer = await store.write(actor_of(request), issue)
    response.headers["cache-control"] = "no-store"
    return answer


@router.delete("/tenants/{tenant_id}/keys/{key_id}", response_model=KeyAnswer, responses=UNKNOWN)
async def revoke_key(request: Request, tenant_id: str, key_id: str) -> KeyAnswer:
    """A key stops working at once; a request that has begun goes on. It stays listed."""

    def revoke(change: Changing) -> KeyAnswer:
        return KeyAnswer.of(change.revoke(tenant_id, key_id), change.at)

    with refusing(tenant_id, key_id):
        return await store_of(request).write(actor_of(request), revoke)


@router.post(
    "/tenants/{tenant_id}/keys/{key_id}/rotate",
    response_model=RotatedAnswer,
    status_code=201,
    responses=UNKNOWN
    | refused_with({409: "The old key does not work any more; or there is no store.", 422: "The body is wrong."}),
    openapi_extra={"requestBody": {"content": {"application/json": {"schema": RotateBody.model_json_schema()}}}},
)
async def rotate_key(request: Request, response: Response, tenant_id: str, key_id: str) -> RotatedAnswer:
    """Make a key in place of one, which goes on working for `overlap_s`: the time in which clients change over."""
    store, body = store_of(request), await body_of(request, RotateBody, optional=True)
    key = new_key()

    def rotate(change: Changing) -> RotatedAnswer:
        old, new = change.rotate(tenant_id, key_id, digest_of(key.encode()), body.overlap_s)
        return RotatedAnswer(new=_issued(new, key, change.at), old=KeyAnswer.of(old, change.at))

    with refusing(tenant_id, key_id):
        answer = await store.write(actor_of(request), rotate)
    response.headers["cache-control"] = "no-store"
    return answer


@router.get("/audit", response_model=list[EntryAnswer])
async def audit(
    request: Request,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    before: Annotated[
        int | None, Query(ge=0, le=2**53, description="Only entries with a lower id: the next page.")
    ] = None,
    tenant: Annotated[str | None, Query(description="Only this one's.")] = None,
) -> list[EntryAnswer]:
    """Who changed what, the newest first."""
    store = store_of(request).store
    with refusing(""):
        found = await aside(partial(store.audit, limit=limit, before=before, tenant=tenant))
    return [EntryAnswer(**{name: getattr(entry, name) for name in EntryAnswer.model_fields}) for entry in found]


def _issued(key: Key, secret: str, at: datetime) -> IssuedAnswer:
    return IssuedAnswer(key=secret, **KeyAnswer.of(key, at).model_dump())

"""Administration over HTTP. Exists only in a service that has an admin key, and answers that key alone."""

from dataclasses import fields
from math import inf
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, Header, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator
from pydantic.config import JsonDict

from aps._checks import INT32_MAX, TOKENS_MAX
from aps.service import admin_keys
from aps.service.access import REFUSALS, administers, refused_with
from aps.service.administering import (
    UNAVAILABLE,
    actor_of,
    asks_what_there_is,
    body_of,
    refusing,
    running_of,
    tenancy_of,
    unknown_tenant,
)
from aps.service.config_reader import ConfigError
from aps.service.config_view import plain, plain_tenant
from aps.service.errors import Refusal
from aps.service.keys import parse_hash
from aps.service.running import Changes, Running
from aps.service.tenancy import InMemory, Tenancy
from aps.tenants import DEFAULT_BID, DEFAULT_MAX_TOKENS, Tenant

UNLIMITED = "null: no limit."
INFINITE = {field.name for field in fields(Tenant) if field.default == inf}


def _whole(value: object) -> object:
    """JSON has one kind of number: 5.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


WHOLE = BeforeValidator(_whole)
Bid = Annotated[int, Field(ge=1, le=10), WHOLE]
AtLeastOne = Annotated[int, Field(ge=1, le=INT32_MAX), WHOLE]
Requests = Annotated[int, Field(ge=0, le=INT32_MAX), WHOLE]
Tokens = Annotated[int, Field(ge=0, le=TOKENS_MAX), WHOLE]


def _whole_bucket(rate: str, burst: str) -> JsonDict:
    """Both numbers, or neither: what the fields alone do not say."""
    return {
        "oneOf": [
            {"required": [rate, burst], "properties": {rate: {"type": "number"}, burst: {"type": "number"}}},
            {"properties": {rate: {"type": "null"}, burst: {"type": "null"}}},
        ]
    }


WHOLE_BUCKETS: JsonDict = {"allOf": [_whole_bucket("rate", "burst"), _whole_bucket("request_rate", "request_burst")]}
BURST = Field(validate_default=True)  # that it is missing beside a rate is an error of its own

router = APIRouter(
    prefix="/admin",
    tags=["administration"],
    dependencies=[Depends(administers), Depends(asks_what_there_is)],
    responses=REFUSALS,
)


class TenantBody(BaseModel):
    """A tenant; what is left out has its default. As `[tenants.NAME]` in docs/configuration.md, with null for inf."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, json_schema_extra=WHOLE_BUCKETS)

    weight: Annotated[float, Field(ge=1e-9, le=1e9)] = 1.0
    rate: Annotated[float | None, Field(ge=1e-6, description=f"Tokens a second, with `burst`; {UNLIMITED}")] = None
    burst: Annotated[float | None, Field(gt=0, description=f"Tokens, with `rate`; {UNLIMITED}"), BURST] = None
    over_rate: Literal["refuse", "queue"] = "refuse"
    default_bid: Annotated[Bid, Field(description="At most `max_bid`; 5 is lowered to it.")] = DEFAULT_BID
    max_bid: Bid = 10
    default_max_tokens: AtLeastOne = DEFAULT_MAX_TOKENS
    max_in_flight: Annotated[AtLeastOne | None, Field(description=UNLIMITED)] = None
    max_queued: Annotated[Requests | None, Field(description=UNLIMITED)] = None
    max_queued_tokens: Annotated[Tokens | None, Field(description=UNLIMITED)] = None
    kv_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    request_rate: Annotated[
        float | None, Field(ge=1e-6, description=f"Requests a second, with `request_burst`; {UNLIMITED}")
    ] = None
    request_burst: Annotated[
        float | None, Field(ge=1, description=f"Requests, with `request_rate`; {UNLIMITED}"), BURST
    ] = None
    max_request_tokens: Annotated[
        int | None,
        Field(ge=2, le=TOKENS_MAX, description=f"Prompt + max tokens of one request, at most `burst`; {UNLIMITED}"),
        WHOLE,
    ] = None
    keys: Annotated[
        list[Annotated[str, Field(pattern="^sha256:[0-9a-fA-F]{64}$")]] | None,
        Field(max_length=1000, description="Hashes as `aps keygen` prints them; absent or null: those it has stay."),
    ] = None

    @field_validator("burst", "request_burst")
    @classmethod
    def _in_pairs(cls, burst: float | None, info: ValidationInfo) -> float | None:
        name = str(info.field_name)
        rate = name.replace("burst", "rate")
        if rate in info.data and (info.data[rate] is None) != (burst is None):
            raise ValueError(f"give both {rate} and {name}, or neither")
        return burst

    @property
    def digests(self) -> tuple[bytes, ...] | None:
        """Of its keys; None: none are given."""
        return None if self.keys is None else tuple(map(parse_hash, self.keys))

    def fields(self) -> dict[str, Any]:
        """As `aps.Tenant` has them."""
        return _finite(self.model_dump(exclude={"keys"}))


class TenantChange(TenantBody):
    """Fields of a tenant that change; what is left out stays as it is."""

    model_config = ConfigDict(json_schema_extra={})

    @field_validator("burst", "request_burst")
    @classmethod
    def _in_pairs(cls, burst: float | None, info: ValidationInfo) -> float | None:
        return burst  # only with the rest of the tenant is it known

    def fields(self) -> dict[str, Any]:
        """Those that were given."""
        return _finite(self.model_dump(include=self.model_fields_set - {"keys"}))


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {name: inf if value is None and name in INFINITE else value for name, value in values.items()}


class PolicyBody(BaseModel):
    """The two knobs; one that is left out stays as it is. The rest of a policy cannot change in a running service."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    aging_horizon_s: Annotated[float | None, Field(ge=0, le=1e8, description="null: no aging.")] = None
    fairness_window: Annotated[float | None, Field(ge=0, description="null: no fairness.")] = None


class ChangesAnswer(BaseModel):
    """What a change did."""

    added: Annotated[list[str], Field(description="Tenants.")]
    changed: list[str]
    removed: Annotated[list[str], Field(description="They take no more requests; what was accepted is served.")]
    rekeyed: Annotated[list[str], Field(description="Tenants whose keys are others now.")]
    values: Annotated[dict[str, list[Any]], Field(description="Keys of the configuration: value before, value now.")]
    left: Annotated[
        dict[str, list[Any]],
        Field(description="What cannot change in a running service: value in force, value that a restart would give."),
    ]
    differing: Annotated[list[str], Field(description="What the file says of tenants, and the store does not.")]


INVALID = refused_with({422: "It is wrong: `problems` lists everything. Nothing has changed."})
UNKNOWN = refused_with({404: "No such tenant."})
NO_FILE = refused_with({409: "The service was started without --config: there is no file to read again."})


@router.get("/config")
async def effective_config(request: Request) -> dict[str, Any]:
    """The configuration in force, without secrets: of keys only their number. null: no limit, or the profile's."""
    return plain(running_of(request).config)


@router.post("/reload", response_model=ChangesAnswer, responses=INVALID | NO_FILE)
async def reload(request: Request) -> ChangesAnswer:
    """Read the file again, as SIGHUP does. All that can change does, at one instant; or nothing, when it is wrong.

    The tenants are the file's then: those put by hand are removed. With a store they stay: `differing` says what the
    file says otherwise.
    """
    running = running_of(request)
    if not running.can_reload:
        raise Refusal("conflict", "the service was started without --config: there is no file to read again")
    try:
        return _answer(await running.reload())
    except ConfigError as error:
        raise _wrong(error) from error


@router.get("/tenants")
async def tenants(request: Request) -> dict[str, dict[str, Any]]:
    """Every tenant's settings, by name."""
    config = running_of(request).config
    return {tenant.name: plain_tenant(config, tenant) for tenant in config.tenants}


@router.get("/tenants/{tenant_id}", responses=UNKNOWN)
async def tenant(request: Request, tenant_id: str) -> dict[str, Any]:
    """A tenant's settings, and the number of its keys."""
    return _tenant(running_of(request), tenant_id)


@router.put(
    "/tenants/{tenant_id}",
    responses=INVALID
    | UNAVAILABLE
    | refused_with(
        {409: "A key is somebody else's or revoked; or the tenant is there, and `If-None-Match: *` was sent."}
    )
    | {201: {"description": "It is new."}},
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": TenantBody.model_json_schema()}}}
    },
)
async def put_tenant(
    request: Request, response: Response, tenant_id: str, if_none_match: Annotated[str | None, Header()] = None
) -> dict[str, Any]:
    """Add a tenant, or replace one's settings: what is left out gets its default, but keys stay.

    A waiting request that the new limits make impossible ends with that verdict. `If-None-Match: *`: it must be new.
    """
    body = await body_of(request, TenantBody)
    with refusing(tenant_id):
        tenant = Tenant(tenant_id, **body.fields())
        put = tenancy_of(request).put(tenant, body.digests, actor_of(request), only_new=if_none_match == "*")
        response.status_code = 201 if await put else 200
    return plain_tenant(running_of(request).config, tenant)


@router.patch(
    "/tenants/{tenant_id}",
    responses=INVALID | UNKNOWN | UNAVAILABLE | refused_with({409: "A key is somebody else's or revoked."}),
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": TenantChange.model_json_schema()}}}
    },
)
async def patch_tenant(request: Request, tenant_id: str) -> dict[str, Any]:
    """Change some settings of a tenant; the rest stay, whoever else changes them at the same time."""
    body = await body_of(request, TenantChange)
    with refusing(tenant_id):
        changed = await tenancy_of(request).set(tenant_id, body.fields(), body.digests, actor_of(request))
    return plain_tenant(running_of(request).config, changed)


@router.delete("/tenants/{tenant_id}", response_model=ChangesAnswer, responses=UNKNOWN | UNAVAILABLE)
async def delete_tenant(request: Request, tenant_id: str) -> ChangesAnswer:
    """Take no more requests of a tenant, and forget its keys. What was accepted is served; its usage is kept."""
    with refusing(tenant_id):
        return _answer(await tenancy_of(request).remove(tenant_id, actor_of(request)))


@router.patch(
    "/policy",
    response_model=ChangesAnswer,
    responses=INVALID | UNAVAILABLE,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": PolicyBody.model_json_schema()}}}
    },
)
async def patch_policy(request: Request) -> ChangesAnswer:
    """Turn the two knobs, at once and for what waits already, until a reload or a restart."""
    body = await body_of(request, PolicyBody)
    knobs = {name: getattr(body, name) for name in PolicyBody.model_fields if name in body.model_fields_set}
    with refusing(""):
        turned = {name: inf if value is None else value for name, value in knobs.items()}
        return _answer(await tenancy_of(request).turn(turned, actor_of(request)))


def install(app: FastAPI, running: Running, tenancy: Tenancy | None = None) -> None:
    """Give `app` the routes of administration, over what runs; tenancy None: changes of tenants stay in memory."""
    app.state.running = running
    app.state.tenancy = tenancy or InMemory(running)
    app.include_router(router)
    app.include_router(admin_keys.router)


def _tenant(running: Running, name: str) -> dict[str, Any]:
    config = running.config
    found = next((tenant for tenant in config.tenants if tenant.name == name), None)
    if found is None:
        raise unknown_tenant(name)
    return plain_tenant(config, found)


def _wrong(error: ConfigError) -> Refusal:
    return Refusal("invalid", "the configuration is wrong; nothing has changed", problems=list(error.problems))


def _answer(changes: Changes) -> ChangesAnswer:
    return ChangesAnswer(
        added=list(changes.added),
        changed=list(changes.changed),
        removed=list(changes.removed),
        rekeyed=list(changes.rekeyed),
        values={name: list(pair) for name, pair in changes.values.items()},
        left={name: list(pair) for name, pair in changes.left.items()},
        differing=list(changes.differing),
    )

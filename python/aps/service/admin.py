"""Administration over HTTP. Exists only in a service that has an admin key, and answers that key alone."""

import asyncio
from math import inf
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic.config import JsonDict

from aps._checks import INT32_MAX, TOKENS_MAX
from aps.service.access import REFUSALS, administers, refused_with
from aps.service.config import Settings
from aps.service.config_reader import ConfigError
from aps.service.config_view import plain, plain_tenant
from aps.service.errors import Refusal
from aps.service.keys import parse_hash
from aps.service.running import Changes, Running
from aps.tenants import DEFAULT_MAX_TOKENS, Tenant

UNLIMITED = "null: no limit."
BUCKETS = ("rate", "burst", "request_rate", "request_burst")  # null is infinite there


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

router = APIRouter(prefix="/admin", tags=["administration"], dependencies=[Depends(administers)], responses=REFUSALS)


class TenantBody(BaseModel):
    """A tenant; what is left out has its default. As `[tenants.NAME]` in docs/configuration.md, with null for inf."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, json_schema_extra=WHOLE_BUCKETS)

    weight: Annotated[float, Field(ge=1e-9, le=1e9)] = 1.0
    rate: Annotated[float | None, Field(ge=1e-6, description=f"Tokens a second, with `burst`; {UNLIMITED}")] = None
    burst: Annotated[float | None, Field(gt=0, description=f"Tokens, with `rate`; {UNLIMITED}"), BURST] = None
    over_rate: Annotated[str, Field(pattern="^(refuse|queue)$")] = "refuse"
    default_bid: Bid = 5
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

    def tenant(self, name: str) -> Tenant:
        """ValueError: the name is none, or settings contradict each other."""
        fields: dict[str, Any] = self.model_dump(exclude={"keys"})
        return Tenant(name, **fields | {key: inf for key in BUCKETS if fields[key] is None})


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


INVALID = refused_with({422: "It is wrong: `problems` lists everything. Nothing has changed."})
UNKNOWN = refused_with({404: "No such tenant."})


@router.get("/config")
async def effective_config(request: Request) -> dict[str, Any]:
    """The configuration in force, without secrets: of keys only their number. null: no limit, or the profile's."""
    return plain(_running(request).config)


@router.post("/reload", response_model=ChangesAnswer, responses=INVALID)
async def reload(request: Request) -> ChangesAnswer:
    """Read the file again, as SIGHUP does. All that can change does, at one instant; or nothing, when it is wrong.

    The tenants are the file's then: those put by hand are removed.
    """
    running = _running(request)
    if not running.can_reload:
        raise Refusal("conflict", "the service was started without --config: there is no file to read again")
    try:
        return _answer(await running.reload())
    except ConfigError as error:
        raise _wrong(error) from error


@router.get("/tenants")
async def tenants(request: Request) -> dict[str, dict[str, Any]]:
    """Every tenant's settings, by name."""
    config = _running(request).config
    return {tenant.name: plain_tenant(config, tenant) for tenant in config.tenants}


@router.get("/tenants/{tenant_id}", responses=UNKNOWN)
async def tenant(request: Request, tenant_id: str) -> dict[str, Any]:
    """A tenant's settings, and the number of its keys."""
    return _tenant(_running(request), tenant_id)


@router.put(
    "/tenants/{tenant_id}",
    responses=INVALID | refused_with({409: "A key is somebody else's."}) | {201: {"description": "It is new."}},
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": TenantBody.model_json_schema()}}}
    },
)
async def put_tenant(request: Request, response: Response, tenant_id: str) -> dict[str, Any]:
    """Add a tenant, or replace one's settings: what is left out gets its default, but keys stay.

    A waiting request that the new limits make impossible ends with that verdict.
    """
    running, body = _running(request), await _body(request, TenantBody)
    try:
        tenant = body.tenant(tenant_id)
    except ValueError as error:
        message = str(error).replace("Tenant.name", "the tenant's name").replace("Tenant.", "")
        field = next((name for name in TenantBody.model_fields if message.startswith(f"{name} ")), "tenant_id")
        raise Refusal("invalid", message, field=field, problems=[message]) from error
    keys = None if body.keys is None else tuple(map(parse_hash, body.keys))
    try:
        changes = running.put_tenant(tenant, keys)
    except ConfigError as error:
        raise Refusal("conflict", error.problems[0]) from error
    response.status_code = 201 if changes.added else 200
    return _tenant(running, tenant_id)


@router.delete("/tenants/{tenant_id}", response_model=ChangesAnswer, responses=UNKNOWN)
async def delete_tenant(request: Request, tenant_id: str) -> ChangesAnswer:
    """Take no more requests of a tenant, and forget its keys. What was accepted is served."""
    try:
        return _answer(_running(request).remove_tenant(tenant_id))
    except KeyError:
        raise _unknown(tenant_id) from None


@router.patch(
    "/policy",
    response_model=ChangesAnswer,
    responses=INVALID,
    openapi_extra={
        "requestBody": {"required": True, "content": {"application/json": {"schema": PolicyBody.model_json_schema()}}}
    },
)
async def patch_policy(request: Request) -> ChangesAnswer:
    """Turn the two knobs, at once and for what waits already."""
    body = await _body(request, PolicyBody)
    knobs = {name: getattr(body, name) for name in body.model_fields_set}
    return _answer(_running(request).set_knobs(**{name: inf if x is None else x for name, x in knobs.items()}))


def install(app: FastAPI, running: Running) -> None:
    """Give `app` the routes of administration, over what runs."""
    app.state.running = running
    app.include_router(router)


def _running(request: Request) -> Running:
    running: Running = request.app.state.running
    return running


Body = TypeVar("Body", bound=BaseModel)


async def _body(request: Request, model: type[Body]) -> Body:
    """Read once the key is known to be right, within the same time as any body."""
    settings: Settings = request.app.state.settings
    try:
        async with asyncio.timeout(settings.body_s):
            raw = await request.body()
    except TimeoutError:
        raise Refusal("body_too_slow", f"the body must arrive within {settings.body_s:g} s") from None
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        problems = [_problem(part) for part in error.errors(include_url=False, include_context=False)]
        field = ".".join(map(str, error.errors()[0]["loc"])) or "body"
        raise Refusal("invalid", problems[0], field=field, problems=problems) from None


def _problem(part: Any) -> str:
    field = ".".join(map(str, part["loc"])) or "body"
    message = part["msg"].removeprefix("Value error, ")
    value = part["input"]
    plain_value = isinstance(value, bool | int | float | str) and not field.startswith("keys")
    return f"{field}: {message}" + (f", got {repr(value)[:60]}" if plain_value and field != "body" else "")


def _tenant(running: Running, name: str) -> dict[str, Any]:
    config = running.config
    found = next((tenant for tenant in config.tenants if tenant.name == name), None)
    if found is None:
        raise _unknown(name)
    return plain_tenant(config, found)


def _unknown(name: str) -> Refusal:
    return Refusal("unknown_tenant", f"there is no tenant {name[:64]!r}", field="tenant_id")


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
    )

"""What routes of administration share: who asks, what the body says, what becomes of an error."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, ValidationError

from aps.driver import DRAINING_RETRY_S
from aps.service.access import refused_with
from aps.service.config import Settings
from aps.service.config_reader import ConfigError
from aps.service.errors import Refusal
from aps.service.request_ids import HEADER, given, made
from aps.service.running import Running
from aps.service.tenancy import InStore, Tenancy
from aps.store.changing import Conflict
from aps.store.database import MAYBE, StoreError, Unsure

STORE_RETRY_S = 1.0  # nobody knows when a store is back
UNAVAILABLE = refused_with(
    {
        503: "The store cannot be had, and nothing has changed; or it has not answered in time, or was lost during the "
        "commit, and nobody knows: `message` says which. `Retry-After` says when to ask again."
    }
)
FIELD = re.compile(r"(\w+) must ")
TENANT_FIELD = re.compile(r"\bTenant\.(\w+)")

Body = TypeVar("Body", bound=BaseModel)


def running_of(request: Request) -> Running:
    """What runs."""
    running: Running = request.app.state.running
    return running


def tenancy_of(request: Request) -> Tenancy:
    """What changes its tenants."""
    tenancy: Tenancy = request.app.state.tenancy
    return tenancy


def store_of(request: Request) -> InStore:
    """The same, where there is a store. Refusal (409): there is none."""
    tenancy = tenancy_of(request)
    if not isinstance(tenancy, InStore):
        raise Refusal("conflict", "the service keeps nothing: start it with --store FILE, or put keys with the tenant")
    return tenancy


async def named(request: Request, response: Response) -> None:
    """FastAPI dependency: the request's `x-request-id`, or one made up for it, goes back with the answer."""
    request.state.request_id = given(request.headers.get(HEADER)) or made()
    response.headers[HEADER] = request.state.request_id


async def asks_what_there_is(request: Request) -> None:
    """FastAPI dependency. Refusal (422): a parameter of the query that is none, and would be let be."""
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in known:
            allowed = f"there are {', '.join(sorted(known))}" if known else "there are none here"
            raise Refusal("invalid", f"query.{name[:64]}: no such parameter, {allowed}", field=f"query.{name[:64]}")


def actor_of(request: Request) -> str:
    """Who asks, for the audit and the log."""
    return f"admin key, request {request.state.request_id}"


async def body_of(request: Request, model: type[Body]) -> Body:
    """Read once the key is known to be right, within the same time as any body. Refusal: 408, 422."""
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


@contextmanager
def refusing(tenant: str, key: str | None = None) -> Iterator[None]:
    """Errors of a change as refusals. tenant, key: what may be unknown."""
    try:
        yield
    except asyncio.CancelledError as error:  # the service stops, and the store has not answered
        raise Refusal("draining", f"the service stopped; {MAYBE}", retry_after_s=DRAINING_RETRY_S) from error
    except Unsure as error:
        raise Refusal("store_unavailable", f"{error}; {MAYBE}", retry_after_s=STORE_RETRY_S) from error
    except ConfigError as error:
        raise Refusal("conflict", error.problems[0]) from error
    except Conflict as error:
        raise Refusal("conflict", str(error)) from error
    except StoreError as error:
        raise Refusal("store_unavailable", f"nothing has changed: {error}", retry_after_s=STORE_RETRY_S) from error
    except KeyError as error:
        raise unknown_tenant(tenant) if key is None else _unknown_key(tenant, key) from error
    except (TypeError, ValueError) as error:
        found = TENANT_FIELD.search(str(error))
        message = TENANT_FIELD.sub(lambda match: "the tenant's name" if match[1] == "name" else match[1], str(error))
        other = FIELD.match(message)
        if found is None:
            field = "tenant_id" if other is None else other[1]
        else:
            field = "tenant_id" if found[1] == "name" else found[1]
        raise Refusal("invalid", message, field=field, problems=[message]) from error


def unknown_tenant(name: str) -> Refusal:
    """404."""
    return Refusal("unknown_tenant", f"there is no tenant {name[:64]!r}", field="tenant_id")


def _unknown_key(tenant: str, key: str) -> Refusal:
    return Refusal("unknown_key", f"tenant {tenant[:64]!r} has no key {key[:64]!r}", field="key_id")


def _problem(part: Any) -> str:
    field = ".".join(map(str, part["loc"])) or "body"
    message = part["msg"].removeprefix("Value error, ")
    value = part["input"]
    plain_value = isinstance(value, bool | int | float | str) and not field.startswith("keys")
    return f"{field}: {message}" + (f", got {repr(value)[:60]}" if plain_value and field != "body" else "")

"""What routes of administration share: who asks, what the body says, what becomes of an error."""

import asyncio
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from fastapi import Request
from pydantic import BaseModel, ValidationError

from aps.driver import DRAINING_RETRY_S
from aps.service.access import refused_with
from aps.service.config import Settings
from aps.service.config_reader import ConfigError
from aps.service.errors import Refusal
from aps.service.running import Running
from aps.service.tenancy import InStore, Tenancy
from aps.service.wording import LONGEST_NAME, Schema, cut, must_be, shown, unknown
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


async def asks_what_there_is(request: Request) -> None:
    """FastAPI dependency. Refusal (422): a parameter of the query that is none, and would be let be."""
    known = {parameter.alias for parameter in request.scope["route"].dependant.query_params}
    for name in request.query_params:
        if name not in known:
            raise Refusal("invalid", unknown("parameter", name, known), field=name[:LONGEST_NAME])


def actor_of(request: Request) -> str:
    """Who asks, for the audit and the log."""
    return f"admin key, request {request.state.request_id}"


async def body_of(request: Request, model: type[Body], *, optional: bool = False) -> Body:
    """Read once the key is known to be right, within the same time as any body. Refusal: 408, 422.

    optional: no body at all is one without fields.
    """
    settings: Settings = request.app.state.settings
    try:
        async with asyncio.timeout(settings.body_s):
            raw = await request.body()
    except TimeoutError:
        raise Refusal("body_too_slow", f"the body must arrive within {settings.body_s:g} s") from None
    try:
        return model.model_validate_json(raw or b"{}" if optional else raw)
    except ValidationError as error:
        schema = model.model_json_schema()
        problems = [_problem(part, schema) for part in error.errors(include_url=False)]
        field = ".".join(map(str, error.errors()[0]["loc"])) or "body"
        raise Refusal("invalid", problems[0], field=field[:LONGEST_NAME], problems=problems) from None


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
        raise _wrong(str(error)) from error


def unknown_tenant(name: str) -> Refusal:
    """404."""
    return Refusal("unknown_tenant", f"there is no tenant {name[:64]!r}", field="tenant_id")


def _unknown_key(tenant: str, key: str) -> Refusal:
    return Refusal("unknown_key", f"tenant {tenant[:64]!r} has no key {key[:64]!r}", field="key_id")


def _wrong(message: str) -> Refusal:
    """422 in the words of `aps.Tenant` and others; there a tenant's name is a field too, and inf what null is here."""
    found = TENANT_FIELD.search(message) or FIELD.match(message)
    field = "tenant_id" if found is None or found[1] == "name" else found[1]
    message = TENANT_FIELD.sub(lambda match: "the tenant's name" if match[1] == "name" else match[1], message)
    what, got, value = message.rpartition(", got ")
    if got:
        message = what + got + ("null" if value == "inf" else cut(value))
    return Refusal("invalid", message, field=field, problems=[message])


def _problem(part: Any, schema: Schema) -> str:
    place, kind, value = part["loc"], part["type"], part["input"]
    field = ".".join(map(str, place))
    if kind == "json_invalid":
        return f"the body is not JSON: {part['ctx']['error']}"
    if kind == "extra_forbidden":
        return unknown("field", field, schema["properties"])
    if kind == "value_error":
        return str(part["ctx"]["error"])
    if not place:
        return must_be("the body", {"type": "object"}, shown(value))
    found = schema["properties"][place[0]]
    for _ in place[1:]:
        found = next(other["items"] for other in found.get("anyOf", [found]) if "items" in other)
    secret = place[0] == "keys" and isinstance(value, str)
    return must_be(field, found, "" if secret else shown(value))

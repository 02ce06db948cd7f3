"""Tenants as rows: each field of `aps.Tenant` in the column of its name, "no limit" as NULL."""

import logging
from dataclasses import fields
from math import inf
from typing import Any

from sqlalchemy import Double, Row, func

from aps.store.database import StoreError
from aps.store.schema import tenants as table
from aps.tenants import Tenant, as_kept

LOG = logging.getLogger("aps.store")
FIELDS = tuple(field.name for field in fields(Tenant) if field.name != "name")
INFINITE = frozenset(field.name for field in fields(Tenant) if field.default == inf)  # their "no limit"
COLUMNS = (  # in the order of Tenant's arguments
    table.c.name,
    *(func.coalesce(table.c[name], inf) if name in INFINITE else table.c[name] for name in FIELDS),
)
_FLOATS = frozenset(name for name in FIELDS if isinstance(table.c[name].type, Double))


def plain(tenant: Tenant) -> dict[str, Any]:
    """Its fields without the name, as JSON and the database have them: None for "no limit"."""
    return {name: _plain(name, getattr(tenant, name)) for name in FIELDS}


def tenant_of(row: Row[Any]) -> Tenant:
    """The tenant in a row of COLUMNS; a warning where an earlier APS has let more pass. StoreError: the row is none."""
    try:
        return Tenant(*row)
    except (TypeError, ValueError) as error:
        name = row[0]
        fields: dict[str, Any] = dict(zip(FIELDS, row[1:], strict=True))
        try:
            tenant = Tenant(name, **as_kept(fields))
        except (TypeError, ValueError):
            raise StoreError(f"tenant {name!r} in the store: {error}") from error
        LOG.warning("tenant %r in the store: %s; %d counts", name, error, tenant.default_bid)
        return tenant


def differences(old: Tenant, new: Tenant) -> dict[str, tuple[Any, Any]]:
    """The fields in which two tenants differ: (old value, new value), None for "no limit"."""
    pairs = {name: (_plain(name, getattr(old, name)), _plain(name, getattr(new, name))) for name in FIELDS}
    return {name: (before, after) for name, (before, after) in pairs.items() if before != after}


def _plain(name: str, value: Any) -> Any:
    if value is None or (name in INFINITE and value == inf):
        return None
    return float(value) if name in _FLOATS else value

"""Where the scheduler of a service stood: one row for it, and one for each tenant. A save writes what has changed."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, bindparam, delete, select

from aps.store import schema
from aps.store.upserts import replacing


class TenantState(NamedTuple):
    """level, request_level: of its buckets; None: no limit. service, credit, weight: as in docs/rules.md."""

    level: float | None
    request_level: float | None
    service: float
    credit: float
    weight: float


class State(NamedTuple):
    """A scheduler at one instant.

    virtual_time: V. fairness_window: D; None: infinite. last_contender: a tenant, or None. in_use: something was under
    way.
    """

    virtual_time: float
    fairness_window: float | None
    last_contender: str | None
    in_use: bool
    tenants: Mapping[str, TenantState]


def save(
    connection: Connection, service: str, at: datetime, state: State, known: Mapping[str, TenantState] | None
) -> None:
    """known: the tenants' rows as they are; None: nobody knows, and all are written."""
    header = {
        "service": service,
        "saved_at": at,
        "in_use": state.in_use,
        "virtual_time": state.virtual_time,
        "fairness_window": state.fairness_window,
        "last_contender": state.last_contender,
    }
    connection.execute(replacing(connection, schema.scheduler_states), header)
    table = schema.tenant_states
    if known is None:
        connection.execute(delete(table).where(table.c.service == service))
        known = {}
    gone = [{"gone": name} for name in known.keys() - state.tenants.keys()]
    if gone:
        connection.execute(delete(table).where(table.c.service == service, table.c.tenant == bindparam("gone")), gone)
    changed = [
        {
            "service": service,
            "tenant": name,
            "level": row.level,
            "request_level": row.request_level,
            "service_received": row.service,
            "credit": row.credit,
            "weight": row.weight,
        }
        for name, row in state.tenants.items()
        if known.get(name) != row
    ]
    if changed:
        connection.execute(replacing(connection, table), changed)


def load(connection: Connection, service: str) -> tuple[State, datetime] | None:
    """The last that was saved, and when; None: never."""
    head = schema.scheduler_states
    found = connection.execute(select(head).where(head.c.service == service)).one_or_none()
    if found is None:
        return None
    table = schema.tenant_states
    rows = connection.execute(
        select(
            table.c.tenant,
            table.c.level,
            table.c.request_level,
            table.c.service_received,
            table.c.credit,
            table.c.weight,
        ).where(table.c.service == service)
    )
    tenants = {name: TenantState(*values) for name, *values in rows}
    state = State(found.virtual_time, found.fairness_window, found.last_contender, found.in_use, tenants)
    return state, found.saved_at

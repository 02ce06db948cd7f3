"""Where the scheduler of a service stood: a row for it, and one for each tenant. A save writes the rows that differ."""

from datetime import datetime
from math import inf
from typing import Any

import numpy as np
from sqlalchemy import Connection, bindparam, delete, func, select

from aps.state import COLUMNS, SchedulerState
from aps.store import schema
from aps.store.upserts import replacing

NAMES = {name: "service_received" if name == "service" else name for name in COLUMNS}  # of the columns in the table
INFINITE = [name for name in COLUMNS if schema.tenant_states.c[NAMES[name]].nullable]  # NULL there: infinite


def save(
    connection: Connection, service: str, at: datetime, state: SchedulerState, known: SchedulerState | None
) -> None:
    """known: that whose rows are there, unless another run has written since; None: nobody knows which are. Then all
    are written."""
    head = schema.scheduler_states
    was = select(head.c.at_ns, head.c.virtual_time).where(head.c.service == service).with_for_update()
    there = connection.execute(was).one_or_none()
    if known is not None and tuple(there or ()) != (known.at_ns, known.virtual_time):
        known = None
    header = {
        "service": service,
        "saved_at": at,
        "at_ns": state.at_ns,
        "virtual_time": state.virtual_time,
        "fairness_window": _or_null(state.fairness_window),
        "last_contender": state.last_contender,
    }
    connection.execute(replacing(connection, head), header)
    table = schema.tenant_states
    its = table.c.service == service
    if known is None:
        connection.execute(delete(table).where(its))
    elif gone := set(known.tenants).difference(state.tenants):
        theirs = [{"gone": name} for name in sorted(gone)]
        connection.execute(delete(table).where(its, table.c.tenant == bindparam("gone")), theirs)
    changed = np.arange(len(state.tenants)) if known is None else state.changed_since(known)
    columns: dict[str, list[Any]] = {NAMES[name]: getattr(state, name)[changed].tolist() for name in COLUMNS}
    for name in INFINITE:
        columns[NAMES[name]] = list(map(_or_null, columns[NAMES[name]]))
    values = zip(*columns.values(), strict=True)
    rows = [
        {"service": service, "tenant": state.tenants[place], **dict(zip(columns, row, strict=True))}
        for place, row in zip(changed.tolist(), values, strict=True)
    ]
    if rows:
        connection.execute(replacing(connection, table), rows)


def load(connection: Connection, service: str) -> tuple[SchedulerState, datetime] | None:
    """The last that was saved, and when; None: never. ValueError, TypeError: the rows are no state."""
    head, table = schema.scheduler_states, schema.tenant_states
    found = connection.execute(select(head).where(head.c.service == service)).one_or_none()
    if found is None:
        return None
    named = {name: table.c[NAMES[name]] for name in COLUMNS}
    columns = [func.coalesce(column, inf) if name in INFINITE else column for name, column in named.items()]
    rows = connection.execute(select(table.c.tenant, *columns).where(table.c.service == service)).all()
    tenants, *values = zip(*rows, strict=True) if rows else [()] * (1 + len(columns))
    state = SchedulerState(
        at_ns=found.at_ns,
        virtual_time=found.virtual_time,
        fairness_window=inf if found.fairness_window is None else found.fairness_window,
        last_contender=found.last_contender,
        tenants=tenants,
        **{name: np.array(column) for name, column in zip(COLUMNS, values, strict=True)},
    )
    return state, found.saved_at


def _or_null(value: float) -> float | None:
    return None if value == inf else value

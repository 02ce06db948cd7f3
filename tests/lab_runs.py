"""Runs made by hand: what figures need of one, from a few rows of instants."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from aps import Policy, Tenant
from aps.lab.run import Run, Series, Setup
from aps.lab.workload import Workload
from aps.profiles import REFERENCE
from aps.verdicts import REASONS

NAN = float("nan")


class Row(NamedTuple):
    """One request. started, first, ended: NaN: never; reason: as in Run."""

    tenant: int
    submitted: float
    started: float
    first: float
    ended: float
    prompt: int = 10
    output: int = 1
    reason: int = 0


def waiting(tenant: int, submitted: float) -> Row:
    """Still waiting when the run stops."""
    return Row(tenant, submitted, NAN, NAN, NAN, output=0, reason=-2)


def refused(tenant: int, submitted: float, reason: int = REASONS.index("queue_tokens_full")) -> Row:
    """Refused at once."""
    return Row(tenant, submitted, NAN, NAN, NAN, output=0, reason=reason)


def series(edges_s: Sequence[float], served: Any = None, backlog: Any = None, tenants: int = 1) -> Series:
    """served, backlog: (bins, tenants); served counts as output."""
    bins = len(edges_s) - 1
    output = np.zeros((bins, tenants)) if served is None else np.asarray(served)
    return Series(
        edges_s=np.array(edges_s, dtype=np.float64),
        waiting=np.zeros((bins, 3)),
        running=np.zeros((bins, 3)),
        held_blocks=np.zeros((bins, 3)),
        served=np.stack((np.zeros_like(output), output), axis=1).astype(np.int64),
        backlog=np.zeros((bins, tenants)) if backlog is None else np.asarray(backlog, dtype=np.float64),
    )


def run_of(
    rows: Sequence[Row], tenants: Sequence[Tenant] = (Tenant("a"),), ended_at: float = 0.0, **changes: Any
) -> Run:
    """A run of those requests on one `reference` GPU."""
    n = len(rows)
    columns = [np.array(column) for column in zip(*rows, strict=True)] if rows else [np.zeros(0) for _ in Row._fields]
    tenant, submitted, started, first, ended, prompt, output, reason = columns
    workload = Workload(
        name="by hand",
        tenants=tuple(tenants),
        tenant=tenant.astype(np.int32),
        at_s=np.sort(submitted.astype(np.float64)),
        prompt_tokens=prompt.astype(np.int32),
        output_tokens=np.maximum(1, output).astype(np.int32),
        max_tokens=np.maximum(1, output).astype(np.int32),
        bid=np.ones(n, dtype=np.int32),
    )
    given: dict[str, Any] = {
        "workload": workload,
        "policy": Policy(),
        "setup": Setup(REFERENCE),
        "submitted_at": submitted.astype(np.float64),
        "started_at": started.astype(np.float64),
        "first_token_at": first.astype(np.float64),
        "finished_at": ended.astype(np.float64),
        "order": np.arange(n),
        "generated": output.astype(np.int32),
        "recomputed_tokens": np.zeros(n, dtype=np.int32),
        "preemptions": np.zeros(n, dtype=np.int32),
        "device": np.zeros(n, dtype=np.int32),
        "batch_size": np.ones(n, dtype=np.int32),
        "reason": reason.astype(np.int32),
        "ended_at": ended_at or float(np.nanmax(ended, initial=0.0)),
        "steps": 0,
        "busy_s": np.zeros(1),
        "slot_s": np.zeros(1),
        "block_s": np.zeros(1),
        "prefill_tokens": 0,
        "output_tokens": 0,
        "swapped_tokens": 0,
        "idle_slot_s": np.zeros(1),
        "all_wait_s": 0.0,
        "all_wait_tokens": np.zeros((2, len(tenants)), dtype=np.int64),
        "batch_sizes": np.zeros(17, dtype=np.int64),
        "released": {},
        "widest_gap": 0.0,
        "gap_bound": float("inf"),
        "series": series([0.0, 1.0], tenants=len(tenants)),
        "stays": None,
    }
    return Run(**given | changes)

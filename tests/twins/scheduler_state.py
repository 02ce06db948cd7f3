"""What of the slow scheduler outlives a restart: section 10 of docs/rules.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.twins.scheduler_checks import MAX_SECONDS, real, whole
from tests.twins.scheduler_model import Bucket, Tenant

if TYPE_CHECKING:
    from tests.twins.scheduler import Scheduler

MOST = 1e100
LONGEST_AGE = 2**61  # ns
BUCKETS = {"": "bucket", "request_": "request_bucket"}  # the prefix of the columns, and where a tenant has it


def state(s: Scheduler, at: int) -> dict[str, Any]:
    tenants = [s._tenants[slot] for slot in sorted(s._tenants)]
    last = s._last_to_stop
    columns: dict[str, Any] = {
        "slot": np.array([t.slot for t in tenants], np.int32),
        "weight": np.array([t.limits.weight for t in tenants], np.float64),
        "service": np.array([t.service for t in tenants], np.float64),
        "credit": np.array([t.credit for t in tenants], np.float64),
    }
    for prefix, where in BUCKETS.items():
        buckets = [getattr(t, where) for t in tenants]
        columns[f"{prefix}rate"] = np.array([b.rate for b in buckets], np.float64)
        columns[f"{prefix}burst"] = np.array([b.burst for b in buckets], np.float64)
        columns[f"{prefix}base"] = np.array([math.inf if b.unlimited else b.base for b in buckets], np.float64)
        columns[f"{prefix}base_at_ns"] = np.array([b.base_at for b in buckets], np.int64)
    return {
        "at_ns": at,
        "virtual_time": s._virtual_time,
        "fairness_window": s._window,
        "last": -1 if last is None or s._contenders() else tenants.index(last),
        "tenants": columns,
    }


def check_restore(s: Scheduler, saved: dict[str, Any], slots: Sequence[int], passed_s: float) -> list[Tenant | None]:
    """Who is who: for each row the tenant here, None for unknown ones."""
    if s._arrivals or s._restored:
        raise ValueError("a state is restored before anything else: the scheduler must be as it was made")
    real("passed_s", passed_s, 0.0, finite=True)
    real("virtual_time", saved["virtual_time"], 0.0, MOST)
    real("fairness_window", saved["fairness_window"], 0.0)
    columns = saved["tenants"]
    at = whole("at_ns", saved["at_ns"], 0, round(MAX_SECONDS * 1e9))
    whole("last", saved["last"], -1, len(slots) - 1)
    for name, column in columns.items():
        if name != "slot" and len(column) != len(slots):
            raise ValueError(f"{name} must have one entry for each of the {len(slots)} slots, not {len(column)}")
    for row in range(len(slots)):
        real("weight", columns["weight"][row], 1e-9, 1e9)
        real("service", columns["service"][row], 0.0, MOST)
        real("credit", columns["credit"][row], 0.0, MOST)
        for prefix in BUCKETS:
            real("rate", columns[f"{prefix}rate"][row], 1e-6)
            burst = real("burst", columns[f"{prefix}burst"][row], 0.0, above=True)
            base = real("base", columns[f"{prefix}base"][row], -MOST, burst)
            whole("base_at_ns", columns[f"{prefix}base_at_ns"][row], -LONGEST_AGE, at)
            if not math.isinf(columns[f"{prefix}rate"][row]) == math.isinf(burst) == math.isinf(base):
                raise ValueError(f"rate, burst and base must all be finite or infinite in row {row}")
    known = [slot for slot in slots if slot]
    if len(set(known)) < len(known):
        raise ValueError("slots must differ, one is there twice")
    return [s._check_slot(slot, s._now) if slot else None for slot in slots]


def restore(s: Scheduler, saved: dict[str, Any], tenants: list[Tenant | None], passed: int, at: int) -> None:
    columns = saved["tenants"]
    s._restored = True
    s._virtual_time = saved["virtual_time"]
    if saved["last"] >= 0:
        s._last_to_stop = tenants[saved["last"]]
        if s._last_to_stop is None:
            service, credit, weight = (float(columns[name][saved["last"]]) for name in ("service", "credit", "weight"))
            s._virtual_time = max(s._virtual_time, service - credit / weight)
    for row, tenant in enumerate(tenants):
        if tenant is None:
            continue
        tenant.service, tenant.credit, saved_weight = (
            float(columns[name][row]) for name in ("service", "credit", "weight")
        )
        if saved_weight != tenant.limits.weight:
            ahead = max(0.0, tenant.service - s._virtual_time)
            tenant.service = s._virtual_time + ahead * saved_weight / tenant.limits.weight
        if s._window < saved["fairness_window"]:
            tenant.service = min(tenant.service, s._virtual_time + s._window / tenant.limits.weight)
        s._set_threshold(tenant)
        for prefix, where in BUCKETS.items():
            bucket: Bucket = getattr(tenant, where)
            rate, burst = bucket.rate, bucket.burst
            bucket.rate, bucket.burst, bucket.base = (
                float(columns[f"{prefix}{name}"][row]) for name in ("rate", "burst", "base")
            )
            age = saved["at_ns"] - int(columns[f"{prefix}base_at_ns"][row])
            bucket.base_at = at - min(age + passed, LONGEST_AGE)
            bucket.configure(rate, burst, at - passed)

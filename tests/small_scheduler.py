"""A scheduler of two plain tenants on one device, and a request that fits it."""

from collections.abc import Callable, Hashable
from typing import Any

from aps import Scheduler, Tenant, Verdict

A, B = Tenant("a"), Tenant("b")
ROOMY: dict[str, Any] = {"prompt_tokens": 60, "max_tokens": 40, "now": 0.0}

Call = Callable[[], object]


def make(*tenants: Tenant, **options: Any) -> Scheduler:
    return Scheduler(tenants or (A, B), **options)


def admitted(verdict: Verdict) -> Hashable:
    assert verdict.admitted, verdict
    return verdict.id

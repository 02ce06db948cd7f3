"""What a scheduler was made with, and a state that it goes on from, as JSON and back."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from math import inf
from numbers import Integral
from typing import Any

from aps.devices import Device
from aps.policy import Limits, Policy
from aps.scheduler import Scheduler
from aps.state import SchedulerState
from aps.tenants import Tenant, as_kept

VERSION = 2  # 1 had no bulk calls and no batches
Json = dict[str, Any]


def encoded(value: object) -> bytes:
    """One line of JSON without blanks. The scheduler's numbers are finite or "inf"."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, default=_number_of).encode()


def _number_of(value: Any) -> int | float:
    """NumPy's numbers and fractions, which are as good as ints and floats everywhere else."""
    return int(value) if isinstance(value, Integral) else float(value)


def tenant_fields(tenant: Tenant) -> Json:
    """A tenant's fields, without those that set no bound."""
    return {name: value for name, value in asdict(tenant).items() if value not in (None, inf)}


def tenant_of(given: Mapping[str, Any]) -> Tenant:
    """ValueError, TypeError as of `aps.Tenant`; keys that it has not are passed over."""
    return Tenant(**_known(Tenant, as_kept(given)))


def header(scheduler: Scheduler, tenants: Iterable[Tenant], more: Mapping[str, Any]) -> Json:
    """Of one file: how to make the scheduler again, and `more`, which nothing depends on."""
    return {
        "aps_record": VERSION,
        **more,
        "epoch": scheduler.epoch,
        "block_tokens": scheduler.block_tokens,
        "policy": {name: plain(value) for name, value in asdict(scheduler.policy).items()},
        "limits": asdict(scheduler.limits),
        "devices": [asdict(device) for device in scheduler.devices],
        "tenants": [tenant_fields(tenant) for tenant in tenants],
    }


def scheduler_of(given: Mapping[str, Any]) -> Scheduler:
    """A fresh scheduler as a header of version 2 says. KeyError, TypeError or ValueError: it does not say so."""
    return Scheduler(
        [tenant_of(tenant) for tenant in given["tenants"]],
        policy=policy_of(given),
        devices=[Device(**_known(Device, device)) for device in given["devices"]],
        limits=limits_of(given),
        block_tokens=given["block_tokens"],
        epoch=given["epoch"],
    )


def policy_of(given: Mapping[str, Any]) -> Policy:
    """Of a header. KeyError, TypeError or ValueError: it does not say so."""
    return Policy(**_known(Policy, _numbers(given["policy"])))


def limits_of(given: Mapping[str, Any]) -> Limits:
    """Of a header. KeyError, TypeError or ValueError: it does not say so."""
    return Limits(**_known(Limits, given["limits"]))


def state_fields(state: SchedulerState) -> Json:
    """A state's fields; columns as lists."""
    given = {field.name: getattr(state, field.name) for field in fields(state)}
    return {
        name: list(map(plain, value.tolist())) if hasattr(value, "tolist") else plain(value)
        for name, value in given.items()
    }


def state_of(given: Json) -> SchedulerState:
    """What `state_fields` made of it, back, to the last bit. ValueError, TypeError as of `aps.SchedulerState`."""
    names = ("tenants", "last_contender")  # a tenant may be called "inf"
    numbers = {
        name: list(map(number, value)) if isinstance(value, list) else number(value)
        for name, value in given.items()
        if name not in names
    }
    return SchedulerState(**_known(SchedulerState, given | numbers))


def plain(value: Any) -> Any:
    """Infinity is "inf"."""
    return "inf" if value == inf else value


def number(value: Any) -> Any:
    """What `plain` made of it, back."""
    return inf if value == "inf" else value


def _numbers(given: Mapping[str, Any]) -> Json:
    return {name: number(value) for name, value in given.items()}


def _known(kind: Any, given: Mapping[str, Any]) -> Json:
    names = {field.name for field in fields(kind)}
    return {name: value for name, value in given.items() if name in names}

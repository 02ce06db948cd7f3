"""What the slow scheduler shows of itself: `explain` and `snapshot`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.twins.scheduler_kv import ceil_div
from tests.twins.scheduler_model import COUNTERS, NEVER, Request, State

if TYPE_CHECKING:
    from tests.twins.scheduler import Scheduler


def explain(s: Scheduler, request: Request, at: int) -> dict[str, Any]:
    waits_for = _waits_for(s, request, at)
    earlier = [r for r in s._waiting(request.tenant) if s._order(r) < s._order(request)]
    return {
        "state": request.state.name.lower(),
        "tenant": request.tenant.slot,
        "bid": request.bid,
        "effective_bid": _effective_bid(s, request, at),
        "position": len(earlier) if request.state is State.WAITING else 0,
        "waits_for": waits_for,
        "start_in_s": _start_in_s(s, request, waits_for, at),
        "computed": request.computed if request.state is State.RUNNING else 0,
        "generated": request.generated,
        "prefill": request.prefill_target - request.computed if request.state is State.RUNNING else s._prefill(request),
        "device": -1 if request.device is None else request.device.index,
        "preemptions": request.preemptions,
        "passes": request.passes,
    }


def _effective_bid(s: Scheduler, request: Request, at: int) -> float:
    if s._horizon is None:
        return float(request.bid)
    if s._horizon == 0:
        return math.inf
    return request.bid + 9.0 * (at - request.arrival) / s._horizon


def _waits_for(s: Scheduler, request: Request, at: int) -> str:
    idle = [device for device in s._devices if not s._running(device)]
    free = [device for device in s._devices if len(s._running(device)) < device.slots]
    if request.state is State.RUNNING:
        return ""
    if request.state is State.RETURNING:
        return "kv" if free else "slot"
    if not request.tenant.contending:
        return request.tenant.held_by
    if not s._in_window(request.tenant):
        return "share"
    if any(device.reserved is request for device in s._devices):
        return "kv"
    if s._micro and idle and all(s._window_end(device) > at and not s._filled(device) for device in idle):
        return "batch_window"
    return "turn" if (idle if s._micro else free) else "slot"


def _start_in_s(s: Scheduler, request: Request, waits_for: str, at: int) -> float | None:
    """A lower bound where the page gives one, else None."""
    if waits_for == "rate" and request.tenant.event != NEVER:
        return s._wait_s(request.tenant.event)
    if waits_for == "batch_window":
        return s._wait_s(min(s._window_end(d) for d in s._devices if not s._running(d)))
    return None


def snapshot(s: Scheduler, at: int) -> dict[str, Any]:
    tenants = [s._tenants[slot] for slot in sorted(s._tenants)]
    columns: dict[str, Any] = {
        "slot": [t.slot for t in tenants],
        "state": [s.tenant_state(t.slot) for t in tenants],
        "weight": [t.limits.weight for t in tenants],
        "service": [t.service for t in tenants],
        "credit": [t.credit for t in tenants],
        "threshold": [t.threshold for t in tenants],
        "contending": [t.contending for t in tenants],
        "in_window": [s._in_window(t) for t in tenants],
        "level": [t.bucket.level(at) for t in tenants],
        "request_level": [t.request_bucket.level(at) for t in tenants],
        "waiting": [len(s._waiting(t)) for t in tenants],
        "waiting_tokens": [sum(r.tokens for r in s._waiting(t)) for t in tenants],
        "in_flight": [s._in_flight(t) for t in tenants],
        "held_blocks": [s._held_blocks(t) for t in tenants],
        **{name: [t.counters[name] for t in tenants] for name in COUNTERS},
    }
    devices = {
        "slots": [d.slots for d in s._devices],
        "running": [len(s._running(d)) for d in s._devices],
        "held_blocks": [sum(_blocks_now(s, r) for r in s._running(d)) for d in s._devices],
        "max_blocks": [sum(r.max_blocks for r in s._running(d)) for d in s._devices],
        "limit": [d.limit for d in s._devices],
        "reserved": [0 if d.reserved is None else d.reserved.handle for d in s._devices],
    }
    return {
        "virtual_time": s._virtual_time,
        "widest_gap": s._widest_gap,
        "waiting": len(s._waiting()),
        "waiting_tokens": sum(r.tokens for r in s._waiting()),
        "contending": len(s._contenders()),
        "returning": len(s._returning()),
        "tenants": {name: np.array(values) for name, values in columns.items()},
        "devices": {name: np.array(values) for name, values in devices.items()},
    }


def _blocks_now(s: Scheduler, request: Request) -> int:
    return min(request.max_blocks, ceil_div(request.prompt_tokens + request.generated, s._block_tokens))

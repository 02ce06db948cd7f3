"""Costs, the order, who contends: sections 2 and 5 of docs/rules.md, recomputed from all requests every time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tests.twins.scheduler_kv import ceil_div
from tests.twins.scheduler_model import NEVER, Device, Interval, Request, State, Tenant


class Rules:
    """The state of the slow scheduler and what everything else is written with."""

    _epoch: float
    _now: float
    _now_ns: int
    _handles: int
    _arrivals: int
    _ended: list[tuple[int, int]]
    _block_tokens: int
    _horizon: int | None
    _window: float
    _input_weight: float
    _output_weight: float
    _expected_output: int
    _bid_premium: float
    _max_passes: int
    _backfill_depth: int
    _preemption: int
    _preempt_margin: int
    _max_preemptions: int
    _micro: bool
    _batch_window: int
    _fill_target: float
    _max_queued: int
    _max_queued_tokens: int
    _max_context: int
    _devices: list[Device]
    _all_blocks: int
    _tenants: dict[int, Tenant]
    _requests: dict[int, Request]
    _virtual_time: float
    _widest_gap: float
    _last_to_stop: Tenant | None
    _something_ready: bool
    _ready_since: int
    _changes: int
    _interval: Interval
    started: np.ndarray[Any, np.dtype[np.int64]]
    preempted: np.ndarray[Any, np.dtype[np.int64]]
    preempted_count: int
    release_reason: int
    retry_after: float
    largest: int

    def _play(self, now: float) -> int:
        raise NotImplementedError

    # -- costs and order (section 2)

    def _premium(self, bid: int) -> float:
        return 1.0 + self._bid_premium * (bid - 1)

    def _bucket_cost(self, request: Request) -> float:
        """Of a waiting request, at the bid it has."""
        return request.tokens * self._premium(request.bid)

    def _service_cost(self, prompt: int, output: int, bid: int) -> float:
        return (self._input_weight * prompt + self._output_weight * output) * self._premium(bid)

    def _order(self, request: Request) -> tuple[int, int]:
        """Sorts by policy order, best first."""
        if self._horizon is None:
            return (-request.bid, request.number)
        return (-(request.bid * self._horizon - 9 * request.arrival), request.number)

    # -- who is where

    def _of(self, tenant: Tenant) -> list[Request]:
        return [r for r in self._requests.values() if r.tenant is tenant]

    def _waiting(self, tenant: Tenant | None = None) -> list[Request]:
        of_whom = self._requests.values() if tenant is None else self._of(tenant)
        return [r for r in of_whom if r.state is State.WAITING]

    def _returning(self) -> list[Request]:
        return [r for r in self._requests.values() if r.state is State.RETURNING]

    def _running(self, device: Device) -> list[Request]:
        return [r for r in self._requests.values() if r.device is device]

    def _in_flight(self, tenant: Tenant) -> int:
        return sum(r.state is not State.WAITING for r in self._of(tenant))

    def _held_blocks(self, tenant: Tenant) -> int:
        return sum(r.max_blocks for r in self._of(tenant) if r.state is State.RUNNING)

    def _share(self, tenant: Tenant) -> float:
        """In blocks; a share of 1 is no cap."""
        share = tenant.limits.kv_share
        return math.inf if share == 1.0 else math.floor(share * self._all_blocks)

    def _contenders(self) -> list[Tenant]:
        return [t for t in self._tenants.values() if t.contending]

    def _in_window(self, tenant: Tenant) -> bool:
        return tenant.contending and tenant.threshold <= self._virtual_time

    def _ready(self) -> bool:
        return bool(self._contenders() or self._returning())

    # -- contending, V, lift, credit (section 5)

    def _set_threshold(self, tenant: Tenant) -> None:
        tenant.threshold = tenant.service - self._window / tenant.limits.weight

    def _after_charge(self, tenant: Tenant, cost: float) -> tuple[float, float]:
        """The service and the credit that a charge would leave."""
        used = min(tenant.credit, cost)
        return tenant.service + (cost - used) / tenant.limits.weight, tenant.credit - used

    def _charge(self, tenant: Tenant, cost: float) -> None:
        tenant.service, tenant.credit = self._after_charge(tenant, cost)
        self._set_threshold(tenant)

    def _held_by(self, tenant: Tenant, request: Request, at: int) -> str:
        """Which of its tenant's own limits forbids a waiting request; "" when none."""
        if self._in_flight(tenant) >= tenant.limits.max_in_flight:
            return "in_flight"
        if self._held_blocks(tenant) + request.max_blocks > self._share(tenant):
            return "kv_share"
        if not request.paid and not tenant.bucket.affords(self._bucket_cost(request), at):
            return "rate"
        return ""

    def _evaluate(self, tenant: Tenant, at: int) -> None:
        """Whether the tenant contends now; its next event."""
        tenant.event, tenant.held_by = NEVER, ""
        first = min(self._waiting(tenant), key=self._order, default=None)
        if first is not None:
            tenant.held_by = self._held_by(tenant, first, at)
            if tenant.held_by == "rate":
                tenant.event = tenant.bucket.affordable_at(self._bucket_cost(first), at)
        may_go = first is not None and not tenant.held_by
        if may_go and not tenant.contending:
            self._begin_to_contend(tenant)
        elif tenant.contending and not may_go:
            tenant.contending = False
            self._last_to_stop = tenant

    def _begin_to_contend(self, tenant: Tenant) -> None:
        if not self._contenders() and self._last_to_stop is not None:
            self._raise_to(self._last_to_stop)
        tenant.service = max(self._virtual_time, tenant.service - tenant.credit / tenant.limits.weight)
        tenant.credit = 0.0
        self._set_threshold(tenant)
        tenant.contending = True

    def _raise_to(self, last: Tenant) -> None:
        self._virtual_time = max(self._virtual_time, last.service - last.credit / last.limits.weight)

    def _end_step(self, at: int) -> None:
        """The end of each atomic step."""
        self._changes += 1
        contenders = self._contenders()
        if contenders:
            self._virtual_time = max(self._virtual_time, min(t.service for t in contenders))
            gaps = [(t.service - self._virtual_time) * t.limits.weight for t in contenders]
            self._widest_gap = max(self._widest_gap, *gaps)
        was_ready, self._something_ready = self._something_ready, self._ready()
        if self._something_ready and not was_ready:
            self._ready_since = at

    def _after(self, tenant: Tenant, at: int) -> None:
        """A change of one tenant's queue, bucket, caps or flights is complete."""
        self._evaluate(tenant, at)
        if tenant.draining and not self._of(tenant):
            del self._tenants[tenant.slot]
            if self._last_to_stop is tenant:
                if not self._contenders():
                    self._raise_to(tenant)
                self._last_to_stop = None
        self._end_step(at)

    def _blocks(self, tokens: int) -> int:
        return ceil_div(tokens, self._block_tokens)

    def _pay(self, request: Request, at: int) -> None:
        request.tenant.bucket.take(self._bucket_cost(request), at)
        request.paid = True

    # -- leaving

    def _leave_device(self, request: Request, at: int) -> None:
        """Of a running request; a returning one has left already."""
        device, request.device = request.device, None
        if device is not None and not self._running(device):
            device.idle_since = at

    def _give_up_reservation(self, request: Request) -> None:
        for device in self._devices:
            if device.reserved is request:
                device.reserved = None

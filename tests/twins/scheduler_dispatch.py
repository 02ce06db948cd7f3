"""Who goes: section 6 of docs/rules.md."""

from __future__ import annotations

import math

import numpy as np

from tests.twins import scheduler_kv as kv
from tests.twins.scheduler_checks import whole
from tests.twins.scheduler_model import Device, Release, Request, State, Tenant
from tests.twins.scheduler_rules import Rules


class Dispatch(Rules):
    """Batches, backfill, preemption."""

    # -- a request on a device

    def _space(self, device: Device) -> kv.Space:
        return kv.Space(device.slots, device.limit, device.token_budget, self._block_tokens)

    def _claims(self, requests: list[Request]) -> list[kv.Claim]:
        """Of running requests."""
        return [
            kv.Claim(
                r.prompt_tokens,
                r.max_tokens,
                r.generated,
                r.prefill_target - r.computed,
                (-r.start_bid, r.start_number),
            )
            for r in requests
        ]

    def _claim(self, request: Request, number: float) -> kv.Claim:
        """Of a request that would start with this start number."""
        order = (-request.bid, number)
        return kv.Claim(request.prompt_tokens, request.max_tokens, request.generated, self._prefill(request), order)

    def _prefill(self, request: Request) -> int:
        """Tokens to prefill at its next start."""
        if request.state is State.WAITING:
            return request.prompt_tokens
        if self._preemption == 2:
            return request.prefill_target - request.computed  # as it was when it left
        return request.prompt_tokens + request.generated

    def _fits(self, request: Request, device: Device, running: list[Request]) -> bool:
        return kv.fits(self._claim(request, device.starts + 1), self._claims(running), self._space(device))

    def _earliest_step(self, request: Request, device: Device) -> int:
        claims = self._claims(self._running(device))
        return kv.earliest_step(self._claim(request, math.inf), claims, self._space(device))

    def _start(self, request: Request, device: Device, at: int, victim_tokens: int = 0) -> None:
        tenant = request.tenant
        cost = 0.0
        if request.state is State.WAITING:
            if not request.paid:
                self._pay(request, at)
            request.charge_bid = request.bid
            request.charged_output = request.expected_output
            cost = self._service_cost(request.prompt_tokens, request.expected_output, request.charge_bid)
            cost = cost + self._input_weight * victim_tokens
            tenant.interval.dispatched(request.arrival, at)
            self._interval.dispatched(request.arrival, at)
            tenant.counters["started"] += 1
        self._charge(tenant, cost)
        self._give_up_reservation(request)
        device.starts += 1
        request.prefill_target = self._prefill(request)
        request.state, request.device = State.RUNNING, device
        request.start_number, request.start_bid = device.starts, request.bid
        request.computed, request.generated_before = 0, request.generated
        self._after(tenant, at)

    def _preempt(self, request: Request, at: int) -> None:
        request.preemptions += 1
        request.tenant.counters["preempted"] += 1
        self._return(request, at)

    def _return(self, request: Request, at: int) -> None:
        self._leave_device(request, at)
        request.state = State.RETURNING
        self._after(request.tenant, at)

    # -- dispatch (section 6)

    def next_batch(self, device: int, now: float) -> int:
        index = whole("device", device, -(2**63), 2**63 - 1)
        if not 0 <= index < len(self._devices):
            raise IndexError(f"device must be in 0..{len(self._devices) - 1}, not {index}")
        at = self._play(now)
        release, started, victims = Release.CONTINUOUS, [], []
        if self._micro:
            release = self._micro_release(self._devices[index], at)
        if release is not Release.NOT_RELEASED:
            started = self._assemble(self._devices[index], at)
            if not started:
                self._devices[index].vain = self._changes
        if self._preemption and not self._micro:
            victims = self._preempt_for_better(self._devices[index], started, at)
        self.started = np.array([r.handle for r in started], np.int64)
        self.preempted = np.array([r.handle for r in victims], np.int64)
        self.preempted_count = len(victims)
        self.release_reason = int(release if started else Release.NOT_RELEASED)
        return len(started)

    def _micro_release(self, device: Device, at: int) -> Release:
        if self._running(device) or not self._ready():
            return Release.NOT_RELEASED
        if self._filled(device):
            return Release.FILL
        return Release.WINDOW if self._window_end(device) <= at else Release.NOT_RELEASED

    def _window_end(self, device: Device) -> int:
        return max(self._ready_since, device.idle_since) + self._batch_window

    def _filled(self, device: Device) -> bool:
        coming = [r for r in self._waiting() if r.tenant.contending] + self._returning()
        blocks = sum(r.max_blocks for r in coming)
        enough_requests = min(len(coming), device.slots) >= self._fill_target * device.slots
        return enough_requests or min(blocks, device.limit) >= self._fill_target * device.limit

    def _assemble(self, device: Device, at: int) -> list[Request]:
        if len(self._running(device)) == device.slots:
            return []
        device.reserved = None
        started: list[Request] = []
        aside: list[Request] = []
        guarded: list[Tenant] = []
        step = 0
        while len(self._running(device)) < device.slots and len(aside) <= self._backfill_depth:
            candidates = [r for r in self._waiting() if self._in_window(r.tenant)] + self._returning()
            candidates = [r for r in candidates if r not in aside]
            if not candidates:
                break
            c = min(candidates, key=self._order)
            reserved: Request | None = device.reserved
            waiting = c.state is State.WAITING
            if waiting and self._held_by(c.tenant, c, at) != "":
                aside.append(c)
            elif c.max_blocks > device.limit:
                if waiting:
                    guarded.append(c.tenant)
                aside.append(c)
            elif waiting and c.tenant in guarded and not self._stays(c):
                aside.append(c)
            elif reserved is None or self._order(c) < self._order(reserved):
                if self._fits(c, device, self._running(device)):
                    self._start(c, device, at)
                    started.append(c)
                    if reserved is not None:
                        step = self._earliest_step(reserved, device)
                    continue
                if not any(other.reserved is c for other in self._devices):
                    device.reserved = c
                    step = self._earliest_step(c, device)
                if c.state is State.WAITING:
                    guarded.append(c.tenant)
                aside.append(c)
                if self._max_passes == 0:
                    break
            else:
                late = self._may_pass(c, reserved, step, device)
                if late is None:
                    aside.append(c)
                    continue
                self._start(c, device, at)
                started.append(c)
                reserved.passes += late
        return started

    def _stays(self, c: Request) -> bool:
        """Whether its tenant would still be in the window if it were charged for c."""
        tenant = c.tenant
        service, _ = self._after_charge(tenant, self._service_cost(c.prompt_tokens, c.expected_output, c.bid))
        others = [t.service for t in self._tenants.values() if t.contending and t is not tenant]
        virtual_time = max(self._virtual_time, min([service, *others]))
        return service - self._window / tenant.limits.weight <= virtual_time

    def _may_pass(self, c: Request, reserved: Request, step: int, device: Device) -> bool | None:
        """Whether c would end after the reserved step; None when it may not start before the holder."""
        running = self._running(device)
        if not self._fits(c, device, running):
            return None
        space, claims = self._space(device), self._claims(running)
        claim = self._claim(c, device.starts + 1)
        if not kv.fits_at(self._claim(reserved, math.inf), step, [*claims, claim], space):
            return None
        late = kv.last_step(claim, claims, space) > step
        return None if late and reserved.passes >= self._max_passes else late

    def _preempt_for_better(self, device: Device, started: list[Request], at: int) -> list[Request]:
        """Appends the preemptors to `started`; returns the victims."""
        preempted: list[Request] = []
        while True:
            victims = [r for r in self._running(device) if r.preemptions < self._max_preemptions and r not in started]
            if not victims:
                return preempted
            least = min(r.bid for r in victims) + self._preempt_margin
            heads = [r for r in self._lane_heads() if r.bid >= least]
            c = min(heads, key=self._order, default=None)
            if c is None or c.max_blocks > device.limit:
                return preempted
            if c.state is State.WAITING and self._held_by(c.tenant, c, at):
                return preempted
            victims = [r for r in victims if r.bid <= c.bid - self._preempt_margin]
            victims.sort(key=lambda r: (r.bid, -r.start_number))
            chosen = self._enough_of(victims, c, device)
            if not chosen:
                return preempted
            tokens = sum(r.computed_or_generated for r in chosen)
            for victim in chosen:
                self._preempt(victim, at)
            preempted += chosen
            self._start(c, device, at, tokens)
            started.append(c)

    def _enough_of(self, victims: list[Request], c: Request, device: Device) -> list[Request]:
        """The first few victims without which c fits; [] when all of them do not suffice."""
        for count in range(1, len(victims) + 1):
            left = [r for r in self._running(device) if r not in victims[:count]]
            if self._fits(c, device, left):
                return victims[:count]
        return []

    def _lane_heads(self) -> list[Request]:
        lanes: dict[tuple[Tenant | None, int], Request] = {}
        for request in [r for r in self._waiting() if self._in_window(r.tenant)] + self._returning():
            lane = (request.tenant if request.state is State.WAITING else None, request.bid)
            if lane not in lanes or request.number < lanes[lane].number:
                lanes[lane] = request
        return list(lanes.values())

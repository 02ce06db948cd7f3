"""Time and requests: sections 1, 4 and 8 of docs/rules.md."""

from __future__ import annotations

import math
from collections.abc import Callable

from tests.twins.scheduler_checks import MAX_SECONDS, MAX_TOKENS, real, whole
from tests.twins.scheduler_dispatch import Dispatch
from tests.twins.scheduler_model import NEVER, Bucket, Reason, Request, State, Tenant


class Requests(Dispatch):
    """What happens to one request, from its submission to its end."""

    # -- time (section 1)

    def _check_now(self, now: float) -> int:
        now = real("now", now, self._epoch, finite=True)
        if now - self._epoch > MAX_SECONDS:
            raise ValueError(f"now must be at most {MAX_SECONDS:g} s after the epoch {self._epoch}, not {now}")
        at = round((now - self._epoch) * 1e9)
        if at < self._now_ns:
            raise ValueError(f"now must not go backwards: at least {self._now}, not {now}")
        return at

    def _play(self, now: float) -> int:
        """Expiries and affordabilities up to and including now, in order of time."""
        until = self._check_now(now)
        while True:
            events: list[tuple[int, int, int, int]] = [
                (r.deadline, 0, r.tenant.slot, r.number) for r in self._waiting() if r.deadline <= until
            ]
            events += [(t.event, 1, t.slot, 0) for t in self._tenants.values() if t.event <= until]
            if not events:
                break
            at, kind, slot, number = min(events)
            if kind == 0:
                request = next(r for r in self._waiting() if r.number == number)
                self._end_waiting(request, Reason.DEADLINE_EXPIRED, at)
                self._after(request.tenant, at)
            else:
                self._after(self._tenants[slot], at)
        self._now_ns = until
        self._now = float(now)
        return until

    def _instant_s(self, at: int) -> float:
        """The instant in the caller's seconds, never before it."""
        if at == NEVER:
            return math.inf
        seconds = self._epoch + at * 1e-9
        while round((seconds - self._epoch) * 1e9) < at:
            seconds = math.nextafter(seconds, math.inf)
        return seconds

    def _wait_s(self, at: int) -> float:
        """From the caller's now to the instant, never too short."""
        if at <= self._now_ns:
            return 0.0
        instant = self._instant_s(at)
        wait = instant - self._now
        while self._now + wait < instant:
            wait = math.nextafter(wait, math.inf)
        return wait

    # -- arguments

    def _check_slot(self, slot: int, now: float) -> Tenant:
        slot = whole("slot", slot, -(2**63), 2**63 - 1)
        at = self._check_now(now)
        tenant = self._tenants.get(slot)
        if tenant is None or (tenant.draining and all(self._expires(r, at) for r in self._of(tenant))):
            raise KeyError(f"no tenant has slot {slot}")
        return tenant

    @staticmethod
    def _expires(request: Request, at: int) -> bool:
        return request.state is State.WAITING and request.deadline <= at

    def _check_handle(self, handle: int, now: float | None = None) -> Request:
        handle = whole("handle", handle, -(2**63), 2**63 - 1)
        request = self._requests.get(handle)
        if request is None or (now is not None and self._expires(request, self._check_now(now))):
            raise KeyError(f"no request has handle {handle}")
        return request

    def _check_running(self, handle: int, now: float) -> Request:
        request = self._check_handle(handle, now)
        if request.state is not State.RUNNING:
            raise ValueError(f"handle must be of a running request, and {handle} is {request.state.name.lower()}")
        return request

    # -- requests (sections 4 and 8)

    def submit(
        self,
        tenant: int,
        prompt_tokens: int,
        max_tokens: int,
        bid: int,
        now: float,
        deadline_at: float = math.inf,
        expected_output: int = -1,
    ) -> int:
        owner = self._check_slot(tenant, now)
        if owner.draining:
            raise ValueError(f"tenant must be active, and {tenant} is draining")
        prompt_tokens = whole("prompt_tokens", prompt_tokens, 1, MAX_TOKENS)
        max_tokens = whole("max_tokens", max_tokens, 1, MAX_TOKENS)
        bid = min(whole("bid", bid, 1, 10), owner.limits.max_bid)
        deadline_at = real("deadline_at", deadline_at, -math.inf)
        forecast = whole("expected_output", expected_output, -1, MAX_TOKENS)
        span = min(max(deadline_at - self._epoch, 0.0), 2 * MAX_SECONDS)
        deadline = NEVER if span > MAX_SECONDS else round(span * 1e9)
        if forecast < 0:
            forecast = self._expected_output
        if forecast < 0:
            forecast = max_tokens
        at = self._play(now)

        request = Request(
            handle=self._handles + 1,
            tenant=owner,
            prompt_tokens=prompt_tokens,
            max_tokens=max_tokens,
            expected_output=min(max_tokens, forecast),
            bid=bid,
            number=self._arrivals + 1,
            arrival=at,
            deadline=deadline,
            max_blocks=self._blocks(prompt_tokens + max_tokens),
        )
        self.retry_after, self.largest = 0.0, 0
        reason = self._judge(request, at)
        if reason is not Reason.ADMITTED:
            rejected = reason in (
                Reason.EXCEEDS_CONTEXT,
                Reason.EXCEEDS_KV_CACHE,
                Reason.EXCEEDS_MAX_REQUEST,
                Reason.EXCEEDS_KV_SHARE,
                Reason.EXCEEDS_BURST,
                Reason.EXCEEDS_QUEUE,
                Reason.EXCEEDS_TENANT_QUEUE,
            )
            owner.counters["rejected" if rejected else "throttled"] += 1
            return -int(reason)
        self._handles += 1
        self._arrivals += 1
        owner.counters["admitted"] += 1
        owner.request_bucket.take(1.0, at)
        if not owner.limits.queue_over_rate:
            self._pay(request, at)
        self._requests[request.handle] = request
        self._after(owner, at)
        return request.handle

    def _judge(self, request: Request, at: int) -> Reason:
        """Section 4's table; sets `largest` or `retry_after`."""
        tenant = request.tenant
        p, m = request.prompt_tokens, request.max_tokens
        limits = tenant.limits
        largest_limit = max(device.limit for device in self._devices)
        possible: dict[Reason, Callable[[int], bool]] = {
            Reason.EXCEEDS_CONTEXT: lambda m: p + m <= self._max_context,
            Reason.EXCEEDS_KV_CACHE: lambda m: self._blocks(p + m) <= largest_limit,
            Reason.EXCEEDS_MAX_REQUEST: lambda m: p + m <= limits.max_request_tokens,
            Reason.EXCEEDS_KV_SHARE: lambda m: self._blocks(p + m) <= self._share(tenant),
            Reason.EXCEEDS_BURST: lambda m: (p + m) * self._premium(request.bid) <= tenant.bucket.burst,
            Reason.EXCEEDS_QUEUE: lambda m: self._max_queued > 0 and p + m <= self._max_queued_tokens,
            Reason.EXCEEDS_TENANT_QUEUE: lambda m: limits.max_queued > 0 and p + m <= limits.max_queued_tokens,
        }
        for reason, passes in possible.items():
            if not passes(m):
                works, fails = 0, m
                while fails - works > 1:
                    middle = (works + fails) // 2
                    works, fails = (middle, fails) if passes(middle) else (works, middle)
                self.largest = works
                return reason
        if request.deadline <= at:
            return Reason.DEADLINE_EXPIRED
        everyone, own = self._waiting(), self._waiting(tenant)
        tokens = sum(r.tokens for r in everyone) + p + m
        room = {
            Reason.QUEUE_FULL: len(everyone) < self._max_queued or self._has_place(everyone, own),
            Reason.QUEUE_TOKENS_FULL: tokens <= self._max_queued_tokens or self._has_room(tokens, own, p + m),
            Reason.TENANT_QUEUE_FULL: len(own) < limits.max_queued,
            Reason.TENANT_QUEUE_TOKENS_FULL: sum(r.tokens for r in own) + p + m <= limits.max_queued_tokens,
        }
        for reason, there_is_room in room.items():
            if not there_is_room:
                of_tenant = reason in (Reason.TENANT_QUEUE_FULL, Reason.TENANT_QUEUE_TOKENS_FULL)
                self.retry_after = (tenant.interval if of_tenant else self._interval).retry_after()
                return reason
        if not tenant.request_bucket.affords(1.0, at):
            self._retry_when_affordable(tenant.request_bucket, 1.0, at)
            return Reason.OVER_REQUEST_RATE
        cost = self._bucket_cost(request)
        if not limits.queue_over_rate and not tenant.bucket.affords(cost, at):
            self._retry_when_affordable(tenant.bucket, cost, at)
            return Reason.OVER_RATE
        return Reason.ADMITTED

    def _has_place(self, everyone: list[Request], own: list[Request]) -> bool:
        part = max(1, self._max_queued // len(self._tenants))
        return len(own) < part and len(everyone) < 2 * self._max_queued

    def _has_room(self, tokens: int, own: list[Request], asked: int) -> bool:
        """`tokens`: of all that wait and this request."""
        part = self._max_queued_tokens // len(self._tenants)
        in_part = not own or sum(r.tokens for r in own) + asked <= part
        return in_part and tokens <= 2 * self._max_queued_tokens

    def _retry_when_affordable(self, bucket: Bucket, cost: float, at: int) -> None:
        self.retry_after = min(self._wait_s(bucket.affordable_at(cost, at)), MAX_SECONDS)

    def progress(self, handle: int, computed: int, generated: int, now: float) -> None:
        request = self._check_running(handle, now)
        computed = whole("computed", computed, 0, MAX_TOKENS)
        generated = whole("generated", generated, 0, MAX_TOKENS)
        if not request.computed <= computed <= request.prefill_target:
            raise ValueError(
                f"computed must be in {request.computed}..{request.prefill_target} for handle {handle}, not {computed}"
            )
        if generated < request.generated:
            raise ValueError(f"generated must be at least {request.generated} for handle {handle}, not {generated}")
        at = self._play(now)
        if self._progress(request, computed, generated):
            self._end_step(at)

    def _progress(self, request: Request, computed: int, generated: int) -> bool:
        """Whether it charges anything."""
        request.computed = request.prefill_target if generated > request.generated else computed
        request.generated = generated
        if generated > request.charged_output:
            surplus = self._output_weight * (generated - request.charged_output)
            self._charge(request.tenant, surplus * self._premium(request.charge_bid))
            request.charged_output = generated
            return True
        return False

    def settle(self, handle: int, output_tokens: int, now: float) -> float:
        request = self._check_running(handle, now)
        output_tokens = whole("output_tokens", output_tokens, 0, MAX_TOKENS)
        at = self._play(now)
        if output_tokens > request.generated:
            self._progress(request, request.computed, output_tokens)
        request.tenant.counters["finished"] += 1
        return self._settle(request, request.prompt_tokens, output_tokens, at)

    def cancel(self, handle: int, now: float) -> float:
        request = self._check_handle(handle, now)
        at = self._play(now)
        request.tenant.counters["cancelled"] += 1
        if request.state is State.WAITING:
            self._drop_waiting(request, at)
            self._after(request.tenant, at)
            return 0.0
        prompt = request.prompt_tokens
        computed = request.computed if request.state is State.RUNNING else 0
        used = prompt if request.generated > 0 else min(prompt, computed)
        return self._settle(request, used, request.generated, at)

    def _settle(self, request: Request, prompt_used: int, output: int, at: int) -> float:
        tenant, premium = request.tenant, self._premium(request.charge_bid)
        charged = self._service_cost(request.prompt_tokens, request.charged_output, request.charge_bid)
        tenant.credit = tenant.credit + (charged - self._service_cost(prompt_used, output, request.charge_bid))
        reserved = request.tokens * premium
        used = (prompt_used + output) * premium
        if reserved - used > 0:
            tenant.bucket.give_back(reserved - used, at)
        else:
            tenant.bucket.take(used - reserved, at)
        tenant.counters["prompt_tokens"] += prompt_used
        tenant.counters["output_tokens"] += output
        tenant.counters["charged_tokens"] += used
        self._leave_device(request, at)
        self._forget(request)
        self._after(tenant, at)
        return used

    def _end_waiting(self, request: Request, reason: Reason, at: int) -> None:
        """A waiting request ends without a call of its own."""
        request.tenant.counters["expired" if reason is Reason.DEADLINE_EXPIRED else "rejected"] += 1
        self._ended.append((request.handle, int(reason)))
        self._drop_waiting(request, at)

    def _drop_waiting(self, request: Request, at: int) -> None:
        if request.paid:
            request.tenant.bucket.give_back(self._bucket_cost(request), at)
        self._forget(request)

    def _forget(self, request: Request) -> None:
        self._give_up_reservation(request)
        del self._requests[request.handle]

    def preempt(self, handle: int, now: float) -> None:
        request = self._check_running(handle, now)
        self._preempt(request, self._play(now))

    def restart(self, handle: int, now: float) -> None:
        request = self._check_running(handle, now)
        at = self._play(now)
        surplus = request.charged_output - request.expected_output
        if surplus > 0:
            tenant, premium = request.tenant, self._premium(request.charge_bid)
            tenant.credit = tenant.credit + (self._output_weight * surplus) * premium
        request.charged_output = request.expected_output
        request.generated = request.computed = 0
        request.prefill_target = request.prompt_tokens
        self._return(request, at)

    def rebid(self, handle: int, bid: int, now: float) -> int:
        request = self._check_handle(handle, now)
        tenant = request.tenant
        bid = min(whole("bid", bid, 1, 10), tenant.limits.max_bid)
        at = self._play(now)
        self.retry_after = 0.0
        if request.state is State.WAITING:
            cost = request.tokens * self._premium(bid)
            extra = cost - self._bucket_cost(request)
            if request.paid and extra > 0:
                if not tenant.bucket.affords(extra, at):
                    if cost > tenant.bucket.burst:
                        return -int(Reason.EXCEEDS_BURST)
                    self._retry_when_affordable(tenant.bucket, extra, at)
                    return -int(Reason.OVER_RATE)
                tenant.bucket.take(extra, at)
            elif request.paid and extra < 0:
                tenant.bucket.give_back(-extra, at)
            elif not request.paid and cost > tenant.bucket.burst:
                return -int(Reason.EXCEEDS_BURST)
        request.bid = bid
        self._after(tenant, at)
        return 0

    def is_live(self, handle: int, now: float) -> bool:
        at = self._check_now(now)
        request = self._requests.get(handle)
        return request is not None and not self._expires(request, at)

    def bid_of(self, handle: int) -> int:
        return self._check_handle(handle).bid

"""The scheduler: the composition of the core's parts behind one door. rules.md is its specification.

Sans-IO and sans-clock: every call that needs time takes `now` in seconds and first plays what happens by itself up
to then.
"""
from libc.stdint cimport INT32_MAX, INT64_MAX, INT64_MIN

import numpy as np

from aps_core.admission cimport Admission
from aps_core.arguments cimport real, whole, whole_array
from aps_core.batch_assembler cimport SWAP, BatchAssembler
from aps_core.clock cimport FOREVER, MAX_SECONDS, llrint, to_ns
from aps_core.contention cimport Contention
from aps_core.deadlines cimport DeadlineWheel
from aps_core.fair_share cimport FairShare
from aps_core.inspection cimport explain, snapshot
from aps_core.kv_cache cimport KVCache
from aps_core.lanes cimport Lanes, to_horizon_ns
from aps_core.request_table cimport TIMED, Request, RequestTable
from aps_core.settlement cimport Settlement
from aps_core.state cimport Saved, taken
from aps_core.tenant_table cimport ACTIVE, ALL, DRAINING, VACANT, Limits, Tenant, TenantTable, parse_limits
from aps_core.timeline cimport Timeline
from aps_core.token_buckets cimport TokenBuckets
from aps_core.types cimport BIDS, ENDED, NONE, RETURNING, RUNNING, WAITING, int32_t, int64_t, uint8_t

cdef int64_t MOST_TOKENS = INT32_MAX
cdef tuple STATES = ("free", "waiting", "running", "returning", "retired", "ended")
cdef object INT32 = np.dtype(np.int32), INT64 = np.dtype(np.int64)
cdef int64_t UNBOUNDED_TOKENS = <int64_t>1 << 62


cdef class Scheduler:
    """Decides who goes next: buckets, lanes, fair shares, KV and batches of several tenants over one or more devices.

    Tenants are slots (1, 2, ...), requests are int handles; a stale handle is an error, never another request. One
    owner thread: no call may overlap another. Cost of a request: O(log tenants), independent of how many wait.

    slots, kv_blocks, token_budgets: one entry a device (token budget 0: whole prompts, no chunking). The keywords
    are the policy (docs/rules.md names each). ValueError names what is out of range.
    """

    def __cinit__(
        self, slots, kv_blocks, token_budgets, *, block_tokens=16, aging_horizon_s=30.0, fairness_window=2048.0,
        input_weight=1.0, output_weight=1.0, expected_output=-1, bid_premium=0.0, max_passes=64, backfill_depth=32,
        preemption=0, preempt_margin=3, max_preemptions=2, micro=False, batch_window_s=0.01, batch_fill_target=0.8,
        kv_high_watermark=1.0, max_queued=2**31 - 1, max_queued_tokens=2**62, max_context=2**31 - 1, epoch=0.0,
    ):
        cdef Tenant* total
        forecast = whole(expected_output, "expected_output", -1, MOST_TOKENS)
        context = whole(max_context, "max_context", 1, UNBOUNDED_TOKENS)
        premium = real(bid_premium, "bid_premium", 0.0, 1e6)
        depth = whole(backfill_depth, "backfill_depth", 0, 1 << 20)
        self.table = RequestTable()
        self.lanes = Lanes(self.table, 16, aging_horizon_s)
        self.wheel = DeadlineWheel(self.table)
        self.buckets = TokenBuckets(16)
        self.request_buckets = TokenBuckets(16)
        self.fair = FairShare(16, real(fairness_window, "fairness_window", 0.0, FOREVER))
        self.tenants = TenantTable(16)
        self.kv = KVCache(slots, kv_blocks, token_budgets, block_tokens, kv_high_watermark)
        self.contention = Contention(
            self.table, self.lanes, self.wheel, self.buckets, self.fair, self.tenants, self.kv, premium, depth + 1
        )
        self.assembler = BatchAssembler(self.contention, self.kv.devices, max(slots))
        rules = &self.assembler.rules
        rules.input_weight = real(input_weight, "input_weight", 0.0, 1e6)
        rules.output_weight = real(output_weight, "output_weight", 0.0, 1e6)
        rules.batch_fill_target = real(batch_fill_target, "batch_fill_target", 0.0, 1.0)
        rules.batch_window_ns = llrint(real(batch_window_s, "batch_window_s", 0.0, 1e6) * 1e9)
        rules.max_passes = whole(max_passes, "max_passes", 0, 65535)
        rules.backfill_depth = depth
        rules.preemption = whole(preemption, "preemption", 0, SWAP)
        rules.preempt_margin = whole(preempt_margin, "preempt_margin", 1, BIDS - 1)
        rules.max_preemptions = whole(max_preemptions, "max_preemptions", 0, 255)
        rules.micro = bool(micro)
        total = &self.tenants.rows[ALL]
        total.max_queued = whole(max_queued, "max_queued", 0, INT32_MAX)
        total.max_queued_tokens = whole(max_queued_tokens, "max_queued_tokens", 0, UNBOUNDED_TOKENS)
        self.settlement = Settlement(self.assembler)
        self.timeline = Timeline(self.settlement, epoch)
        self.admission = Admission(self.contention, self.request_buckets, context, forecast, self.timeline.epoch)

    # Time

    def ended(self):
        """[(handle, reason code), ...] of the requests that ended without a call of their own since the last
        `ended`, in order."""
        return self.settlement.collect()

    def next_wakeup(self, double now, without=()):
        """Seconds: the earliest instant at which something changes by itself; infinity when nothing will. `without`:
        devices that cannot be asked for a batch."""
        cdef int64_t now_ns = self.timeline.check(now)
        away = [self.device_of(device) for device in without]
        self.timeline.play(now, now_ns)
        for device in away:
            self.assembler.away[<int32_t>device] = True
        cdef double wakeup = self.timeline.next_wakeup()
        for device in away:
            self.assembler.away[<int32_t>device] = False
        return wakeup

    @property
    def now(self):
        """Seconds, as given to the last call; the epoch before the first."""
        return self.timeline.now

    # Arguments

    cdef int32_t slot_of(self, object tenant, int64_t now_ns) except -1:
        """The slot, if the tenant has not drained by `now`."""
        cdef int64_t slot = whole(tenant, "tenant", INT64_MIN, INT64_MAX)
        if 0 < slot < self.tenants.capacity and self.tenants.rows[slot].state != VACANT:
            if not self.settlement.drains_by(<int32_t>slot, now_ns):
                return <int32_t>slot
        raise KeyError(f"tenant {tenant} is unknown")

    cdef int32_t device_of(self, object device) except -1:
        cdef int64_t index = whole(device, "device", -(1 << 62), 1 << 62)
        if not 0 <= index < self.kv.devices:
            raise IndexError(f"device must be from 0 to {self.kv.devices - 1}, got {device}")
        return <int32_t>index

    cdef bint lives(self, int32_t row, int64_t now_ns) noexcept nogil:
        """The row is of a request that has not ended by `now`."""
        cdef Request* request
        if row == NONE:
            return False
        request = &self.table.rows[row]
        return request.state != ENDED and not (request.flags & TIMED and self.table.deadline_ns[row] <= now_ns)

    cdef int32_t row_of(self, int64_t handle, int64_t now_ns) except -1:
        cdef int32_t row = self.table.find(handle)
        if self.lives(row, now_ns):
            return row
        raise KeyError(f"handle {handle} is stale or foreign: the request has ended, or is not this scheduler's")

    cdef int32_t running_row(self, int64_t handle, int64_t now_ns) except -1:
        cdef int32_t row = self.row_of(handle, now_ns)
        if self.table.rows[row].state != RUNNING:
            state = STATES[self.table.rows[row].state]
            raise ValueError(f"handle {handle} must be of a running request, it is {state}")
        return row

    # Tenants

    def add_tenant(self, *, double now, **limits):
        """A new tenant with full buckets; its slot. The limits are those of `parse_limits`."""
        cdef Limits parsed = parse_limits(limits)
        self.timeline.play(now, self.timeline.check(now))
        cdef int32_t slot = self.tenants.vacant()
        if slot == NONE:
            slot = self.tenants.capacity
            self.assembler.reserve(2 * slot)
            self.request_buckets.reserve(2 * slot)
            self.contention.reserve(2 * slot)         # last: it makes the slots
        self.tenants.open(slot, &parsed, self.kv.total_blocks)
        self.fair.open(slot, parsed.weight)
        self.buckets.open(slot, parsed.rate, parsed.burst, self.timeline.now_ns)
        self.request_buckets.open(slot, parsed.request_rate, parsed.request_burst, self.timeline.now_ns)
        return slot

    def set_tenant(self, tenant, *, double now, **limits):
        """Replace a tenant's weight and limits. Waiting requests that became impossible end (see `ended`)."""
        cdef Limits parsed = parse_limits(limits)
        cdef int64_t now_ns = self.timeline.check(now)
        cdef int32_t slot = self.slot_of(tenant, now_ns)
        self.timeline.play(now, now_ns)
        self.change(slot, &parsed)

    def remove_tenant(self, tenant, double now):
        """No new requests; what was accepted is still served. True: nothing was under way and the slot is free;
        False: it drains."""
        cdef int64_t now_ns = self.timeline.check(now)
        cdef int32_t slot = self.slot_of(tenant, now_ns)
        self.timeline.play(now, now_ns)
        self.tenants.rows[slot].state = DRAINING
        self.contention.finish(self.timeline.now_ns)
        self.settlement.free_if_drained(slot)
        return self.tenants.rows[slot].state == VACANT

    def readmit_tenant(self, tenant, *, double now, **limits):
        """A draining tenant comes back with its service, credit and buckets. ValueError when it is not
        draining."""
        cdef Limits parsed = parse_limits(limits)
        cdef int64_t now_ns = self.timeline.check(now)
        cdef int32_t slot = self.slot_of(tenant, now_ns)
        if self.tenants.rows[slot].state != DRAINING:
            raise ValueError(f"tenant {tenant} must be draining to be readmitted, it is active")
        self.timeline.play(now, now_ns)
        self.tenants.rows[slot].state = ACTIVE
        self.change(slot, &parsed)

    def tenant_state(self, tenant):
        """0: a free slot, 1: active, 2: removed and draining."""
        cdef int64_t slot = whole(tenant, "tenant", -(1 << 62), 1 << 62)
        return self.tenants.rows[slot].state if 0 < slot < self.tenants.capacity else VACANT

    cdef void change(self, int32_t slot, Limits* limits) except *:
        cdef Tenant* tenant = &self.tenants.rows[slot]
        if limits.weight != self.fair.shares[slot].weight:
            self.fair.reweigh(slot, limits.weight)
        self.buckets.configure(slot, limits.rate, limits.burst, self.timeline.now_ns)
        self.request_buckets.configure(slot, limits.request_rate, limits.request_burst, self.timeline.now_ns)
        self.tenants.apply(slot, limits, self.kv.total_blocks)
        if tenant.waiting:
            self.settlement.end_impossible(slot, self.timeline.now_ns)
        self.contention.evaluate(slot, self.timeline.now_ns)
        self.contention.finish(self.timeline.now_ns)
        self.settlement.free_if_drained(slot)

    # Policy

    def set_aging_horizon(self, seconds, double now):
        """Everything that waits is ranked by the new horizon (0..1e8 s, or infinity)."""
        cdef int64_t horizon_ns = to_horizon_ns(seconds)
        cdef int32_t slot
        self.timeline.play(now, self.timeline.check(now))
        self.lanes.set_horizon(horizon_ns)
        for slot in range(1, self.tenants.capacity):
            if self.tenants.rows[slot].state != VACANT:
                self.contention.evaluate(slot, self.timeline.now_ns)
        self.contention.finish(self.timeline.now_ns)

    def set_fairness_window(self, cost, double now):
        """D, in cost units, at least 0; infinity allowed. A smaller one pulls every tenant in."""
        cdef double window = real(cost, "fairness_window", 0.0, FOREVER)
        cdef int32_t slot
        self.timeline.play(now, self.timeline.check(now))
        self.fair.set_window(window)
        for slot in range(1, self.tenants.capacity):
            if self.tenants.rows[slot].state != VACANT:
                self.contention.evaluate(slot, self.timeline.now_ns)
        self.contention.finish(self.timeline.now_ns)

    # Requests

    def submit(
        self, tenant, prompt_tokens, max_tokens, bid, double now, double deadline_at=FOREVER, expected_output=-1
    ):
        """Offer a request. Its handle (> 0), or the refusal's reason code, negated; then `retry_after` and
        `largest` say more.

        deadline_at: seconds; a request not started by then ends. expected_output: its forecast of output tokens.
        """
        cdef int64_t now_ns = self.timeline.check(now)
        cdef int32_t slot = self.slot_of(tenant, now_ns)
        cdef int64_t prompt = whole(prompt_tokens, "prompt_tokens", 1, MOST_TOKENS)
        cdef int64_t most = whole(max_tokens, "max_tokens", 1, MOST_TOKENS)
        cdef int64_t offered = whole(bid, "bid", 1, BIDS)
        cdef int64_t forecast = whole(expected_output, "expected_output", -1, MOST_TOKENS)
        cdef int64_t deadline_ns = INT64_MAX
        if deadline_at != deadline_at:
            raise ValueError(f"deadline_at must be a number of seconds, got {deadline_at!r}")
        if deadline_at - self.timeline.epoch <= MAX_SECONDS:
            deadline_ns = to_ns(deadline_at, self.timeline.epoch) if deadline_at > self.timeline.epoch else 0
        self.must_be_active(slot)
        self.table.room(1)
        self.timeline.play(now, now_ns)
        return self.admission.offer(slot, prompt, most, <int32_t>offered, deadline_ns, forecast, now_ns, now)

    def submit_many(self, tenants, prompts, max_tokens, bids, double now):
        """`submit` for each element of int arrays of one length, in order; an int64 array of handles or negated
        reason codes."""
        cdef int64_t now_ns = self.timeline.check(now)
        cdef const long long[::1] slots = whole_array(tenants, "tenants", INT64_MIN, INT64_MAX, INT64)
        cdef const int32_t[::1] prompt = whole_array(prompts, "prompts", 1, MOST_TOKENS, INT32)
        cdef const int32_t[::1] most = whole_array(max_tokens, "max_tokens", 1, MOST_TOKENS, INT32)
        cdef const int32_t[::1] offered = whole_array(bids, "bids", 1, BIDS, INT32)
        cdef Py_ssize_t i, n = slots.shape[0]
        cdef long long[::1] answers = np.empty(n, np.int64)
        if prompt.shape[0] != n or most.shape[0] != n or offered.shape[0] != n:
            raise ValueError(f"tenants, prompts, max_tokens and bids must have one length, got "
                             f"{n}, {prompt.shape[0]}, {most.shape[0]} and {offered.shape[0]}")
        for i in range(n):
            if not 0 < slots[i] < self.tenants.capacity or self.tenants.rows[slots[i]].state != ACTIVE:
                self.must_be_active(self.slot_of(slots[i], now_ns))
            if prompt[i] < 1 or most[i] < 1 or not 1 <= offered[i] <= BIDS:
                whole(prompt[i], f"prompts[{i}]", 1, MOST_TOKENS)
                whole(most[i], f"max_tokens[{i}]", 1, MOST_TOKENS)
                whole(offered[i], f"bids[{i}]", 1, BIDS)
        self.table.room(n)
        with nogil:
            self.timeline.play(now, now_ns)
            for i in range(n):
                answers[i] = self.admission.offer(
                    <int32_t>slots[i], prompt[i], most[i], offered[i], INT64_MAX, NONE, now_ns, now
                )
        return answers.base

    cdef int must_be_active(self, int32_t slot) except -1:
        if self.tenants.rows[slot].state != ACTIVE:
            raise ValueError(f"tenant {slot} must be active to take requests, it has been removed and is draining")
        return 0

    def next_batch(self, device, double now):
        """How many requests start on the device now: their handles are `started[:n]`; `preempted[:preempted_count]`
        stop for them."""
        cdef int32_t index = self.device_of(device)
        self.timeline.play(now, self.timeline.check(now))
        self.assembler.next_batch(index, self.timeline.now_ns)
        return self.assembler.started_count

    @property
    def started(self):
        """int64 array of handles; the first n are the last batch's."""
        return self.assembler.started_handles

    @property
    def preempted(self):
        """int64 array of handles; the first `preempted_count` were preempted by the last batch."""
        return self.assembler.preempted_handles

    @property
    def preempted_count(self):
        return self.assembler.preempted_count

    def level(self, tenant):
        """What a tenant's bucket can pay at the latest instant, in tokens; negative: debt, inf: it has no limit."""
        return self.buckets.level_at(self.slot_of(tenant, self.timeline.now_ns), self.timeline.now_ns)

    def request_level(self, tenant):
        """The requests that a tenant's request bucket holds at the latest instant; inf: it has no limit."""
        return self.request_buckets.level_at(self.slot_of(tenant, self.timeline.now_ns), self.timeline.now_ns)

    @property
    def release_reason(self):
        """Why the last batch was released: 0 it was not, 1 continuous, 2 its window ended, 3 its predicted fill was
        reached."""
        return self.assembler.release_reason

    @property
    def retry_after(self):
        """Of the last refusal: seconds until it may pass; 0.0 when that says nothing."""
        return self.admission.retry_after

    @property
    def largest(self):
        """Of the last rejection: the largest max_tokens that would have passed the test it failed."""
        return self.admission.largest

    @property
    def waiting(self):
        """Requests accepted and not yet started."""
        return self.tenants.rows[ALL].waiting

    # While it runs

    def progress(self, Py_ssize_t handle, computed, generated, double now):
        """Totals so far: prefill tokens in the cache since this start, and output tokens. Output beyond the
        forecast is charged."""
        cdef int64_t now_ns = self.timeline.check(now)
        cdef int32_t row = self.running_row(handle, now_ns)
        cdef int64_t prefilled = whole(computed, "computed", 0, UNBOUNDED_TOKENS)
        cdef int64_t output = whole(generated, "generated", 0, MOST_TOKENS)
        self.settlement.check_report(row, prefilled, output)
        self.timeline.play(now, now_ns)
        self.settlement.report(row, prefilled, output, self.timeline.now_ns)

    def progress_many(self, handles, computed, generated, double now):
        """`progress` for each element of int64 arrays of one length; each handle at most once."""
        cdef int64_t now_ns = self.timeline.check(now)
        cdef const long long[::1] names = whole_array(handles, "handles", INT64_MIN, INT64_MAX, INT64)
        cdef const long long[::1] prefilled = whole_array(computed, "computed", 0, INT64_MAX, INT64)
        cdef const long long[::1] output = whole_array(generated, "generated", 0, MOST_TOKENS, INT64)
        cdef Py_ssize_t i, n = names.shape[0]
        if prefilled.shape[0] != n or output.shape[0] != n:
            raise ValueError(
                "handles, computed and generated must have one length, "
                f"got {n}, {prefilled.shape[0]} and {output.shape[0]}"
            )
        for i in range(n):
            self.settlement.check_report(self.running_row(names[i], now_ns), prefilled[i], output[i])
        self.table.must_differ(names)
        with nogil:
            self.timeline.play(now, now_ns)
            for i in range(n):
                self.settlement.report(self.table.find(names[i]), prefilled[i], output[i], now_ns)

    def settle(self, Py_ssize_t handle, output_tokens, double now):
        """The request finished with that much output. All is settled to what was used; the final charge, in bucket
        tokens."""
        cdef int64_t now_ns = self.timeline.check(now)
        cdef int32_t row = self.running_row(handle, now_ns)
        cdef int64_t output = whole(output_tokens, "output_tokens", 0, MOST_TOKENS)
        self.timeline.play(now, now_ns)
        return self.settlement.finish(row, output, self.timeline.now_ns)

    def settle_many(self, handles, outputs, double now):
        """`settle` for each element of int64 arrays of one length, in order; each handle at most once. The charges, a
        float64 array."""
        cdef int64_t now_ns = self.timeline.check(now)
        cdef const long long[::1] names = whole_array(handles, "handles", INT64_MIN, INT64_MAX, INT64)
        cdef const long long[::1] output = whole_array(outputs, "outputs", 0, MOST_TOKENS, INT64)
        cdef Py_ssize_t i, n = names.shape[0]
        cdef double[::1] charges = np.empty(n, np.float64)
        if output.shape[0] != n:
            raise ValueError(f"handles and outputs must have one length, got {n} and {output.shape[0]}")
        for i in range(n):
            self.running_row(names[i], now_ns)
            if not 0 <= output[i] <= MOST_TOKENS:
                whole(output[i], f"outputs[{i}]", 0, MOST_TOKENS)
        self.table.must_differ(names)
        with nogil:
            self.timeline.play(now, now_ns)
            for i in range(n):
                charges[i] = self.settlement.finish(self.table.find(names[i]), output[i], now_ns)
        return charges.base

    def cancel(self, Py_ssize_t handle, double now):
        """End a request, whatever it is doing; the final charge, in bucket tokens (0.0 when it had not started)."""
        cdef int64_t now_ns = self.timeline.check(now)
        cdef int32_t row = self.row_of(handle, now_ns)
        self.timeline.play(now, now_ns)
        return self.settlement.withdraw(row, self.timeline.now_ns)

    def preempt(self, Py_ssize_t handle, double now):
        """Take a running request off its device; it returns by itself when there is room, ahead of its tenant's
        waiting ones."""
        cdef int64_t now_ns = self.timeline.check(now)
        cdef int32_t row = self.running_row(handle, now_ns)
        self.timeline.play(now, now_ns)
        self.assembler.suspend(row, self.timeline.now_ns)

    def restart(self, Py_ssize_t handle, double now):
        """A running request's device lost it: it returns by itself, from its prompt on. Output charged beyond its
        forecast becomes credit."""
        cdef int64_t now_ns = self.timeline.check(now)
        cdef int32_t row = self.running_row(handle, now_ns)
        self.timeline.play(now, now_ns)
        self.settlement.restart(row, self.timeline.now_ns)

    def rebid(self, Py_ssize_t handle, bid, double now):
        """Give a request another bid (clamped to the tenant's max_bid); 0, or the refusal's reason code, negated.

        Waiting: its reservation is adjusted, and it keeps its arrival. Started: only its rank in preemption changes.
        """
        cdef int64_t now_ns = self.timeline.check(now)
        cdef int32_t row = self.row_of(handle, now_ns)
        cdef int32_t wanted = <int32_t>whole(bid, "bid", 1, BIDS)
        self.timeline.play(now, now_ns)
        self.admission.clear()
        cdef Request* request = &self.table.rows[row]
        wanted = min(wanted, self.tenants.rows[request.tenant].max_bid)
        if request.state == WAITING:
            return -<int>self.admission.move(row, wanted, self.timeline.now_ns, self.timeline.now)
        if request.state == RETURNING:
            self.lanes.remove_row(row, ALL)
            request.bid = <uint8_t>wanted
            self.lanes.insert(row, ALL)
        else:
            request.bid = <uint8_t>wanted
        self.contention.finish(self.timeline.now_ns)
        return 0

    # Looking

    def is_live(self, Py_ssize_t handle, double now):
        """Whether the request has not ended by `now`; plays no time, for a caller who checks its arguments."""
        return self.lives(self.table.find(handle), self.timeline.check(now))

    def bid_of(self, Py_ssize_t handle):
        """The bid it has now, after clamping and re-bids."""
        return self.table.rows[self.row_of(handle, self.timeline.now_ns)].bid

    def explain(self, Py_ssize_t handle, double now):
        """What a request waits for, and about how long (a dict; aps.Explanation names its fields)."""
        cdef int64_t now_ns = self.timeline.check(now)
        self.row_of(handle, now_ns)
        self.timeline.play(now, now_ns)
        return explain(self.contention, self.assembler, self.row_of(handle, now_ns), self.timeline.now_ns)

    def snapshot(self, double now):
        """All tenants and devices as columns (a dict of NumPy arrays; aps.Snapshot names them)."""
        self.timeline.play(now, self.timeline.check(now))
        return snapshot(self.contention, self.assembler, self.request_buckets, self.timeline.now_ns)

    # Across restarts

    def state(self, double now):
        """What outlives the process, as columns (a dict; aps.SchedulerState names them)."""
        self.timeline.play(now, self.timeline.check(now))
        return taken(self.fair, self.tenants, self.buckets, self.request_buckets, self.timeline.now_ns)

    def restore(self, dict state not None, slots, passed_s, double now):
        """Go on from a state that was `passed_s` ago. slots: for each of its rows the tenant's slot here, 0: unknown.

        ValueError when a request has been accepted, or a state restored.
        """
        cdef int64_t now_ns = self.timeline.check(now)
        if self.admission.arrivals or self.restored:
            raise ValueError("a state is restored to a scheduler as it was made: before any request, and once")
        cdef Saved saved = Saved(state, slots, passed_s, self.tenants)
        self.timeline.play(now, now_ns)
        self.restored = True
        saved.put_back(self.fair, self.buckets, self.request_buckets, now_ns)
        self.contention.finish(now_ns)

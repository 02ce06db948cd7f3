"""When a batch is released, what is in it, and who is preempted for it.

Requests start in policy order. When one does not fit, it holds the device's reservation and smaller ones may pass
it as long as
they do not delay its reserved start (EASY backfill: Lifka, JSSPP 1995), in engine steps. rules.md, section 6.
"""

from libc.stdint cimport INT64_MAX

import numpy as np

from aps_core.kv_cache cimport BLOCKED, ENDS_AFTER, Backfill
from aps_core.request_table cimport PAID, Request
from aps_core.tenant_table cimport ALL, Tenant
from aps_core.types cimport (
    BIDS, CONTINUOUS, FILL, NONE, NOT_RELEASED, RETURNING, RUNNING, WAITING, WINDOW, int32_t, int64_t, uint8_t,
    uint16_t,
)


cdef class BatchAssembler:
    """Dispatch for all devices; one owner thread. The answers of the last `next_batch` stay in its arrays until the
    next."""

    def __cinit__(self, Contention contention not None, int32_t devices, int32_t most_slots):
        cdef int32_t[::1] reserved = np.full(devices, NONE, np.int32)
        cdef int32_t[::1] victims = np.zeros(most_slots, np.int32)
        cdef long long[::1] idle = np.zeros(devices, np.int64)
        cdef long long[::1] starts = np.zeros(devices, np.int64)
        cdef long long[::1] vain = np.full(devices, NONE, np.int64)
        cdef uint8_t[::1] away = np.zeros(devices, np.uint8)
        cdef long long[::1] started, preempted
        self.contention = contention
        self.table = contention.table
        self.kv = contention.kv
        self.started_handles = np.zeros(most_slots, np.int64)
        self.preempted_handles = np.zeros(most_slots, np.int64)
        started = self.started_handles
        preempted = self.preempted_handles
        self.memory = (reserved, victims, idle, starts, vain, away)
        self.reserved = &reserved[0]
        self.victims = &victims[0]
        self.idle_since_ns = <int64_t*>&idle[0]
        self.starts = <int64_t*>&starts[0]
        self.vain = <int64_t*>&vain[0]
        self.away = &away[0]
        self.started = <int64_t*>&started[0]
        self.preempted = <int64_t*>&preempted[0]
        self.reserve(contention.tenants.capacity)

    cpdef void reserve(self, int32_t tenants) except *:
        """Make room for tenant slots below `tenants`."""
        cdef long long[::1] guarded = np.zeros(tenants, np.int64)
        self.guarded_memory = guarded
        self.guarded = <int64_t*>&guarded[0]

    # What a request costs and needs

    cdef double service_cost(self, int32_t row, int64_t prompt, int64_t output, int32_t bid) noexcept nogil:
        return (
            self.rules.input_weight * <double>prompt + self.rules.output_weight * <double>output
        ) * self.contention.premium(bid)

    cdef void need(self, int32_t row, KVNeed* need) noexcept nogil:
        cdef Request* request = &self.table.rows[row]
        need.prompt_tokens = request.prompt_tokens
        need.max_tokens = request.max_tokens
        need.generated = request.generated
        need.bid = request.bid
        if request.state == RETURNING:
            need.prefill = self.table.deadline_ns[row]       # see suspend()
        else:
            need.prefill = request.prompt_tokens

    # Reservations

    cdef bint is_reserved(self, int32_t row) noexcept nogil:
        cdef int32_t device
        for device in range(self.kv.devices):
            if self.reserved[device] == row:
                return True
        return False

    cdef void drop_reservation(self, int32_t row) noexcept nogil:
        cdef int32_t device
        for device in range(self.kv.devices):
            if self.reserved[device] == row:
                self.reserved[device] = NONE

    # Release

    cdef void next_batch(self, int32_t device, int64_t now_ns) noexcept nogil:
        cdef Release reason = CONTINUOUS
        self.started_count = 0
        self.preempted_count = 0
        self.release_reason = NOT_RELEASED
        if self.rules.micro:
            if self.kv.running(device) or not self.contention.ready:
                return
            if self.filled(device):
                reason = FILL
            elif self.window_end_ns(device) <= now_ns:
                reason = WINDOW
            else:
                return
        self.assemble(device, now_ns)
        if self.rules.preemption and not self.rules.micro:
            self.preempt(device, now_ns)
        if self.started_count:
            self.release_reason = reason
        else:
            self.vain[device] = self.contention.changes

    cdef bint filled(self, int32_t device) noexcept nogil:
        """The predicted fill reaches the target, by slots or by KV."""
        cdef double slots = self.kv.slots(device), limit = <double>self.kv.limit(device)
        cdef double requests = <double>self.contention.pool_waiting, blocks = <double>self.contention.pool_blocks
        return (
            min(requests, slots) >= self.rules.batch_fill_target * slots
            or min(blocks, limit) >= self.rules.batch_fill_target * limit
        )

    cdef int64_t window_end_ns(self, int32_t device) noexcept nogil:
        return max(self.contention.ready_since_ns, self.idle_since_ns[device]) + self.rules.batch_window_ns

    cdef int64_t release_ns(self, int32_t device, int64_t now_ns) noexcept nogil:
        """When an idle micro device is to be asked, not after now: at once. It need not be when it has assembled in
        vain and nothing has changed."""
        if self.kv.running(device) or self.vain[device] == self.contention.changes or self.away[device]:
            return INT64_MAX
        return now_ns if self.filled(device) else self.window_end_ns(device)

    # Assembling

    cdef void assemble(self, int32_t device, int64_t now_ns) noexcept nogil:
        cdef KVNeed need, held
        cdef Request* request
        cdef int32_t row, holder = NONE
        cdef bint waiting
        cdef int64_t step = 0
        if self.kv.running(device) >= self.kv.slots(device):
            return                                # nothing is decided anew: who calls when must not matter
        self.call += 1
        self.reserved[device] = NONE
        while (
            self.kv.running(device) < self.kv.slots(device)
            and self.contention.aside_count <= self.rules.backfill_depth
        ):
            row = self.contention.lanes.best(1)
            if row == NONE:
                break
            request = &self.table.rows[row]
            waiting = request.state == WAITING
            if waiting and not self.contention.permits(request.tenant, row, now_ns):
                self.set_aside(row)
                continue
            if self.contention.blocks(row) > self.kv.limit(device):
                if waiting:
                    self.guarded[request.tenant] = self.call
                self.set_aside(row)
                continue
            if waiting and self.guarded[request.tenant] == self.call and not self.stays(row):
                self.set_aside(row)
                continue
            self.need(row, &need)
            if holder != NONE and not self.contention.lanes.outranks(row, holder):
                if self.may_backfill(device, &need, holder, &held, step):
                    self.start(device, row, &need, 0.0, now_ns)
                else:
                    self.set_aside(row)
                continue
            if self.kv.fits(device, &need):
                self.start(device, row, &need, 0.0, now_ns)
                if holder != NONE:
                    step = self.kv.earliest_start(device, &held)
                continue
            if not self.is_reserved(row):
                holder = row
                held = need
                self.reserved[device] = row
                step = self.kv.earliest_start(device, &held)
            if waiting:
                self.guarded[request.tenant] = self.call
            self.set_aside(row)
            if self.rules.max_passes == 0:
                break
        while self.contention.aside_count:             # last out, first in: each goes back to the front of its lane
            self.contention.aside_count -= 1
            row = self.contention.aside[self.contention.aside_count]
            self.contention.lanes.insert(row, self.lane_of(row))

    cdef int32_t lane_of(self, int32_t row) noexcept nogil:
        return ALL if self.table.rows[row].state == RETURNING else self.table.rows[row].tenant

    cdef void set_aside(self, int32_t row) noexcept nogil:
        self.contention.lanes.remove_row(row, self.lane_of(row))
        self.contention.aside[self.contention.aside_count] = row
        self.contention.aside_count += 1

    cdef bint stays(self, int32_t row) noexcept nogil:
        """Charged for this request, its tenant would still be in the window."""
        cdef Request* request = &self.table.rows[row]
        return self.contention.fair.stays(
            request.tenant, self.service_cost(row, request.prompt_tokens, request.expected_output, request.bid)
        )

    cdef bint may_backfill(
        self, int32_t device, const KVNeed* need, int32_t holder, const KVNeed* held, int64_t step
    ) noexcept nogil:
        """Around the holder of the reservation, which starts by `step` all the same; counts the pass."""
        cdef Request* reserved = &self.table.rows[holder]
        cdef Backfill fit = self.kv.backfill(device, need, held, step)
        if fit == BLOCKED:
            return False
        if fit == ENDS_AFTER:
            if reserved.passes >= self.rules.max_passes:
                return False
            reserved.passes += 1
        return True

    cdef void start(
        self, int32_t device, int32_t row, const KVNeed* need, double penalty, int64_t now_ns
    ) noexcept nogil:
        """The request is in its lane; it leaves it, is charged and holds a slot and KV."""
        cdef Request* request = &self.table.rows[row]
        cdef int32_t slot = request.tenant
        cdef Tenant* tenant = &self.contention.tenants.rows[slot]
        cdef double cost = penalty
        if request.state == WAITING:
            self.contention.dequeue(row)
            if not request.flags & PAID:
                self.contention.buckets.charge(slot, self.contention.bucket_cost(row), now_ns)
                request.flags |= PAID
            request.charge_bid = request.bid
            cost = self.service_cost(row, request.prompt_tokens, request.expected_output, request.bid) + penalty
            self.contention.tenants.start(slot, request.arrival_ns, now_ns)
            self.contention.tenants.start(ALL, request.arrival_ns, now_ns)
            tenant.in_flight += 1
        else:
            self.contention.lanes.remove_row(row, ALL)
            self.contention.count_returning(row, -1)
        self.drop_reservation(row)
        request.state = RUNNING
        request.device = <uint16_t>device
        request.row = <uint16_t>self.kv.reserve(device, row, need)
        self.starts[device] += 1
        tenant.held_blocks += self.contention.blocks(row)
        self.contention.fair.charge(slot, cost)
        self.started[self.started_count] = self.table.handle(row)
        self.started_count += 1
        self.contention.evaluate(slot, now_ns)
        self.contention.finish(now_ns)

    # Preemption

    cdef void preempt(self, int32_t device, int64_t now_ns) noexcept nogil:
        """The best waiting request that outbids what runs by the margin takes its place, as often as there is one."""
        cdef KVNeed need
        cdef Request* request
        cdef int64_t computed, last_start = self.starts[device] - self.started_count
        cdef int32_t i, row, victims, enough, lowest
        while True:
            victims = self.choose_victims(device, BIDS, last_start)
            if victims == 0:
                return
            lowest = self.table.rows[self.kv.request_at(device, self.victims[0])].bid + self.rules.preempt_margin
            row = self.contention.lanes.best(lowest) if lowest <= BIDS else NONE
            if row == NONE:
                return
            request = &self.table.rows[row]
            if request.state == WAITING and not self.contention.permits(request.tenant, row, now_ns):
                return
            if self.contention.blocks(row) > self.kv.limit(device):
                return
            victims = self.choose_victims(device, request.bid - self.rules.preempt_margin, last_start)
            self.need(row, &need)
            enough = 1
            while enough <= victims and not self.kv.fits_without(device, &need, self.victims, enough):
                enough += 1
            if enough > victims:
                return
            computed = 0
            if request.state == WAITING:          # a return is free: its tenant may be outside the window
                for i in range(enough):
                    computed += self.kv.cached(device, self.victims[i])
            for i in range(enough):
                self.victims[i] = self.kv.request_at(device, self.victims[i])
            for i in range(enough):
                self.preempted[self.preempted_count] = self.table.handle(self.victims[i])
                self.preempted_count += 1
                self.suspend(self.victims[i], now_ns)
            self.start(device, row, &need, self.rules.input_weight * <double>computed, now_ns)

    cdef int32_t choose_victims(self, int32_t device, int32_t highest_rank, int64_t last_start) noexcept nogil:
        """KV rows that may be preempted, into `victims`: lowest rank first, then the last started."""
        cdef int32_t kv_row, row, at, n = 0
        for kv_row in range(self.kv.slots(device)):
            row = self.kv.request_at(device, kv_row)
            if (
                row == NONE
                or self.table.rows[row].bid > highest_rank
                or self.table.rows[row].preemptions >= self.rules.max_preemptions
                or self.kv.start_number(device, kv_row) > last_start
            ):
                continue
            at = n
            while at and self.goes_before(device, kv_row, self.victims[at - 1]):
                self.victims[at] = self.victims[at - 1]
                at -= 1
            self.victims[at] = kv_row
            n += 1
        return n

    cdef bint goes_before(self, int32_t device, int32_t kv_row, int32_t other) noexcept nogil:
        cdef uint8_t mine = self.table.rows[self.kv.request_at(device, kv_row)].bid
        cdef uint8_t theirs = self.table.rows[self.kv.request_at(device, other)].bid
        if mine != theirs:
            return mine < theirs
        return self.kv.start_number(device, kv_row) > self.kv.start_number(device, other)

    cdef void suspend(self, int32_t row, int64_t now_ns) noexcept nogil:
        """A running request becomes returning. Its deadline has been met, so the field keeps what is left to
        prefill."""
        cdef Request* request = &self.table.rows[row]
        cdef Tenant* tenant = &self.contention.tenants.rows[request.tenant]
        cdef int64_t prefill = <int64_t>request.prompt_tokens + request.generated
        if self.rules.preemption == SWAP:
            prefill = self.kv.prefill_left(request.device, request.row)
        request.preemptions += request.preemptions < 255
        tenant.preempted += 1
        self.displace(row, prefill, now_ns)

    cdef void displace(self, int32_t row, int64_t prefill, int64_t now_ns) noexcept nogil:
        """From running to returning, with so much to prefill."""
        cdef Request* request = &self.table.rows[row]
        self.stop_running(row, now_ns)
        self.table.deadline_ns[row] = prefill
        request.state = RETURNING
        self.contention.count_returning(row, 1)
        self.contention.lanes.insert(row, ALL)
        self.contention.evaluate(request.tenant, now_ns)
        self.contention.finish(now_ns)

    cdef void stop_running(self, int32_t row, int64_t now_ns) noexcept nogil:
        """Give up slot and KV."""
        cdef Request* request = &self.table.rows[row]
        cdef Tenant* tenant = &self.contention.tenants.rows[request.tenant]
        self.kv.release(request.device, request.row)
        tenant.held_blocks -= self.contention.blocks(row)
        if self.kv.running(request.device) == 0:
            self.idle_since_ns[request.device] = now_ns

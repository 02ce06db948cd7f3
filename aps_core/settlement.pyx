"""What a started request owes: output beyond its forecast while it runs, and the account when it ends. rules.md,
section 8."""
from libc.stdint cimport INT32_MAX

from aps_core.request_table cimport PAID, TIMED, Request
from aps_core.tenant_table cimport ALL, DRAINING, Tenant
from aps_core.types cimport (
    ADMITTED, ENDED, EXCEEDS_BURST, EXCEEDS_KV_SHARE, EXCEEDS_MAX_REQUEST, NONE, RUNNING, WAITING, Reason, int32_t, int64_t, uint8_t,
)


cdef class Settlement:
    """Ends requests, whatever they are doing, and gives back what they held; keeps those that nobody has been told
    of yet."""

    def __cinit__(self, BatchAssembler assembler not None):
        self.assembler = assembler
        self.contention = assembler.contention
        self.table = assembler.table
        self.buckets = self.contention.buckets
        self.fair = self.contention.fair
        self.tenants = self.contention.tenants
        self.kv = assembler.kv
        self.ended_head = NONE
        self.ended_tail = NONE

    cdef void take_out(self, int32_t row, Reason reason, int64_t now_ns) noexcept nogil:
        """A waiting request leaves; with a reason it keeps its row until that has been reported. One step, with its
        evaluation."""
        cdef int32_t slot = self.table.rows[row].tenant
        self.drop(row, reason, now_ns)
        self.contention.evaluate(slot, now_ns)
        self.contention.finish(now_ns)
        self.free_if_drained(slot)

    cdef void drop(self, int32_t row, Reason reason, int64_t now_ns) noexcept nogil:
        cdef Request* request = &self.table.rows[row]
        self.contention.dequeue(row)
        self.assembler.drop_reservation(row)
        if request.flags & PAID:
            self.buckets.refund(request.tenant, self.contention.bucket_cost(row), now_ns)
        if reason == ADMITTED:
            self.table.give(row)
            return
        request.state = ENDED
        request.charge_bid = <uint8_t>reason
        request.next = NONE
        if self.ended_tail == NONE:
            self.ended_head = row
        else:
            self.table.rows[self.ended_tail].next = row
        self.ended_tail = row

    cdef void end_impossible(self, int32_t slot, int64_t now_ns) except *:
        """In arrival order. Looks at the whole table: a rare call."""
        cdef Tenant* tenant = &self.tenants.rows[slot]
        cdef double burst = self.buckets.burst[slot]
        cdef Request* request
        cdef int32_t row
        doomed = []
        for row in range(self.table.fresh):
            request = &self.table.rows[row]
            if request.state != WAITING or request.tenant != slot:
                continue
            if <int64_t>request.prompt_tokens + request.max_tokens > tenant.max_request_tokens:
                doomed.append((request.number, row, <int>EXCEEDS_MAX_REQUEST))
            elif self.contention.blocks(row) > tenant.kv_blocks:
                doomed.append((request.number, row, <int>EXCEEDS_KV_SHARE))
            elif not request.flags & PAID and self.contention.bucket_cost(row) > burst:
                doomed.append((request.number, row, <int>EXCEEDS_BURST))
        for _, row, reason in sorted(doomed):
            tenant.rejected += 1
            self.drop(row, reason, now_ns)

    cdef list collect(self):
        """[(handle, reason code), ...] of the requests that ended without a call of their own since the last
        `ended`, in order."""
        cdef int32_t row
        found = []
        while self.ended_head != NONE:
            row = self.ended_head
            found.append((self.table.handle(row), self.table.rows[row].charge_bid))
            self.forget_first()
        return found

    cdef void forget_first(self) noexcept nogil:
        """The first of those to report has been: its row is free."""
        cdef int32_t row = self.ended_head
        self.ended_head = self.table.rows[row].next
        if self.ended_head == NONE:
            self.ended_tail = NONE
        self.table.give(row)

    cdef int check_report(self, int32_t row, int64_t computed, int64_t generated) except -1:
        """Of a running request: neither total may fall. ValueError."""
        cdef Request* request = &self.table.rows[row]
        cdef int64_t least = self.kv.computed(request.device, request.row)
        cdef int64_t most = self.kv.prefill_target(request.device, request.row)
        if not least <= computed <= most:
            raise ValueError(
                f"computed must be from {least} (reported before) to {most} (all of the prefill), got {computed}"
            )
        if not request.generated <= generated <= INT32_MAX:
            raise ValueError(
                f"generated must be from {request.generated} (reported before) to {INT32_MAX}, got {generated}"
            )
        return 0

    cdef void report(self, int32_t row, int64_t computed, int64_t generated, int64_t now_ns) noexcept nogil:
        cdef Request* request = &self.table.rows[row]
        cdef int64_t charged = max(request.expected_output, request.generated)
        cdef int32_t slot = request.tenant
        if generated > request.generated:             # output comes after the whole prefill
            computed = self.kv.prefill_target(request.device, request.row)
        self.kv.grow(request.device, request.row, computed, generated)
        request.generated = <int32_t>generated
        if generated > charged:
            self.contention.fair.charge(
                slot,
                (self.assembler.rules.output_weight * <double>(generated - charged))
                * self.contention.premium(request.charge_bid),
            )
            self.contention.evaluate(slot, now_ns)
            self.contention.finish(now_ns)

    cdef void restart(self, int32_t row, int64_t now_ns) noexcept nogil:
        """A running request has lost its output: it returns, from its prompt on."""
        cdef Request* request = &self.table.rows[row]
        if request.generated > request.expected_output:
            self.fair.settle(
                request.tenant,
                (self.assembler.rules.output_weight * <double>(request.generated - request.expected_output))
                * self.contention.premium(request.charge_bid),
            )
        request.generated = 0
        self.assembler.displace(row, request.prompt_tokens, now_ns)

    cdef double finish(self, int32_t row, int64_t output, int64_t now_ns) noexcept nogil:
        cdef Request* request = &self.table.rows[row]
        cdef Tenant* tenant = &self.tenants.rows[request.tenant]
        if output > request.generated:
            self.report(row, self.kv.prefill_target(request.device, request.row), output, now_ns)
        tenant.finished += 1
        return self.conclude(row, request.prompt_tokens, output, now_ns)

    cdef double withdraw(self, int32_t row, int64_t now_ns) noexcept nogil:
        """A request ends at its caller's wish, whatever it is doing."""
        cdef Request* request = &self.table.rows[row]
        cdef int64_t prompt = request.prompt_tokens
        cdef Tenant* tenant = &self.tenants.rows[request.tenant]
        tenant.cancelled += 1
        if request.state == WAITING:
            self.take_out(row, ADMITTED, now_ns)
            return 0.0
        if request.generated == 0:
            prompt = min(prompt, self.kv.computed(request.device, request.row)) if request.state == RUNNING else 0
        return self.conclude(row, prompt, request.generated, now_ns)

    cdef double conclude(self, int32_t row, int64_t prompt, int64_t output, int64_t now_ns) noexcept nogil:
        """A started request ends: slot, KV, flight, service and bucket are settled to prompt and output used."""
        cdef Request* request = &self.table.rows[row]
        cdef int32_t slot = request.tenant
        cdef Tenant* tenant = &self.tenants.rows[slot]
        cdef double prem = self.contention.premium(request.charge_bid)
        cdef double reserved = <double>(<int64_t>request.prompt_tokens + request.max_tokens) * prem
        cdef double used = <double>(prompt + output) * prem
        self.fair.settle(
            slot,
            self.assembler.service_cost(
                row, request.prompt_tokens, max(request.expected_output, request.generated), request.charge_bid
            )
            - self.assembler.service_cost(row, prompt, output, request.charge_bid),
        )
        if reserved > used:
            self.buckets.refund(slot, reserved - used, now_ns)
        else:
            self.buckets.charge(slot, used - reserved, now_ns)
        if request.state == RUNNING:
            self.assembler.stop_running(row, now_ns)
        else:
            self.contention.lanes.remove_row(row, ALL)
            self.contention.count_returning(row, -1)
            self.assembler.drop_reservation(row)
        tenant.in_flight -= 1
        tenant.prompt_tokens += prompt
        tenant.output_tokens += output
        tenant.charged_tokens += used
        self.table.give(row)
        self.contention.evaluate(slot, now_ns)
        self.contention.finish(now_ns)
        self.free_if_drained(slot)
        return used

    cdef bint drains_by(self, int32_t slot, int64_t now_ns) noexcept nogil:
        """A draining tenant all of whose requests will have expired. Looks at the whole table: a rare call."""
        cdef Tenant* tenant = &self.tenants.rows[slot]
        cdef Request* request
        cdef int32_t row
        if tenant.state != DRAINING or tenant.in_flight:
            return False
        for row in range(self.table.fresh):
            request = &self.table.rows[row]
            if request.state == WAITING and request.tenant == slot:
                if not request.flags & TIMED or self.table.deadline_ns[row] > now_ns:
                    return False
        return True

    cdef void free_if_drained(self, int32_t slot) noexcept nogil:
        cdef Tenant* tenant = &self.tenants.rows[slot]
        if tenant.state == DRAINING and tenant.waiting == 0 and tenant.in_flight == 0:
            self.tenants.free(slot)
            self.fair.close(slot)

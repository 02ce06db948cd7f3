"""Who waits, and which tenants may go: the one place that says whether a tenant contends.

A tenant contends while its first request in policy order may go by the tenant's own limits: paid or affordable,
below its caps
on flights and KV. A tenant held back by its own limit must not hold V back, or the GPU idles. rules.md, section 5.
"""
from libc.stdint cimport INT64_MAX

import numpy as np

from aps_core.indexed_heap cimport HeapEntry, heap_drop, heap_put
from aps_core.request_table cimport PAID, TIMED, Request
from aps_core.tenant_table cimport ALL, Tenant
from aps_core.types cimport NONE, WAITING, int32_t, int64_t


cdef class Contention:
    """Composes lanes, buckets, shares and caps; each change ends with `evaluate` for its tenant and one `finish`."""

    def __cinit__(
        self,
        RequestTable table not None,
        Lanes lanes not None,
        DeadlineWheel wheel not None,
        TokenBuckets buckets not None,
        FairShare fair not None,
        TenantTable tenants not None,
        KVCache kv not None,
        double bid_premium,
        int32_t most_aside,
    ):
        cdef int32_t[::1] aside = np.full(most_aside, NONE, np.int32)
        self.table = table
        self.lanes = lanes
        self.wheel = wheel
        self.buckets = buckets
        self.fair = fair
        self.tenants = tenants
        self.kv = kv
        self.bid_premium = bid_premium
        self.memory = (aside, None)
        self.aside = &aside[0]
        self.reserve(tenants.capacity)

    cpdef void reserve(self, int32_t tenants) except *:
        """Make room for tenant slots below `tenants`, in every part; whatever fails, no slot is without its room."""
        cdef long long[::1] entries = np.zeros(2 * tenants, np.int64)
        cdef int32_t[::1] places = np.full(tenants, NONE, np.int32)
        cdef int32_t i, slot
        self.lanes.reserve(tenants)
        self.buckets.reserve(tenants)
        self.fair.reserve(tenants)
        for i in range(self.affordable.size):
            slot = self.affordable.entries[i].id
            places[slot] = i
            entries[2 * i] = self.affordable.entries[i].key
            entries[2 * i + 1] = slot
        self.affordable.entries = <HeapEntry*>&entries[0]
        self.affordable.place = &places[0]
        self.memory = (self.memory[0], (entries, places))
        self.tenants.reserve(tenants)                 # last: slots are given out below its capacity

    # Costs

    cdef double premium(self, int32_t bid) noexcept nogil:
        return 1.0 + self.bid_premium * (bid - 1)

    cdef double bucket_cost(self, int32_t row) noexcept nogil:
        cdef Request* request = &self.table.rows[row]
        return <double>(<int64_t>request.prompt_tokens + request.max_tokens) * self.premium(request.bid)

    cdef int64_t blocks(self, int32_t row) noexcept nogil:
        cdef Request* request = &self.table.rows[row]
        return self.kv.max_blocks(request.prompt_tokens, request.max_tokens)

    # Waiting

    cdef void count(self, int32_t row, int32_t sign) noexcept nogil:
        cdef Request* request = &self.table.rows[row]
        cdef Tenant* tenant = &self.tenants.rows[request.tenant]
        cdef Tenant* total = &self.tenants.rows[ALL]
        cdef int64_t tokens = sign * (<int64_t>request.prompt_tokens + request.max_tokens)
        cdef int64_t blocks = sign * self.blocks(row)
        tenant.waiting += sign
        total.waiting += sign
        tenant.waiting_tokens += tokens
        total.waiting_tokens += tokens
        tenant.waiting_blocks += blocks
        if not request.flags & PAID:
            tenant.unpaid += sign
        if self.fair.shares[request.tenant].contends:
            self.pool_waiting += sign
            self.pool_blocks += blocks

    cdef void count_returning(self, int32_t row, int32_t sign) noexcept nogil:
        self.returning += sign
        self.pool_waiting += sign
        self.pool_blocks += sign * self.blocks(row)

    cdef void enqueue(self, int32_t row) noexcept nogil:
        cdef Request* request = &self.table.rows[row]
        request.state = WAITING
        self.lanes.insert(row, request.tenant)
        self.count(row, 1)
        if request.flags & TIMED:
            self.wheel.insert(row)

    cdef void dequeue(self, int32_t row) noexcept nogil:
        cdef Request* request = &self.table.rows[row]
        self.lanes.remove_row(row, request.tenant)
        self.count(row, -1)
        if request.flags & TIMED:
            self.wheel.remove(row)
            request.flags &= ~TIMED

    cdef int32_t first(self, int32_t slot) noexcept nogil:
        """The tenant's first waiting request in policy order, or NONE."""
        cdef int32_t i, row, found = self.lanes.first_of(slot)
        for i in range(self.aside_count):
            row = self.aside[i]
            if self.table.rows[row].tenant != slot or self.table.rows[row].state != WAITING:
                continue
            if found == NONE or self.lanes.outranks(row, found):
                found = row
        return found

    # Contending

    cdef bint permits(self, int32_t slot, int32_t row, int64_t now_ns) noexcept nogil:
        """The tenant's own limits let this request go now."""
        cdef Tenant* tenant = &self.tenants.rows[slot]
        if tenant.in_flight >= tenant.max_in_flight:
            return False
        if tenant.kv_blocks != INT64_MAX and tenant.held_blocks + self.blocks(row) > tenant.kv_blocks:
            return False
        return (self.table.rows[row].flags & PAID) or self.buckets.affords(slot, self.bucket_cost(row), now_ns)

    cdef void evaluate(self, int32_t slot, int64_t now_ns) noexcept nogil:
        cdef Tenant* tenant = &self.tenants.rows[slot]
        cdef bint go = tenant.waiting > 0 and tenant.in_flight < tenant.max_in_flight
        cdef int64_t payable_ns = INT64_MAX
        cdef int32_t row
        if go and (tenant.unpaid or tenant.kv_blocks != INT64_MAX):      # else any first may go
            row = self.first(slot)
            if tenant.kv_blocks != INT64_MAX and tenant.held_blocks + self.blocks(row) > tenant.kv_blocks:
                go = False
            elif not self.table.rows[row].flags & PAID:
                payable_ns = self.buckets.affordable_ns(slot, self.bucket_cost(row), now_ns)
                go = payable_ns <= now_ns
        if not go and payable_ns != INT64_MAX:
            heap_put(&self.affordable, slot, payable_ns)
        elif self.affordable.place[slot] != NONE:
            heap_drop(&self.affordable, slot)
        if go != self.fair.shares[slot].contends:
            self.set_contends(slot, go)
        self.lanes.set_open(slot, go and self.fair.enter(slot))

    cdef void set_contends(self, int32_t slot, bint contends) noexcept nogil:
        cdef Tenant* tenant = &self.tenants.rows[slot]
        if contends:
            self.fair.begin(slot)
            self.pool_waiting += tenant.waiting
            self.pool_blocks += tenant.waiting_blocks
        else:
            self.fair.stop(slot)
            self.pool_waiting -= tenant.waiting
            self.pool_blocks -= tenant.waiting_blocks

    cdef void finish(self, int64_t now_ns) noexcept nogil:
        """The end of one atomic step: V follows the least S, those that it reaches come back, readiness is noted."""
        cdef int32_t slot
        cdef bint ready
        self.changes += 1
        if self.fair.contending:
            self.fair.advance()
            slot = self.fair.release()
            while slot != NONE:
                self.lanes.set_open(slot, True)
                slot = self.fair.release()
        else:
            self.fair.moved = NONE
        ready = self.fair.contending > 0 or self.returning > 0
        if ready and not self.ready:
            self.ready_since_ns = now_ns
        self.ready = ready

    cdef int64_t next_affordable_ns(self) noexcept nogil:
        return self.affordable.entries[0].key if self.affordable.size else INT64_MAX

"""Whether a request may join, and at what bid: the verdicts, and the buckets they are paid from. rules.md, sections
3, 4 and 8."""
from libc.stdint cimport INT64_MAX

from aps_core.clock cimport MAX_SECONDS, wait_until
from aps_core.request_table cimport PAID, TIMED, Request
from aps_core.tenant_table cimport ALL, Tenant
from aps_core.types cimport (
    ADMITTED, DEADLINE_EXPIRED, EXCEEDS_BURST, EXCEEDS_CONTEXT, EXCEEDS_KV_CACHE, EXCEEDS_KV_SHARE,
    EXCEEDS_MAX_REQUEST, EXCEEDS_QUEUE, EXCEEDS_TENANT_QUEUE, NONE, OVER_RATE, OVER_REQUEST_RATE, QUEUE_FULL,
    QUEUE_TOKENS_FULL, TENANT_QUEUE_FULL, TENANT_QUEUE_TOKENS_FULL, Reason, int32_t, int64_t, uint8_t,
)


cdef class Admission:
    """Judges and admits; "no" is a value, with `retry_after` or `largest` beside it."""

    def __cinit__(
        self, Contention contention not None, TokenBuckets request_buckets not None, int64_t max_context,
        int64_t expected_output, double epoch,
    ):
        self.contention = contention
        self.table = contention.table
        self.buckets = contention.buckets
        self.request_buckets = request_buckets
        self.tenants = contention.tenants
        self.kv = contention.kv
        self.max_context = max_context
        self.expected_output = expected_output
        self.epoch = epoch

    cdef int64_t offer(
        self, int32_t slot, int64_t prompt, int64_t most, int32_t bid, int64_t deadline_ns, int64_t forecast,
        int64_t now_ns, double now,
    ) noexcept nogil:
        cdef Tenant* tenant = &self.tenants.rows[slot]
        cdef Reason reason
        self.clear()
        if bid > tenant.max_bid:
            bid = tenant.max_bid
        reason = self.judge(slot, prompt, most, bid, deadline_ns, now_ns, now)
        if reason == ADMITTED:
            return self.admit(slot, prompt, most, bid, deadline_ns, forecast, now_ns)
        if reason <= EXCEEDS_TENANT_QUEUE:
            tenant.rejected += 1
        else:
            tenant.throttled += 1
        return -<int64_t>reason

    cdef void clear(self) noexcept nogil:
        self.retry_after = 0.0
        self.largest = 0

    cdef Reason judge(
        self, int32_t slot, int64_t prompt, int64_t most, int32_t bid, int64_t deadline_ns, int64_t now_ns, double now
    ) noexcept nogil:
        """The first test that fails, in the order of rules.md, section 4; sets `retry_after` and `largest`."""
        cdef Tenant* tenant = &self.tenants.rows[slot]
        cdef Tenant* total = &self.tenants.rows[ALL]
        cdef int64_t tokens = prompt + most, blocks = self.kv.max_blocks(prompt, most)
        cdef double prem = self.contention.premium(bid)
        cdef double cost = <double>tokens * prem
        if tokens > self.max_context:
            return self.too_large(EXCEEDS_CONTEXT, self.max_context - prompt)
        if blocks > self.kv.largest_limit:
            return self.too_large(EXCEEDS_KV_CACHE, self.kv.largest_limit * self.kv.block_tokens - prompt)
        if tokens > tenant.max_request_tokens:
            return self.too_large(EXCEEDS_MAX_REQUEST, tenant.max_request_tokens - prompt)
        if blocks > tenant.kv_blocks:
            return self.too_large(EXCEEDS_KV_SHARE, tenant.kv_blocks * self.kv.block_tokens - prompt)
        if cost > self.buckets.burst[slot]:
            return self.too_large(EXCEEDS_BURST, most_tokens(self.buckets.burst[slot], prem) - prompt)
        if tokens > queue_tokens(total):
            return self.too_large(EXCEEDS_QUEUE, queue_tokens(total) - prompt)
        if tokens > queue_tokens(tenant):
            return self.too_large(EXCEEDS_TENANT_QUEUE, queue_tokens(tenant) - prompt)
        if deadline_ns <= now_ns:
            return DEADLINE_EXPIRED
        if total.waiting >= total.max_queued and not self.has_place(tenant):
            return self.later(QUEUE_FULL, self.tenants.queue_wait_s(ALL))
        if total.waiting_tokens + tokens > total.max_queued_tokens and not self.has_room(tenant, tokens):
            return self.later(QUEUE_TOKENS_FULL, self.tenants.queue_wait_s(ALL))
        if tenant.waiting >= tenant.max_queued:
            return self.later(TENANT_QUEUE_FULL, self.tenants.queue_wait_s(slot))
        if tenant.waiting_tokens + tokens > tenant.max_queued_tokens:
            return self.later(TENANT_QUEUE_TOKENS_FULL, self.tenants.queue_wait_s(slot))
        if tenant.counts_requests and not self.request_buckets.affords(slot, 1.0, now_ns):
            return self.later(OVER_REQUEST_RATE, self.wait_s(self.request_buckets.affordable_ns(slot, 1.0, now_ns), now))
        if not tenant.queue_over_rate and not self.buckets.affords(slot, cost, now_ns):
            return self.later(OVER_RATE, self.wait_s(self.buckets.affordable_ns(slot, cost, now_ns), now))
        return ADMITTED

    cdef bint has_place(self, Tenant* tenant) noexcept nogil:
        """The queue of all is full, but not the tenant's part of it."""
        cdef Tenant* total = &self.tenants.rows[ALL]
        if total.waiting - total.max_queued >= total.max_queued:
            return False
        return tenant.waiting < max(1, total.max_queued // self.tenants.count)

    cdef bint has_room(self, Tenant* tenant, int64_t tokens) noexcept nogil:
        """The same for tokens; a first request may be larger than the part."""
        cdef Tenant* total = &self.tenants.rows[ALL]
        if total.waiting_tokens + tokens - total.max_queued_tokens > total.max_queued_tokens:
            return False
        return tenant.waiting == 0 or tenant.waiting_tokens + tokens <= total.max_queued_tokens // self.tenants.count

    cdef Reason too_large(self, Reason reason, int64_t largest) noexcept nogil:
        self.largest = max(largest, 0)
        return reason

    cdef Reason later(self, Reason reason, double retry_after) noexcept nogil:
        self.retry_after = retry_after
        return reason

    cdef double wait_s(self, int64_t until_ns, double now) noexcept nogil:
        return min(wait_until(until_ns, now, self.epoch), MAX_SECONDS)

    cdef int64_t admit(
        self, int32_t slot, int64_t prompt, int64_t most, int32_t bid, int64_t deadline_ns, int64_t forecast,
        int64_t now_ns,
    ) noexcept nogil:
        cdef int32_t row = self.table.take()
        cdef Request* request = &self.table.rows[row]
        cdef Tenant* tenant = &self.tenants.rows[slot]
        self.arrivals += 1
        request.tenant = slot
        request.number = self.arrivals
        request.arrival_ns = now_ns
        request.prompt_tokens = <int32_t>prompt
        request.max_tokens = <int32_t>most
        request.bid = <uint8_t>bid
        if forecast == NONE:
            forecast = self.expected_output
        request.expected_output = <int32_t>(most if forecast == NONE else min(most, forecast))
        if tenant.counts_requests:
            self.request_buckets.charge(slot, 1.0, now_ns)
        if not tenant.queue_over_rate:
            request.flags |= PAID
            self.buckets.charge(slot, self.contention.bucket_cost(row), now_ns)
        if deadline_ns != INT64_MAX:
            request.flags |= TIMED
            self.table.deadline_ns[row] = deadline_ns
        tenant.admitted += 1
        self.contention.enqueue(row)
        self.contention.evaluate(slot, now_ns)
        self.contention.finish(now_ns)
        return self.table.handle(row)

    cdef Reason move(self, int32_t row, int32_t bid, int64_t now_ns, double now) noexcept nogil:
        """A waiting request to the lane of another bid, if its bucket allows."""
        cdef Request* request = &self.table.rows[row]
        cdef int32_t slot = request.tenant
        cdef double old = self.contention.bucket_cost(row), new
        new = <double>(<int64_t>request.prompt_tokens + request.max_tokens) * self.contention.premium(bid)
        if request.flags & PAID:
            if new > old:
                if not self.buckets.affords(slot, new - old, now_ns):
                    if new > self.buckets.burst[slot]:
                        return EXCEEDS_BURST
                    return self.later(OVER_RATE, self.wait_s(self.buckets.affordable_ns(slot, new - old, now_ns), now))
                self.buckets.charge(slot, new - old, now_ns)
            elif new < old:
                self.buckets.refund(slot, old - new, now_ns)
        elif new > self.buckets.burst[slot]:
            return EXCEEDS_BURST
        self.contention.lanes.remove_row(row, slot)
        request.bid = <uint8_t>bid
        self.contention.lanes.insert(row, slot)
        self.contention.evaluate(slot, now_ns)
        self.contention.finish(now_ns)
        return ADMITTED


cdef inline int64_t queue_tokens(Tenant* queue) noexcept nogil:
    """What an empty queue takes."""
    return queue.max_queued_tokens if queue.max_queued else 0


cdef int64_t most_tokens(double burst, double prem) noexcept nogil:
    """The largest n with ``n * prem <= burst``."""
    cdef int64_t n = <int64_t>(burst / prem)
    while <double>(n + 1) * prem <= burst:
        n += 1
    while n > 0 and <double>n * prem > burst:
        n -= 1
    return n

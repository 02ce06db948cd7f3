"""What the operator allows each tenant, and what each has under way."""
from libc.string cimport memset

from libc.stdint cimport INT32_MAX, INT64_MAX

import numpy as np

from aps_core.arguments cimport positive, real, whole
from aps_core.clock cimport FOREVER
from aps_core.types cimport BIDS, NONE, int32_t, int64_t

cdef int64_t UNBOUNDED = <int64_t>1 << 62     # tokens


cdef object record_type():
    """The NumPy dtype of `Tenant`, taken from the C declaration."""
    cdef Tenant sample[1]
    cdef Tenant[::1] view = sample
    memset(sample, 0, sizeof(sample))
    return np.asarray(view).dtype


cdef frozenset KEYWORDS = frozenset(
    (
        "weight", "rate", "burst", "queue_over_rate", "request_rate", "request_burst", "max_request_tokens", "max_bid",
        "max_in_flight", "max_queued", "max_queued_tokens", "kv_share",
    )
)


cdef Limits parse_limits(dict given) except *:
    """Checked limits; what is not given is unlimited, with weight 1. TypeError for an unknown keyword, ValueError
    out of range."""
    cdef Limits limits
    if not KEYWORDS.issuperset(given):
        unknown = min(set(given) - KEYWORDS)
        raise TypeError(f"unknown keyword {unknown!r}: allowed are {', '.join(sorted(KEYWORDS))}")
    limits.weight = real(given.get("weight", 1.0), "weight", 1e-9, 1e9)
    limits.rate = real(given.get("rate", FOREVER), "rate", 1e-6, FOREVER)
    limits.burst = positive(given.get("burst", FOREVER), "burst", True)
    if (limits.rate == FOREVER) != (limits.burst == FOREVER):
        raise ValueError(
            f"rate and burst must be both finite or both infinite, got {limits.rate!r} and {limits.burst!r}"
        )
    limits.request_rate = real(given.get("request_rate", FOREVER), "request_rate", 1e-6, FOREVER)
    limits.request_burst = real(given.get("request_burst", FOREVER), "request_burst", 1.0, FOREVER)
    if (limits.request_rate == FOREVER) != (limits.request_burst == FOREVER):
        raise ValueError(
            "request_rate and request_burst must be both finite or both infinite, "
            f"got {limits.request_rate!r} and {limits.request_burst!r}"
        )
    limits.max_request_tokens = whole(given.get("max_request_tokens", UNBOUNDED), "max_request_tokens", 2, UNBOUNDED)
    limits.kv_share = positive(given.get("kv_share", 1.0), "kv_share", False)
    if limits.kv_share > 1.0:
        raise ValueError(f"kv_share must be above 0 and at most 1, got {limits.kv_share!r}")
    limits.max_queued_tokens = whole(given.get("max_queued_tokens", UNBOUNDED), "max_queued_tokens", 0, UNBOUNDED)
    limits.max_queued = <int32_t>whole(given.get("max_queued", INT32_MAX), "max_queued", 0, INT32_MAX)
    limits.max_in_flight = <int32_t>whole(given.get("max_in_flight", INT32_MAX), "max_in_flight", 1, INT32_MAX)
    limits.max_bid = <int32_t>whole(given.get("max_bid", BIDS), "max_bid", 1, BIDS)
    limits.queue_over_rate = bool(given.get("queue_over_rate", False))
    return limits


cdef class TenantTable:
    """Rows 1.. are tenants; row 0 holds the totals over all of them."""

    def __cinit__(self, int32_t capacity=16):
        self.records = np.zeros(0, record_type())
        self.lowest = 1
        self.reserve(capacity)

    cpdef void reserve(self, int32_t capacity) except *:
        """Make room for rows below `capacity`."""
        cdef Tenant[::1] rows
        if capacity <= self.capacity:
            return
        records = np.zeros(capacity, self.records.dtype)
        records[: self.capacity] = self.records
        rows = records
        self.records = records
        self.rows = &rows[0]
        self.capacity = capacity

    cdef void open(self, int32_t slot, Limits* limits, int64_t total_blocks) noexcept nogil:
        memset(&self.rows[slot], 0, sizeof(Tenant))
        self.rows[slot].state = ACTIVE
        self.count += 1
        self.apply(slot, limits, total_blocks)

    cdef void apply(self, int32_t slot, Limits* limits, int64_t total_blocks) noexcept nogil:
        cdef Tenant* row = &self.rows[slot]
        row.max_bid = limits.max_bid
        row.max_in_flight = limits.max_in_flight
        row.max_queued = limits.max_queued
        row.max_queued_tokens = limits.max_queued_tokens
        row.max_request_tokens = limits.max_request_tokens
        row.queue_over_rate = limits.queue_over_rate
        row.counts_requests = limits.request_rate != FOREVER
        row.kv_blocks = INT64_MAX
        if limits.kv_share < 1.0:
            row.kv_blocks = <int64_t>(limits.kv_share * <double>total_blocks)

    cdef int32_t vacant(self) noexcept:
        while self.lowest < self.capacity:
            if self.rows[self.lowest].state == VACANT:
                return self.lowest
            self.lowest += 1
        return NONE

    cdef void free(self, int32_t slot) noexcept nogil:
        self.rows[slot].state = VACANT
        self.count -= 1
        if slot < self.lowest:
            self.lowest = slot

    cdef void start(self, int32_t slot, int64_t arrival_ns, int64_t now_ns) noexcept nogil:
        """A first dispatch. How long there was nothing to dispatch says nothing about the pace."""
        cdef Tenant* row = &self.rows[slot]
        cdef double interval
        if row.started == 0 or now_ns > row.last_start_ns:
            row.followed = row.started > 0
            row.earlier_start_ns, row.last_start_ns = row.last_start_ns, now_ns
            row.earlier_interval_s, row.was_paced = row.start_interval_s, row.paced
            row.last_waited, row.last_part = 0, 0.0
        row.started += 1
        if row.followed and arrival_ns <= row.earlier_start_ns:
            row.last_waited += 1
            row.last_part = row.last_part + 0.0625 * (1.0 - row.last_part)
            interval = <double>(now_ns - row.earlier_start_ns) * 1e-9 / <double>row.last_waited
            if row.was_paced:
                interval = row.earlier_interval_s + row.last_part * (interval - row.earlier_interval_s)
            row.start_interval_s, row.paced = interval, True

    cdef double queue_wait_s(self, int32_t slot) noexcept nogil:
        cdef Tenant* row = &self.rows[slot]
        if not row.paced:
            return 1.0
        return row.start_interval_s if row.start_interval_s > 0.001 else 0.001

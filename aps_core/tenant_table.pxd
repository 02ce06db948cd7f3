"""Tenants as rows: their limits and what they have under way. Row 0 stands for all of them together. See
tenant_table.pyx."""
cimport cython

from aps_core.types cimport int32_t, int64_t, uint8_t

cdef enum:
    ALL = 0                   # the row of totals; as a lane number, the lanes of returning requests

cdef enum TenantState:
    VACANT = 0
    ACTIVE = 1
    DRAINING = 2              # removed; what was accepted is still served

cdef struct Tenant:
    double charged_tokens      # final charges of the requests that ended
    double start_interval_s    # smoothed, between first dispatches while requests wait
    double earlier_interval_s  # as it was before the last instant with one
    double last_part           # what that instant's are of it
    int64_t last_start_ns
    int64_t earlier_start_ns   # the instant before
    int64_t last_waited        # of the last instant's, those that waited since the earlier one
    int64_t max_queued_tokens
    int64_t max_request_tokens
    int64_t kv_blocks          # its share
    int64_t waiting_tokens
    int64_t waiting_blocks
    int64_t held_blocks        # max_blocks of what runs
    int64_t admitted
    int64_t rejected
    int64_t throttled
    int64_t started
    int64_t finished
    int64_t cancelled
    int64_t expired
    int64_t preempted
    int64_t prompt_tokens      # used by the requests that ended
    int64_t output_tokens
    int32_t max_in_flight
    int32_t max_queued
    int32_t waiting
    int32_t in_flight
    int32_t unpaid             # waiting ones that pay at dispatch
    int32_t max_bid
    uint8_t state              # TenantState
    uint8_t queue_over_rate
    uint8_t counts_requests    # has a request rate
    uint8_t paced              # there is a start_interval_s
    uint8_t was_paced          # an earlier_interval_s
    uint8_t followed           # an earlier_start_ns
    uint8_t unused[2]

cdef struct Limits:           # what the operator sets
    double weight
    double rate               # tokens/s; infinity: unlimited
    double burst              # tokens
    double request_rate       # requests/s; infinity: unlimited
    double request_burst      # requests
    double kv_share           # of all devices' blocks; 1 is no cap
    int64_t max_queued_tokens
    int64_t max_request_tokens
    int32_t max_queued
    int32_t max_in_flight
    int32_t max_bid
    int32_t queue_over_rate   # wait for the bucket instead of being refused

cdef Limits parse_limits(dict given) except *


@cython.final
cdef class TenantTable:
    cdef Tenant* rows
    cdef readonly int32_t capacity
    cdef int32_t count                # tenants, draining ones too
    cdef int32_t lowest               # no lower row is free, so many tenants come without a search each
    cdef readonly object records      # the NumPy structured array

    cpdef void reserve(self, int32_t capacity) except *
    cdef void open(self, int32_t slot, Limits* limits, int64_t total_blocks) noexcept nogil
    cdef void apply(self, int32_t slot, Limits* limits, int64_t total_blocks) noexcept nogil
    cdef int32_t vacant(self) noexcept          # the lowest free row, or NONE
    cdef void free(self, int32_t slot) noexcept nogil
    cdef void start(self, int32_t slot, int64_t arrival_ns, int64_t now_ns) noexcept nogil       # a first dispatch happened
    cdef double queue_wait_s(self, int32_t slot) noexcept nogil   # until a full queue has a place, roughly

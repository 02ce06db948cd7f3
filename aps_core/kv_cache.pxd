"""See kv_cache.pyx."""
from aps_core.types cimport int32_t, int64_t

cdef struct KVNeed:           # what a request would need on a device
    int64_t prompt_tokens
    int64_t max_tokens
    int64_t generated         # output tokens so far
    int64_t prefill           # tokens still to prefill
    int32_t bid               # its place in the prefill order

cdef enum Backfill:
    BLOCKED = 0               # does not fit, or delays the reserved start
    ENDS_BEFORE = 1           # may go, and ends by the reserved step
    ENDS_AFTER = 2            # may go, and ends after it

cdef class KVCache:           # one object for all devices
    cdef readonly int32_t devices
    cdef readonly int64_t block_tokens
    cdef readonly int64_t total_blocks        # of all devices
    cdef readonly int64_t largest_limit

    cdef int64_t max_blocks(self, int64_t prompt_tokens, int64_t max_tokens) noexcept nogil
    cdef int64_t limit(self, int32_t device) noexcept nogil
    cdef int32_t slots(self, int32_t device) noexcept nogil
    cdef int32_t running(self, int32_t device) noexcept nogil
    cdef int64_t held(self, int32_t device) noexcept nogil    # blocks held now
    cdef int64_t maxima(self, int32_t device) noexcept nogil  # sum of max_blocks of what runs
    cdef bint fits(self, int32_t device, const KVNeed* need) noexcept nogil
    cdef int64_t earliest_start(self, int32_t device, const KVNeed* reserved) noexcept nogil
    cdef Backfill backfill(self, int32_t device, const KVNeed* need, const KVNeed* reserved, int64_t step) noexcept nogil
    cdef bint fits_without(self, int32_t device, const KVNeed* need, const int32_t* rows, int32_t n) noexcept nogil  # as if those rows were released
    cdef int32_t reserve(self, int32_t device, int32_t request, const KVNeed* need) noexcept nogil   # a slot is free; returns the row
    cdef int32_t request_at(self, int32_t device, int32_t row) noexcept nogil   # the table row running there, NONE when free
    cdef int64_t start_number(self, int32_t device, int32_t row) noexcept nogil # start order (1, 2, ... over the device's starts)
    cdef int64_t computed(self, int32_t device, int32_t row) noexcept nogil     # prefill tokens computed since this start
    cdef int64_t cached(self, int32_t device, int32_t row) noexcept nogil       # computed + tokens generated since this start
    cdef void grow(self, int32_t device, int32_t row, int64_t computed, int64_t generated) noexcept nogil
    cdef void release(self, int32_t device, int32_t row) noexcept nogil

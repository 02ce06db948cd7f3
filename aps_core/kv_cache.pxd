"""See kv_cache.pyx."""
from aps_core.envelope cimport Envelope, Span
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

cdef struct Row:              # a running request, or one that is imagined to run
    int64_t prompt_tokens
    int64_t max_tokens
    int64_t generated
    int64_t generated_before  # `generated` at this start
    int64_t target            # prefill tokens at this start
    int64_t computed          # of them, as last reported
    int64_t prefill           # of them, still to come: q in the rules; 0 once it decodes
    int64_t bid               # at this start
    int64_t number            # of its start; 0 when the row is free
    int64_t request           # the caller's number for it, NONE when free
    int64_t held              # blocks now
    int64_t max_blocks
    int64_t whole             # these three as in Span; when the device is `flat` it counts as holding its maximum now
    int64_t rest
    int64_t end

cdef struct Device:
    int64_t slots
    int64_t limit
    int64_t drain             # prefill tokens that a step gets through at least; 0: whole prompts
    int64_t flat              # too small a token budget: everyone counts as holding its maximum
    int64_t first             # its first row; the same offset holds in the three lists
    int64_t running           # _order[first : first + running], roughly by end
    int64_t prefilling        # _prefill[first : first + prefilling], in prefill order
    int64_t held
    int64_t maxima
    int64_t starts

cdef class KVCache:           # one object for all devices
    cdef readonly int32_t devices
    cdef readonly int64_t block_tokens
    cdef int64_t _shift       # block_tokens is 1 << _shift; NONE when it is no power of two
    cdef readonly int64_t total_blocks        # of all devices
    cdef readonly int64_t largest_limit
    cdef Device[::1] _devices
    cdef Row[::1] _rows       # slots + 1 a device (the lists need the place), then the two imagined ones
    cdef int64_t[::1] _order
    cdef int64_t[::1] _prefill
    cdef int64_t[::1] _free   # a stack of slots - running rows a device
    cdef Span[::1] _spans     # scratch
    cdef int64_t _candidate   # the two imagined rows
    cdef int64_t _reserved

    cdef int64_t max_blocks(self, int64_t prompt_tokens, int64_t max_tokens) noexcept nogil
    cdef bint fits(self, int32_t device, const KVNeed* need) noexcept nogil
    # NONE: larger than the device's limit
    cdef int64_t earliest_start(self, int32_t device, const KVNeed* reserved) noexcept nogil
    cdef Backfill backfill(
        self, int32_t device, const KVNeed* need, const KVNeed* reserved, int64_t step
    ) noexcept nogil
    # as if those rows were released
    cdef bint fits_without(self, int32_t device, const KVNeed* need, const int32_t* rows, int32_t n) noexcept nogil
    # a slot is free; returns the row
    cdef int32_t reserve(self, int32_t device, int32_t request, const KVNeed* need) noexcept nogil
    cdef void grow(self, int32_t device, int32_t row, int64_t computed, int64_t generated) noexcept nogil
    cdef void release(self, int32_t device, int32_t row) noexcept nogil

    cdef inline int64_t limit(self, int32_t device) noexcept nogil:
        return self._devices[device].limit

    cdef inline int32_t slots(self, int32_t device) noexcept nogil:
        return <int32_t>self._devices[device].slots

    cdef inline int32_t running(self, int32_t device) noexcept nogil:
        return <int32_t>self._devices[device].running

    cdef inline int64_t held(self, int32_t device) noexcept nogil:                        # blocks held now
        return self._devices[device].held

    cdef inline int64_t maxima(self, int32_t device) noexcept nogil:                      # sum of what runs
        return self._devices[device].maxima

    cdef inline int32_t request_at(self, int32_t device, int32_t row) noexcept nogil:     # NONE when free
        return <int32_t>self._rows[self._devices[device].first + row].request

    cdef inline int64_t start_number(self, int32_t device, int32_t row) noexcept nogil:   # 1, 2, ... on the device
        return self._rows[self._devices[device].first + row].number

    cdef inline int64_t prefill_target(self, int32_t device, int32_t row) noexcept nogil:  # tokens at this start
        return self._rows[self._devices[device].first + row].target

    cdef inline int64_t prefill_left(self, int32_t device, int32_t row) noexcept nogil:
        return self._rows[self._devices[device].first + row].prefill

    cdef inline int64_t computed(self, int32_t device, int32_t row) noexcept nogil:       # prefill since this start
        return self._rows[self._devices[device].first + row].computed

    cdef inline int64_t cached(self, int32_t device, int32_t row) noexcept nogil:         # and generated since
        cdef Row* it = &self._rows[self._devices[device].first + row]
        return it.computed + it.generated - it.generated_before

    cdef void _lay_out(self, int32_t i, int64_t first, int64_t slots, int64_t limit, int64_t budget) noexcept nogil
    cdef void _fill(
        self, Device* device, int64_t row, int32_t request, const KVNeed* need, int64_t number
    ) noexcept nogil
    cdef void _measure(self, Device* device, Row* row) noexcept nogil
    cdef void _enter(self, Device* device, int64_t row) noexcept nogil
    cdef void _leave(self, Device* device, int64_t row) noexcept nogil
    cdef void _queue(self, Device* device, int64_t row) noexcept nogil
    cdef void _unqueue(self, Device* device, int64_t row) noexcept nogil
    cdef void _schedule(self, Device* device) noexcept nogil
    cdef Envelope _envelope(self, Device* device) noexcept nogil
    cdef Span _span(self, int64_t row) noexcept nogil
    cdef Device* _device(self, object index) except NULL
    cdef Row* _running_row(self, object device, object index) except NULL

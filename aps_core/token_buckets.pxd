"""See token_buckets.pyx."""
cimport cython
from aps_core.types cimport int32_t, int64_t


@cython.final
cdef class TokenBuckets:
    cdef double[::1] rate     # tokens/s; infinity: unlimited
    cdef double[::1] burst
    cdef double[::1] base     # level at base_ns
    cdef int64_t[::1] base_ns
    cdef readonly int32_t capacity
    cdef readonly double epoch  # of the Python API, which takes seconds
    cdef int64_t last_ns        # the latest now the Python API was given

    cpdef void reserve(self, Py_ssize_t capacity) except *
    # A new, full bucket.
    cdef void open(self, int32_t slot, double rate, double burst, int64_t now_ns) noexcept nogil
    # Keeps the level, down to the new burst.
    cdef void configure(self, int32_t slot, double rate, double burst, int64_t now_ns) noexcept nogil
    # As it was so long ago, with a base still older; then `configure` of the limits it has, `passed_ns` ago.
    cdef void revive(
        self, int32_t slot, double rate, double burst, double base, int64_t age_ns, int64_t passed_ns, int64_t now_ns
    ) noexcept nogil
    cdef double level_at(self, int32_t slot, int64_t now_ns) noexcept nogil
    cdef bint affords(self, int32_t slot, double cost, int64_t now_ns) noexcept nogil
    cdef void charge(self, int32_t slot, double cost, int64_t now_ns) noexcept nogil    # take, into debt if need be
    cdef bint take_at(self, int32_t slot, double cost, int64_t now_ns) noexcept nogil   # affords, then charge
    cdef void refund(self, int32_t slot, double amount, int64_t now_ns) noexcept nogil  # give back
    # The first ns >= now; INT64_MAX when never.
    cdef int64_t affordable_ns(self, int32_t slot, double cost, int64_t now_ns) noexcept nogil

    # The Python API's checks: ValueError, IndexError.
    cdef int64_t instant(self, double now) except -1
    cdef int check_slot(self, Py_ssize_t slot) except -1
    cdef int check_amount(self, double amount) except -1
    cdef int check_limits(self, Py_ssize_t slot, double rate, double burst) except -1

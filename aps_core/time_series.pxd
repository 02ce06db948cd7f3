"""See time_series.pyx."""
cimport cython

from aps_core.gpu cimport Total
from aps_core.types cimport int32_t, int64_t

cdef enum Quantity:
    WAITING_REQUESTS = 0
    RUNNING_REQUESTS = 1
    HELD_BLOCKS = 2

cdef enum:
    QUANTITIES = 3

cdef struct Level:            # of one quantity in one bin
    int64_t least
    int64_t most
    Total integral            # over time


@cython.final
cdef class TimeSeries:
    cdef int32_t points
    cdef int32_t tenants
    cdef int32_t sources      # arrays that `served` is summed over: two a device
    cdef int64_t width_ns     # of a bin
    cdef int64_t end_ns       # of the bin that is open
    cdef int64_t now_ns
    cdef int32_t bin          # the one that is open
    cdef Level* levels        # (points, QUANTITIES)
    cdef int64_t* served      # (points, 2, tenants)
    cdef int64_t* backlog     # (points, tenants): ns in which the tenant had a waiting request
    cdef int64_t* counted     # (2, tenants): what `served` has of it already
    cdef int64_t* since_ns    # (tenants,): when it began to wait, or the open bin did
    cdef int32_t* waiting     # (tenants,): its waiting requests
    cdef const int64_t** sums  # (2, devices): running totals by tenant
    cdef object memory

    cdef void watch(self, int32_t device, const int64_t* prefill, const int64_t* output) noexcept nogil
    # Until now_ns the quantities were these; now_ns never falls.
    cdef void advance(self, int64_t now_ns, int64_t waiting, int64_t running, int64_t held) noexcept nogil
    cdef void hold(self, Quantity quantity, int64_t value, int64_t duration_ns) noexcept nogil
    cdef void open(self) noexcept nogil
    cdef void settle(self) noexcept nogil
    cdef void widen(self) noexcept nogil
    cdef void combine(self, int32_t bin, int32_t other) noexcept nogil
    cdef dict read(self)

    cdef inline void wait(self, int32_t tenant) noexcept nogil:
        """One more of its requests waits."""
        self.waiting[tenant] += 1
        if self.waiting[tenant] == 1:
            self.since_ns[tenant] = self.now_ns

    cdef inline void go(self, int32_t tenant) noexcept nogil:
        """One fewer."""
        self.waiting[tenant] -= 1
        if self.waiting[tenant] == 0:
            self.backlog[<int64_t>self.bin * self.tenants + tenant] += self.now_ns - self.since_ns[tenant]

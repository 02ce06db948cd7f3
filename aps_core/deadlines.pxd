"""See deadlines.pyx."""
from aps_core.types cimport int32_t, int64_t, uint64_t
from aps_core.request_table cimport RequestTable

cdef class DeadlineWheel:
    cdef RequestTable table
    cdef int32_t[::1] heads   # list heads: LEVELS x 64
    cdef uint64_t occupied[8] # a bit per head
    cdef int64_t tick         # the tick that `due` belongs to
    cdef int32_t due          # requests of the current tick, sorted by (deadline, tenant, arrival number)
    cdef readonly int32_t count

    cdef void insert(self, int32_t row) noexcept nogil       # table.deadline_ns[row] is set; it is after the last advance
    cdef void remove(self, int32_t row) noexcept nogil
    cdef void advance(self, int64_t now_ns) noexcept nogil   # bring every tick up to now's into `due`
    cdef int32_t first_due(self, int64_t now_ns) noexcept nogil   # the first request with deadline <= now, in order, or NONE (after advance(now))
    cdef int64_t wake_ns(self) noexcept nogil                # a bound > the last advance, never after the next deadline; INT64_MAX when empty

"""See deadlines.pyx."""
cimport cython
from aps_core.types cimport int32_t, int64_t, uint64_t
from aps_core.request_table cimport RequestTable


@cython.final
cdef class DeadlineWheel:
    cdef RequestTable table
    cdef int32_t[::1] heads   # list heads: LEVELS x 64 wheel slots, then the list of what is due
    cdef uint64_t occupied[8]   # a bit per wheel slot
    cdef int64_t tick         # the tick last advanced to; its requests and earlier ones are due
    cdef int32_t due_tail
    cdef readonly int32_t count
    cdef readonly double epoch  # of the Python API, which takes seconds
    cdef int64_t last_ns        # the latest now the Python API was given

    # table.deadline_ns[row] is set, and is after the last advance. Sets TIMED.
    cdef void insert(self, int32_t row) noexcept nogil
    cdef void remove(self, int32_t row) noexcept nogil       # clears TIMED
    cdef void advance(self, int64_t now_ns) noexcept nogil   # bring every tick up to now's into the due list
    # After advance(now): the first request with deadline <= now, in order, or NONE.
    cdef int32_t first_due(self, int64_t now_ns) noexcept nogil
    # The next deadline, or a bound for it that is after the last advance; INT64_MAX when empty.
    cdef int64_t wake_ns(self) noexcept nogil

    cdef void place(self, int32_t row) noexcept nogil
    cdef void link(self, int32_t row, int32_t head) noexcept nogil
    cdef void link_due(self, int32_t row) noexcept nogil
    cdef int64_t slot_tick(self, int32_t head) noexcept nogil
    cdef int32_t next_head(self) noexcept nogil
    cdef bint earlier(self, int32_t a, int32_t b) noexcept nogil
    cdef int32_t merge(self, int32_t a, int32_t b) noexcept nogil
    cdef int32_t sorted(self, int32_t row) noexcept nogil
    cdef void append_due(self, int32_t row) noexcept nogil
    cdef int64_t instant(self, double now) except -1

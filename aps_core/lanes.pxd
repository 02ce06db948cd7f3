"""See lanes.pyx."""
cimport cython

from aps_core.request_table cimport RequestTable
from aps_core.types cimport int32_t, int64_t, uint8_t, uint16_t
from aps_core.winner_tree cimport Key, WinnerTree

cdef enum:
    MOST_TENANTS = 1 << 24

cdef struct Lane:             # the waiting requests of one tenant at one bid
    int32_t head              # FIFO in arrival order
    int32_t tail
    int32_t stray             # root of a pairing heap: those that came out of arrival order
    int32_t count

@cython.final
cdef class Lanes:
    cdef RequestTable table
    cdef Lane* lanes          # tenant * BIDS + bid - 1
    cdef uint16_t* filled     # per tenant: a bit for each lane that holds anything
    cdef uint8_t* open        # per tenant: its lanes compete
    cdef Key* firsts          # tenant * BIDS + bid - 1: of the lane's first
    cdef WinnerTree tree      # open tenants by their first in policy order
    cdef int32_t* stale       # tenants whose leaf must be made anew before the tree is asked
    cdef uint8_t* is_stale    # per tenant
    cdef int32_t stale_count
    cdef uint8_t* winning_lane        # per tenant: index of the lane its leaf stands for
    cdef int64_t horizon_ns   # aging horizon; NEVER: bids do not age
    cdef int32_t tenants
    cdef int64_t count        # requests in all lanes
    cdef object memory        # the NumPy arrays that own the above

    cpdef void reserve(self, int32_t tenants) except *
    cdef int64_t rank_of(self, int32_t row) noexcept nogil
    cdef bint outranks(self, int32_t row, int32_t other) noexcept nogil
    cdef void insert(self, int32_t row, int32_t lane_tenant) noexcept nogil
    cdef void remove_row(self, int32_t row, int32_t lane_tenant) noexcept nogil
    cdef int32_t lane_first(self, Lane* lane) noexcept nogil
    cdef int32_t first_of(self, int32_t tenant) noexcept nogil
    cdef int32_t best(self, int32_t lowest_bid) noexcept nogil
    cdef void set_open(self, int32_t tenant, bint opened) noexcept nogil
    cdef void set_horizon(self, int64_t horizon_ns) noexcept nogil
    cdef void rank_lane(self, int32_t tenant, int32_t index) noexcept nogil
    cdef int32_t best_lane(self, int32_t tenant, int32_t lowest_bid) noexcept nogil
    cdef int32_t best_among(self, int32_t lowest_bid) noexcept nogil
    cdef void mark(self, int32_t tenant) noexcept nogil
    cdef void refresh(self) noexcept nogil
    cdef double effective_bid(self, int32_t row, int64_t now_ns) noexcept nogil
    cdef double horizon_s(self) noexcept nogil
    cdef int64_t competing(self) noexcept nogil

cdef int64_t to_horizon_ns(object seconds) except -1

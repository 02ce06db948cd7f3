"""See aging_heap.pyx."""
cimport cython

from aps_core.indexed_heap cimport IndexedHeap
from aps_core.request_table cimport RequestTable
from aps_core.types cimport BIDS, int32_t, int64_t, uint8_t, uint16_t

cdef struct Lane:             # the waiting requests of one tenant at one bid
    int32_t head              # FIFO in arrival order
    int32_t tail
    int32_t stray             # root of a pairing heap: those that came out of arrival order
    int32_t count

@cython.final
cdef class AgingHeap:
    cdef RequestTable table
    cdef Lane* lanes          # tenant * BIDS + bid - 1
    cdef uint16_t* filled     # per tenant: a bit for each lane that holds anything
    cdef uint8_t* open        # per tenant: its lanes compete
    cdef IndexedHeap heaps[BIDS]      # per bid: open tenants by the arrival number of the lane's first
    cdef int32_t top_row[BIDS]        # the heaps' tops, where `dirty` has no bit
    cdef int64_t top_rank[BIDS]
    cdef int64_t top_number[BIDS]
    cdef uint16_t live        # a bit per heap that may hold anything
    cdef uint16_t dirty       # a bit per heap whose top must be looked up anew
    cdef int64_t horizon_ns   # aging horizon; NEVER: bids do not age
    cdef readonly int32_t tenants
    cdef readonly int64_t count
    cdef int64_t last_number  # standalone use: arrivals so far
    cdef int64_t last_ns
    cdef bint shared          # the table is another owner's: no standalone use
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
    cdef void refresh(self, int32_t index) noexcept nogil
    cdef int32_t _push(self, int32_t tenant, int32_t bid, int64_t now_ns) noexcept nogil
    cdef int64_t _pop(self) noexcept nogil
    cdef int _own(self) except -1
    cdef int _room(self, int64_t more) except -1
    cdef int32_t _row(self, object handle) except -1
    cdef object _bulk(self, object tenants, object bids, object out)

cdef int64_t to_horizon_ns(object seconds) except -1
cdef double effective_bid(AgingHeap heap, int32_t row, int64_t now_ns) noexcept nogil

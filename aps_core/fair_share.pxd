"""See fair_share.pyx."""
cimport cython

from aps_core.indexed_heap cimport IndexedHeap
from aps_core.types cimport int32_t, int64_t, uint8_t

cdef struct Share:            # one tenant's account
    double service            # S: cost received / weight
    double credit             # cost charged and not used, set off against the next charges
    double weight
    double threshold          # S - D / weight: in the window while this is at most V
    uint8_t contends
    uint8_t unused[7]

@cython.final
cdef class FairShare:
    cdef Share* shares        # by tenant slot
    cdef IndexedHeap least    # contending tenants by S; keys that got later are corrected at the top
    cdef IndexedHeap parked   # contending tenants outside the window, by threshold
    cdef readonly double virtual_time     # V
    cdef readonly double window           # D, cost units
    cdef readonly int32_t contending
    cdef int32_t last         # the last tenant to stop contending, or NONE
    cdef int32_t moved        # whose S has risen in this atomic step: a tenant, NONE or SEVERAL
    cdef readonly double widest_gap       # the largest (S - V) * weight at the end of one, over contending tenants
    cdef readonly int32_t tenants
    cdef object memory

    cpdef void reserve(self, int32_t tenants) except *
    cdef void open(self, int32_t slot, double weight) noexcept nogil          # a new account
    # A saved account, for the weight it has now; V is the saved one already.
    cdef void revive(self, int32_t slot, double service, double credit, double weight) noexcept nogil
    cdef void close(self, int32_t slot) noexcept nogil                        # the account is given up
    cdef void begin(self, int32_t slot) noexcept nogil                        # starts to contend
    cdef void stop(self, int32_t slot) noexcept nogil
    cdef void charge(self, int32_t slot, double cost) noexcept nogil
    cdef void settle(self, int32_t slot, double unused) noexcept nogil
    cdef bint stays(self, int32_t slot, double cost) noexcept nogil   # in the window, were it charged that
    cdef double least_other(self, int32_t slot) noexcept nogil
    cdef bint settle_top(self) noexcept nogil
    cdef bint in_window(self, int32_t slot) noexcept nogil
    cdef bint enter(self, int32_t slot) noexcept nogil        # in the window? else park it until V reaches it
    cdef void advance(self) noexcept nogil                                    # V follows the least S
    cdef void rises(self, int32_t slot) noexcept nogil
    cdef void widen(self, int32_t slot) noexcept nogil
    cdef int32_t release(self) noexcept nogil                            # a parked tenant that V has reached, or NONE
    cdef void reweigh(self, int32_t slot, double weight) noexcept nogil
    cdef void set_window(self, double window) noexcept nogil
    cdef void place(self, int32_t slot) noexcept nogil
    cdef int32_t _slot(self, object tenant) except -1
    cdef void _finish(self, int32_t slot) noexcept

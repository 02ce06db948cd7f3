"""See aging_heap.pyx."""
cimport cython

from aps_core.lanes cimport Lanes
from aps_core.request_table cimport RequestTable
from aps_core.types cimport int32_t, int64_t


@cython.final
cdef class AgingHeap:
    cdef RequestTable table
    cdef Lanes lanes
    cdef int64_t last_number  # arrivals so far
    cdef int64_t last_ns      # of the last arrival

    cdef int32_t _push(self, int32_t tenant, int32_t bid, int64_t now_ns) noexcept nogil
    cdef int64_t _pop(self) noexcept nogil
    cdef int _room(self, int64_t more) except -1
    cdef int32_t _row(self, object handle) except -1
    cdef object _bulk(self, object tenants, object bids, object out)

"""See arrivals.pyx."""
cimport cython

from aps_core.indexed_heap cimport IndexedHeap
from aps_core.types cimport int32_t, int64_t


@cython.final
cdef class Arrivals:
    cdef int64_t n
    cdef const int64_t* at_ns             # of a follower: the time between the end it waits for and its arrival
    cdef const int64_t* after             # NULL: nobody follows
    cdef int64_t next_open    # the first that has not come of those that follow nobody
    cdef int32_t* first_follower          # by request, linked by next_follower
    cdef int32_t* next_follower
    cdef IndexedHeap due      # followers whose instant is known
    cdef object memory

    cdef int64_t next_ns(self) noexcept nogil                # INT64_MAX: nobody is known to come
    cdef int64_t take(self) noexcept nogil                   # who comes then; the lowest number
    cdef void release(self, int64_t request, int64_t now_ns) noexcept nogil   # its end brings its followers
    cdef void skip(self) noexcept nogil

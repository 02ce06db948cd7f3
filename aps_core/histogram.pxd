"""See histogram.pyx."""
cimport cython

from aps_core.types cimport int32_t, int64_t


@cython.final
cdef class Histogram:
    cdef int64_t* buckets     # of the places first..first + held - 1
    cdef int32_t first
    cdef int32_t held
    cdef readonly int64_t count
    cdef readonly double total
    cdef readonly double smallest
    cdef readonly double largest

    cdef int add(self, double value) except -1
    cdef int reach(self, int32_t place) except -1
    cdef double middle_at(self, int64_t rank) noexcept

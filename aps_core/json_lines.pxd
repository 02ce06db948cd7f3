"""See json_lines.pyx."""
cimport cython

from aps_core.types cimport int64_t


@cython.final
cdef class JsonLines:
    cdef char* text
    cdef Py_ssize_t used, room, most
    cdef readonly bint stopped
    cdef readonly bint overflowed
    cdef readonly int64_t count

    cdef bint begin(self, Py_ssize_t more) noexcept nogil
    cdef void give_up(self) noexcept nogil
    cdef bint grow(self, Py_ssize_t more) noexcept nogil
    cdef void put(self, const char* piece) noexcept nogil
    cdef void put_bytes(self, bytes piece) noexcept
    cdef void put_int(self, int64_t number) noexcept nogil
    cdef void put_time(self, int64_t ns) noexcept nogil
    cdef int put_real(self, double number) except -1
    cdef void end(self) noexcept nogil

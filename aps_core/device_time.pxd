"""See device_time.pyx."""
cimport cython

from aps_core.types cimport int32_t, int64_t, uint64_t

cdef struct Line:
    int64_t at                # up to this instant its time is shared out
    int64_t running           # requests on it
    int64_t each              # what a request would have that had been on it all the time
    int64_t left              # busy and not shared out
    int64_t busy


@cython.final
cdef class DeviceTime:
    cdef Line* lines
    cdef readonly int32_t devices
    cdef readonly double epoch

    cdef void turn(self, int32_t device, double now) noexcept


@cython.final
cdef class Part:
    cdef DeviceTime time
    cdef uint64_t sum         # of `each` at every leave, less every join; modulo 2^64
    cdef int32_t* on          # its requests, by device
    cdef readonly int64_t running

    cdef void join(self, int32_t device) noexcept
    cdef void leave(self, int32_t device) noexcept
    cdef int64_t total(self) noexcept

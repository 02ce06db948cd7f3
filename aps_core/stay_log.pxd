"""See stay_log.pyx."""
cimport cython

from aps_core.types cimport int32_t, int64_t

cdef enum StayEnd:
    STILL_RUNNING = -1
    STAY_FINISHED = 0
    STAY_PREEMPTED = 1

cdef struct Stay:             # a request in a slot
    int64_t request
    int64_t began_ns
    int64_t prefilled_ns      # the end of the step that computed the last of its prefill, or NONE
    int64_t ended_ns          # or NONE
    int32_t device
    int32_t slot
    int64_t end               # StayEnd


@cython.final
cdef class StayLog:
    cdef Stay* rows
    cdef readonly int64_t capacity
    cdef readonly int64_t count
    cdef readonly int64_t dropped     # stays after the log was full
    cdef object records

    cdef int64_t enter(self, int32_t device, int32_t slot, int64_t request, int64_t now_ns) noexcept nogil
    cdef void leave(self, int64_t stay, StayEnd end, int64_t now_ns) noexcept nogil
    cdef void prefilled(self, int64_t stay, int64_t now_ns) noexcept nogil

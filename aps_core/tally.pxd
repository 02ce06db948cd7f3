"""See tally.pyx."""
cimport cython

from aps_core.device_time cimport DeviceTime, Part
from aps_core.histogram cimport Histogram
from aps_core.types cimport int32_t, int64_t

cdef enum:
    COUNTED = 10              # numbers of a cut


@cython.final
cdef class Tally:
    cdef readonly str name
    cdef readonly int32_t account
    cdef readonly int64_t admitted, finished, cancelled, expired, dropped, failed, retried
    cdef public int64_t preempted
    cdef readonly int64_t waiting, outstanding
    cdef readonly int64_t asked_tokens, prompt_tokens, output_tokens, charged_micro
    cdef readonly double waits_since
    cdef readonly object refused
    cdef readonly Histogram queue_wait
    cdef readonly Histogram ttft
    cdef readonly Histogram tpot
    cdef readonly Histogram e2e
    cdef Part gpu             # None: it never started anything
    cdef bint changed         # it is in its books' list for the next cut
    cdef int64_t[COUNTED] told     # what it had counted at the last cut
    cdef dict told_refused

    cdef void charge(self, int64_t micro) noexcept
    cdef object join(self, DeviceTime time, int32_t device)
    cdef bint news(self, int64_t* row) noexcept
    cdef dict refused_news(self)
    cpdef void times(self, double queue_wait, double ttft, double tpot, double e2e) except *


cdef int64_t to_micro(double tokens) noexcept

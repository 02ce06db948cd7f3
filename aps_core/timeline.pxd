"""See timeline.pyx."""
cimport cython

from aps_core.batch_assembler cimport BatchAssembler
from aps_core.contention cimport Contention
from aps_core.deadlines cimport DeadlineWheel
from aps_core.settlement cimport Settlement
from aps_core.types cimport int64_t


@cython.final
cdef class Timeline:
    cdef Settlement settlement
    cdef Contention contention
    cdef BatchAssembler assembler
    cdef DeadlineWheel wheel
    cdef double epoch
    cdef double now           # seconds, of the last call
    cdef int64_t now_ns

    cdef int64_t check(self, double now) except -1
    cdef void play(self, double now, int64_t now_ns) noexcept nogil
    cdef double next_wakeup(self) noexcept nogil
    cdef int64_t wake_ns(self) noexcept nogil

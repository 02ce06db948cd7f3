"""See stage.pyx."""
from aps_core.tickets cimport Desk


cdef class Stage:
    cdef public double now, next_at, never, progressed_at
    cdef public bint open
    cdef public Desk desk
    cdef public object scheduler, backend, guard, metrics, recent
    cdef public object _wake, _range
    cdef public double _wakeup
    cdef public bint _micro, _watch

    cpdef object fill(self)
    cdef object take(self, news)
    cdef object started(self, device, handles, preempted, released)

"""See asking.pyx."""
from aps_core.tickets cimport Desk


cdef class Stage:
    cdef public double now
    cdef public double next_at
    cdef public bint open


cdef class Asking:
    cdef public object scheduler
    cdef public Stage _stage
    cdef public Desk _desk
    cdef public object _player
    cdef public object _read
    cdef public bint draining

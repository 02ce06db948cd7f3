"""See asking.pyx."""
from aps_core.stage cimport Stage
from aps_core.tickets cimport Desk, Ticket


cdef class Asking:
    cdef public object scheduler
    cdef public Stage _stage
    cdef public Desk _desk
    cdef public object _player
    cdef public object _read
    cdef public bint draining

    cdef Ticket ask(self, tenant, prompt_tokens, max_tokens, bid, deadline_s, prompt, id, simulated, trace)

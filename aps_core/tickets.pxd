"""See tickets.pyx."""
cimport cython

from aps_core.books cimport Books
from aps_core.device_time cimport DeviceTime
from aps_core.tally cimport Tally
from aps_core.types cimport int32_t, int64_t

cdef class Desk


cdef class Ticket:
    # what every request needs, on as few cache lines as it fits
    cdef readonly object answer
    cdef public object waiter
    cdef public object id
    cdef public object verdict
    cdef readonly Tally metrics
    cdef readonly Tally by_bid
    cdef readonly int64_t handle
    cdef readonly double arrived_at
    cdef double scheduled             # NaN: not yet
    cdef double first_token
    cdef readonly int64_t prompt_tokens
    cdef readonly int64_t max_tokens
    cdef public int32_t bid
    cdef readonly int32_t device
    cdef readonly int32_t batch_size
    cdef readonly bint running
    cdef public bint listening
    cdef int32_t quiet                # looks since the sum changed
    cdef readonly object released
    cdef readonly int64_t computed, output     # as last reported, where somebody watches
    cdef int64_t looked_at            # their sum at the last look
    cdef readonly int64_t generated
    cdef int64_t left                 # to prefill at the next start; NONE: the prompt
    cdef readonly object prompt
    cdef public object own
    cdef int64_t simulated            # output tokens to simulate; NONE: max_tokens
    cdef readonly int32_t retries
    cdef int64_t met                  # the last news in which it was
    cdef public object trace          # headers of its trace context, for the backend
    cdef public int64_t delivered
    cdef public list mail
    cdef public object error
    cdef readonly Desk desk

    cdef int64_t to_generate(self) noexcept
    cdef int64_t to_prefill(self) noexcept


@cython.final
cdef class Desk:
    cdef readonly Books books
    cdef readonly dict named
    cdef readonly int32_t outstanding
    cdef readonly int32_t listeners
    cdef public object listen         # called with a ticket whose output somebody wants as it comes
    cdef object ticket_type, result_type
    cdef list rows            # tickets by the row in their handles; None: nobody
    cdef DeviceTime time      # and who runs
    cdef int64_t news         # that were looked at for their truth

    cpdef Ticket enter(
        self, verdict, tenant, prompt, int64_t prompt_tokens, int64_t max_tokens, simulated, id, double now
    )
    cpdef tuple start(self, handles, int32_t device, released, double now)
    cpdef tuple note(
        self, const long long[::1] handles, const long long[::1] computed, const long long[::1] generated,
        const long long[::1] flags, Py_ssize_t ended, double began_at, double now, bint watch,
    )
    cpdef list finish(
        self, list tickets, const long long[::1] outputs, const double[::1] charges, texts, double now
    )
    cdef Ticket at(self, int64_t handle)
    cdef void* address(self, int64_t handle)
    cdef object stop(self, Ticket ticket, double now)
    cdef object conclude(self, Ticket ticket, str status, str reason, double now, int64_t tokens, double charge, text)
    cdef object leave(self, Ticket ticket, double now)
    cdef object wake(self, Ticket ticket, list woken)

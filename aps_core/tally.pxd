"""See tally.pyx."""
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
    cdef object memory

    cdef void add(self, double value)
    cdef void reach(self, int32_t place)
    cdef double middle_at(self, int64_t rank) noexcept


@cython.final
cdef class Tally:
    cdef readonly str name
    cdef readonly int32_t account
    cdef public int64_t admitted, finished, cancelled, expired, dropped, failed, retried, preempted
    cdef public int64_t waiting, outstanding
    cdef public int64_t asked_tokens, prompt_tokens, output_tokens
    cdef public double charged
    cdef public double waits_since
    cdef readonly object refused
    cdef readonly Histogram queue_wait
    cdef readonly Histogram ttft
    cdef readonly Histogram tpot
    cdef readonly Histogram e2e

    cpdef void times(self, double queue_wait, double ttft, double tpot, double e2e) except *


cdef class Books:
    cdef readonly dict bids
    cdef list by_bid          # the same, by index
    cdef int32_t active       # tenants with requests
    cdef int32_t queued       # tenants with requests that wait
    cdef readonly bint all_wait

    cdef Tally of_bid(self, int32_t bid)
    cpdef void arrived(self, Tally tenant, double now, Tally bid=*, int64_t tokens=*) except *
    cpdef void started(self, Tally tenant, double now, Tally bid=*) except *
    cpdef void ended(self, Tally tenant, bint waiting, double now, Tally bid=*) except *
    cdef void look(self, double now) except *

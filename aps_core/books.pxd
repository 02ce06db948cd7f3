"""See books.pyx."""
from aps_core.device_time cimport DeviceTime
from aps_core.tally cimport Tally
from aps_core.types cimport int32_t, int64_t


cdef class Books:
    cdef readonly dict tenants
    cdef readonly dict bids
    cdef list by_bid          # the same, by index
    cdef int32_t active       # tenants with requests
    cdef int32_t queued       # tenants with requests that wait
    cdef readonly bint all_wait
    cdef list changed         # tenants' tallies that the next cut must look at
    cdef readonly DeviceTime time  # None: nothing runs

    cdef object touch(self, Tally tenant)
    cdef Tally tally(self, tenant)
    cdef Tally of_bid(self, int32_t bid)
    cpdef void arrived(self, Tally tenant, double now, Tally bid=*, int64_t tokens=*) except *
    cpdef void started(self, Tally tenant, double now, Tally bid=*) except *
    cpdef void ended(self, Tally tenant, bint waiting, double now, Tally bid=*) except *
    cdef void look(self, double now) except *

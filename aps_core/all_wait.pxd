"""See all_wait.pyx."""
cimport cython

from aps_core.types cimport int32_t, int64_t


@cython.final
cdef class AllWait:
    cdef int32_t tenants
    cdef int32_t active       # tenants with requests
    cdef int32_t queued       # tenants with requests that wait
    cdef bint holds           # now
    cdef int64_t since_ns     # while it holds
    cdef readonly int64_t total_ns        # of the times that have ended
    cdef int64_t* served      # (2, tenants)
    cdef int32_t* outstanding
    cdef int32_t* waiting
    cdef object memory

    cdef void arrived(self, int32_t tenant, int64_t now_ns) noexcept nogil
    cdef void started(self, int32_t tenant, int64_t now_ns) noexcept nogil
    cdef void ended(self, int32_t tenant, bint waited, int64_t now_ns) noexcept nogil   # waited: it had not started
    cdef void look(self, int64_t now_ns) noexcept nogil

    cdef inline void add(self, int32_t tenant, int64_t prefill, int64_t output) noexcept nogil:
        """Tokens of a step that ends while it holds."""
        self.served[tenant] += prefill
        self.served[self.tenants + tenant] += output

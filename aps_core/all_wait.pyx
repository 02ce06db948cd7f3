"""The time in which all wait: at least two tenants have requests, and each that has any has one that has not started.

Outside it, shares of service say who asked for more, not what the scheduler gave. aps.metrics.Metrics defines the same.
"""
import numpy as np

from aps_core.types cimport int32_t, int64_t


cdef class AllWait:
    """Counts of tenants 0, 1, ..., and what each was served in that time."""

    def __cinit__(self, int32_t tenants):
        cdef int32_t[::1] counts = np.zeros(2 * tenants, np.int32)
        cdef long long[::1] served = np.zeros(2 * tenants, np.int64)
        self.memory = (counts, served)
        self.tenants = tenants
        self.outstanding = &counts[0]
        self.waiting = &counts[tenants]
        self.served = <int64_t*>&served[0]

    cdef void arrived(self, int32_t tenant, int64_t now_ns) noexcept nogil:
        self.outstanding[tenant] += 1
        self.waiting[tenant] += 1
        if self.waiting[tenant] == 1:
            self.queued += 1
            self.active += self.outstanding[tenant] == 1
            self.look(now_ns)

    cdef void started(self, int32_t tenant, int64_t now_ns) noexcept nogil:
        self.waiting[tenant] -= 1
        if self.waiting[tenant] == 0:
            self.queued -= 1
            self.look(now_ns)

    cdef void ended(self, int32_t tenant, bint waited, int64_t now_ns) noexcept nogil:
        if waited:
            self.started(tenant, now_ns)
        self.outstanding[tenant] -= 1
        if self.outstanding[tenant] == 0:
            self.active -= 1
            self.look(now_ns)

    cdef void look(self, int64_t now_ns) noexcept nogil:
        cdef bint holds = self.queued == self.active and self.active >= 2
        if holds == self.holds:
            return
        if holds:
            self.since_ns = now_ns
        else:
            self.total_ns += now_ns - self.since_ns
        self.holds = holds

    def read(self, int64_t now_ns):
        """(ns in which all waited until now_ns; (2, tenants) int64 prefill and output tokens served in that time)."""
        cdef long long[::1] served = self.memory[1]
        total_ns = self.total_ns + (now_ns - self.since_ns if self.holds else 0)
        return total_ns, np.array(served).reshape(2, self.tenants)

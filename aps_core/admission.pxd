"""See admission.pyx."""
cimport cython

from aps_core.contention cimport Contention
from aps_core.kv_cache cimport KVCache
from aps_core.request_table cimport RequestTable
from aps_core.tenant_table cimport Tenant, TenantTable
from aps_core.token_buckets cimport TokenBuckets
from aps_core.types cimport Reason, int32_t, int64_t


@cython.final
cdef class Admission:
    cdef Contention contention
    cdef RequestTable table
    cdef TokenBuckets buckets
    cdef TokenBuckets request_buckets
    cdef TenantTable tenants
    cdef KVCache kv
    cdef int64_t max_context
    cdef int64_t expected_output      # the policy's forecast; NONE: max_tokens
    cdef int64_t arrivals
    cdef double epoch
    cdef double retry_after           # of the last refusal, seconds
    cdef int64_t largest              # of the last rejection: the max_tokens that would pass

    cdef int64_t offer(
        self, int32_t slot, int64_t prompt, int64_t most, int32_t bid, int64_t deadline_ns, int64_t forecast,
        int64_t now_ns, double now,
    ) noexcept nogil
    cdef void clear(self) noexcept nogil
    cdef Reason judge(
        self, int32_t slot, int64_t prompt, int64_t most, int32_t bid, int64_t deadline_ns, int64_t now_ns, double now
    ) noexcept nogil
    cdef bint has_place(self, Tenant* tenant) noexcept nogil
    cdef bint has_room(self, Tenant* tenant, int64_t tokens) noexcept nogil
    cdef Reason too_large(self, Reason reason, int64_t largest) noexcept nogil
    cdef Reason later(self, Reason reason, double retry_after) noexcept nogil
    cdef double wait_s(self, int64_t until_ns, double now) noexcept nogil
    cdef int64_t admit(
        self, int32_t slot, int64_t prompt, int64_t most, int32_t bid, int64_t deadline_ns, int64_t forecast,
        int64_t now_ns,
    ) noexcept nogil
    cdef Reason move(self, int32_t row, int32_t bid, int64_t now_ns, double now) noexcept nogil

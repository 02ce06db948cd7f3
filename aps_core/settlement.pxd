"""See settlement.pyx."""
cimport cython

from aps_core.batch_assembler cimport BatchAssembler
from aps_core.contention cimport Contention
from aps_core.fair_share cimport FairShare
from aps_core.kv_cache cimport KVCache
from aps_core.request_table cimport RequestTable
from aps_core.tenant_table cimport TenantTable
from aps_core.token_buckets cimport TokenBuckets
from aps_core.types cimport Reason, int32_t, int64_t


@cython.final
cdef class Settlement:
    cdef BatchAssembler assembler
    cdef Contention contention
    cdef RequestTable table
    cdef TokenBuckets buckets
    cdef FairShare fair
    cdef TenantTable tenants
    cdef KVCache kv
    cdef int32_t ended_head           # requests to report, linked by `next`; their `charge_bid` is the reason
    cdef int32_t ended_tail

    cdef void take_out(self, int32_t row, Reason reason, int64_t now_ns) noexcept nogil
    cdef void drop(self, int32_t row, Reason reason, int64_t now_ns) noexcept nogil
    cdef void end_impossible(self, int32_t slot, int64_t now_ns) except *
    cdef list collect(self)
    cdef void forget_first(self) noexcept nogil
    cdef int check_report(self, int32_t row, int64_t computed, int64_t generated) except -1
    cdef void report(self, int32_t row, int64_t computed, int64_t generated, int64_t now_ns) noexcept nogil
    cdef void restart(self, int32_t row, int64_t now_ns) noexcept nogil
    cdef double finish(self, int32_t row, int64_t output, int64_t now_ns) noexcept nogil
    cdef double withdraw(self, int32_t row, int64_t now_ns) noexcept nogil
    cdef double conclude(self, int32_t row, int64_t prompt, int64_t output, int64_t now_ns) noexcept nogil
    cdef bint drains_by(self, int32_t slot, int64_t now_ns) noexcept nogil
    cdef void free_if_drained(self, int32_t slot) noexcept nogil

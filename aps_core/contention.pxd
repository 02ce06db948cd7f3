"""See contention.pyx."""
cimport cython

from aps_core.deadlines cimport DeadlineWheel
from aps_core.fair_share cimport FairShare
from aps_core.indexed_heap cimport IndexedHeap
from aps_core.kv_cache cimport KVCache
from aps_core.lanes cimport Lanes
from aps_core.request_table cimport RequestTable
from aps_core.tenant_table cimport TenantTable
from aps_core.token_buckets cimport TokenBuckets
from aps_core.types cimport int32_t, int64_t


@cython.final
cdef class Contention:
    cdef RequestTable table
    cdef Lanes lanes
    cdef DeadlineWheel wheel
    cdef TokenBuckets buckets
    cdef FairShare fair
    cdef TenantTable tenants
    cdef KVCache kv
    cdef double bid_premium
    cdef IndexedHeap affordable       # tenants whose first waits for its bucket alone, by the instant it can pay
    cdef readonly int32_t returning   # preempted requests that wait to run again
    cdef int64_t pool_waiting         # waiting requests of contending tenants and returning ones, and their blocks
    cdef int64_t pool_blocks
    cdef int64_t ready_since_ns       # when something became ready, while `ready`
    cdef bint ready                   # somebody contends or is returning
    cdef int64_t changes              # atomic steps so far, but for progress that charges nothing
    cdef int32_t* aside               # requests that an assembling batch has taken out of their lanes for the moment
    cdef int32_t aside_count
    cdef object memory

    cpdef void reserve(self, int32_t tenants) except *
    cdef double premium(self, int32_t bid) noexcept nogil
    cdef double bucket_cost(self, int32_t row) noexcept nogil
    cdef int64_t blocks(self, int32_t row) noexcept nogil
    cdef int32_t first(self, int32_t slot) noexcept nogil
    cdef bint permits(self, int32_t slot, int32_t row, int64_t now_ns) noexcept nogil
    cdef void enqueue(self, int32_t row) noexcept nogil
    cdef void dequeue(self, int32_t row) noexcept nogil
    cdef void count_returning(self, int32_t row, int32_t sign) noexcept nogil
    cdef void count(self, int32_t row, int32_t sign) noexcept nogil
    cdef void evaluate(self, int32_t slot, int64_t now_ns) noexcept nogil
    cdef void set_contends(self, int32_t slot, bint contends) noexcept nogil
    cdef void finish(self, int64_t now_ns) noexcept nogil
    cdef int64_t next_affordable_ns(self) noexcept nogil

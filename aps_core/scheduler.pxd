"""See scheduler.pyx."""
cimport cython

from aps_core.admission cimport Admission
from aps_core.batch_assembler cimport BatchAssembler
from aps_core.contention cimport Contention
from aps_core.deadlines cimport DeadlineWheel
from aps_core.fair_share cimport FairShare
from aps_core.kv_cache cimport KVCache
from aps_core.lanes cimport Lanes
from aps_core.request_table cimport RequestTable
from aps_core.settlement cimport Settlement
from aps_core.timeline cimport Timeline
from aps_core.tenant_table cimport Limits, TenantTable
from aps_core.token_buckets cimport TokenBuckets
from aps_core.types cimport int32_t, int64_t


@cython.final
cdef class Scheduler:
    cdef RequestTable table
    cdef Lanes lanes
    cdef DeadlineWheel wheel
    cdef TokenBuckets buckets
    cdef TokenBuckets request_buckets
    cdef FairShare fair
    cdef TenantTable tenants
    cdef KVCache kv
    cdef Contention contention
    cdef BatchAssembler assembler
    cdef Admission admission
    cdef Settlement settlement
    cdef Timeline timeline
    cdef readonly bint restored

    cdef int32_t slot_of(self, object tenant, int64_t now_ns) except -1
    cdef int32_t device_of(self, object device) except -1
    cdef bint lives(self, int32_t row, int64_t now_ns) noexcept nogil
    cdef int32_t row_of(self, int64_t handle, int64_t now_ns) except -1
    cdef int32_t running_row(self, int64_t handle, int64_t now_ns) except -1
    cdef int must_be_active(self, int32_t slot) except -1

    cdef void change(self, int32_t slot, Limits* limits) except *

"""See batch_assembler.pyx."""
cimport cython

from aps_core.contention cimport Contention
from aps_core.kv_cache cimport KVCache, KVNeed
from aps_core.request_table cimport RequestTable
from aps_core.types cimport Release, int32_t, int64_t, uint8_t

cdef enum Preemption:
    OFF = 0
    RECOMPUTE = 1
    SWAP = 2

cdef struct Rules:            # the policy's part in dispatching
    double input_weight
    double output_weight
    double batch_fill_target
    int64_t batch_window_ns
    int32_t max_passes
    int32_t backfill_depth
    int32_t preemption        # Preemption
    int32_t preempt_margin
    int32_t max_preemptions
    int32_t micro             # the batch runs to completion and nothing joins it


@cython.final
cdef class BatchAssembler:
    cdef Contention contention
    cdef RequestTable table
    cdef KVCache kv
    cdef Rules rules
    cdef int32_t* reserved            # per device: the request that holds its reservation, or NONE
    cdef int64_t* idle_since_ns       # per device
    cdef int64_t* starts              # per device: starts so far
    cdef int64_t* vain                # per device: the count of changes at which it last assembled nothing, or NONE
    cdef uint8_t* away                # per device: cannot be asked, of this `next_wakeup`
    cdef int64_t* guarded             # per tenant slot: the last call that guarded it
    cdef int64_t call
    cdef int64_t* started             # handles, this call's
    cdef int64_t* preempted
    cdef int32_t* victims             # scratch: KV rows
    cdef int32_t started_count
    cdef int32_t preempted_count
    cdef Release release_reason
    cdef readonly object started_handles, preempted_handles   # the NumPy arrays behind the two
    cdef object memory, guarded_memory

    cpdef void reserve(self, int32_t tenants) except *
    cdef double service_cost(self, int32_t row, int64_t prompt, int64_t output, int32_t bid) noexcept nogil
    cdef void need(self, int32_t row, KVNeed* need) noexcept nogil
    cdef bint is_reserved(self, int32_t row) noexcept nogil
    cdef void drop_reservation(self, int32_t row) noexcept nogil
    cdef void next_batch(self, int32_t device, int64_t now_ns) noexcept nogil
    cdef bint filled(self, int32_t device) noexcept nogil
    cdef int64_t window_end_ns(self, int32_t device) noexcept nogil
    cdef int64_t release_ns(self, int32_t device, int64_t now_ns) noexcept nogil
    cdef void assemble(self, int32_t device, int64_t now_ns) noexcept nogil
    cdef bint stays(self, int32_t row) noexcept nogil
    cdef bint may_backfill(
        self, int32_t device, const KVNeed* need, int32_t holder, const KVNeed* held, int64_t step
    ) noexcept nogil
    cdef void start(
        self, int32_t device, int32_t row, const KVNeed* need, double penalty, int64_t now_ns
    ) noexcept nogil
    cdef void preempt(self, int32_t device, int64_t now_ns) noexcept nogil
    cdef int32_t choose_victims(self, int32_t device, int32_t highest_rank, int64_t last_start) noexcept nogil
    cdef void suspend(self, int32_t row, int64_t now_ns) noexcept nogil
    cdef void displace(self, int32_t row, int64_t prefill, int64_t now_ns) noexcept nogil
    cdef void stop_running(self, int32_t row, int64_t now_ns) noexcept nogil
    cdef int32_t lane_of(self, int32_t row) noexcept nogil
    cdef void set_aside(self, int32_t row) noexcept nogil
    cdef bint goes_before(self, int32_t device, int32_t kv_row, int32_t other) noexcept nogil

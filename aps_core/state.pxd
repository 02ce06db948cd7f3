"""See state.pyx."""
from aps_core.fair_share cimport FairShare
from aps_core.tenant_table cimport TenantTable
from aps_core.token_buckets cimport TokenBuckets
from aps_core.types cimport int32_t, int64_t

cdef dict taken(
    FairShare fair, TenantTable tenants, TokenBuckets buckets, TokenBuckets request_buckets, int64_t now_ns
)


cdef class Saved:             # a checked state and who is who in it
    cdef const int32_t[::1] slots     # by row: the tenant's slot here, 0 when it is unknown
    cdef double virtual_time
    cdef double fairness_window
    cdef int64_t last             # the row of the last contender, or NONE
    cdef int64_t at_ns
    cdef int64_t passed_ns
    cdef const double[::1] weight
    cdef const double[::1] service
    cdef const double[::1] credit
    cdef BucketRows tokens
    cdef BucketRows requests

    cdef void put_back(
        self, FairShare fair, TokenBuckets buckets, TokenBuckets request_buckets, int64_t now_ns
    ) noexcept nogil


cdef class BucketRows:        # buckets as a state has them
    cdef const double[::1] rate
    cdef const double[::1] burst
    cdef const double[::1] base
    cdef const long long[::1] base_at_ns

    cdef void put_back(self, TokenBuckets buckets, Saved saved, int64_t now_ns) noexcept nogil

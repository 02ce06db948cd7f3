"""See inspection.pyx."""
from aps_core.batch_assembler cimport BatchAssembler
from aps_core.contention cimport Contention
from aps_core.token_buckets cimport TokenBuckets
from aps_core.types cimport int32_t, int64_t

cdef dict explain(Contention contention, BatchAssembler assembler, int32_t row, int64_t now_ns)
cdef dict snapshot(Contention contention, BatchAssembler assembler, TokenBuckets request_buckets, int64_t now_ns)

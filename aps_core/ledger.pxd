"""See ledger.pyx."""
cimport cython

from aps_core.types cimport int32_t, int64_t

cdef enum Fate:               # a reason beside the scheduler's; 0: finished
    NEVER_SUBMITTED = -1
    STILL_HERE = -2

cdef struct Asked:            # the requests, by number
    const int32_t* slots      # of their tenants in the scheduler
    const int32_t* prompt_tokens
    const int32_t* output_tokens
    const int32_t* max_tokens
    const int32_t* bids
    const int64_t* deadline_ns            # after the arrival; NULL: nobody has one

cdef struct Told:             # what became of them
    int64_t* submitted_ns
    int64_t* started_ns
    int64_t* first_token_ns
    int64_t* finished_ns
    int64_t* order
    int32_t* generated
    int32_t* recomputed_tokens
    int32_t* preemptions
    int32_t* device
    int32_t* batch_size
    int32_t* reason


@cython.final
cdef class Ledger:
    cdef readonly int64_t n
    cdef readonly dict results            # NumPy arrays by name
    cdef Asked asked
    cdef Told told
    cdef list memory

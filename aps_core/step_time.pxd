"""See step_time.pyx."""
from aps_core.types cimport int64_t

cdef struct StepShape:        # what one step computes
    int64_t prefill_tokens    # of all chunks
    int64_t chunks            # sequences with a piece of prompt in the step
    int64_t decodes           # sequences that already generate: a token each
    int64_t emits             # sequences that get a token: the decodes, and chunks that end their prompt
    int64_t running           # sequences in the step: decodes + chunks
    int64_t decode_context    # cached tokens of the decodes, summed
    double prefill_squares    # sum over chunks of c * c, c tokens long
    double prefill_past       # sum over chunks of c * k, k tokens cached before it
    int64_t swapped_tokens    # cached tokens moved out or in since the last step began

cdef class StepTimeModel:
    cdef double seconds(self, const StepShape* shape) noexcept nogil   # finite, >= 0

cdef class ReferenceModel(StepTimeModel):
    cdef readonly double prefill_rate
    cdef readonly double decode_rate
    cdef readonly double speedup
    cdef readonly int64_t speedup_batch
    cdef readonly double swap_rate

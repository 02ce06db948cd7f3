"""See gpu.pyx."""
from aps_core.step_time cimport StepShape, StepTimeModel
from aps_core.types cimport int8_t, int32_t, int64_t

cdef enum EventFlag:
    FIRST_STEP = 1            # the first step it took part in since it was started
    FIRST_TOKEN = 2           # its first output token of all
    FINISHED = 4

cdef enum NoStep:             # instead of the end of a step
    NOTHING = -1
    OVERRUN = -2              # its tokens would overrun the KV cache
    ENDLESS = -3              # its model gives it no time in 0..4e8 s

cdef struct Sequence:         # one request in a slot
    int64_t request_id
    int64_t prompt_tokens
    int64_t output_tokens     # what it will generate in all
    int64_t generated
    int64_t prefill           # tokens to prefill in this stay
    int64_t computed          # of them, done
    int64_t blocks            # KV blocks it holds
    int64_t chunk             # prefill tokens in the step that runs
    int32_t bid
    int32_t account           # whose tokens they are, a column of `served`
    int8_t emits              # gets a token from the step that runs
    int8_t joined             # has taken part in a step

cdef struct Total:            # nanoseconds times a count: one int64 would hold a month of 4,096 blocks
    int64_t seconds
    int64_t rest_ns

cdef enum:
    SECOND = 1000000000


cdef inline void add(Total* total, int64_t duration_ns, int64_t count) noexcept nogil:
    cdef int64_t rest = duration_ns % SECOND * count + total.rest_ns
    total.seconds += duration_ns // SECOND * count + rest // SECOND
    total.rest_ns = rest % SECOND


cdef class Engine:
    cdef readonly StepTimeModel model
    cdef readonly int32_t slots
    cdef readonly int64_t kv_blocks
    cdef readonly int64_t block_tokens
    cdef readonly int64_t token_budget        # 0: whole prompts
    cdef readonly int32_t running             # sequences in slots
    cdef readonly int64_t held_blocks
    cdef readonly bint stepping
    cdef readonly int64_t began_ns            # of the step that runs, or ran last
    cdef readonly int64_t end_ns
    cdef readonly int64_t steps               # counters, over steps that have ended
    cdef readonly int64_t busy_ns
    cdef Total slot_time      # time in steps, summed over the sequences that were in slots as it began
    cdef Total block_time     # the same over the KV blocks
    cdef readonly int64_t prefill_tokens      # computed, also for requests aborted since
    cdef readonly int64_t output_tokens       # handed over
    cdef readonly int64_t swapped_tokens      # cached tokens moved out and in
    cdef readonly int32_t ended               # of the last events, how many are FINISHED
    cdef readonly object request_ids, computed, generated, flags   # NumPy arrays the events are written to
    cdef readonly object served               # (2, accounts): prefill and output tokens handed over, by account
    cdef object state                         # the array that owns `sequences`
    cdef Sequence* sequences                  # [0, running), in start order
    cdef int64_t* event_ids
    cdef int64_t* event_computed
    cdef int64_t* event_generated
    cdef int64_t* event_flags
    cdef int64_t* served_prefill              # the rows of `served`
    cdef int64_t* served_output
    cdef int64_t step_slots                   # sequences and blocks as the step began
    cdef int64_t step_blocks
    cdef int64_t step_prefill
    cdef int64_t step_swapped
    cdef int64_t moved                        # cached tokens out and in since a step began

    cpdef void reserve_accounts(self, int64_t accounts) except *   # at least so many columns (GIL)
    cdef int64_t blocks_for(self, int64_t tokens) noexcept nogil
    cdef bint holds(self, int64_t request_id) noexcept nogil
    cdef bint has_room(self, int64_t prompt_tokens, int64_t generated) noexcept nogil
    cdef void admit(self, int64_t request_id, int64_t prompt_tokens, int64_t output_tokens, int32_t bid,
                    int64_t generated, int64_t prefill, int32_t account) noexcept nogil  # has_room said yes
    cdef bint drop(self, int64_t request_id, bint keep) noexcept nogil   # false: not here
    cdef int64_t compose(self) noexcept nogil                    # KV blocks that the step needs
    cdef bint needs_block(self, const Sequence* sequence) noexcept nogil
    cdef void hold(self, int64_t blocks) noexcept nogil                         # takes them
    cdef int64_t begin(self, int64_t now_ns) noexcept nogil      # the step's end, or what is below 0
    cdef void describe(self, StepShape* shape) noexcept nogil    # of the step just composed
    cdef int32_t finish(self) noexcept nogil                     # number of events
    cdef void report(self, Sequence* sequence, int32_t n) noexcept nogil

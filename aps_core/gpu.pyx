"""An iteration-level engine of one device in virtual time: slots, KV blocks, prefill and decode. It has no clock."""
cimport cython
from libc.math cimport rint
from libc.stdint cimport INT64_MAX, INT64_MIN
from libc.string cimport memmove, memset

import numpy as np

from aps_core.arguments cimport whole
from aps_core.clock cimport MAX_SECONDS
from aps_core.step_time cimport StepShape, StepTimeModel
from aps_core.tickets cimport Ticket
from aps_core.types cimport BIDS, int32_t, int64_t

cdef int64_t _NO_BUDGET = <int64_t>1 << 62
cdef int64_t _MOST = 2147483647  # tokens in a request, and anything counted; sums over slots stay far inside int64
cdef int64_t _LATEST_NS = <int64_t>1 << 62  # for a step to begin; its end is far inside int64


cdef int64_t* _data(object array) except NULL:
    cdef int64_t[::1] view = array
    return &view[0]


cdef inline int64_t cached(const Sequence* sequence) noexcept nogil:
    """Tokens in the cache as of the last step's end: all but what is left to prefill (a swap brings the rest back)."""
    return sequence.prompt_tokens + sequence.generated - (sequence.prefill - sequence.computed)


@cython.final
cdef class Engine:
    """Runs what it is given, step by step (Orca's iteration-level batching).

    A step gives every decoding sequence one token. Sequences with prompt left are prefilled in the order (bid, higher
    first; start, earlier first): whole prompts when `token_budget` is 0, else chunks out of what the decodes leave of
    the budget. The step that ends a prompt emits that sequence's next token. What is started during a step joins the
    next one.

    KV: a sequence holds ceil((prompt + generated) / block_tokens) blocks from its start on, and the blocks of a step's
    tokens from the step's beginning. The engine does not refuse what could overrun later: that is the scheduler's
    promise, and a broken one raises RuntimeError.

    Preemption is never free. By recompute a request is aborted and started anew, all that it had in the cache is
    prefilled again. By swap it is aborted with `keep`: what it has in the cache is moved out, and moved in when it is
    started with a smaller `prefill`. The next step to begin takes longer by both (`StepShape.swapped_tokens`).

    Instants are int64 nanoseconds. Events of the last step are in the arrays `request_ids`, `computed`, `generated`,
    `flags` (FIRST_STEP 1, FIRST_TOKEN 2, FINISHED 4): first the sequences that go on, then the `ended` ones that
    finished, each in start order. They are overwritten by the next `end_step`. One owner thread.
    """

    def __cinit__(self, StepTimeModel model not None, slots, kv_blocks, *, block_tokens=16, token_budget=0):
        self.model = model
        self.slots = <int32_t>whole(slots, "slots", 1, _MOST)
        self.kv_blocks = whole(kv_blocks, "kv_blocks", 1, _MOST)
        self.block_tokens = whole(block_tokens, "block_tokens", 1, _MOST)
        self.token_budget = whole(token_budget, "token_budget", 0, _MOST)
        self.state = np.zeros(self.slots * sizeof(Sequence) // sizeof(int64_t), dtype=np.int64)
        self.sequences = <Sequence*>_data(self.state)
        self.request_ids, self.computed, self.generated, self.flags = np.zeros((4, self.slots), dtype=np.int64)
        self.event_ids = _data(self.request_ids)
        self.event_computed = _data(self.computed)
        self.event_generated = _data(self.generated)
        self.event_flags = _data(self.flags)
        self.served = np.zeros((2, 0), dtype=np.int64)
        self.reserve_accounts(1)

    # ---- what comes and goes

    @property
    def slot_ns(self):
        """Time in steps, summed over the sequences that were in slots as each began: ns."""
        return <object>self.slot_time.seconds * 1_000_000_000 + self.slot_time.rest_ns

    @property
    def block_ns(self):
        """The same over the KV blocks held: ns."""
        return <object>self.block_time.seconds * 1_000_000_000 + self.block_time.rest_ns

    def start(self, request_id, prompt_tokens, output_tokens, bid, *, generated=0, prefill=None, account=0):
        """Put a request into a slot; it joins the next step to begin.

        output_tokens: what it will generate in all; generated: of them, before this start (after a preemption);
        prefill: tokens to compute first, default prompt_tokens + generated; what is less was swapped out and is moved
        in, which takes time; account: the column of `served` that its tokens are added to. Bids are 1 to 10.
        ValueError: a number out of range, a request that is here already, or no room (slot or KV). TypeError: no int.
        """
        cdef int64_t number = whole(request_id, "request_id", INT64_MIN, INT64_MAX)
        cdef int64_t prompt = whole(prompt_tokens, "prompt_tokens", 1, _MOST)
        cdef int64_t output = whole(output_tokens, "output_tokens", 1, _MOST)
        cdef int32_t rank = <int32_t>whole(bid, "bid", 1, BIDS)
        cdef int64_t past = whole(generated, "generated", 0, output - 1)
        cdef int32_t column = <int32_t>whole(account, "account", 0, _MOST - 1)
        cdef int64_t left = prompt + past
        if prefill is not None:
            left = whole(prefill, "prefill", 0, left)
        if self.holds(number):
            raise ValueError(f"request_id {number} is on the device already")
        if not self.has_room(prompt, past):
            raise ValueError(
                f"no room: {self.running} of {self.slots} slots and {self.held_blocks} of {self.kv_blocks} blocks "
                f"are taken, the request needs {self.blocks_for(prompt + past)} blocks")
        self.reserve_accounts(<int64_t>column + 1)
        self.admit(number, prompt, output, rank, past, left, column)

    def start_many(self, jobs):
        """Put jobs (see aps.backends.Job) into slots. ValueError: no room for one of them; those before it have their
        slots. That a driver's ticket is not here yet is not looked up: its desk has seen to it."""
        cdef Ticket ticket
        cdef int32_t account
        for job in jobs:
            if not isinstance(job, Ticket):
                output = job.max_tokens
                if job.simulated_output_tokens is not None:
                    output = max(job.generated + 1, min(output, job.simulated_output_tokens))
                self.start(
                    job.handle, job.prompt_tokens, output, job.bid, generated=job.generated, prefill=job.prefill,
                    account=job.account)
                continue
            ticket = <Ticket>job
            if not self.has_room(ticket.prompt_tokens, ticket.generated):
                raise ValueError(
                    f"no room: {self.running} of {self.slots} slots and {self.held_blocks} of {self.kv_blocks} blocks "
                    f"are taken, the request needs {self.blocks_for(ticket.prompt_tokens + ticket.generated)} blocks")
            account = ticket.metrics.account
            if account >= self.served.shape[1]:
                self.reserve_accounts(<int64_t>account + 1)
            self.admit(
                ticket.handle, ticket.prompt_tokens, ticket.to_generate(), ticket.bid, ticket.generated,
                ticket.to_prefill(), account)

    def abort(self, request_id, *, bint keep=False):
        """Drop a request: its slot and blocks are free at once, and it gets no token at the step's end.

        keep: what it has in the cache, as of the last step's end, is moved out, which takes time. KeyError: it is not
        here.
        """
        if not self.drop(whole(request_id, "request_id", INT64_MIN, INT64_MAX), keep):
            raise KeyError(request_id)

    cpdef void reserve_accounts(self, int64_t accounts) except *:
        """Make `served` at least so many columns wide."""
        cdef int64_t columns = self.served.shape[1]
        if accounts > columns:
            self.served = np.pad(self.served, ((0, 0), (0, max(accounts, 2 * columns) - columns)))
            self.served_prefill = _data(self.served[0])
            self.served_output = _data(self.served[1])

    cdef int64_t blocks_for(self, int64_t tokens) noexcept nogil:
        return (tokens + self.block_tokens - 1) // self.block_tokens

    cdef bint holds(self, int64_t request_id) noexcept nogil:
        cdef int32_t i
        for i in range(self.running):
            if self.sequences[i].request_id == request_id:
                return True
        return False

    cdef bint has_room(self, int64_t prompt_tokens, int64_t generated) noexcept nogil:
        cdef int64_t blocks = self.blocks_for(prompt_tokens + generated)
        return self.running < self.slots and self.held_blocks + blocks <= self.kv_blocks

    cdef void admit(self, int64_t request_id, int64_t prompt_tokens, int64_t output_tokens, int32_t bid,
                    int64_t generated, int64_t prefill, int32_t account) noexcept nogil:
        cdef Sequence* sequence = &self.sequences[self.running]
        memset(sequence, 0, sizeof(Sequence))
        sequence.request_id = request_id
        sequence.prompt_tokens = prompt_tokens
        sequence.output_tokens = output_tokens
        sequence.generated = generated
        sequence.prefill = prefill
        sequence.bid = bid
        sequence.account = account
        sequence.blocks = self.blocks_for(prompt_tokens + generated)
        self.held_blocks += sequence.blocks
        self.running += 1
        self.moved += cached(sequence)

    cdef bint drop(self, int64_t request_id, bint keep) noexcept nogil:
        cdef int32_t i
        for i in range(self.running):
            if self.sequences[i].request_id == request_id:
                if keep:
                    self.moved += cached(&self.sequences[i])
                self.held_blocks -= self.sequences[i].blocks
                self.running -= 1
                memmove(&self.sequences[i], &self.sequences[i + 1], (self.running - i) * sizeof(Sequence))
                return True
        return False

    # ---- steps

    def begin_step(self, now_ns):
        """Compose a step and begin it; returns the instant at which it ends (int ns), or -1 when nothing is here.

        now_ns: 0..2**62. ValueError: a step runs already, or now_ns is before the last one's end.
        RuntimeError: the step's tokens would overrun the KV cache, or its model gives it no time in 0..4e8 s.
        """
        if self.stepping:
            raise ValueError(f"a step runs until {self.end_ns} ns")
        cdef int64_t end_ns = self.begin(whole(now_ns, "now_ns", self.end_ns, _LATEST_NS))
        if end_ns == OVERRUN:
            raise RuntimeError(f"the step needs more than the {self.kv_blocks} KV blocks of the device")
        if end_ns == ENDLESS:
            raise RuntimeError(f"a step must take 0 to {MAX_SECONDS:g} s, {self.model!r} gives another time")
        return end_ns

    def end_step(self):
        """End the step that runs; returns the number of events (see the class). ValueError when none runs."""
        if not self.stepping:
            raise ValueError("no step runs")
        return self.finish()

    cdef int64_t begin(self, int64_t now_ns) noexcept nogil:
        cdef StepShape shape
        cdef double seconds
        cdef int64_t needed
        if self.running == 0:
            return NOTHING
        needed = self.compose()
        if needed > self.kv_blocks:
            return OVERRUN
        self.describe(&shape)
        seconds = self.model.seconds(&shape)
        if not 0.0 <= seconds <= MAX_SECONDS:          # true for NaN
            return ENDLESS
        self.hold(needed)
        self.stepping = True
        self.began_ns = now_ns
        self.end_ns = now_ns + <int64_t>rint(seconds * 1e9)
        self.step_slots = self.running
        self.step_blocks = self.held_blocks
        self.step_prefill = shape.prefill_tokens
        self.step_swapped = self.moved
        self.moved = 0
        return self.end_ns

    cdef int64_t compose(self) noexcept nogil:
        """Each sequence's chunk and whether it gets a token; the blocks that they need in all."""
        cdef Sequence* sequence
        cdef int64_t budget, chunk, left, needed = self.held_blocks
        cdef int32_t i, bid, bids = 0
        budget = self.token_budget if self.token_budget > 0 else _NO_BUDGET
        for i in range(self.running):
            sequence = &self.sequences[i]
            sequence.chunk = 0
            sequence.emits = sequence.computed == sequence.prefill
            if sequence.emits:
                budget -= 1
            else:
                bids |= 1 << sequence.bid
        for bid in range(BIDS, 0, -1):
            if not bids & (1 << bid):
                continue
            for i in range(self.running):
                sequence = &self.sequences[i]
                left = sequence.prefill - sequence.computed
                if budget <= 0:
                    break
                if sequence.bid == bid and left > 0:
                    chunk = left if left < budget else budget
                    budget -= chunk
                    sequence.chunk = chunk
                    sequence.emits = chunk == left
        for i in range(self.running):
            needed += self.needs_block(&self.sequences[i])
        return needed

    cdef bint needs_block(self, const Sequence* sequence) noexcept nogil:
        """For the token that it gets from the step: those it has fill their blocks."""
        return sequence.emits and (
            sequence.prompt_tokens + sequence.generated == sequence.blocks * self.block_tokens
        )

    cdef void hold(self, int64_t blocks) noexcept nogil:
        """The blocks of the step's tokens; in all it will be so many."""
        cdef int32_t i
        cdef bint one
        if blocks == self.held_blocks:
            return
        for i in range(self.running):
            one = self.needs_block(&self.sequences[i])
            self.sequences[i].blocks += one
            self.held_blocks += one

    cdef void describe(self, StepShape* shape) noexcept nogil:
        cdef Sequence* sequence
        cdef int32_t i
        cdef int64_t past
        memset(shape, 0, sizeof(StepShape))
        for i in range(self.running):
            sequence = &self.sequences[i]
            past = cached(sequence)
            shape.emits += sequence.emits
            if sequence.chunk > 0:
                shape.chunks += 1
                shape.prefill_tokens += sequence.chunk
                shape.prefill_squares += <double>sequence.chunk * <double>sequence.chunk
                shape.prefill_past += <double>sequence.chunk * <double>past
            elif sequence.emits:
                shape.decodes += 1
                shape.decode_context += past
        shape.running = shape.decodes + shape.chunks
        shape.swapped_tokens = self.moved

    cdef int32_t finish(self) noexcept nogil:
        cdef Sequence* sequence
        cdef int64_t duration = self.end_ns - self.began_ns
        cdef int32_t i, kept = 0, n = 0
        cdef bint leave = False
        self.stepping = False
        self.steps += 1
        self.busy_ns += duration
        add(&self.slot_time, duration, self.step_slots)
        add(&self.block_time, duration, self.step_blocks)
        self.prefill_tokens += self.step_prefill
        self.swapped_tokens += self.step_swapped
        for i in range(self.running):
            sequence = &self.sequences[i]
            if sequence.chunk > 0 or sequence.emits:
                sequence.computed += sequence.chunk
                sequence.generated += sequence.emits
                self.output_tokens += sequence.emits
                self.served_prefill[sequence.account] += sequence.chunk
                self.served_output[sequence.account] += sequence.emits
                if sequence.generated < sequence.output_tokens:
                    self.report(sequence, n)
                    n += 1
                else:
                    leave = True
        self.ended = 0
        if not leave:
            return n
        self.ended = n
        for i in range(self.running):
            sequence = &self.sequences[i]
            if sequence.generated < sequence.output_tokens:
                if kept < i:
                    self.sequences[kept] = sequence[0]
                kept += 1
            else:
                self.report(sequence, n)
                self.held_blocks -= sequence.blocks
                n += 1
        self.ended = n - self.ended
        self.running = kept
        return n

    cdef void report(self, Sequence* sequence, int32_t n) noexcept nogil:
        cdef int64_t flags = 0
        if not sequence.joined:
            sequence.joined = True
            flags |= FIRST_STEP
        if sequence.emits:
            if sequence.generated == 1:
                flags |= FIRST_TOKEN
            if sequence.generated == sequence.output_tokens:
                flags |= FINISHED
        self.event_ids[n] = sequence.request_id
        self.event_computed[n] = sequence.computed
        self.event_generated[n] = sequence.generated
        self.event_flags[n] = flags

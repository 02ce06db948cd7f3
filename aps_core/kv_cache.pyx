"""KV-cache blocks of every device: what runs, what would fit, and when.

A request starts only if the blocks of all that run, and its own, stay within the device's limit in every later step
(docs/rules.md section 7). The peak-over-time test of VTC (Sheng et al., OSDI'24) and LightLLM supposes that everyone
decodes at once; with chunked prefill a late starter releases late, and that test overruns. Here everyone *grows* as if
it decoded from now on and *releases* as late as its place in the prefill order allows: an envelope of all that can be.
"""
import cython
from collections import namedtuple
from math import floor

import numpy as np

from aps_core.arguments cimport real, to_index, whole
from aps_core.envelope cimport all_within, earliest, fits_after, sum_up
from aps_core.types cimport BIDS, NONE

cdef enum:
    MAX_TOKENS = 2147483647
    MAX_BLOCKS = 2147483647
    MAX_SLOTS = 65536         # of one device: no sum leaves 64 bits
cdef int64_t MAX_STEPS = 1 << 60

Need = namedtuple("Need", "prompt_tokens max_tokens generated prefill bid", defaults=(0, None, 5))
Need.__doc__ = """What a request needs on a device.

prompt_tokens, max_tokens: 1 to 2**31 - 1 tokens. generated: output tokens that it has from an earlier start.
prefill: tokens to compute before it decodes, at most prompt and generated (None: those; 0: its cache is swapped in).
bid: 1 to 10, its place in the prefill order.
"""
DeviceState = namedtuple("DeviceState", "slots running held_blocks max_blocks limit")
DeviceState.__doc__ = "Slots, requests running, blocks held now, the sum of their maxima, and how many may be held."
RowState = namedtuple("RowState", "request number prefill_target prefill_left computed cached")
RowState.__doc__ = """A running request: the caller's number and the start's (1, 2, ...); in tokens, its prefill at this
start, what is left of it, what has been computed of it, and that together with what has been generated since."""


@cython.final
cdef class KVCache:
    """KV-cache blocks of one or more devices; the sequences have an entry for each.

    slots: requests that may run at once, 1 to 65,536. kv_blocks: blocks there are, 1 to 2**31 - 1. token_budgets:
    tokens of one engine step, decodes first, up to 2**31 - 1; 0: whole prompts. block_tokens: tokens of a block, 1 to
    2**31 - 1. kv_high_watermark: the part of the blocks that may be used, above 0 and at most 1.

    In each step the engine must give a token to each request that decodes, then prefill in the order of (bid, start).
    `advance` reports it, for all requests of a device as of one step, before the next question. Then the blocks held
    never exceed the limit, as long as no request outlives its max_tokens.

    A question costs O(1) while the sum of maxima fits, at most O(slots**2), and no allocation. Not thread-safe.
    Errors change nothing: ValueError or TypeError for a bad number, IndexError for a device or row that is not there.
    """

    def __cinit__(self, slots, kv_blocks, token_budgets, block_tokens=16, kv_high_watermark=1.0):
        cdef int64_t first = 0
        cdef double watermark = real(kv_high_watermark, "kv_high_watermark", 0.0, 1.0)
        counts = [whole(value, "slots", 1, MAX_SLOTS) for value in slots]
        blocks = [whole(value, "kv_blocks", 1, MAX_BLOCKS) for value in kv_blocks]
        budgets = [whole(value, "token_budgets", 0, MAX_TOKENS) for value in token_budgets]
        if not counts or not len(counts) == len(blocks) == len(budgets):
            raise ValueError(
                "slots, kv_blocks and token_budgets must have one entry for each device, "
                f"got {len(counts)}, {len(blocks)} and {len(budgets)}"
            )
        if watermark == 0.0:
            raise ValueError("kv_high_watermark must be above 0, got 0")
        self.block_tokens = whole(block_tokens, "block_tokens", 1, MAX_TOKENS)
        size = int(self.block_tokens)
        self._shift = size.bit_length() - 1 if size & (size - 1) == 0 else NONE
        self.devices = <int32_t>len(counts)
        self.total_blocks = sum(blocks)
        self.largest_limit = floor(watermark * max(blocks))
        places = sum(counts) + len(counts)
        self._devices = records(
            self.devices, "slots limit drain flat first running prefilling held maxima starts"
        )
        self._rows = records(
            places + 2,
            "prompt_tokens max_tokens generated generated_before target computed prefill bid number request"
            " held max_blocks whole rest end",
        )
        self._spans = records(max(counts), "end max_blocks whole rest maxima_from tokens_from")
        self._order = np.zeros(places, np.int64)
        self._prefill = np.zeros(places, np.int64)
        self._free = np.zeros(places, np.int64)
        self._candidate, self._reserved = places, places + 1
        for i, (count, total, budget) in enumerate(zip(counts, blocks, budgets)):
            self._lay_out(i, first, count, floor(watermark * total), budget)
            first += count + 1

    cdef void _lay_out(self, int32_t i, int64_t first, int64_t slots, int64_t limit, int64_t budget) noexcept nogil:
        cdef Device* device = &self._devices[i]
        cdef int64_t row
        device.slots = slots
        device.limit = limit
        device.drain = max(1, budget - slots) if budget else 0
        device.flat = 0 < budget < 2 * slots
        device.first = first
        for row in range(slots):
            self._rows[first + row].request = NONE
            self._free[first + row] = slots - 1 - row         # row 0 goes first

    # Rows and lists

    cdef int64_t max_blocks(self, int64_t prompt_tokens, int64_t max_tokens) noexcept nogil:
        cdef int64_t tokens = prompt_tokens + max_tokens + self.block_tokens - 1
        return tokens >> self._shift if self._shift >= 0 else tokens // self.block_tokens

    cdef void _fill(
        self, Device* device, int64_t row, int32_t request, const KVNeed* need, int64_t number
    ) noexcept nogil:
        cdef Row* it = &self._rows[row]
        it.prompt_tokens = need.prompt_tokens
        it.max_tokens = need.max_tokens
        it.generated = it.generated_before = need.generated
        it.target = it.prefill = need.prefill
        it.computed = 0
        it.bid = need.bid
        it.number = number
        it.request = request
        it.max_blocks = self.max_blocks(need.prompt_tokens, need.max_tokens)
        self._measure(device, it)

    cdef void _measure(self, Device* device, Row* row) noexcept nogil:
        cdef int64_t tokens = row.prompt_tokens + row.generated + self.block_tokens - 1
        if self._shift >= 0:
            row.whole, row.rest = tokens >> self._shift, tokens & (self.block_tokens - 1)
        else:
            row.whole, row.rest = tokens // self.block_tokens, tokens % self.block_tokens
        row.held = min(row.max_blocks, row.whole)
        row.end = max(1, row.max_tokens - row.generated)      # while it prefills, _schedule knows better
        if device.flat:
            row.whole, row.rest = row.max_blocks, 0

    cdef void _enter(self, Device* device, int64_t row) noexcept nogil:
        self._order[device.first + device.running] = row
        device.running += 1
        device.held += self._rows[row].held
        device.maxima += self._rows[row].max_blocks
        self._queue(device, row)

    cdef void _leave(self, Device* device, int64_t row) noexcept nogil:
        remove(&self._order[device.first], device.running, row)
        device.running -= 1
        device.held -= self._rows[row].held
        device.maxima -= self._rows[row].max_blocks
        self._unqueue(device, row)

    cdef void _queue(self, Device* device, int64_t row) noexcept nogil:
        """Into the prefill order, if there is anything left to prefill; with whole prompts all go in one step."""
        cdef int64_t* order = &self._prefill[device.first]
        cdef Row* it = &self._rows[row]
        cdef Row* ahead
        cdef int64_t i = device.prefilling
        if it.prefill == 0:
            return
        while i > 0 and device.drain:
            ahead = &self._rows[order[i - 1]]
            if ahead.bid > it.bid or (ahead.bid == it.bid and ahead.number < it.number):
                break
            order[i] = order[i - 1]
            i -= 1
        order[i] = row
        device.prefilling += 1

    cdef void _unqueue(self, Device* device, int64_t row) noexcept nogil:
        if self._rows[row].prefill > 0:
            remove(&self._prefill[device.first], device.prefilling, row)
            device.prefilling -= 1

    # The envelope

    cdef void _schedule(self, Device* device) noexcept nogil:
        """Works out the ends of all that prefill."""
        cdef int64_t i, lag, tokens = 0
        cdef Row* row
        for i in range(device.prefilling):
            row = &self._rows[self._prefill[device.first + i]]
            tokens += row.prefill
            lag = 1 if device.drain == 0 else (tokens + device.drain - 1) // device.drain
            row.end = max(1, lag + row.max_tokens - row.generated)

    cdef Envelope _envelope(self, Device* device) noexcept nogil:
        """Sorts what runs by end: it was in order a step ago, and ends fall together, so insertion has little to do."""
        cdef int64_t* order = &self._order[device.first]
        cdef Row* rows = &self._rows[0]
        cdef int64_t i, j, row
        cdef Envelope envelope
        for i in range(1, device.running):
            row = order[i]
            j = i
            while j > 0 and rows[order[j - 1]].end > rows[row].end:
                order[j] = order[j - 1]
                j -= 1
            order[j] = row
        for i in range(device.running):
            self._spans[i] = self._span(order[i])
        envelope.spans = &self._spans[0]
        envelope.count = device.running
        envelope.block_tokens = self.block_tokens
        envelope.limit = device.limit
        envelope.slots = device.slots
        sum_up(&envelope)
        return envelope

    cdef Span _span(self, int64_t row) noexcept nogil:
        cdef Row* it = &self._rows[row]
        return Span(it.end, it.max_blocks, it.whole, it.rest, 0, 0)

    # Questions

    cdef bint fits(self, int32_t device, const KVNeed* need) noexcept nogil:
        cdef Device* on = &self._devices[device]
        cdef Row* row = &self._rows[self._candidate]
        cdef Envelope envelope
        if on.running >= on.slots:
            return False
        self._fill(on, self._candidate, NONE, need, on.starts + 1)
        if on.maxima + row.max_blocks <= on.limit:
            return True
        if on.flat or on.held + row.held > on.limit:
            return False
        self._enter(on, self._candidate)
        self._schedule(on)
        envelope = self._envelope(on)
        self._leave(on, self._candidate)
        return all_within(&envelope)

    cdef bint fits_without(self, int32_t device, const KVNeed* need, const int32_t* rows, int32_t n) noexcept nogil:
        cdef Device* on = &self._devices[device]
        cdef int32_t i
        cdef bint answer
        for i in range(n):
            self._leave(on, on.first + rows[i])
        answer = self.fits(device, need)
        for i in range(n):
            self._enter(on, on.first + rows[i])
        return answer

    cdef int64_t earliest_start(self, int32_t device, const KVNeed* reserved) noexcept nogil:
        cdef Device* on = &self._devices[device]
        cdef Envelope envelope
        cdef Span later
        self._fill(on, self._reserved, NONE, reserved, on.starts + 1)
        self._queue(on, self._reserved)
        self._schedule(on)
        self._unqueue(on, self._reserved)
        envelope = self._envelope(on)
        later = self._span(self._reserved)
        return earliest(&envelope, &later)

    cdef Backfill backfill(
        self, int32_t device, const KVNeed* need, const KVNeed* reserved, int64_t step
    ) noexcept nogil:
        cdef Device* on = &self._devices[device]
        cdef Envelope envelope
        cdef Span later
        cdef int64_t end
        if not self.fits(device, need):
            return BLOCKED
        self._fill(on, self._candidate, NONE, need, on.starts + 1)
        self._fill(on, self._reserved, NONE, reserved, on.starts + 2)
        self._enter(on, self._candidate)
        self._schedule(on)
        end = self._rows[self._candidate].end
        self._queue(on, self._reserved)
        self._schedule(on)
        self._unqueue(on, self._reserved)
        envelope = self._envelope(on)
        self._leave(on, self._candidate)
        later = self._span(self._reserved)
        if not fits_after(&envelope, &later, step):
            return BLOCKED
        return ENDS_BEFORE if end <= step else ENDS_AFTER

    # Changes

    cdef int32_t reserve(self, int32_t device, int32_t request, const KVNeed* need) noexcept nogil:
        cdef Device* on = &self._devices[device]
        cdef int64_t row = self._free[on.first + on.slots - on.running - 1]
        on.starts += 1
        self._fill(on, on.first + row, request, need, on.starts)
        self._enter(on, on.first + row)
        return <int32_t>row

    cdef void grow(self, int32_t device, int32_t row, int64_t computed, int64_t generated) noexcept nogil:
        cdef Device* on = &self._devices[device]
        cdef Row* it = &self._rows[on.first + row]
        cdef int64_t left = 0 if generated > it.generated else max(0, it.target - computed)
        if left == 0:
            self._unqueue(on, on.first + row)
        it.prefill = min(it.prefill, left)                    # what decodes has nothing to prefill, whatever is said
        it.computed = computed
        it.generated = generated
        on.held -= it.held
        self._measure(on, it)
        on.held += it.held

    cdef void release(self, int32_t device, int32_t row) noexcept nogil:
        cdef Device* on = &self._devices[device]
        self._leave(on, on.first + row)
        self._rows[on.first + row].request = NONE
        self._rows[on.first + row].number = 0
        self._free[on.first + on.slots - on.running - 1] = row

    # For Python

    cdef Device* _device(self, object index) except NULL:
        index = to_index(index, "device")
        if not 0 <= index < self.devices:
            raise IndexError(f"device must be from 0 to {self.devices - 1}, got {index}")
        return &self._devices[<int32_t>index]

    cdef Row* _running_row(self, object device, object index) except NULL:
        cdef Device* on = self._device(device)
        index = to_index(index, "row")
        if not 0 <= index < on.slots or self._rows[on.first + <int64_t>index].number == 0:
            raise IndexError(f"row must be one that runs on device {device}, got {index}")
        return &self._rows[on.first + <int64_t>index]

    def can_start(self, device, need, without=()):
        """Would the Need fit now, as if the rows `without` were released? Changes nothing."""
        cdef KVNeed wanted = as_need("need", need)
        cdef int32_t[::1] rows
        self._device(device)
        gone = list(without)
        if not gone:
            return bool(self.fits(device, &wanted))
        for row in gone:
            self._running_row(device, row)
        rows = np.unique(np.array(gone, np.int32))
        if len(rows) != len(gone):
            raise ValueError(f"without must name each row once, got {gone}")
        return bool(self.fits_without(device, &wanted, &rows[0], <int32_t>rows.shape[0]))

    def earliest_step(self, device, need):
        """The number of steps after which the Need fits at the latest, if nothing else starts; 0: now. Changes nothing.

        ValueError: it is larger than the device's limit.
        """
        cdef KVNeed wanted = as_need("need", need)
        cdef Device* on = self._device(device)
        cdef int64_t step = self.earliest_start(device, &wanted)
        if step == NONE:
            blocks = self.max_blocks(wanted.prompt_tokens, wanted.max_tokens)
            raise ValueError(f"need must be at most {on.limit} blocks, the limit of device {device}, got {blocks}")
        return step

    def backfill_kind(self, device, need, reserved, step):
        """May the Need start now although another, `reserved`, starts in at most `step` steps? Changes nothing.

        "blocked": it does not fit, or would delay the other; "ends_before": it may, and has gone by then; "ends_after".
        """
        cdef KVNeed wanted = as_need("need", need)
        cdef KVNeed other = as_need("reserved", reserved)
        cdef int64_t steps = whole(step, "step", 0, MAX_STEPS)
        self._device(device)
        return ("blocked", "ends_before", "ends_after")[<int>self.backfill(device, &wanted, &other, steps)]

    def start(self, device, need, request=NONE):
        """Starts the Need and returns its row, the same until it finishes. ValueError: it does not fit.

        request: any number of the caller's for it, -1 to 2**31 - 1.
        """
        cdef KVNeed wanted = as_need("need", need)
        cdef int32_t name = <int32_t>whole(request, "request", NONE, 2147483647)
        cdef Device* on = self._device(device)
        if not self.fits(device, &wanted):
            blocks = self.max_blocks(wanted.prompt_tokens, wanted.max_tokens)
            raise ValueError(
                f"need must fit on device {device}, got {blocks} blocks; {on.running} of {on.slots} slots are taken, "
                f"{on.held} of {on.limit} blocks are held and {on.maxima} may be"
            )
        return self.reserve(device, name, &wanted)

    def advance(self, device, row, computed, generated):
        """Reports totals of a row: prefill tokens since its start, and output tokens in all. Neither may fall."""
        cdef Row* it = self._running_row(device, row)
        cdef int64_t prefilled = whole(computed, "computed", it.computed, it.target)
        cdef int64_t output = whole(generated, "generated", it.generated, MAX_TOKENS)
        self.grow(device, row, prefilled, output)

    def finish(self, device, row):
        """Releases a row's slot and blocks."""
        self._running_row(device, row)
        self.release(device, row)

    def device_state(self, device):
        """DeviceState of a device."""
        cdef Device* on = self._device(device)
        return DeviceState(on.slots, on.running, on.held, on.maxima, on.limit)

    def row_state(self, device, row):
        """RowState of a running request."""
        cdef Row* it = self._running_row(device, row)
        return RowState(it.request, it.number, it.target, it.prefill, it.computed, self.cached(device, row))


cdef void remove(int64_t* entries, int64_t count, int64_t entry) noexcept nogil:
    """Takes one entry out of a list of `count`; the others keep their order."""
    cdef int64_t i = 0
    while entries[i] != entry:
        i += 1
    while i < count - 1:
        entries[i] = entries[i + 1]
        i += 1


cdef object records(int64_t count, str fields):
    return np.zeros(count, [(field, np.int64) for field in fields.split()])


cdef KVNeed as_need(str name, object need) except *:
    cdef KVNeed wanted
    prompt_tokens, max_tokens, generated, prefill, bid = need
    wanted.prompt_tokens = whole(prompt_tokens, f"{name}.prompt_tokens", 1, MAX_TOKENS)
    wanted.max_tokens = whole(max_tokens, f"{name}.max_tokens", 1, MAX_TOKENS)
    wanted.generated = whole(generated, f"{name}.generated", 0, MAX_TOKENS)
    wanted.prefill = wanted.prompt_tokens + wanted.generated
    if prefill is not None:
        wanted.prefill = whole(prefill, f"{name}.prefill", 0, wanted.prefill)
    wanted.bid = <int32_t>whole(bid, f"{name}.bid", 1, BIDS)
    return wanted

"""KV-cache blocks of every device: what runs, what would fit, and when.

A request starts only if the blocks of all that run, and of itself, stay within the device's limit at every later step
(docs/rules.md section 7). The peak-over-time test of VTC (Sheng et al., OSDI'24) and LightLLM supposes that everyone
decodes at once; with chunked prefill a late starter releases late, and that test overruns. Here everyone *grows* as if
it decoded from now on and *releases* as late as its place in the prefill order allows: an envelope of all that can happen.

Steps are counted from now. Between two ends the envelope only rises, so it is looked at in the ends alone.
"""
import cython
from collections import namedtuple
from math import floor
from operator import index as as_index

import numpy as np

from aps_core.types cimport BIDS, NONE

cdef enum:
    MAX_TOKENS = 2147483647
    MAX_SLOTS = 65536         # of one device: no sum below leaves 64 bits

Need = namedtuple("Need", "prompt_tokens max_tokens generated prefill bid", defaults=(0, None, 5))
Need.__doc__ = """What a request needs on a device.

prompt_tokens, max_tokens: 1 to 2**31 - 1 tokens. generated: output tokens it has from an earlier start. prefill: tokens
to compute before it decodes (None: prompt and generated; 0 when its cache is swapped in). bid: 1 to 10, its place in the prefill order.
"""
DeviceState = namedtuple("DeviceState", "slots running held_blocks max_blocks limit")
DeviceState.__doc__ = "Slots, requests running, blocks they hold now, the sum of their maxima, and the blocks that may be held."
RowState = namedtuple("RowState", "request number computed cached")
RowState.__doc__ = "The caller's number, the start's number (1, 2, ...), prefill tokens computed since, and those plus tokens generated since."


@cython.final
cdef class KVCache:
    """KV-cache blocks of one or more devices.

    slots: requests that may run at once (1 to 65,536). kv_blocks: blocks in all (1 to 2**31 - 1). token_budgets: tokens of one engine
    step, decodes first (0: whole prompts). One entry a device, in sequences of one length. block_tokens: tokens of a block.
    kv_high_watermark: the part of the blocks that requests may be started into, in (0, 1].

    The engine must do in every step what the rules suppose: one token for each request that decodes, then prefill in the order of
    (bid, start). What it did is reported with `advance`, for all of a device's requests as of the same step, before the next question.
    Then held blocks never exceed the limit, as long as no request outlives its max_tokens.

    Every answer is worked out in at most O(slots**2), without allocation; O(1) while the sum of maxima fits.
    Not thread-safe. Bad arguments raise and change nothing.
    """

    def __cinit__(self, slots, kv_blocks, token_budgets, block_tokens=16, kv_high_watermark=1.0):
        cdef Py_ssize_t i, row
        counts = [_integer("slots", value, 1, MAX_SLOTS) for value in slots]
        blocks = [_integer("kv_blocks", value, 1, MAX_TOKENS) for value in kv_blocks]
        budgets = [_integer("token_budgets", value, 0, MAX_TOKENS) for value in token_budgets]
        if not counts or not len(counts) == len(blocks) == len(budgets):
            raise ValueError(f"slots, kv_blocks, token_budgets: {len(counts)}, {len(blocks)}, {len(budgets)} entries; one a device in each")
        watermark = float(kv_high_watermark)
        if not 0.0 < watermark <= 1.0:
            raise ValueError(f"kv_high_watermark: {watermark!r}; above 0, at most 1")
        self.block_tokens = _integer("block_tokens", block_tokens, 1, MAX_TOKENS)
        self.total_blocks = sum(blocks)
        self.devices = len(counts)
        places = sum(counts) + len(counts)
        self._devices = _records(self.devices, "slots limit drain flat first running prefilling held maxima starts")
        self._rows = _records(
            places + 2,
            "prompt_tokens max_tokens generated generated_before target computed prefill bid number request max_blocks held whole rest end",
        )
        self._spans = _records(max(counts), "end max_blocks whole rest maxima_from tokens_from")
        self._prefill = np.zeros(places, dtype=np.int64)
        self._order = np.zeros(places, dtype=np.int64)
        self._free = np.zeros(places, dtype=np.int64)
        self._candidate, self._reserved = places, places + 1
        first = 0
        for i, (count, total, budget) in enumerate(zip(counts, blocks, budgets)):
            limit = floor(watermark * total)
            self._devices[i].slots, self._devices[i].limit, self._devices[i].first = count, limit, first
            self._devices[i].drain = max(1, budget - count) if budget else 0
            self._devices[i].flat = 0 < budget < 2 * count
            self.largest_limit = max(self.largest_limit, limit)
            for row in range(count):
                self._free[first + row] = count - 1 - row     # row 0 goes first
            first += count + 1
        for row in range(places + 2):
            self._rows[row].request = NONE

    # What a request takes

    cdef int64_t max_blocks(self, int64_t prompt_tokens, int64_t max_tokens) noexcept nogil:
        return (prompt_tokens + max_tokens + self.block_tokens - 1) // self.block_tokens

    cdef void _fill(self, Device* device, int64_t row, int32_t request, const KVNeed* need, int64_t number) noexcept nogil:
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
        row.whole = tokens // self.block_tokens
        row.rest = tokens % self.block_tokens
        row.held = min(row.max_blocks, row.whole)
        row.end = max(1, row.max_tokens - row.generated)      # while it prefills, _schedule knows better
        if device.flat:
            row.whole, row.rest = row.max_blocks, 0

    # Lists

    cdef void _enter(self, Device* device, int64_t row) noexcept nogil:
        self._order[device.first + device.running] = row
        device.running += 1
        device.held += self._rows[row].held
        device.maxima += self._rows[row].max_blocks
        self._queue(device, row)

    cdef void _leave(self, Device* device, int64_t row) noexcept nogil:
        _remove(&self._order[device.first], device.running, row)
        device.running -= 1
        device.held -= self._rows[row].held
        device.maxima -= self._rows[row].max_blocks
        self._unqueue(device, row)

    cdef void _queue(self, Device* device, int64_t row) noexcept nogil:
        cdef int64_t* order = &self._prefill[device.first]
        cdef Row* it = &self._rows[row]
        cdef Row* ahead
        cdef int64_t i = device.prefilling
        if it.prefill == 0:
            return
        while i > 0:
            ahead = &self._rows[order[i - 1]]
            if ahead.bid > it.bid or (ahead.bid == it.bid and ahead.number < it.number):
                break
            order[i] = order[i - 1]
            i -= 1
        order[i] = row
        device.prefilling += 1

    cdef void _unqueue(self, Device* device, int64_t row) noexcept nogil:
        if self._rows[row].prefill > 0:
            _remove(&self._prefill[device.first], device.prefilling, row)
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

    cdef void _sort(self, Device* device) noexcept nogil:
        """Lays out the spans by end. The list was in order a step ago, and ends go down together: insertion has little to do."""
        cdef int64_t* order = &self._order[device.first]
        cdef Row* rows = &self._rows[0]
        cdef Span* span
        cdef int64_t i, j, row, maxima = 0, tokens = 0
        for i in range(1, device.running):
            row = order[i]
            j = i
            while j > 0 and rows[order[j - 1]].end > rows[row].end:
                order[j] = order[j - 1]
                j -= 1
            order[j] = row
        self._count = device.running
        for i in range(device.running - 1, -1, -1):
            span = &self._spans[i]
            span.end = rows[order[i]].end
            span.max_blocks = rows[order[i]].max_blocks
            span.whole = rows[order[i]].whole
            span.rest = rows[order[i]].rest
            maxima += span.max_blocks
            tokens += span.whole * self.block_tokens + span.rest
            span.maxima_from = maxima
            span.tokens_from = tokens

    cdef int64_t _load(self, int64_t first, int64_t step) noexcept nogil:
        """Blocks in that step of the spans from `first` on, if they decode from now on."""
        cdef Span* spans = &self._spans[0]
        cdef int64_t i, blocks = 0
        cdef int64_t whole = step // self.block_tokens
        cdef int64_t rest = step % self.block_tokens
        cdef int64_t carry = self.block_tokens - rest
        for i in range(first, self._count):
            blocks += min(spans[i].max_blocks, spans[i].whole + whole + (spans[i].rest >= carry))
        return blocks

    cdef bint _surely_within(self, int64_t first, int64_t step, int64_t room) noexcept nogil:
        """A bound in O(1): the maxima, or all their tokens in one heap."""
        if first >= self._count:
            return room >= 0
        if self._spans[first].maxima_from <= room:
            return True
        # No request grows in more than MAX_TOKENS steps.
        return self._spans[first].tokens_from + (self._count - first) * min(step, MAX_TOKENS) < (room + 1) * self.block_tokens

    cdef bint _within(self, int64_t first, int64_t step, int64_t room) noexcept nogil:
        return self._surely_within(first, step, room) or self._load(first, step) <= room

    cdef bint _all_within(self, int64_t limit) noexcept nogil:
        cdef int64_t i
        for i in range(self._count):
            if self._spans[i].maxima_from <= limit:
                return True
            if i > 0 and self._spans[i].end == self._spans[i - 1].end:
                continue
            if not self._within(i, self._spans[i].end, limit):
                return False
        return True

    cdef int64_t _first_after(self, int64_t first, int64_t step) noexcept nogil:
        """The first span, from `first` on, whose end is after that step."""
        while first < self._count and self._spans[first].end <= step:
            first += 1
        return first

    cdef bint _fits_at(self, Device* device, const Row* row, int64_t step) noexcept nogil:
        """Does row, which is not among the spans, fit if it starts after `step` more steps?"""
        cdef int64_t i = self._first_after(0, step)
        cdef int64_t last = step + row.end
        cdef int64_t k
        if self._count - i >= device.slots:
            return False
        while i < self._count and self._spans[i].maxima_from > device.limit - row.max_blocks:
            k = min(self._spans[i].end, last)
            if not self._within(i, k, device.limit - _use(row, k - step, self.block_tokens)):
                return False
            if k == last:
                return True
            i = self._first_after(i, k)
        return row.max_blocks <= device.limit

    cdef int64_t _earliest(self, Device* device, const Row* row) noexcept nogil:
        """The least step at which row, which is not among the spans, fits.

        One pass over the ends: where row is too large in an end, it must start later, so as to be small enough there. What it
        kept to before it keeps to then, since a later start only makes it smaller in a given step.
        """
        cdef int64_t room = device.limit - row.max_blocks
        cdef int64_t i, k, step = 0
        if room < 0:
            return NONE
        if self._count >= device.slots:
            step = self._spans[0].end
        i = self._first_after(0, step)
        while i < self._count and self._spans[i].maxima_from > room:
            k = self._spans[i].end
            if k > step + row.end and self._within(i, step + row.end, room):
                break                                         # it has gone before the next end
            if not self._within(i, k, room):
                step = max(step, k - _growth(row, device.limit - self._load(i, k), self.block_tokens))
            i = self._first_after(i, k)
        return step

    # Questions

    cdef bint fits(self, int32_t device, const KVNeed* need) noexcept nogil:
        cdef Device* on = &self._devices[device]
        cdef Row* row = &self._rows[self._candidate]
        cdef bint answer
        if on.running >= on.slots:
            return False
        self._fill(on, self._candidate, NONE, need, on.starts + 1)
        if on.maxima + row.max_blocks <= on.limit:
            return True
        if on.flat or on.held + row.held > on.limit:
            return False
        self._enter(on, self._candidate)
        self._schedule(on)
        self._sort(on)
        answer = self._all_within(on.limit)
        self._leave(on, self._candidate)
        return answer

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
        cdef int64_t step
        self._fill(on, self._reserved, NONE, reserved, on.starts + 1)
        self._queue(on, self._reserved)
        self._schedule(on)
        self._sort(on)
        step = self._earliest(on, &self._rows[self._reserved])
        self._unqueue(on, self._reserved)
        return step

    cdef Backfill backfill(self, int32_t device, const KVNeed* need, const KVNeed* reserved, int64_t step) noexcept nogil:
        cdef Device* on = &self._devices[device]
        cdef int64_t end
        cdef bint fits
        if not self.fits(device, need):
            return BLOCKED
        self._fill(on, self._candidate, NONE, need, on.starts + 1)
        self._fill(on, self._reserved, NONE, reserved, on.starts + 2)
        self._enter(on, self._candidate)
        self._schedule(on)
        end = self._rows[self._candidate].end
        self._queue(on, self._reserved)
        self._schedule(on)
        self._sort(on)
        fits = self._fits_at(on, &self._rows[self._reserved], step)
        self._unqueue(on, self._reserved)
        self._leave(on, self._candidate)
        if not fits:
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
        it.prefill = min(it.prefill, left)                    # once it decodes it does not go back
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

    # Looks

    cdef int64_t limit(self, int32_t device) noexcept nogil:
        return self._devices[device].limit

    cdef int32_t slots(self, int32_t device) noexcept nogil:
        return <int32_t>self._devices[device].slots

    cdef int32_t running(self, int32_t device) noexcept nogil:
        return <int32_t>self._devices[device].running

    cdef int64_t held(self, int32_t device) noexcept nogil:
        return self._devices[device].held

    cdef int64_t maxima(self, int32_t device) noexcept nogil:
        return self._devices[device].maxima

    cdef int32_t request_at(self, int32_t device, int32_t row) noexcept nogil:
        return <int32_t>self._rows[self._devices[device].first + row].request

    cdef int64_t start_number(self, int32_t device, int32_t row) noexcept nogil:
        return self._rows[self._devices[device].first + row].number

    cdef int64_t computed(self, int32_t device, int32_t row) noexcept nogil:
        return self._rows[self._devices[device].first + row].computed

    cdef int64_t prefill_target(self, int32_t device, int32_t row) noexcept nogil:
        return self._rows[self._devices[device].first + row].target

    cdef int64_t prefill_left(self, int32_t device, int32_t row) noexcept nogil:
        return self._rows[self._devices[device].first + row].prefill

    cdef int64_t cached(self, int32_t device, int32_t row) noexcept nogil:
        cdef Row* it = &self._rows[self._devices[device].first + row]
        return it.computed + it.generated - it.generated_before

    # For Python

    cdef Device* _device(self, object index) except NULL:
        cdef object i = as_index(index)
        if not 0 <= i < self.devices:
            raise IndexError(f"device: {i}; 0 to {self.devices - 1}")
        return &self._devices[<int32_t>i]

    cdef Row* _running_row(self, object device, object index) except NULL:
        cdef Device* on = self._device(device)
        cdef object i = as_index(index)
        if not 0 <= i < on.slots or self._rows[on.first + <int64_t>i].number == 0:
            raise ValueError(f"row: {i}; a row that runs on device {device}")
        return &self._rows[on.first + <int64_t>i]

    def can_start(self, device, need, without=()):
        """Would the Need fit now, as if the rows `without` were released? Changes nothing."""
        cdef KVNeed wanted = _need("need", need)
        cdef int32_t[::1] rows
        self._device(device)
        gone = [as_index(row) for row in without]
        for row in gone:
            self._running_row(device, row)
        if len(set(gone)) != len(gone):
            raise ValueError(f"without: {gone}; each row once")
        if not gone:
            return bool(self.fits(device, &wanted))
        rows = np.array(gone, dtype=np.int32)
        return bool(self.fits_without(device, &wanted, &rows[0], <int32_t>len(gone)))

    def earliest_step(self, device, need):
        """The least number of steps after which the Need fits at the latest, if nothing else starts (0: now). Changes nothing.

        ValueError when it is larger than the device's limit.
        """
        cdef KVNeed wanted = _need("need", need)
        cdef Device* on = self._device(device)
        cdef int64_t step = self.earliest_start(device, &wanted)
        if step == NONE:
            raise ValueError(f"need: {self.max_blocks(wanted.prompt_tokens, wanted.max_tokens)} blocks; at most {on.limit} on device {device}")
        return step

    def backfill_kind(self, device, need, reserved, step):
        """May the Need start now although `reserved`, another Need, is to start after `step` steps at the latest? Changes nothing.

        "blocked": it does not fit, or would delay it; "ends_before": it may, and has gone by then; "ends_after": it may, and has not.
        """
        cdef KVNeed wanted = _need("need", need)
        cdef KVNeed holder = _need("reserved", reserved)
        cdef int64_t after = _integer("step", step, 0, 1 << 60)
        self._device(device)
        return ("blocked", "ends_before", "ends_after")[<int>self.backfill(device, &wanted, &holder, after)]

    def start(self, device, need, request=NONE):
        """Starts the Need and returns its row, the same until it finishes. `request` is any number of the caller's, -1 to 2**31 - 1.

        ValueError when it does not fit.
        """
        cdef KVNeed wanted = _need("need", need)
        cdef int32_t number = _integer("request", request, NONE, MAX_TOKENS)
        cdef Device* on = self._device(device)
        if not self.fits(device, &wanted):
            raise ValueError(
                f"need: {self.max_blocks(wanted.prompt_tokens, wanted.max_tokens)} blocks do not fit on device {device}: {on.running} of"
                f" {on.slots} slots run, with {on.held} blocks now and up to {on.maxima} of {on.limit} later"
            )
        return self.reserve(device, number, &wanted)

    def advance(self, device, row, computed, generated):
        """Reports a row's totals: prefill tokens computed since its start, and output tokens of all its starts. Neither may fall."""
        cdef Row* it = self._running_row(device, row)
        cdef int64_t prefilled = _integer("computed", computed, it.computed, 2 * <int64_t>MAX_TOKENS)
        cdef int64_t output = _integer("generated", generated, it.generated, MAX_TOKENS)
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
        """RowState of a row that runs."""
        cdef Row* it = self._running_row(device, row)
        return RowState(it.request, it.number, it.computed, self.cached(device, row))


cdef void _remove(int64_t* entries, int64_t count, int64_t entry) noexcept nogil:
    """Takes one entry out of a list of `count`, the others keeping their order."""
    cdef int64_t i = 0
    while entries[i] != entry:
        i += 1
    for i in range(i, count - 1):
        entries[i] = entries[i + 1]


cdef int64_t _use(const Row* row, int64_t steps, int64_t block_tokens) noexcept nogil:
    """Blocks of a row that has decoded for that many steps, counted as running from the first of them."""
    return min(row.max_blocks, row.whole + (row.rest + steps) // block_tokens)


cdef int64_t _growth(const Row* row, int64_t free, int64_t block_tokens) noexcept nogil:
    """The most steps that a row may have run and be within so many blocks, which are fewer than its maximum."""
    return max(0, (free - row.whole) * block_tokens + block_tokens - 1 - row.rest)


def _records(count, names):
    return np.zeros(count, dtype=[(name, np.int64) for name in names.split()])


def _integer(name, value, least, most):
    number = as_index(value)
    if not least <= number <= most:
        raise ValueError(f"{name}: {number}; {least} to {most}")
    return number


cdef KVNeed _need(str name, object need) except *:
    cdef KVNeed wanted
    prompt_tokens, max_tokens, generated, prefill, bid = need
    wanted.prompt_tokens = _integer(f"{name}.prompt_tokens", prompt_tokens, 1, MAX_TOKENS)
    wanted.max_tokens = _integer(f"{name}.max_tokens", max_tokens, 1, MAX_TOKENS)
    wanted.generated = _integer(f"{name}.generated", generated, 0, MAX_TOKENS)
    if prefill is None:
        prefill = wanted.prompt_tokens + wanted.generated
    wanted.prefill = _integer(f"{name}.prefill", prefill, 0, wanted.prompt_tokens + wanted.generated)
    wanted.bid = _integer(f"{name}.bid", bid, 1, BIDS)
    return wanted

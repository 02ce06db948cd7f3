"""Who is next: first-in-first-out lanes and one lazy heap per bid.

Inside one bid every request ages alike, so its order is arrival, for ever. Hence a FIFO *lane* for each (tenant, bid),
and for each bid a heap of tenants keyed by the arrival number of the lane's first request. A pop compares the effective
bids of at most ten tops; nothing is re-keyed as time passes, and no cost depends on how many requests wait. Keys that
get later are corrected when they surface; keys that get earlier are sifted at once.

A request that enters a lane out of arrival order (a re-bid, a return) goes to the lane's small pairing heap; the lane's
first is the earlier of the two. Pairing heap: Fredman, Sedgewick, Sleator, Tarjan, Algorithmica 1986.
"""
from libc.stdint cimport INT32_MAX, INT64_MAX, INT64_MIN

import numpy as np

from aps_core.arguments cimport real, whole
from aps_core.clock cimport FOREVER, MAX_SECONDS, llrint, to_ns
from aps_core.request_table cimport STRAY, Request, RequestTable
from aps_core.indexed_heap cimport HeapEntry, heap_drop, heap_put, sift_down
from aps_core.pairing_heap cimport meld, take_root, unhook
from aps_core.types cimport BIDS, NONE, WAITING, int32_t, int64_t, uint8_t, uint16_t

cdef extern from *:
    """
    #define aps_lowest_bit(mask) __builtin_ctz(mask)
    #define aps_prefetch(address) __builtin_prefetch(address)
    """
    int aps_lowest_bit(unsigned int mask) noexcept nogil
    void aps_prefetch(const void* address) noexcept nogil

cdef int64_t NEVER = INT64_MAX
cdef double LONGEST_HORIZON_S = 1e8
cdef int64_t MOST_TENANTS = 1 << 24
cdef object INT32 = np.dtype(np.int32), INT64 = np.dtype(np.int64)


cdef int64_t to_horizon_ns(object seconds) except -1:
    """The horizon in ns; NEVER for infinity."""
    cdef double value = real(seconds, "aging_horizon_s", 0.0, FOREVER)
    if value == FOREVER:
        return NEVER
    if value > LONGEST_HORIZON_S:
        raise ValueError(f"aging_horizon_s must be from 0 to {LONGEST_HORIZON_S:g} s, or infinity, got {seconds!r}")
    return llrint(value * 1e9)


cdef int64_t instant(object seconds, str field, int64_t earliest_ns) except -1:
    cdef int64_t ns = to_ns(real(seconds, field, 0.0, MAX_SECONDS), 0.0)
    if ns < earliest_ns:
        raise ValueError(f"{field} must not be before {earliest_ns / 1e9!r}, got {seconds!r}")
    return ns


cdef int is_array(object values, str field, object dtype) except -1:
    """Nothing is converted: that would hide a wrong dtype, and fill a copy of `out`."""
    if not isinstance(values, np.ndarray):
        raise TypeError(f"{field} must be a NumPy array, got {type(values).__name__}")
    if values.dtype != dtype or values.ndim != 1 or not values.flags.c_contiguous:
        got = f"{values.dtype} of shape {values.shape} and strides {values.strides}"
        raise ValueError(f"{field} must be a contiguous {dtype} array of one dimension, got {got}")
    return 0


cdef object handles_out(object out, int64_t n):
    """Where n handles are written: `out`, or a new array."""
    if out is None:
        return np.empty(n, np.int64)
    is_array(out, "out", INT64)
    if not out.flags.writeable:
        raise ValueError("out must be writable, got a read-only array")
    return out


cdef int64_t competing(AgingHeap heap) noexcept nogil:
    """How many requests of open tenants wait; O(tenants)."""
    cdef int64_t n = 0
    cdef int32_t tenant, index
    for tenant in range(heap.tenants):
        if heap.open[tenant] and heap.filled[tenant]:
            for index in range(BIDS):
                n += heap.lanes[tenant * BIDS + index].count
    return n


cdef class AgingHeap:
    """A priority queue of requests with bids 1..10 that age: O(log tenants) an operation, whatever the number waiting.

    Owns its memory (NumPy arrays) and its requests; one owner thread at a time. Effective bid at time t:
    ``bid + 9 * (t - arrival) / aging_horizon_s``; the highest goes first, ties by arrival. Its order is decided in
    integer nanoseconds, exactly. Times are seconds from 0 to 4e8. After an error the heap is as it was.

    tenants: lanes exist for tenant numbers 0..tenants-1 (grown by `reserve`). aging_horizon_s: seconds that a bid of 1
    must wait to rank with a fresh bid of 10; 0 is arrival order, infinity strict priority. capacity: requests to make
    room for. table: a scheduler's own requests; a heap over them is driven by that scheduler alone.

    TypeError: no number, or no integer where one is due. ValueError: out of range (the error says of what).
    """

    def __cinit__(self, tenants=16, aging_horizon_s=30.0, capacity=1024, RequestTable table=None):
        self.horizon_ns = to_horizon_ns(aging_horizon_s)
        self.shared = table is not None
        self.table = table if self.shared else RequestTable(whole(capacity, "capacity", 0, INT32_MAX))
        self.memory = None
        self.reserve(<int32_t>whole(tenants, "tenants", 1, MOST_TENANTS))

    cpdef void reserve(self, int32_t tenants) except *:
        """Make room for tenant numbers below `tenants` (1..2**24, never fewer than before); new ones are open."""
        cdef int32_t bid, old = self.tenants
        cdef int32_t[:, ::1] places
        cdef int32_t[:, ::1] lanes
        cdef uint16_t[::1] filled
        cdef uint8_t[::1] opened
        cdef long long[:, ::1] entries
        if not 1 <= tenants <= MOST_TENANTS:
            raise ValueError(f"tenants must be from 1 to {MOST_TENANTS}, got {tenants}")
        if tenants <= old:
            return
        new = (
            np.full((BIDS, tenants), NONE, np.int32),
            np.full((tenants * BIDS, 4), NONE, np.int32),
            np.zeros(tenants, np.uint16),
            np.ones(tenants, np.uint8),
            np.zeros((BIDS, 2 * tenants), np.int64),     # HeapEntry: two words
        )
        new[1][:, 3] = 0
        if old:
            for kept, grown in zip(self.memory, new):
                grown[tuple([slice(side) for side in kept.shape])] = kept
        places, lanes, filled, opened, entries = new
        self.memory = new
        self.lanes = <Lane*>&lanes[0, 0]
        self.filled = &filled[0]
        self.open = &opened[0]
        for bid in range(BIDS):
            self.heaps[bid].place = &places[bid, 0]
            self.heaps[bid].entries = <HeapEntry*>&entries[bid, 0]
        self.tenants = tenants

    # Order

    cdef int64_t rank_of(self, int32_t row) noexcept nogil:
        """Larger goes first; equal at every instant to the order of the effective bids, because all age alike."""
        cdef Request* request = &self.table.rows[row]
        if self.horizon_ns == NEVER:
            return request.bid
        return request.bid * self.horizon_ns - 9 * request.arrival_ns

    cdef bint outranks(self, int32_t row, int32_t other) noexcept nogil:
        cdef int64_t mine = self.rank_of(row), theirs = self.rank_of(other)
        if mine != theirs:
            return mine > theirs
        return self.table.rows[row].number < self.table.rows[other].number

    cdef int32_t lane_first(self, Lane* lane) noexcept nogil:
        if lane.stray == NONE:
            return lane.head
        if lane.head == NONE or self.table.rows[lane.stray].number < self.table.rows[lane.head].number:
            return lane.stray
        return lane.head

    cdef int32_t first_of(self, int32_t tenant) noexcept nogil:
        """The tenant's first in policy order, or NONE."""
        cdef unsigned int mask = self.filled[tenant]
        cdef int32_t row, found = NONE
        while mask:
            row = self.lane_first(&self.lanes[tenant * BIDS + aps_lowest_bit(mask)])
            if found == NONE or self.outranks(row, found):
                found = row
            mask &= mask - 1
        return found

    cdef void refresh(self, int32_t index) noexcept nogil:
        """Bring the true top of one heap up, dropping and correcting what surfaces before it."""
        cdef HeapEntry entry
        cdef Lane* lane
        cdef int32_t row
        cdef int64_t number
        cdef uint16_t bit = <uint16_t>(1 << index)
        self.dirty &= ~bit
        while self.heaps[index].size:
            entry = self.heaps[index].entries[0]
            lane = &self.lanes[entry.id * BIDS + index]
            if not self.open[entry.id] or lane.count == 0:
                heap_drop(&self.heaps[index], entry.id)
                continue
            row = self.lane_first(lane)
            number = self.table.rows[row].number
            if number == entry.key:
                self.top_row[index] = row
                self.top_number[index] = number
                self.top_rank[index] = self.rank_of(row)
                return
            entry.key = number
            sift_down(&self.heaps[index], 0, entry)
        self.live &= ~bit

    cdef int32_t best(self, int32_t lowest_bid) noexcept nogil:
        """The first in policy order among the open tenants' requests with bid >= lowest_bid, or NONE."""
        cdef unsigned int mask = self.live & ~((1u << (lowest_bid - 1)) - 1)
        cdef unsigned int stale = mask & self.dirty
        cdef int32_t index, found = NONE
        while stale:
            self.refresh(aps_lowest_bit(stale))
            stale &= stale - 1
        mask &= self.live
        while mask:
            index = aps_lowest_bit(mask)
            if (
                found == NONE
                or self.top_rank[index] > self.top_rank[found]
                or (self.top_rank[index] == self.top_rank[found] and self.top_number[index] < self.top_number[found])
            ):
                found = index
            mask &= mask - 1
        return NONE if found == NONE else self.top_row[found]

    # Membership

    cdef void insert(self, int32_t row, int32_t lane_tenant) noexcept nogil:
        """Put a row into the lane of its bid, at its arrival; O(1) at either end of the lane, else the pairing heap."""
        cdef Request* rows = self.table.rows
        cdef Request* request = &rows[row]
        cdef int32_t index = request.bid - 1
        cdef Lane* lane = &self.lanes[lane_tenant * BIDS + index]
        cdef uint16_t bit = <uint16_t>(1 << index)
        cdef int32_t at
        request.flags &= ~STRAY
        request.child = NONE
        if lane.head == NONE:
            request.next = NONE
            request.prev = NONE
            lane.head = row
            lane.tail = row
        elif request.number > rows[lane.tail].number:
            request.next = NONE
            request.prev = lane.tail
            rows[lane.tail].next = row
            lane.tail = row
        elif request.number < rows[lane.head].number:
            request.prev = NONE
            request.next = lane.head
            rows[lane.head].prev = row
            lane.head = row
        else:
            request.flags |= STRAY
            request.next = NONE
            request.prev = NONE
            lane.stray = meld(rows, lane.stray, row)
        lane.count += 1
        self.count += 1
        self.filled[lane_tenant] |= bit
        if not self.open[lane_tenant]:
            return
        at = self.heaps[index].place[lane_tenant]
        if at == NONE or request.number < self.heaps[index].entries[at].key:
            heap_put(&self.heaps[index], lane_tenant, request.number)
            self.live |= bit
            self.dirty |= bit

    cdef void remove_row(self, int32_t row, int32_t lane_tenant) noexcept nogil:
        """Take a row out of its lane, wherever in it it is."""
        cdef Request* rows = self.table.rows
        cdef Request* request = &rows[row]
        cdef int32_t index = request.bid - 1
        cdef Lane* lane = &self.lanes[lane_tenant * BIDS + index]
        if request.flags & STRAY:
            if lane.stray == row:
                lane.stray = take_root(rows, row)
            else:
                lane.stray = meld(rows, lane.stray, unhook(rows, row))
            request.flags &= ~STRAY
        else:
            if request.prev == NONE:
                lane.head = request.next
                if request.next != NONE and rows[request.next].next != NONE:
                    aps_prefetch(&rows[rows[request.next].next])     # what the pop after next reads
            else:
                rows[request.prev].next = request.next
            if request.next == NONE:
                lane.tail = request.prev
            else:
                rows[request.next].prev = request.prev
        lane.count -= 1
        self.count -= 1
        if lane.count == 0:
            self.filled[lane_tenant] &= ~<uint16_t>(1 << index)
        if self.top_row[index] == row:
            self.dirty |= <uint16_t>(1 << index)

    cdef void set_open(self, int32_t tenant, bint opened) noexcept nogil:
        """Let the tenant's lanes compete, or not; a closed tenant's entries leave the heaps when they surface."""
        cdef unsigned int mask = self.filled[tenant]
        cdef int32_t index, at
        cdef int64_t number
        if self.open[tenant] == opened:
            return
        self.open[tenant] = opened
        self.dirty |= mask
        if not opened:
            return
        self.live |= mask
        while mask:
            index = aps_lowest_bit(mask)
            number = self.table.rows[self.lane_first(&self.lanes[tenant * BIDS + index])].number
            at = self.heaps[index].place[tenant]
            if at == NONE or number < self.heaps[index].entries[at].key:
                heap_put(&self.heaps[index], tenant, number)
            mask &= mask - 1

    cdef void set_horizon(self, int64_t horizon_ns) noexcept nogil:
        """No key depends on it: only the ten tops are ranked anew."""
        self.horizon_ns = horizon_ns
        self.dirty = self.live

    # Standalone use from Python

    def __len__(self):
        return self.count

    @property
    def aging_horizon_s(self):
        """Seconds; infinity: bids do not age."""
        return FOREVER if self.horizon_ns == NEVER else self.horizon_ns / 1e9

    def set_aging_horizon(self, seconds):
        """Change the horizon; everything that waits is ranked by the new one. ValueError: not 0..1e8 s or infinity."""
        self.set_horizon(to_horizon_ns(seconds))

    cdef int _own(self) except -1:
        if self.shared:
            raise ValueError("table must be the heap's own: requests over another's table go by their scheduler")
        return 0

    cdef int32_t _push(self, int32_t tenant, int32_t bid, int64_t now_ns) noexcept nogil:
        cdef int32_t row = self.table.take()
        cdef Request* request = &self.table.rows[row]
        self.last_number += 1
        self.last_ns = now_ns
        request.state = WAITING
        request.tenant = tenant
        request.bid = <uint8_t>bid
        request.number = self.last_number
        request.arrival_ns = now_ns
        self.insert(row, tenant)
        return row

    cdef int64_t _pop(self) noexcept nogil:
        cdef int32_t row = self.best(1)
        cdef int64_t handle
        if row == NONE:
            return 0
        handle = self.table.handle(row)
        self.remove_row(row, self.table.rows[row].tenant)
        self.table.give(row)
        return handle

    cdef int _room(self, int64_t more) except -1:
        cdef int64_t used = <int64_t>self.table.count + self.table.retired
        if used + more > self.table.capacity:
            self.table.reserve(used + more)
        return 0

    cdef int32_t _row(self, object handle) except -1:
        cdef int32_t row = self.table.find(whole(handle, "handle", INT64_MIN, INT64_MAX))
        if row == NONE:
            raise KeyError(f"handle {handle} is stale or foreign")
        return row

    def push(self, tenant, bid, now):
        """Add a request that arrives at `now` (seconds, never before an earlier call's); its handle (> 0).

        tenant: 0..tenants-1; bid: 1..10; both integers.
        """
        cdef int64_t now_ns = instant(now, "now", self.last_ns)
        cdef int32_t number = <int32_t>whole(tenant, "tenant", 0, self.tenants - 1)
        cdef int32_t points = <int32_t>whole(bid, "bid", 1, BIDS)
        self._own()
        self._room(1)
        return self.table.handle(self._push(number, points, now_ns))

    def pop(self):
        """Take out the open tenants' request with the highest effective bid; its handle, from now on stale.

        IndexError: no open tenant's request waits.
        """
        self._own()
        cdef int64_t handle = self._pop()
        if handle == 0:
            raise IndexError("pop from an AgingHeap in which no open tenant's request waits")
        return handle

    def peek(self):
        """The handle that `pop` would return, or None."""
        cdef int32_t row = self.best(1)
        return None if row == NONE else self.table.handle(row)

    def remove(self, handle):
        """Take out one request, whether or not its tenant is open. KeyError: stale or foreign handle."""
        self._own()
        cdef int32_t row = self._row(handle)
        self.remove_row(row, self.table.rows[row].tenant)
        self.table.give(row)

    def rebid(self, handle, bid):
        """Give a request another bid (1..10); it keeps its arrival. KeyError: stale or foreign handle."""
        self._own()
        cdef int32_t row = self._row(handle)
        cdef int64_t points = whole(bid, "bid", 1, BIDS)
        cdef Request* request = &self.table.rows[row]
        self.remove_row(row, request.tenant)
        request.bid = <uint8_t>points
        self.insert(row, request.tenant)

    def set_tenant_open(self, tenant, bint opened):
        """Let a tenant's requests compete (the default) or not; what it has waits meanwhile."""
        self.set_open(<int32_t>whole(tenant, "tenant", 0, self.tenants - 1), opened)

    def effective_bid(self, handle, now):
        """``bid + 9 * (now - arrival) / aging_horizon_s``, rounded; infinity under a horizon of 0.

        KeyError: stale or foreign handle. ValueError: `now` before its arrival.
        """
        cdef int32_t row = self._row(handle)
        return effective_bid(self, row, instant(now, "now", self.table.rows[row].arrival_ns))

    cdef object _bulk(self, object tenants, object bids, object out):
        """Checks the arrays, element by element; where the handles go."""
        cdef const int32_t[::1] numbers, points
        cdef Py_ssize_t i, n
        self._own()
        is_array(tenants, "tenants", INT32)
        is_array(bids, "bids", INT32)
        numbers, points, n = tenants, bids, tenants.shape[0]
        if points.shape[0] != n:
            raise ValueError(f"tenants and bids must have one length, got {n} and {points.shape[0]}")
        for i in range(n):
            if not 0 <= numbers[i] < self.tenants:
                raise ValueError(f"tenants[{i}] must be from 0 to {self.tenants - 1}, got {numbers[i]}")
            if not 1 <= points[i] <= BIDS:
                raise ValueError(f"bids[{i}] must be from 1 to {BIDS}, got {points[i]}")
        if out is None:
            return np.empty(n, np.int64)
        handles_out(out, n)
        if out.shape[0] != n:
            raise ValueError(f"out must have length {n}, got {out.shape[0]}")
        if np.may_share_memory(out, tenants) or np.may_share_memory(out, bids):
            raise ValueError("out must not share memory with tenants or bids")
        return out

    def push_many(self, tenants, bids, now, *, out=None):
        """Add requests in array order, all arriving at `now`: an int64 array of their handles, (n,); `out` if given.

        tenants, bids: int32 arrays, (n,), contiguous. All is checked before anything is added.
        """
        cdef int64_t now_ns = instant(now, "now", self.last_ns)
        cdef object result = self._bulk(tenants, bids, out)
        cdef const int32_t[::1] numbers = tenants, points = bids
        cdef long long[::1] handles = result
        cdef Py_ssize_t i, n = numbers.shape[0]
        self._room(n)
        with nogil:
            for i in range(n):
                handles[i] = self.table.handle(self._push(numbers[i], points[i], now_ns))
        return result

    def pop_many(self, n, *, out=None):
        """Take out the first n (fewer when fewer of open tenants wait): an int64 array of their handles.

        out: an int64 array for min(n, len(self)) handles or more, contiguous; the answer is then a view of its start.
        """
        self._own()
        cdef int64_t handle, taken = 0, most = min(whole(n, "n", 0, INT64_MAX), self.count)
        cdef object result = handles_out(out, most)
        cdef long long[::1] handles = result
        if handles.shape[0] < most:
            raise ValueError(f"out must hold {most} handles, got {handles.shape[0]}")
        with nogil:
            while taken < most:
                handle = self._pop()
                if handle == 0:
                    break
                handles[taken] = handle
                taken += 1
        return result[:taken]

    def hold_many(self, tenants, bids, now, step, *, out=None):
        """For i = 0..n-1: pop the first, then push (tenants[i], bids[i]) at ``now + i * step`` (seconds, step >= 0).

        The hold model of priority-queue benchmarks: an int64 array of the handles popped, (n,); `out` if given. Arrays
        as in `push_many`. IndexError: at some i no open tenant's request would wait.
        """
        cdef int64_t now_ns = instant(now, "now", self.last_ns), step_ns = instant(step, "step", 0), left
        cdef object result = self._bulk(tenants, bids, out)
        cdef const int32_t[::1] numbers = tenants, points = bids
        cdef long long[::1] handles = result
        cdef Py_ssize_t i, n = numbers.shape[0]
        instant((now_ns + <double>max(n - 1, 0) * step_ns) / 1e9, "now + (n - 1) * step", 0)
        left = competing(self)
        for i in range(n):
            if left == 0:
                raise IndexError(f"hold_many: no open tenant's request would wait at element {i}")
            left += self.open[numbers[i]] - 1
        with nogil:
            for i in range(n):
                handles[i] = self._pop()
                if self.table.free_head == NONE and self.table.fresh == self.table.capacity:     # the row was retired
                    with gil:
                        self._room(1)
                self._push(numbers[i], points[i], now_ns + i * step_ns)
        return result


cdef double effective_bid(AgingHeap heap, int32_t row, int64_t now_ns) noexcept nogil:
    """For people: the order itself is decided in integers."""
    cdef Request* request = &heap.table.rows[row]
    cdef double waited = <double>(now_ns - request.arrival_ns)
    if heap.horizon_ns == NEVER:
        return request.bid
    if heap.horizon_ns == 0:
        return FOREVER
    return request.bid + 9.0 * waited / <double>heap.horizon_ns

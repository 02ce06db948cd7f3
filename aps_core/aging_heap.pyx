"""Who is next: first-in-first-out lanes and one winner tree of tenants.

All requests age alike, so the order of any two never changes while they wait: effective bids are compared by the
constant ``bid * H - 9 * arrival`` (the *rank*), exactly and at any instant. Inside one bid that is arrival, hence a
FIFO *lane* for each (tenant, bid). The ranks of a tenant's at most ten lane heads lie side by side; the best of them is
the tenant's candidate in a winner tree over the open tenants. A pop takes the tree's winner; nothing is re-keyed as
time passes, no cost depends on how many requests wait, and opening or closing a tenant changes one leaf. Leaves are
made anew only when the tree is asked.

A request that enters a lane out of arrival order (a re-bid, a return) goes to the lane's small pairing heap; the lane's
first is the earlier of the two. Pairing heap: Fredman, Sedgewick, Sleator, Tarjan, Algorithmica 1986.
"""
from libc.stdint cimport INT32_MAX, INT64_MAX, INT64_MIN

import numpy as np

from aps_core.arguments cimport is_array, real, whole
from aps_core.clock cimport FOREVER, MAX_SECONDS, llrint, to_ns
from aps_core.request_table cimport STRAY, Request, RequestTable
from aps_core.pairing_heap cimport meld, take_root, unhook
from aps_core.types cimport BIDS, NONE, WAITING, int32_t, int64_t, uint8_t, uint16_t
from aps_core.winner_tree cimport Key, aps_beats, replay

cdef extern from *:
    """
    #define aps_lowest_bit(mask) __builtin_ctz(mask)
    #define aps_prefetch(address) __builtin_prefetch(address)
    """
    int aps_lowest_bit(unsigned int mask) noexcept nogil
    void aps_prefetch(const void* address) noexcept nogil

cdef int64_t NEVER = INT64_MAX
cdef int64_t EMPTY = INT64_MIN            # the rank of a lane without requests
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


cdef class AgingHeap:
    """A priority queue of requests with bids 1..10 that age: O(log tenants) an operation, whatever the number waiting.

    Owns its memory (NumPy arrays) and its requests; one owner thread at a time. Effective bid at time t:
    ``bid + 9 * (t - arrival) / aging_horizon_s``; the highest goes first, ties by arrival. Its order is decided in
    integer nanoseconds. Times are seconds from 0 to 4e8. TypeError: no number, or no integer where one is due;
    ValueError: out of range. After an error the heap is as it was.

    tenants: lanes exist for tenant numbers 0..tenants-1 (grown by `reserve`). aging_horizon_s: seconds that a bid of 1
    must wait to rank with a fresh bid of 10; 0 is arrival order, infinity strict priority. capacity: requests to make
    room for. table: a scheduler's own requests; a heap over them is driven by that scheduler alone.
    """

    def __cinit__(self, tenants=16, aging_horizon_s=30.0, capacity=1024, RequestTable table=None):
        self.horizon_ns = to_horizon_ns(aging_horizon_s)
        self.shared = table is not None
        self.table = table if self.shared else RequestTable(whole(capacity, "capacity", 0, INT32_MAX))
        self.reserve(<int32_t>whole(tenants, "tenants", 1, MOST_TENANTS))

    cpdef void reserve(self, int32_t tenants) except *:
        """Make room for tenant numbers below `tenants` (1..2**24, never fewer than before); new ones are open."""
        cdef int32_t slot, old = self.tenants, size = 1
        cdef int32_t[:, ::1] lanes
        cdef long long[:, ::1] firsts, leaves
        cdef int32_t[::1] winners, stale
        cdef uint16_t[::1] filled
        cdef uint8_t[::1] opened, is_stale, winning
        if not 1 <= tenants <= MOST_TENANTS:
            raise ValueError(f"tenants must be from 1 to {MOST_TENANTS}, got {tenants}")
        if tenants <= old:
            return
        while size < tenants:
            size *= 2
        new = (
            np.full((tenants * BIDS, 4), NONE, np.int32),
            np.full((tenants * BIDS, 2), EMPTY, np.int64),
            np.zeros(tenants, np.uint16),
            np.ones(tenants, np.uint8),
        )
        new[0][:, 3] = 0
        if old:
            for kept, grown in zip(self.memory, new):
                grown[:kept.shape[0]] = kept
        lanes, firsts, filled, opened = new
        leaves = np.full((size, 2), EMPTY, np.int64)
        winners = np.concatenate((np.zeros(size, np.int32), np.arange(size, dtype=np.int32)))
        stale = np.zeros(tenants, np.int32)
        winning = np.zeros(tenants, np.uint8)
        is_stale = np.zeros(tenants, np.uint8)
        self.memory = (*new, leaves, winners, stale, is_stale, winning)
        self.lanes = <Lane*>&lanes[0, 0]
        self.firsts = <Key*>&firsts[0, 0]
        self.filled = &filled[0]
        self.open = &opened[0]
        self.tree.leaves = <Key*>&leaves[0, 0]
        self.tree.winners = &winners[0]
        self.tree.size = size
        self.stale = &stale[0]
        self.is_stale = &is_stale[0]
        self.winning_lane = &winning[0]
        self.stale_count = 0
        self.tenants = tenants
        for slot in range(size - 1, 0, -1):
            self.tree.winners[slot] = self.tree.winners[2 * slot]
        for slot in range(old):
            self.mark(slot)

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

    cdef int32_t best_lane(self, int32_t tenant, int32_t lowest_bid) noexcept nogil:
        """The index of the tenant's lane, of those with bid >= lowest_bid, whose first goes first, or NONE."""
        cdef Key* firsts = &self.firsts[tenant * BIDS]
        cdef int64_t rank = EMPTY, turn = EMPTY
        cdef int32_t i, found = NONE
        cdef bint beaten
        for i in range(lowest_bid - 1, BIDS):
            beaten = aps_beats(firsts[i].rank, firsts[i].turn, rank, turn)
            found = i if beaten else found
            rank = firsts[i].rank if beaten else rank
            turn = firsts[i].turn if beaten else turn
        return found

    cdef int32_t first_of(self, int32_t tenant) noexcept nogil:
        """The tenant's first in policy order, or NONE."""
        cdef int32_t index = self.best_lane(tenant, 1)
        return NONE if index == NONE else self.lane_first(&self.lanes[tenant * BIDS + index])

    cdef void mark(self, int32_t tenant) noexcept nogil:
        """The tenant's leaf is made anew before the tree is asked."""
        if not self.is_stale[tenant]:
            self.is_stale[tenant] = True
            self.stale[self.stale_count] = tenant
            self.stale_count += 1

    cdef void refresh(self) noexcept nogil:
        """Make stale leaves anew."""
        cdef int32_t tenant, index
        while self.stale_count:
            self.stale_count -= 1
            tenant = self.stale[self.stale_count]
            self.is_stale[tenant] = False
            index = self.best_lane(tenant, 1) if self.open[tenant] else NONE
            if index == NONE:
                self.tree.leaves[tenant].rank = EMPTY
                self.tree.leaves[tenant].turn = EMPTY
            else:
                self.tree.leaves[tenant] = self.firsts[tenant * BIDS + index]
                self.winning_lane[tenant] = <uint8_t>index
            replay(&self.tree, tenant)

    cdef int32_t best(self, int32_t lowest_bid) noexcept nogil:
        """The first in policy order among the open tenants' requests with bid >= lowest_bid, or NONE."""
        cdef int32_t tenant
        if self.stale_count:
            self.refresh()
        tenant = self.tree.winners[1]
        if self.tree.leaves[tenant].rank == EMPTY:
            return NONE
        if self.winning_lane[tenant] + 1 < lowest_bid:
            return self.best_among(lowest_bid)
        return self.lane_first(&self.lanes[tenant * BIDS + self.winning_lane[tenant]])

    cdef int32_t best_among(self, int32_t lowest_bid) noexcept nogil:
        """The same when the best of all bids too little: a look at every tenant."""
        cdef unsigned int high = (1u << BIDS) - (1u << (lowest_bid - 1))
        cdef int32_t tenant, row, found = NONE
        for tenant in range(self.tenants):
            if self.filled[tenant] & high and self.open[tenant]:
                row = self.lane_first(&self.lanes[tenant * BIDS + self.best_lane(tenant, lowest_bid)])
                if found == NONE or self.outranks(row, found):
                    found = row
        return found

    # Membership

    cdef void insert(self, int32_t row, int32_t lane_tenant) noexcept nogil:
        """Put a row into the lane of its bid, at its arrival; O(1) at either end of the lane, else the pairing heap."""
        cdef Request* rows = self.table.rows
        cdef Request* request = &rows[row]
        cdef int32_t index = request.bid - 1
        cdef Lane* lane = &self.lanes[lane_tenant * BIDS + index]
        cdef int32_t before = self.lane_first(lane)
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
        if before == NONE or request.number < rows[before].number:
            self.rank_lane(lane_tenant, index)

    cdef void remove_row(self, int32_t row, int32_t lane_tenant) noexcept nogil:
        """Take a row out of its lane, wherever in it it is."""
        cdef Request* rows = self.table.rows
        cdef Request* request = &rows[row]
        cdef int32_t index = request.bid - 1
        cdef Lane* lane = &self.lanes[lane_tenant * BIDS + index]
        cdef bint first = self.lane_first(lane) == row
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
        if first:
            self.rank_lane(lane_tenant, index)

    cdef void rank_lane(self, int32_t tenant, int32_t index) noexcept nogil:
        """The lane has another first."""
        cdef int32_t row = self.lane_first(&self.lanes[tenant * BIDS + index])
        cdef Key* first = &self.firsts[tenant * BIDS + index]
        if row == NONE:
            first.rank = EMPTY
            first.turn = EMPTY
            self.filled[tenant] &= ~<uint16_t>(1 << index)
        else:
            first.rank = self.rank_of(row)
            first.turn = INT64_MAX - self.table.rows[row].number
            self.filled[tenant] |= <uint16_t>(1 << index)
        self.mark(tenant)

    cdef void set_open(self, int32_t tenant, bint opened) noexcept nogil:
        """Let the tenant's lanes compete, or not."""
        if self.open[tenant] != opened:
            self.open[tenant] = opened
            self.mark(tenant)

    cdef void set_horizon(self, int64_t horizon_ns) noexcept nogil:
        """The lanes' firsts are ranked anew; nothing that waits behind them is looked at."""
        cdef unsigned int mask
        cdef int32_t tenant
        self.horizon_ns = horizon_ns
        for tenant in range(self.tenants):
            mask = self.filled[tenant]
            while mask:
                self.rank_lane(tenant, aps_lowest_bit(mask))
                mask &= mask - 1

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
        return self.table.checked(whole(handle, "handle", INT64_MIN, INT64_MAX))

    def push(self, tenant, bid, now):
        """Add a request (bid: 1..10) that arrives at `now`, seconds, never before an earlier call's; its handle."""
        cdef int64_t now_ns = instant(now, "now", self.last_ns)
        cdef int64_t number = whole(tenant, "tenant", 0, self.tenants - 1), points = whole(bid, "bid", 1, BIDS)
        self._own()
        self._room(1)
        return self.table.handle(self._push(<int32_t>number, <int32_t>points, now_ns))

    def pop(self):
        """Take out the open tenants' first; its handle, from now on stale. IndexError: none of theirs waits."""
        self._own()
        if self.best(1) == NONE:
            raise IndexError("pop from an AgingHeap in which no open tenant's request waits")
        return self._pop()

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
        cdef int64_t points = whole(bid, "bid", 1, BIDS)
        cdef int32_t row = self._row(handle)
        cdef Request* request = &self.table.rows[row]
        self.remove_row(row, request.tenant)
        request.bid = <uint8_t>points
        self.insert(row, request.tenant)

    def set_tenant_open(self, tenant, bint opened):
        """Let a tenant's requests compete (the default) or not; what it has waits meanwhile."""
        self.set_open(<int32_t>whole(tenant, "tenant", 0, self.tenants - 1), opened)

    def effective_bid(self, handle, now):
        """What it ranks by, rounded; infinity under a horizon of 0. ValueError: `now` before its arrival. KeyError."""
        cdef int32_t row = self._row(handle)
        return effective_bid(self, row, instant(now, "now", self.table.rows[row].arrival_ns))

    cdef object _bulk(self, object tenants, object bids, object out):
        """Checks the arrays and their elements; where the handles go."""
        self._own()
        is_array(tenants, "tenants", INT32)
        is_array(bids, "bids", INT32)
        cdef const int32_t[::1] numbers = tenants, points = bids
        cdef Py_ssize_t i, n = numbers.shape[0]
        if points.shape[0] != n:
            raise ValueError(f"tenants and bids must have one length, got {n} and {points.shape[0]}")
        for i in range(n):
            if not 0 <= numbers[i] < self.tenants:
                raise ValueError(f"tenants[{i}] must be from 0 to {self.tenants - 1}, got {numbers[i]}")
            if not 1 <= points[i] <= BIDS:
                raise ValueError(f"bids[{i}] must be from 1 to {BIDS}, got {points[i]}")
        if out is not None and (np.may_share_memory(out, tenants) or np.may_share_memory(out, bids)):
            raise ValueError("out must not share memory with tenants or bids")
        return self._out(out, n)

    cdef object _out(self, object out, int64_t n):
        """Where n handles are written: the start of `out`, or a new array."""
        if out is None:
            return np.empty(n, np.int64)
        is_array(out, "out", INT64)
        if not out.flags.writeable or out.shape[0] < n:
            raise ValueError(f"out must be writable and hold {n} handles, got {out.flags.writeable=}, {out.shape=}")
        return out[:n]

    def push_many(self, tenants, bids, now, *, out=None):
        """Add requests in array order, all arriving at `now`: an int64 array of their handles, (n,).

        tenants, bids: int32 arrays, (n,), checked before anything is added. out: an int64 array of length n or more, of
        whose start the answer is then a view. All contiguous.
        """
        cdef int64_t now_ns = instant(now, "now", self.last_ns)
        cdef object result = self._bulk(tenants, bids, out)
        cdef const int32_t[::1] numbers = tenants, points = bids
        cdef long long[::1] handles = result
        cdef int64_t i, n = numbers.shape[0]
        self._room(n)
        with nogil:
            for i in range(n):
                handles[i] = self.table.handle(self._push(numbers[i], points[i], now_ns))
        return result

    def pop_many(self, n, *, out=None):
        """Take out the first n, fewer when fewer of open tenants wait: an int64 array of their handles.

        out: as in `push_many`, of length min(n, len(self)) or more.
        """
        self._own()
        cdef int64_t handle, taken = 0, most = min(whole(n, "n", 0, INT64_MAX), self.count)
        cdef object result = self._out(out, most)
        cdef long long[::1] handles = result
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

        The handles popped: an int64 array, (n,). Arrays as in `push_many`. IndexError: at some i none would wait.
        """
        cdef int64_t now_ns = instant(now, "now", self.last_ns), step_ns = instant(step, "step", 0), left = 0
        cdef object result = self._bulk(tenants, bids, out)
        cdef const int32_t[::1] numbers = tenants, points = bids
        cdef long long[::1] handles = result
        cdef Py_ssize_t i, n = numbers.shape[0]
        instant((now_ns + <double>max(n - 1, 0) * step_ns) / 1e9, "now + (n - 1) * step", 0)
        for i in range(self.tenants * BIDS):
            left += self.lanes[i].count if self.open[i // BIDS] else 0
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

"""Who is next: first-in-first-out lanes and one winner tree of tenants.

All requests age alike, so the order of any two never changes while they wait: effective bids are compared by the constant
``bid * H - 9 * arrival`` (the *rank*), exactly and at any instant. Inside one bid that is arrival, hence a FIFO *lane* for each
(tenant, bid). The ranks of a tenant's at most ten lane heads lie side by side; the best of them is the tenant's candidate in a
winner tree over the open tenants. A pop takes the tree's winner; nothing is re-keyed as time passes, no cost depends on how many
requests wait, and opening or closing a tenant changes one leaf. Leaves are made anew only when the tree is asked.

A request that enters a lane out of arrival order (a re-bid, a return) goes to the lane's small pairing heap; the lane's first is
the earlier of the two. Pairing heap: Fredman, Sedgewick, Sleator, Tarjan, Algorithmica 1986.
"""
from libc.stdint cimport INT64_MAX, INT64_MIN

import numpy as np

from aps_core.clock cimport FOREVER, MAX_SECONDS, is_time, llrint, to_ns
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
cdef int32_t LOWEST = 1                   # a variable, or the loop over the lanes is unrolled into branches
cdef int64_t EMPTY = INT64_MIN            # the rank of a lane without requests
cdef double LONGEST_HORIZON_S = 1e8


cdef int64_t to_horizon_ns(object seconds) except -1:
    """The horizon in ns; NEVER for infinity."""
    cdef double value = seconds
    if value == FOREVER:
        return NEVER
    if not 0.0 <= value <= LONGEST_HORIZON_S:
        raise ValueError(f"aging_horizon_s must be from 0 to {LONGEST_HORIZON_S:g} s, or infinity, got {seconds!r}")
    return llrint(value * 1e9)


cdef int64_t instant(double now, int64_t earliest_ns) except -1:
    if not is_time(now, 0.0) or to_ns(now, 0.0) < earliest_ns:
        raise ValueError(f"now must be finite, at most {MAX_SECONDS:g} s and not before {earliest_ns * 1e-9!r}, got {now!r}")
    return to_ns(now, 0.0)


cdef class AgingHeap:
    """A priority queue of requests with bids 1..10 that age: O(log tenants) an operation, whatever the number waiting.

    Owns its memory (NumPy arrays) and its requests; one owner thread at a time. Effective bid at time t:
    ``bid + 9 * (t - arrival) / aging_horizon_s``; the highest goes first, ties by arrival.

    tenants: lanes exist for tenant numbers 0..tenants-1 (grown by `reserve`). aging_horizon_s: seconds that a bid of 1 must wait
    to rank with a fresh bid of 10; 0 is arrival order, infinity strict priority. capacity: requests to make room for.
    """

    def __cinit__(self, int32_t tenants=16, object aging_horizon_s=30.0, int64_t capacity=1024, RequestTable table=None):
        self.horizon_ns = to_horizon_ns(aging_horizon_s)
        self.table = table if table is not None else RequestTable(capacity)
        self.memory = None
        self.reserve(tenants)

    cpdef void reserve(self, int32_t tenants) except *:
        """Make room for tenant numbers below `tenants`; new ones are open."""
        cdef int32_t slot, old = self.tenants, size = 1
        cdef int32_t[:, ::1] lanes
        cdef long long[:, ::1] firsts
        cdef long long[:, ::1] leaves
        cdef int32_t[::1] winners
        cdef int32_t[::1] stale
        cdef uint16_t[::1] filled
        cdef uint8_t[::1] opened
        cdef uint8_t[::1] is_stale
        cdef uint8_t[::1] winning
        if tenants < 1 or tenants > 1 << 24:
            raise ValueError(f"tenants must be from 1 to {1 << 24}, got {tenants}")
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
        """The index of the tenant's lane, of those with bid >= lowest_bid, whose first goes before the others' (any if all are empty)."""
        cdef Key* firsts = &self.firsts[tenant * BIDS]
        cdef int32_t i, found = lowest_bid - 1
        cdef int64_t rank = firsts[found].rank, turn = firsts[found].turn
        cdef bint beaten
        for i in range(lowest_bid, BIDS):
            beaten = aps_beats(firsts[i].rank, firsts[i].turn, rank, turn)
            found = i if beaten else found
            rank = firsts[i].rank if beaten else rank
            turn = firsts[i].turn if beaten else turn
        return found

    cdef int32_t first_of(self, int32_t tenant) noexcept nogil:
        """The tenant's first in policy order, or NONE."""
        return self.lane_first(&self.lanes[tenant * BIDS + self.best_lane(tenant, 1)])

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
            if self.open[tenant]:
                index = self.best_lane(tenant, LOWEST)
                self.winning_lane[tenant] = <uint8_t>index
                self.tree.leaves[tenant] = self.firsts[tenant * BIDS + index]
            else:
                self.tree.leaves[tenant].rank = EMPTY
                self.tree.leaves[tenant].turn = EMPTY
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
        """Put a row into the lane of its bid, at its arrival; O(1) at either end of the lane, else into the pairing heap."""
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
        """The lane has another first; the tenant's leaf is stale when that lane made it, or makes it now."""
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
        if self.open[tenant] and (
            index == self.winning_lane[tenant]
            or aps_beats(first.rank, first.turn, self.tree.leaves[tenant].rank, self.tree.leaves[tenant].turn)
        ):
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
            self.mark(tenant)

    # Standalone use from Python

    def __len__(self):
        return self.count

    @property
    def aging_horizon_s(self):
        """Seconds; infinity: bids do not age."""
        return FOREVER if self.horizon_ns == NEVER else self.horizon_ns * 1e-9

    def set_aging_horizon(self, double seconds):
        """Change the horizon; everything that waits is ranked by the new one. ValueError outside 0..1e8 s and infinity."""
        self.set_horizon(to_horizon_ns(seconds))

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

    cdef int _check(self, int64_t tenant, int64_t bid) except -1:
        if not 0 <= tenant < self.tenants:
            raise ValueError(f"tenant must be from 0 to {self.tenants - 1}, got {tenant}")
        if not 1 <= bid <= BIDS:
            raise ValueError(f"bid must be from 1 to {BIDS}, got {bid}")
        return 0

    cdef int _room(self, int64_t more) except -1:
        cdef int64_t used = <int64_t>self.table.count + self.table.retired
        if used + more > self.table.capacity:
            self.table.reserve(used + more)
        return 0

    def push(self, int64_t tenant, int64_t bid, double now):
        """Add a request that arrives at `now` (seconds, never before an earlier call's); its handle.

        ValueError: tenant or bid out of range, `now` not finite or in the past.
        """
        cdef int64_t now_ns = instant(now, self.last_ns)
        self._check(tenant, bid)
        self._room(1)
        return self.table.handle(self._push(<int32_t>tenant, <int32_t>bid, now_ns))

    def pop(self):
        """Take out the request with the highest effective bid; its handle, from now on stale. IndexError when empty."""
        cdef int64_t handle = self._pop()
        if handle == 0:
            raise IndexError("pop from an empty AgingHeap")
        return handle

    def peek(self):
        """The handle that `pop` would return, or None."""
        cdef int32_t row = self.best(1)
        return None if row == NONE else self.table.handle(row)

    cdef int32_t _row(self, int64_t handle) except -1:
        cdef int32_t row = self.table.find(handle)
        if row == NONE:
            raise KeyError(f"handle {handle} is stale or foreign")
        return row

    def remove(self, int64_t handle):
        """Take out one request. KeyError when the handle is stale or foreign."""
        cdef int32_t row = self._row(handle)
        self.remove_row(row, self.table.rows[row].tenant)
        self.table.give(row)

    def rebid(self, int64_t handle, int64_t bid):
        """Give a request another bid; it keeps its arrival. KeyError, ValueError as above."""
        cdef int32_t row = self._row(handle)
        cdef Request* request = &self.table.rows[row]
        self._check(request.tenant, bid)
        self.remove_row(row, request.tenant)
        request.bid = <uint8_t>bid
        self.insert(row, request.tenant)

    def set_tenant_open(self, int64_t tenant, bint opened):
        """Let a tenant's requests compete (the default) or not; what it has waits meanwhile."""
        self._check(tenant, 1)
        self.set_open(<int32_t>tenant, opened)

    def effective_bid(self, int64_t handle, double now):
        """``bid + 9 * (now - arrival) / aging_horizon_s``; infinite for a request that waits under a horizon of 0."""
        cdef int32_t row = self._row(handle)
        return effective_bid(self, row, instant(now, 0))

    def push_many(self, const int32_t[::1] tenants, const int32_t[::1] bids, double now, *, long long[::1] out=None):
        """Add requests in array order, all arriving at `now`; an int64 array of handles (`out` if given)."""
        cdef Py_ssize_t i, n = tenants.shape[0]
        cdef int64_t now_ns = instant(now, self.last_ns)
        cdef long long[::1] handles = self._bulk(tenants, bids, out)
        self._room(n)
        with nogil:
            for i in range(n):
                handles[i] = self.table.handle(self._push(tenants[i], bids[i], now_ns))
        return handles.base if out is None else out.base

    def pop_many(self, Py_ssize_t n, *, long long[::1] out=None):
        """Take out the first n (fewer when fewer wait); an int64 array of their handles."""
        cdef Py_ssize_t i, taken = min(n, self.count)
        if n < 0:
            raise ValueError(f"n must be at least 0, got {n}")
        cdef long long[::1] handles = np.empty(taken, np.int64) if out is None else out
        if handles.shape[0] < taken:
            raise ValueError(f"out must hold {taken} handles, got {handles.shape[0]}")
        with nogil:
            for i in range(taken):
                handles[i] = self._pop()
        return np.asarray(handles[:taken])

    def hold_many(self, const int32_t[::1] tenants, const int32_t[::1] bids, double now, double step, *, long long[::1] out=None):
        """For each element: pop the first, then push (tenant, bid) at ``now + i * step``; an int64 array of the handles popped.

        The hold model of priority-queue benchmarks. IndexError when nothing waits.
        """
        cdef Py_ssize_t i, n = tenants.shape[0]
        cdef int64_t now_ns = instant(now, self.last_ns), step_ns = instant(step, 0)
        cdef long long[::1] handles = self._bulk(tenants, bids, out)
        instant(now + n * step, self.last_ns)
        if self.count == 0:
            raise IndexError("hold on an empty AgingHeap")
        with nogil:
            for i in range(n):
                handles[i] = self._pop()
                self._push(tenants[i], bids[i], now_ns + i * step_ns)
        return handles.base if out is None else out.base

    cdef long long[::1] _bulk(self, const int32_t[::1] tenants, const int32_t[::1] bids, long long[::1] out):
        cdef Py_ssize_t i, n = tenants.shape[0]
        if bids.shape[0] != n:
            raise ValueError(f"tenants and bids must have one length, got {n} and {bids.shape[0]}")
        for i in range(n):
            self._check(tenants[i], bids[i])
        if out is None:
            return np.empty(n, np.int64)
        if out.shape[0] != n:
            raise ValueError(f"out must have length {n}, got {out.shape[0]}")
        return out


cdef double effective_bid(AgingHeap heap, int32_t row, int64_t now_ns) noexcept nogil:
    """For people: the order itself is decided in integers."""
    cdef Request* request = &heap.table.rows[row]
    cdef double waited = <double>(now_ns - request.arrival_ns)
    if heap.horizon_ns == NEVER:
        return request.bid
    if heap.horizon_ns == 0:
        return FOREVER
    return request.bid + 9.0 * waited / <double>heap.horizon_ns

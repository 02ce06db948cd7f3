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
from libc.stdint cimport INT64_MAX, INT64_MIN

import numpy as np

from aps_core.arguments cimport real
from aps_core.clock cimport FOREVER, llrint
from aps_core.request_table cimport STRAY, Request, RequestTable
from aps_core.pairing_heap cimport meld, take_root, unhook
from aps_core.types cimport BIDS, NONE, int32_t, int64_t, uint8_t, uint16_t
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
    cdef double value = real(seconds, "aging_horizon_s", 0.0, FOREVER)
    if value == FOREVER:
        return NEVER
    if value > LONGEST_HORIZON_S:
        raise ValueError(f"aging_horizon_s must be from 0 to {LONGEST_HORIZON_S:g} s, or infinity, got {seconds!r}")
    return llrint(value * 1e9)


cdef class Lanes:
    """The order of waiting requests: O(log tenants) an operation. The caller owns the table and its rows.

    tenants: lanes exist for tenant numbers 0..tenants-1 (grown by `reserve`). aging_horizon_s: see AgingHeap.
    """

    def __cinit__(self, RequestTable table, int32_t tenants, object aging_horizon_s):
        self.table = table
        self.horizon_ns = to_horizon_ns(aging_horizon_s)
        self.memory = None
        self.reserve(tenants)

    cpdef void reserve(self, int32_t tenants) except *:
        """Make room for tenant numbers below `tenants` (1..2**24, never fewer than before); new ones are open."""
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

    cdef double effective_bid(self, int32_t row, int64_t now_ns) noexcept nogil:
        """For people: the order itself is decided in integers."""
        cdef Request* request = &self.table.rows[row]
        cdef double waited = <double>(now_ns - request.arrival_ns)
        if self.horizon_ns == NEVER:
            return request.bid
        if self.horizon_ns == 0:
            return FOREVER
        return request.bid + 9.0 * waited / <double>self.horizon_ns

    cdef double horizon_s(self) noexcept nogil:
        return FOREVER if self.horizon_ns == NEVER else self.horizon_ns / 1e9

    cdef int64_t competing(self) noexcept nogil:
        """How many requests of open tenants wait; O(tenants)."""
        cdef int64_t n = 0
        cdef int32_t tenant, index
        for tenant in range(self.tenants):
            if self.open[tenant] and self.filled[tenant]:
                for index in range(BIDS):
                    n += self.lanes[tenant * BIDS + index].count
        return n

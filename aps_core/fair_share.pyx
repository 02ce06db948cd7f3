"""Weighted fairness in tokens: the virtual counters of VTC with a window in which bids decide.

Tenant i has service ``S = cost / weight``. Among the *contending* tenants (those whose first request may go by their
own limits) V is the running maximum of the least S; a tenant is in the window while ``S - D / weight <= V``. A tenant
that starts to contend is lifted to V, so idling banks nothing. S never falls while its tenant contends: what was
charged and not used becomes credit. Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024; rules.md,
section 5.
"""

import numpy as np

from aps_core.arguments cimport real, whole
from aps_core.clock cimport FOREVER
from aps_core.indexed_heap cimport HeapEntry, heap_drop, heap_put, sift_down, sortable
from aps_core.types cimport NONE, int32_t, int64_t

# Standalone accounts stay finite: within these bounds no sum of charges overflows.
cdef double MAX_COST = 1e18
cdef double MIN_WEIGHT = 1e-9, MAX_WEIGHT = 1e9
cdef int64_t MOST_TENANTS = 1 << 24

cdef enum:
    SEVERAL = -2              # tenants at once: after a change of a knob


cdef inline double larger(double a, double b) noexcept nogil:
    return b if b > a else a


cdef class FairShare:
    """Service accounts by tenant number; O(log tenants) an operation.

    tenants: numbers 0..tenants-1 have accounts (grown by `reserve`), of weight 1 and not contending at first.
    fairness_window: D, in cost units: how much of its own service a tenant may take ahead of the least-served
    contender; 0 is fair queueing, infinity leaves the order to the bids.

    TypeError: no number, or no integer where one is due. ValueError: out of range. Nothing has changed then.
    """

    def __cinit__(self, tenants=16, fairness_window=2048.0):
        self.window = real(fairness_window, "fairness_window", 0.0, FOREVER)
        self.last = NONE
        self.moved = NONE
        self.reserve(<int32_t>whole(tenants, "tenants", 1, MOST_TENANTS))

    cpdef void reserve(self, int32_t tenants) except *:
        """Make room for tenant numbers below `tenants` (1..2**24, never fewer than before)."""
        cdef int32_t slot, old = self.tenants
        cdef double[:, ::1] shares
        cdef long long[:, ::1] entries
        cdef int32_t[:, ::1] places
        if not 1 <= tenants <= MOST_TENANTS:
            raise ValueError(f"tenants must be from 1 to {MOST_TENANTS}, got {tenants}")
        if tenants <= old:
            return
        new = (
            np.zeros((tenants, sizeof(Share) // sizeof(double)), np.float64),
            np.zeros((2, 2 * tenants), np.int64),
            np.full((2, tenants), NONE, np.int32),
        )
        if old:
            for kept, grown in zip(self.memory, new):
                grown[tuple([slice(side) for side in kept.shape])] = kept
        shares, entries, places = new
        self.memory = new
        self.shares = <Share*>&shares[0, 0]
        self.least.entries = <HeapEntry*>&entries[0, 0]
        self.parked.entries = <HeapEntry*>&entries[1, 0]
        self.least.place = &places[0, 0]
        self.parked.place = &places[1, 0]
        for slot in range(old, tenants):
            self.open(slot, 1.0)
        self.tenants = tenants

    cdef void place(self, int32_t slot) noexcept nogil:
        """The one place where the left side of the window's test is computed: two ways would differ in the last bit."""
        cdef Share* share = &self.shares[slot]
        share.threshold = share.service - self.window / share.weight

    cdef void open(self, int32_t slot, double weight) noexcept nogil:
        cdef Share* share = &self.shares[slot]
        share.service = 0.0
        share.credit = 0.0
        share.weight = weight
        share.contends = 0
        self.place(slot)

    cdef void revive(self, int32_t slot, double service, double credit, double weight) noexcept nogil:
        cdef Share* share = &self.shares[slot]
        cdef double new_weight = share.weight
        share.service = service
        share.credit = credit
        share.weight = weight
        if weight != new_weight:
            self.reweigh(slot, new_weight)
        self.place(slot)

    cdef void close(self, int32_t slot) noexcept nogil:
        cdef Share* share = &self.shares[slot]
        if self.last == slot and self.contending == 0:
            self.virtual_time = larger(self.virtual_time, share.service - share.credit / share.weight)
        if self.last == slot:
            self.last = NONE
        heap_drop(&self.least, slot)
        heap_drop(&self.parked, slot)

    cdef void begin(self, int32_t slot) noexcept nogil:
        """Lift: credit comes off first, never below V; idling banks nothing."""
        cdef Share* share = &self.shares[slot]
        cdef Share* last
        if self.contending == 0 and self.last != NONE:
            last = &self.shares[self.last]
            self.virtual_time = larger(self.virtual_time, last.service - last.credit / last.weight)
        share.service = larger(self.virtual_time, share.service - share.credit / share.weight)
        share.credit = 0.0
        share.contends = 1
        self.contending += 1
        self.rises(slot)
        self.place(slot)
        heap_put(&self.least, slot, sortable(share.service))

    cdef void stop(self, int32_t slot) noexcept nogil:
        self.shares[slot].contends = 0
        self.contending -= 1
        self.last = slot
        heap_drop(&self.parked, slot)

    cdef void charge(self, int32_t slot, double cost) noexcept nogil:
        cdef Share* share = &self.shares[slot]
        cdef double offset = share.credit if share.credit < cost else cost
        share.credit = share.credit - offset
        share.service = share.service + (cost - offset) / share.weight
        self.rises(slot)
        self.place(slot)

    cdef bint stays(self, int32_t slot, double cost) noexcept nogil:
        cdef Share* share = &self.shares[slot]
        cdef double offset = share.credit if share.credit < cost else cost
        cdef double service = share.service + (cost - offset) / share.weight
        cdef double least = self.least_other(slot)
        if service < least:
            least = service
        return service - self.window / share.weight <= larger(self.virtual_time, least)

    cdef double least_other(self, int32_t slot) noexcept nogil:
        """The least S of the contending tenants but one; infinity when there is no other."""
        cdef double least = FOREVER
        cdef int64_t key = 0
        cdef bint present = self.least.place[slot] != NONE
        if present:
            key = self.least.entries[self.least.place[slot]].key
            heap_drop(&self.least, slot)
        if self.settle_top():
            least = self.shares[self.least.entries[0].id].service
        if present:
            heap_put(&self.least, slot, key)
        return least

    cdef void settle(self, int32_t slot, double unused) noexcept nogil:
        self.shares[slot].credit = self.shares[slot].credit + unused

    cdef bint in_window(self, int32_t slot) noexcept nogil:
        return self.shares[slot].contends and self.shares[slot].threshold <= self.virtual_time

    cdef bint enter(self, int32_t slot) noexcept nogil:
        cdef Share* share = &self.shares[slot]
        if not share.contends:
            return False
        if share.threshold <= self.virtual_time:
            heap_drop(&self.parked, slot)
            return True
        heap_put(&self.parked, slot, sortable(share.threshold))
        return False

    cdef void advance(self) noexcept nogil:
        cdef int32_t slot
        if self.settle_top():
            self.virtual_time = larger(self.virtual_time, self.shares[self.least.entries[0].id].service)
        if self.moved == SEVERAL:
            for slot in range(self.tenants):
                self.widen(slot)
        elif self.moved != NONE:
            self.widen(self.moved)
        self.moved = NONE

    cdef void rises(self, int32_t slot) noexcept nogil:
        self.moved = slot if self.moved == NONE or self.moved == slot else SEVERAL

    cdef void widen(self, int32_t slot) noexcept nogil:
        cdef Share* share = &self.shares[slot]
        if share.contends:
            self.widest_gap = larger(self.widest_gap, (share.service - self.virtual_time) * share.weight)

    cdef bint settle_top(self) noexcept nogil:
        """Bring the contending tenant with the least S to the top; whether there is one."""
        cdef HeapEntry top
        cdef int64_t key
        while self.least.size:
            top = self.least.entries[0]
            if not self.shares[top.id].contends:
                heap_drop(&self.least, top.id)
                continue
            key = sortable(self.shares[top.id].service)
            if key == top.key:
                return True
            top.key = key
            sift_down(&self.least, 0, top)
        return False

    cdef int32_t release(self) noexcept nogil:
        cdef int32_t slot
        if self.parked.size == 0:
            return NONE
        slot = self.parked.entries[0].id
        if self.shares[slot].threshold > self.virtual_time:
            return NONE
        heap_drop(&self.parked, slot)
        return slot

    cdef void reweigh(self, int32_t slot, double weight) noexcept nogil:
        """S keeps its lead in cost: V + (S - V) * old / new."""
        cdef Share* share = &self.shares[slot]
        share.service = self.virtual_time + larger(0.0, share.service - self.virtual_time) * share.weight / weight
        share.weight = weight
        self.rises(slot)
        self.place(slot)
        if share.contends:
            heap_put(&self.least, slot, sortable(share.service))

    cdef void set_window(self, double window) noexcept nogil:
        """A smaller D pulls everyone in, or who is ahead would be locked out for long. The caller re-enters all."""
        cdef int32_t slot
        cdef Share* share
        cdef double most
        for slot in range(self.tenants):
            share = &self.shares[slot]
            if window < self.window:
                most = self.virtual_time + window / share.weight
                if most < share.service:
                    share.service = most
                    if share.contends:
                        heap_put(&self.least, slot, sortable(most))
        self.window = window
        for slot in range(self.tenants):
            self.place(slot)

    # Standalone use from Python

    cdef int32_t _slot(self, object tenant) except -1:
        return <int32_t>whole(tenant, "tenant", 0, self.tenants - 1)

    cdef void _finish(self, int32_t slot) noexcept:
        """The end of one atomic step, which may have moved this tenant's threshold."""
        self.advance()
        self.enter(slot)
        while self.release() != NONE:
            pass

    @property
    def outside(self):
        """Contending tenants outside the window."""
        return self.parked.size

    def set_weight(self, tenant, weight):
        """Change a tenant's share (1e-9 to 1e9); its lead over V, in cost, is kept."""
        cdef int32_t slot = self._slot(tenant)
        self.reweigh(slot, real(weight, "weight", MIN_WEIGHT, MAX_WEIGHT))
        self._finish(slot)

    def set_fairness_window(self, fairness_window):
        """Change D (cost units, at least 0, infinity allowed). A smaller D pulls everyone in to V + D / weight."""
        cdef int32_t slot
        self.set_window(real(fairness_window, "fairness_window", 0.0, FOREVER))
        for slot in range(self.tenants):
            self.enter(slot)
        self.advance()
        while self.release() != NONE:
            pass

    def set_contending(self, tenant, bint contends):
        """The tenant's first request may go by its own limits, or not. Who begins is lifted to V, its credit spent."""
        cdef int32_t slot = self._slot(tenant)
        if contends == self.shares[slot].contends:
            return
        if contends:
            self.begin(slot)
        else:
            self.stop(slot)
        self._finish(slot)

    def charge_cost(self, tenant, cost):
        """Charge `cost` (cost units, 0 to 1e18); credit is used up first."""
        cdef int32_t slot = self._slot(tenant)
        self.charge(slot, real(cost, "cost", 0.0, MAX_COST))
        self._finish(slot)

    def give_credit(self, tenant, unused):
        """Cost units (0 to 1e18) that were charged and not used, set off against the next charges."""
        cdef int32_t slot = self._slot(tenant)
        self.settle(slot, real(unused, "unused", 0.0, MAX_COST))

    def forget(self, tenant):
        """Give a tenant's account up: its number starts anew, with weight 1. ValueError while it contends."""
        cdef int32_t slot = self._slot(tenant)
        if self.shares[slot].contends:
            raise ValueError(f"tenant must not contend when it is forgotten, {slot} does")
        self.close(slot)
        self.open(slot, 1.0)

    def is_in_window(self, tenant):
        """Contends, and ``S - D / weight <= V``."""
        return self.in_window(self._slot(tenant))

    def account(self, tenant):
        """(service, credit, weight, threshold, contends): service S in cost units / weight, credit in cost units."""
        cdef Share* share = &self.shares[self._slot(tenant)]
        return share.service, share.credit, share.weight, share.threshold, bool(share.contends)

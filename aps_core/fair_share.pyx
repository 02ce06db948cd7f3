"""Weighted fairness in tokens: the virtual counters of VTC with a window in which bids decide.

Tenant i has service ``S = cost / weight``. Among the *contending* tenants (those whose first request may go by their own limits)
V is the running maximum of the least S; a tenant is in the window while ``S - D / weight <= V``. A tenant that starts to
contend is lifted to V, so idling banks nothing. S never falls while its tenant contends: what was charged and not used becomes
credit. Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024; rules.md, section 5.
"""

import numpy as np

from aps_core.clock cimport FOREVER
from aps_core.indexed_heap cimport HeapEntry, heap_drop, heap_put, sift_down, sortable
from aps_core.types cimport NONE, int32_t, int64_t, uint8_t


cdef inline double larger(double a, double b) noexcept nogil:
    return b if b > a else a


cdef class FairShare:
    """Service accounts by tenant number; O(log tenants) an operation.

    tenants: numbers 0..tenants-1 have accounts (grown by `reserve`). fairness_window: D, in cost units: how much of its own service a
    tenant may take ahead of the least-served contender; 0 is fair queueing, infinity leaves the order to the bids.
    """

    def __cinit__(self, int32_t tenants=16, double fairness_window=2048.0):
        if not fairness_window >= 0.0:
            raise ValueError(f"fairness_window must be at least 0 cost units, got {fairness_window!r}")
        self.window = fairness_window
        self.last = NONE
        self.reserve(tenants)

    cpdef void reserve(self, int32_t tenants) except *:
        """Make room for tenant numbers below `tenants`."""
        cdef int32_t old = self.tenants
        cdef double[:, ::1] shares
        cdef long long[:, ::1] entries
        cdef int32_t[:, ::1] places
        if tenants < 1 or tenants > 1 << 24:
            raise ValueError(f"tenants must be from 1 to {1 << 24}, got {tenants}")
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
        """The one place where the left side of the window's test is computed: two ways of writing it would disagree in the last bit."""
        cdef Share* share = &self.shares[slot]
        share.threshold = share.service - self.window / share.weight

    cdef void open(self, int32_t slot, double weight) noexcept nogil:
        cdef Share* share = &self.shares[slot]
        share.service = 0.0
        share.credit = 0.0
        share.weight = weight
        share.contends = 0
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
        self.place(slot)

    cdef double threshold_after(self, int32_t slot, double cost) noexcept nogil:
        cdef Share* share = &self.shares[slot]
        cdef double offset = share.credit if share.credit < cost else cost
        return share.service + (cost - offset) / share.weight - self.window / share.weight

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
        cdef HeapEntry top
        cdef int64_t key
        while self.least.size:
            top = self.least.entries[0]
            if not self.shares[top.id].contends:
                heap_drop(&self.least, top.id)
                continue
            key = sortable(self.shares[top.id].service)
            if key != top.key:
                top.key = key
                sift_down(&self.least, 0, top)
                continue
            self.virtual_time = larger(self.virtual_time, self.shares[top.id].service)
            return

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
        self.place(slot)
        if share.contends:
            heap_put(&self.least, slot, sortable(share.service))

    cdef void set_window(self, double window) noexcept nogil:
        """A smaller D pulls everyone in, or the tenant ahead would be locked out for long. The caller re-enters every tenant."""
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

    cdef int _check(self, int64_t slot, double amount, str field) except -1:
        if not 0 <= slot < self.tenants:
            raise IndexError(f"tenant must be from 0 to {self.tenants - 1}, got {slot}")
        if not 0.0 <= amount < FOREVER:
            raise ValueError(f"{field} must be finite and at least 0, got {amount!r}")
        return 0

    def set_weight(self, int64_t tenant, double weight):
        """Change a tenant's share (> 0, finite); its lead over V, in cost, is kept."""
        self._check(tenant, weight, "weight")
        if weight == 0.0:
            raise ValueError("weight must be above 0, got 0.0")
        self.reweigh(<int32_t>tenant, weight)
        self._settle_window()

    def set_fairness_window(self, double window):
        """Change D (cost units, at least 0, infinity allowed)."""
        if not window >= 0.0:
            raise ValueError(f"fairness_window must be at least 0 cost units, got {window!r}")
        self.set_window(window)
        self._settle_window()

    def set_contending(self, int64_t tenant, bint contends):
        """The tenant's first request may go by its own limits, or not."""
        self._check(tenant, 0.0, "")
        if contends != self.shares[tenant].contends:
            if contends:
                self.begin(<int32_t>tenant)
            else:
                self.stop(<int32_t>tenant)
            self._settle_window()

    def charge_cost(self, int64_t tenant, double cost):
        """Charge `cost` (cost units, finite, at least 0); credit is used up first."""
        self._check(tenant, cost, "cost")
        self.charge(<int32_t>tenant, cost)
        self._settle_window()

    def give_credit(self, int64_t tenant, double unused):
        """Cost units that were charged and not used."""
        self._check(tenant, unused, "unused")
        self.settle(<int32_t>tenant, unused)

    def is_in_window(self, int64_t tenant):
        """Contends, and ``S - D / weight <= V``."""
        self._check(tenant, 0.0, "")
        return self.in_window(<int32_t>tenant)

    def account(self, int64_t tenant):
        """(service, credit, weight, threshold, contends)."""
        self._check(tenant, 0.0, "")
        cdef Share* share = &self.shares[tenant]
        return share.service, share.credit, share.weight, share.threshold, bool(share.contends)

    cdef void _settle_window(self) noexcept:
        cdef int32_t slot
        self.advance()
        for slot in range(self.tenants):
            self.enter(slot)

"""Requests as they come and go, each counted for its tenant and for its bid."""
import numpy as np

from aps_core.tally cimport COUNTED, Tally
from aps_core.types cimport BIDS, int32_t, int64_t


cdef class Books:
    """Requests as they come and go, each in the tally of its tenant and of its bid.

    tenants: tallies by name, in the order in which they first asked. bids: by the bid at submission, after clamping; a
    call may leave it out. all_wait: at least two tenants have requests, and each that
    has any also has one that has not started; when that changes, `all_wait_changed(now)` is called. `now` never falls.
    """

    def __cinit__(self, *_):
        self.tenants = {}
        self.changed = []
        self.by_bid = [Tally(str(bid)) for bid in range(BIDS + 1)]
        self.bids = {bid: self.by_bid[bid] for bid in range(1, BIDS + 1)}

    cdef object touch(self, Tally tenant):
        """Something is counted of it: the next cut must look."""
        if not tenant.changed:
            tenant.changed = True
            self.changed.append(tenant)

    def advance(self, double now):
        """Share out the devices' time up to now."""
        if self.time is not None:
            self.time.advance(now)

    def take_changes(self, double now):
        """What was counted of tenants since the last time: names; int64 (names, COUNTS); refusals, {name: {reason: n}}.

        Looks only at those of which anything happened, or that are on a device. A name stands there for what it counted,
        refused requests or others.
        """
        cdef Tally tally
        cdef dict news, refused = {}
        cdef list names = [], still = []
        cdef bint some
        cdef int64_t[:, ::1] rows
        self.advance(now)
        numbers = np.empty((max(1, len(self.changed)), COUNTED), np.int64)
        rows = numbers
        for tally in self.changed:
            some = tally.news(&rows[len(names), 0])
            news = tally.refused_news()
            if news is not None:
                refused[tally.name] = news
            if some or news is not None:
                names.append(tally.name)
            if tally.gpu is not None and tally.gpu.running:
                still.append(tally)
            else:
                tally.changed = False
        self.changed = still
        return names, numbers[:len(names)], refused

    def all_wait_changed(self, double now):
        """`all_wait` is another than before."""

    cdef Tally tally(self, tenant):
        found = self.tenants.get(tenant)
        if found is None:
            name = str.__str__(tenant)               # itself, of a member of an enumeration for one
            found = self.tenants[name] = Tally(name, len(self.tenants))
        return <Tally>found

    def tenant(self, str name not None):
        """That tenant's, made when it is new."""
        return self.tally(name)

    cdef Tally of_bid(self, int32_t bid):
        return <Tally>self.by_bid[bid]

    def turned_away(self, Tally tenant not None, int32_t bid, reason):
        """A request that was not admitted."""
        cdef Tally tally
        self.touch(tenant)
        for tally in (tenant, self.of_bid(bid)):
            tally.refused[reason] += 1

    cpdef void arrived(self, Tally tenant, double now, Tally bid=None, int64_t tokens=0) except *:
        """An admitted request waits; tokens: prompt and max."""
        self.touch(tenant)
        tenant.admitted += 1
        tenant.outstanding += 1
        tenant.waiting += 1
        tenant.asked_tokens += tokens
        if bid is not None:
            bid.admitted += 1
            bid.outstanding += 1
            bid.waiting += 1
            bid.asked_tokens += tokens
            if bid.waiting == 1:
                bid.waits_since = now
        if tenant.waiting == 1:
            tenant.waits_since = now
            self.queued += 1
            self.active += tenant.outstanding == 1
            self.look(now)

    cpdef void started(self, Tally tenant, double now, Tally bid=None) except *:
        """A waiting request is on a device."""
        tenant.waiting -= 1
        if bid is not None:
            bid.waiting -= 1
        if tenant.waiting == 0:
            self.queued -= 1
            self.look(now)

    cpdef void ended(self, Tally tenant, bint waiting, double now, Tally bid=None) except *:
        """A request, waiting or started, is over."""
        if waiting:
            self.started(tenant, now, bid)
        tenant.outstanding -= 1
        if bid is not None:
            bid.outstanding -= 1
        if tenant.outstanding == 0:
            self.active -= 1
            self.look(now)

    cdef void look(self, double now) except *:
        cdef bint all_wait = self.queued == self.active and self.active >= 2
        if all_wait != self.all_wait:
            self.all_wait = all_wait
            self.all_wait_changed(now)

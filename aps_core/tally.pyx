"""What is counted of each request, for its tenant and for its bid: counters, and distributions of durations.

Memory is bounded: nothing here grows with the number of requests.
"""
cimport cython

from collections import Counter

import numpy as np

from aps_core.types cimport BIDS, int32_t, int64_t

cdef extern from "math.h":
    double INFINITY

cdef enum:
    CUT = 46                  # bits of a double's mantissa that are dropped: 64 buckets to a power of two
    ROUND = 64                # buckets are held in such units

cdef union Bits:
    double value
    int64_t bits

cdef double SMALLEST = 1.0 / (1 << 20)   # seconds; anything below counts as 0
cdef double LARGEST = 4e8                # what the scheduler's clock can hold; anything above counts as that


cdef inline int64_t cut(double value) noexcept:
    cdef Bits bits
    bits.value = value
    return bits.bits >> CUT


cdef int64_t BASE = cut(SMALLEST) - 1


cdef inline int32_t place_of(double value) noexcept:
    """Its bucket, which rises with the value; 0: below SMALLEST."""
    return <int32_t>(cut(min(value, LARGEST)) - BASE) if value >= SMALLEST else 0


cdef double lower(int32_t place) noexcept:
    cdef Bits bits
    bits.bits = (place + BASE) << CUT
    return bits.value


cdef double middle(int32_t place) noexcept:
    return 0.5 * (lower(place) + lower(place + 1)) if place else 0.0


@cython.final
cdef class Histogram:
    """A distribution of durations in buckets 0.8 to 1.6 % wide. Quantiles are within 1 % (and 1 us) of the exact ones.

    count, total, smallest, largest: of all values; infinite extremes while there is none.
    """

    def __cinit__(self):
        self.smallest = INFINITY
        self.largest = -INFINITY

    cdef void reach(self, int32_t place):
        """Hold its bucket."""
        cdef int32_t first = place - place % ROUND, end = place - place % ROUND + ROUND
        cdef long long[::1] wider
        if self.held:
            first, end = min(first, self.first), max(end, self.first + self.held)
        memory = np.zeros(end - first, np.int64)
        if self.held:
            memory[self.first - first:][:self.held] = self.memory
        wider = memory
        self.memory = memory
        self.buckets = <int64_t*>&wider[0]
        self.first = first
        self.held = end - first

    cdef void add(self, double value):
        cdef int32_t place = place_of(value)
        if not self.first <= place < self.first + self.held:
            self.reach(place)
        self.buckets[place - self.first] += 1
        self.count += 1
        self.total += value
        if value < self.smallest:
            self.smallest = value
        if value > self.largest:
            self.largest = value

    def extend(self, values):
        """Add finite numbers >= 0."""
        cdef double value
        for value in values:
            self.add(value)

    def merge(self, Histogram other not None):
        """Add another's values."""
        cdef int32_t i
        for i in range(other.held):
            if other.buckets[i]:
                if not self.first <= other.first + i < self.first + self.held:
                    self.reach(other.first + i)
                self.buckets[other.first + i - self.first] += other.buckets[i]
        self.count += other.count
        self.total += other.total
        self.smallest = min(self.smallest, other.smallest)
        self.largest = max(self.largest, other.largest)

    cdef double middle_at(self, int64_t rank) noexcept:
        cdef int32_t i = -1
        while rank > 0:
            i += 1
            rank -= self.buckets[i]
        return middle(self.first + i)

    def quantile(self, double q):
        """The nearest-rank quantile, 0 <= q <= 1; None while empty."""
        cdef int64_t rank
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"q must be 0 to 1, got {q!r}")
        rank = <int64_t>(q * <double>self.count)
        rank = max(1, rank + (<double>rank < q * <double>self.count))
        if rank >= self.count:
            return self.largest if self.count else None
        return min(max(self.middle_at(rank), self.smallest), self.largest)

    @property
    def mean(self):
        """None while empty."""
        return self.total / <double>self.count if self.count else None

    @property
    def buckets_held(self):
        """Buckets in memory; at most some 3,200."""
        return self.held

    def counts(self, edges):
        """How many values lie up to each ascending edge and above the one before it; the last: above every edge.

        A value within 1 % of an edge may be counted on its other side.
        """
        cdef int32_t i = 0, place
        cdef int64_t below, seen = 0
        cdef double edge
        answer = []
        for edge in edges:
            place = place_of(edge)
            place -= middle(place) > edge
            below = seen
            while i < self.held and self.first + i <= place:
                seen += self.buckets[i]
                i += 1
            answer.append(seen - below)
        answer.append(self.count - seen)
        return answer


@cython.final
cdef class Tally:
    """Counters and distributions of the requests of one label since the driver began.

    name: the tenant's, or the bid. account: the tenant's number for the backend, 0, 1, ...
    sent = admitted + the sum of refused; admitted = finished + cancelled + expired + dropped + failed + outstanding.
    expired: the deadline passed before the start. dropped: made impossible by a change of limits. failed: lost by the
    backend, in the end; retried: times that one was lost and started again. preempted: times that a
    running one was displaced. asked_tokens: prompt and max tokens of all
    that were sent. prompt_tokens, output_tokens, charged: used by requests that have ended, and their final charges.
    waiting, outstanding: requests now; waiting ones have not started. waits_since: the instant at which `waiting` last
    rose from 0.

    queue_wait: arrival to first scheduled step. ttft: arrival to first output token. e2e: arrival to end. tpot: first
    to last output token over the tokens after the first, of requests with at least two. Requests that finished, and for
    queue_wait and ttft also those that ended otherwise after that point.
    """

    def __cinit__(self, str name="", int32_t account=-1):
        self.name = name
        self.account = account
        self.refused = Counter()
        self.queue_wait = Histogram()
        self.ttft = Histogram()
        self.tpot = Histogram()
        self.e2e = Histogram()

    @property
    def sent(self):
        return self.admitted + sum(self.refused.values())

    cpdef void times(self, double queue_wait, double ttft, double tpot, double e2e) except *:
        """Of one request that has ended; NaN: it has none."""
        if queue_wait == queue_wait:
            self.queue_wait.add(queue_wait)
        if ttft == ttft:
            self.ttft.add(ttft)
        if tpot == tpot:
            self.tpot.add(tpot)
        if e2e == e2e:
            self.e2e.add(e2e)


cdef class Books:
    """Requests as they come and go, each in the tally of its tenant and of its bid.

    bids: tallies by the bid at submission, after clamping; a call may leave it out. all_wait: at least two tenants have requests, and each that
    has any also has one that has not started; when that changes, `all_wait_changed(now)` is called. `now` never falls.
    """

    def __cinit__(self, *_):
        self.by_bid = [Tally(str(bid)) for bid in range(BIDS + 1)]
        self.bids = {bid: self.by_bid[bid] for bid in range(1, BIDS + 1)}

    def all_wait_changed(self, double now):
        """`all_wait` is another than before."""

    cdef Tally of_bid(self, int32_t bid):
        return <Tally>self.by_bid[bid]

    def turned_away(self, Tally tenant not None, int32_t bid, int64_t tokens, reason):
        """A request that was not admitted; tokens: prompt and max."""
        cdef Tally tally
        for tally in (tenant, self.of_bid(bid)):
            tally.asked_tokens += tokens
            tally.refused[reason] += 1

    cpdef void arrived(self, Tally tenant, double now, Tally bid=None, int64_t tokens=0) except *:
        """An admitted request waits."""
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

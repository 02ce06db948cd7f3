"""Who comes next: requests at given instants, and requests that follow the end of an earlier one (closed loops)."""
from libc.stdint cimport INT64_MAX

import numpy as np

from aps_core.indexed_heap cimport HeapEntry, heap_drop, heap_put
from aps_core.types cimport NONE, int32_t, int64_t

cdef int64_t NEVER_NS = <int64_t>1 << 61      # two of them can be added


cdef class Arrivals:
    """at_ns: (n,) int64 from 0, not falling over those that follow nobody. after: (n,) int64, NONE or an earlier one's
    number; None: nobody follows. At one instant the lower number comes first.

    ValueError names the entry, the value and what is allowed.
    """

    def __cinit__(self, at_ns, after):
        cdef const long long[::1] instants = at_ns
        cdef const long long[::1] before
        cdef int32_t[::1] links, places
        cdef long long[::1] entries
        cdef int64_t i, followers = 0
        self.n = len(at_ns)
        if self.n >= 1 << 31:
            raise ValueError(f"at_ns must have fewer than {1 << 31} entries, got {self.n}")
        self.memory = [instants]
        self.at_ns = <const int64_t*>&instants[0] if self.n else NULL
        check(instants, after)
        if self.n and after is not None:
            before = after
            self.after = <const int64_t*>&before[0]
            followers = np.count_nonzero(after != NONE)
            links = np.full(2 * self.n, NONE, np.int32)
            places = np.full(self.n, NONE, np.int32)
            entries = np.zeros(2 * max(followers, 1), np.int64)
            self.first_follower = &links[0]
            self.next_follower = &links[self.n]
            self.due.entries = <HeapEntry*>&entries[0]
            self.due.place = &places[0]
            self.memory += [before, links, places, entries]
            for i in range(self.n - 1, -1, -1):
                if self.after[i] != NONE:
                    self.next_follower[i] = self.first_follower[self.after[i]]
                    self.first_follower[self.after[i]] = <int32_t>i
        self.skip()

    cdef void skip(self) noexcept nogil:
        while self.after != NULL and self.next_open < self.n and self.after[self.next_open] != NONE:
            self.next_open += 1

    cdef int64_t next_ns(self) noexcept nogil:
        cdef int64_t at_ns = self.at_ns[self.next_open] if self.next_open < self.n else INT64_MAX
        if self.due.size and self.due.entries[0].key < at_ns:
            return self.due.entries[0].key
        return at_ns

    cdef int64_t take(self) noexcept nogil:
        cdef int64_t request = self.next_open
        cdef HeapEntry top
        if self.due.size:
            top = self.due.entries[0]
            if request >= self.n or top.key < self.at_ns[request] or (
                top.key == self.at_ns[request] and top.id < request
            ):
                heap_drop(&self.due, top.id)
                return top.id
        self.next_open += 1
        self.skip()
        return request

    cdef void release(self, int64_t request, int64_t now_ns) noexcept nogil:
        cdef int32_t follower
        if self.after == NULL:
            return
        follower = self.first_follower[request]
        while follower != NONE:
            heap_put(&self.due, follower, now_ns + min(self.at_ns[follower], NEVER_NS))
            follower = self.next_follower[follower]


cdef check(const long long[::1] at_ns, object after):
    instants = np.asarray(at_ns)
    if len(instants) and instants.min() < 0:
        at = int(np.flatnonzero(instants < 0)[0])
        raise ValueError(f"at_ns[{at}] must be at least 0, got {instants[at]}")
    if after is not None:
        bad = np.flatnonzero((after < NONE) | (after >= np.arange(len(after))))
        if len(bad):
            at = int(bad[0])
            raise ValueError(f"after[{at}] must be {NONE} or an earlier request's number, got {after[at]}")
        instants = instants[after == NONE]
    falls = np.flatnonzero(np.diff(instants) < 0)
    if len(falls):
        at = int(falls[0])
        raise ValueError(f"at_ns must not fall over the requests that follow nobody, got {instants[at + 1]} "
                         f"after {instants[at]}")

"""What went on over time, in a bounded number of equal bins: when there would be more, their width doubles.

Bin k is (k * width, (k + 1) * width]: work that ends at an edge was done before it.
"""
from libc.stdint cimport INT64_MAX
from libc.string cimport memset

import numpy as np

from aps_core.gpu cimport add
from aps_core.types cimport int32_t, int64_t

cdef int64_t FIRST_WIDTH_NS = 1_000_000


cdef class TimeSeries:
    """points: bins at most; tenants: accounts 0, 1, ...; devices: sources of service, each to be watched.

    Memory: points * (96 + 24 * tenants) bytes.
    """

    def __cinit__(self, int32_t points, int32_t tenants, int32_t devices):
        cdef long long[::1] levels = np.zeros(points * QUANTITIES * sizeof(Level) // sizeof(int64_t), np.int64)
        cdef long long[::1] served = np.zeros(<int64_t>points * 2 * tenants, np.int64)
        cdef long long[::1] backlog = np.zeros(<int64_t>points * tenants, np.int64)
        cdef long long[::1] counts = np.zeros(3 * tenants, np.int64)
        cdef int32_t[::1] waiting = np.zeros(tenants, np.int32)
        cdef long long[::1] sums = np.zeros(2 * devices, np.int64)
        self.memory = (levels, served, backlog, counts, waiting, sums)
        self.levels = <Level*>&levels[0]
        self.served = <int64_t*>&served[0]
        self.backlog = <int64_t*>&backlog[0]
        self.counted = <int64_t*>&counts[0]
        self.since_ns = <int64_t*>&counts[2 * tenants]
        self.waiting = &waiting[0]
        self.sums = <const int64_t**>&sums[0]
        self.points = points
        self.tenants = tenants
        self.sources = 2 * devices
        self.width_ns = FIRST_WIDTH_NS
        self.open()

    cdef void watch(self, int32_t device, const int64_t* prefill, const int64_t* output) noexcept nogil:
        self.sums[2 * device] = prefill
        self.sums[2 * device + 1] = output

    cdef void advance(self, int64_t now_ns, int64_t waiting, int64_t running, int64_t held) noexcept nogil:
        cdef int64_t duration
        while now_ns > self.points * self.width_ns:
            self.widen()
        while True:
            duration = min(now_ns, self.end_ns) - self.now_ns
            if duration > 0:
                self.hold(WAITING_REQUESTS, waiting, duration)
                self.hold(RUNNING_REQUESTS, running, duration)
                self.hold(HELD_BLOCKS, held, duration)
                self.now_ns += duration
            if now_ns <= self.end_ns:
                return
            self.settle()
            self.bin += 1
            self.open()

    cdef void hold(self, Quantity quantity, int64_t value, int64_t duration_ns) noexcept nogil:
        cdef Level* level = &self.levels[self.bin * QUANTITIES + quantity]
        add(&level.integral, duration_ns, value)
        level.least = min(level.least, value)
        level.most = max(level.most, value)

    cdef void open(self) noexcept nogil:
        cdef int32_t i
        self.end_ns = (self.bin + 1) * self.width_ns
        for i in range(QUANTITIES):
            clear(&self.levels[self.bin * QUANTITIES + i])

    cdef void settle(self) noexcept nogil:
        """The bin that is open gets what its tenants have had until now."""
        cdef int64_t* served = &self.served[<int64_t>self.bin * 2 * self.tenants]
        cdef int64_t* backlog = &self.backlog[<int64_t>self.bin * self.tenants]
        cdef int64_t total
        cdef int32_t kind, tenant, source
        for kind in range(2):
            for tenant in range(self.tenants):
                total = 0
                for source in range(kind, self.sources, 2):
                    total += self.sums[source][tenant]
                served[kind * self.tenants + tenant] += total - self.counted[kind * self.tenants + tenant]
                self.counted[kind * self.tenants + tenant] = total
        for tenant in range(self.tenants):
            if self.waiting[tenant]:
                backlog[tenant] += self.now_ns - self.since_ns[tenant]
                self.since_ns[tenant] = self.now_ns

    cdef void widen(self) noexcept nogil:
        """Pairs of bins become one. The last of an odd number, or the last pair, stays open."""
        cdef int32_t i, n = self.bin + 1
        self.settle()
        for i in range((n + 1) // 2):
            self.combine(i, 2 * i)
            if 2 * i + 1 < n:
                self.combine(i, 2 * i + 1)
        self.bin = (n - 1) // 2
        self.width_ns *= 2
        self.end_ns = (self.bin + 1) * self.width_ns

    cdef void combine(self, int32_t bin, int32_t other) noexcept nogil:
        """Move another bin's content into a bin before it."""
        cdef Level* into = &self.levels[bin * QUANTITIES]
        cdef Level* level = &self.levels[other * QUANTITIES]
        cdef int64_t i, width = self.tenants
        if bin == other:
            return
        for i in range(QUANTITIES):
            into[i].least = min(into[i].least, level[i].least)
            into[i].most = max(into[i].most, level[i].most)
            into[i].integral.seconds += level[i].integral.seconds
            add(&into[i].integral, level[i].integral.rest_ns, 1)
            clear(&level[i])
        for i in range(2 * width):
            self.served[2 * width * bin + i] += self.served[2 * width * other + i]
        for i in range(width):
            self.backlog[width * bin + i] += self.backlog[width * other + i]
        memset(&self.served[2 * width * other], 0, 2 * width * sizeof(int64_t))
        memset(&self.backlog[width * other], 0, width * sizeof(int64_t))

    cdef dict read(self):
        """Copies: edges_ns (b + 1,); waiting, running, held_blocks (b, 3) float64: least, mean over time, most; served
        (b, 2, tenants) int64: prefill and output tokens; backlog (b, tenants) float64: part of the bin in which the
        tenant had a waiting request. Before any time has passed one bin of no width, all 0."""
        cdef long long[::1] served, backlog
        cdef int32_t bins = self.bin + 1, i, quantity
        cdef Level* level
        self.settle()
        edges = np.arange(bins + 1, dtype=np.int64) * self.width_ns
        edges[bins] = self.now_ns
        widths = np.diff(edges).astype(np.float64)
        levels = np.zeros((QUANTITIES, bins, 3))
        for i in range(bins if self.now_ns else 0):
            for quantity in range(QUANTITIES):
                level = &self.levels[i * QUANTITIES + quantity]
                mean = (<double>level.integral.seconds * 1e9 + <double>level.integral.rest_ns) / widths[i]
                levels[quantity, i] = level.least, mean, level.most
        served, backlog = self.memory[1], self.memory[2]
        shares = np.zeros((bins, self.tenants))
        if self.now_ns:
            shares = np.asarray(backlog).reshape(-1, self.tenants)[:bins] / widths[:, None]
        return {
            "edges_ns": edges, "waiting": levels[0], "running": levels[1], "held_blocks": levels[2],
            "served": np.asarray(served).reshape(-1, 2, self.tenants)[:bins].copy(), "backlog": shares,
        }


cdef inline void clear(Level* level) noexcept nogil:
    memset(level, 0, sizeof(Level))
    level.least = INT64_MAX

"""A priority queue of requests with bids that age, to use on its own; the scheduler uses the lanes below it."""
from libc.stdint cimport INT32_MAX, INT64_MAX, INT64_MIN

import numpy as np

from aps_core.arguments cimport real, whole
from aps_core.clock cimport MAX_SECONDS, to_ns
from aps_core.lanes cimport MOST_TENANTS, Lanes, to_horizon_ns
from aps_core.request_table cimport Request, RequestTable
from aps_core.types cimport BIDS, NONE, WAITING, int32_t, int64_t, uint8_t

cdef object INT32 = np.dtype(np.int32), INT64 = np.dtype(np.int64)


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


cdef class AgingHeap:
    """A priority queue of requests with bids 1..10 that age: O(log tenants) an operation, whatever the number waiting.

    Owns its memory (NumPy arrays) and its requests; one owner thread at a time. Effective bid at time t:
    ``bid + 9 * (t - arrival) / aging_horizon_s``; the highest goes first, ties by arrival. Its order is decided in
    integer nanoseconds, exactly. Times are seconds from 0 to 4e8. After an error the heap is as it was.

    tenants: lanes exist for tenant numbers 0..tenants-1 (grown by `reserve`). aging_horizon_s: seconds that a bid of 1
    must wait to rank with a fresh bid of 10; 0 is arrival order, infinity strict priority. capacity: requests to make
    room for.

    TypeError: no number, or no integer where one is due. ValueError: out of range (the error says of what).
    """

    def __cinit__(self, tenants=16, aging_horizon_s=30.0, capacity=1024):
        self.table = RequestTable(whole(capacity, "capacity", 0, INT32_MAX))
        self.lanes = Lanes(self.table, <int32_t>whole(tenants, "tenants", 1, MOST_TENANTS), aging_horizon_s)

    def reserve(self, tenants):
        """Make room for tenant numbers below `tenants` (1..2**24, never fewer than before); new ones are open."""
        self.lanes.reserve(<int32_t>whole(tenants, "tenants", 1, MOST_TENANTS))

    @property
    def tenants(self):
        """Tenant numbers are 0..tenants-1."""
        return self.lanes.tenants

    @property
    def count(self):
        """Requests that wait."""
        return self.lanes.count

    def __len__(self):
        return self.lanes.count

    @property
    def aging_horizon_s(self):
        """Seconds; infinity: bids do not age."""
        return self.lanes.horizon_s()

    def set_aging_horizon(self, seconds):
        """Change the horizon; everything that waits is ranked by the new one. ValueError: not 0..1e8 s or infinity."""
        self.lanes.set_horizon(to_horizon_ns(seconds))

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
        self.lanes.insert(row, tenant)
        return row

    cdef int64_t _pop(self) noexcept nogil:
        cdef int32_t row = self.lanes.best(1)
        cdef int64_t handle
        if row == NONE:
            return 0
        handle = self.table.handle(row)
        self.lanes.remove_row(row, self.table.rows[row].tenant)
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
        cdef int32_t number = <int32_t>whole(tenant, "tenant", 0, self.lanes.tenants - 1)
        cdef int32_t points = <int32_t>whole(bid, "bid", 1, BIDS)
        self._room(1)
        return self.table.handle(self._push(number, points, now_ns))

    def pop(self):
        """Take out the open tenants' request with the highest effective bid; its handle, from now on stale.

        IndexError: no open tenant's request waits.
        """
        cdef int64_t handle = self._pop()
        if handle == 0:
            raise IndexError("pop from an AgingHeap in which no open tenant's request waits")
        return handle

    def peek(self):
        """The handle that `pop` would return, or None."""
        cdef int32_t row = self.lanes.best(1)
        return None if row == NONE else self.table.handle(row)

    def remove(self, handle):
        """Take out one request, whether or not its tenant is open. KeyError: stale or foreign handle."""
        cdef int32_t row = self._row(handle)
        self.lanes.remove_row(row, self.table.rows[row].tenant)
        self.table.give(row)

    def rebid(self, handle, bid):
        """Give a request another bid (1..10); it keeps its arrival. KeyError: stale or foreign handle."""
        cdef int32_t row = self._row(handle)
        cdef int64_t points = whole(bid, "bid", 1, BIDS)
        cdef Request* request = &self.table.rows[row]
        self.lanes.remove_row(row, request.tenant)
        request.bid = <uint8_t>points
        self.lanes.insert(row, request.tenant)

    def set_tenant_open(self, tenant, bint opened):
        """Let a tenant's requests compete (the default) or not; what it has waits meanwhile."""
        self.lanes.set_open(<int32_t>whole(tenant, "tenant", 0, self.lanes.tenants - 1), opened)

    def effective_bid(self, handle, now):
        """``bid + 9 * (now - arrival) / aging_horizon_s``, rounded; infinity under a horizon of 0.

        KeyError: stale or foreign handle. ValueError: `now` before its arrival.
        """
        cdef int32_t row = self._row(handle)
        return self.lanes.effective_bid(row, instant(now, "now", self.table.rows[row].arrival_ns))

    cdef object _bulk(self, object tenants, object bids, object out):
        """Checks the arrays, element by element; where the handles go."""
        cdef const int32_t[::1] numbers, points
        cdef Py_ssize_t i, n
        is_array(tenants, "tenants", INT32)
        is_array(bids, "bids", INT32)
        numbers, points, n = tenants, bids, tenants.shape[0]
        if points.shape[0] != n:
            raise ValueError(f"tenants and bids must have one length, got {n} and {points.shape[0]}")
        for i in range(n):
            if not 0 <= numbers[i] < self.lanes.tenants:
                raise ValueError(f"tenants[{i}] must be from 0 to {self.lanes.tenants - 1}, got {numbers[i]}")
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
        cdef int64_t handle, taken = 0, most = min(whole(n, "n", 0, INT64_MAX), self.lanes.count)
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
        left = self.lanes.competing()
        for i in range(n):
            if left == 0:
                raise IndexError(f"hold_many: no open tenant's request would wait at element {i}")
            left += self.lanes.open[numbers[i]] - 1
        with nogil:
            for i in range(n):
                handles[i] = self._pop()
                if self.table.free_head == NONE and self.table.fresh == self.table.capacity:     # the row was retired
                    with gil:
                        self._room(1)
                self._push(numbers[i], points[i], now_ns + i * step_ns)
        return result

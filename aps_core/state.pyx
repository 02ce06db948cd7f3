"""What outlives a restart, as columns: taken from one scheduler, put back into another. rules.md, section 10."""
from libc.float cimport DBL_MAX
from libc.math cimport INFINITY, isinf
from libc.stdint cimport INT32_MAX, INT32_MIN, INT64_MAX, INT64_MIN

import numpy as np

from aps_core.arguments cimport real, whole, whole_array
from aps_core.clock cimport FOREVER, MAX_SECONDS, llrint
from aps_core.fair_share cimport Share
from aps_core.tenant_table cimport ACTIVE, VACANT
from aps_core.types cimport NONE, int32_t, int64_t

cdef double MOST = 1e100                  # of a saved S, credit or level: no conversion of these overflows
cdef int64_t OLDEST_NS = -(1 << 61)       # an instant before the epoch, from before earlier restarts
cdef object INT32 = np.dtype(np.int32), INT64 = np.dtype(np.int64)


cdef dict taken(
    FairShare fair, TenantTable tenants, TokenBuckets buckets, TokenBuckets request_buckets, int64_t now_ns
):
    """At the latest instant. What is outstanding stays taken and charged."""
    slots = np.flatnonzero(tenants.records["state"][1:] != VACANT).astype(np.int32) + 1
    shares = np.empty((3, len(slots)), np.float64)
    cdef double[:, ::1] share = shares
    cdef const int32_t[::1] live = slots
    cdef Share* account
    cdef Py_ssize_t row
    for row in range(live.shape[0]):
        account = &fair.shares[live[row]]
        share[0, row] = account.weight
        share[1, row] = account.service
        share[2, row] = account.credit
    columns = {"slot": slots} | dict(zip(("weight", "service", "credit"), shares, strict=True))
    columns |= bucket_columns(buckets, live, "") | bucket_columns(request_buckets, live, "request_")
    return {
        "at_ns": now_ns,
        "virtual_time": fair.virtual_time,
        "fairness_window": fair.window,
        "last": NONE if fair.contending or fair.last == NONE else int(np.searchsorted(slots, fair.last)),
        "tenants": columns,
    }


cdef dict bucket_columns(TokenBuckets buckets, const int32_t[::1] slots, str prefix):
    levels = np.empty((3, slots.shape[0]), np.float64)
    instants = np.empty(slots.shape[0], np.int64)
    cdef double[:, ::1] level = levels
    cdef long long[::1] at_ns = instants
    cdef Py_ssize_t row
    cdef int32_t slot
    for row in range(slots.shape[0]):
        slot = slots[row]
        level[0, row] = buckets.rate[slot]
        level[1, row] = buckets.burst[slot]
        level[2, row] = INFINITY if buckets.rate[slot] == INFINITY else buckets.base[slot]
        at_ns[row] = buckets.base_ns[slot]
    names = (prefix + name for name in ("rate", "burst", "base"))
    return dict(zip(names, levels, strict=True)) | {prefix + "base_at_ns": instants}


cdef class Saved:
    """state: as `taken` made it (of any process). slots: for each of its rows the tenant's slot here, 0: unknown.

    Raises KeyError (a part is missing, a slot is not an active tenant's), TypeError and ValueError, naming the part.
    """

    def __cinit__(self, dict state, slots, passed_s, TenantTable tenants not None):
        cdef dict columns = state["tenants"]
        cdef double passed = real(passed_s, "passed_s", 0.0, DBL_MAX)
        self.passed_ns = llrint(min(passed, MAX_SECONDS) * 1e9)
        self.virtual_time = real(state["virtual_time"], "virtual_time", 0.0, MOST)
        self.fairness_window = real(state["fairness_window"], "fairness_window", 0.0, FOREVER)
        self.at_ns = whole(state["at_ns"], "at_ns", 0, <int64_t>(MAX_SECONDS * 1e9))
        self.slots = whole_array(slots, "slots", INT32_MIN, INT32_MAX, INT32)
        self.last = whole(state["last"], "last", NONE, self.slots.shape[0] - 1)
        self.weight = column(columns, "weight", self.slots.shape[0], 1e-9, 1e9)
        self.service = column(columns, "service", self.slots.shape[0], 0.0, MOST)
        self.credit = column(columns, "credit", self.slots.shape[0], 0.0, MOST)
        self.tokens = BucketRows(columns, "", self.slots.shape[0], self.at_ns)
        self.requests = BucketRows(columns, "request_", self.slots.shape[0], self.at_ns)
        must_be_tenants(self.slots, tenants)

    cdef void put_back(
        self, FairShare fair, TokenBuckets buckets, TokenBuckets request_buckets, int64_t now_ns
    ) noexcept nogil:
        """Into parts that nothing has happened to."""
        cdef double window = fair.window
        cdef Py_ssize_t row
        fair.virtual_time = self.virtual_time
        fair.last = NONE
        if self.last != NONE:
            fair.last = self.slots[self.last] if self.slots[self.last] else NONE
            if fair.last == NONE:         # it is no more: V is handed over
                fair.virtual_time = max(
                    self.virtual_time,
                    self.service[self.last] - self.credit[self.last] / self.weight[self.last],
                )
        for row in range(self.slots.shape[0]):
            if self.slots[row]:
                fair.revive(self.slots[row], self.service[row], self.credit[row], self.weight[row])
        fair.window = self.fairness_window
        fair.set_window(window)
        self.tokens.put_back(buckets, self, now_ns)
        self.requests.put_back(request_buckets, self, now_ns)


cdef class BucketRows:
    """The columns of one kind of bucket, checked."""

    def __cinit__(self, dict columns, str prefix, Py_ssize_t rows, int64_t at_ns):
        cdef Py_ssize_t row
        self.rate = column(columns, prefix + "rate", rows, 1e-6, FOREVER)
        self.burst = column(columns, prefix + "burst", rows, 0.0, FOREVER)
        self.base = column(columns, prefix + "base", rows, -MOST, FOREVER)
        self.base_at_ns = whole_array(columns[prefix + "base_at_ns"], prefix + "base_at_ns", INT64_MIN, INT64_MAX, INT64)
        must_have(self.base_at_ns.shape[0], prefix + "base_at_ns", rows)
        for row in range(rows):
            if not 0.0 < self.burst[row] >= self.base[row] or not (
                isinf(self.rate[row]) == isinf(self.burst[row]) == isinf(self.base[row])
            ):
                raise ValueError(
                    f"{prefix}rate, {prefix}burst and {prefix}base must be all finite or all infinite, the burst above "
                    f"0 and the base at most the burst, got {self.rate[row]!r}, {self.burst[row]!r} and "
                    f"{self.base[row]!r} in row {row}"
                )
            whole(self.base_at_ns[row], f"{prefix}base_at_ns[{row}]", OLDEST_NS, at_ns)

    cdef void put_back(self, TokenBuckets buckets, Saved saved, int64_t now_ns) noexcept nogil:
        cdef Py_ssize_t row
        for row in range(saved.slots.shape[0]):
            if saved.slots[row]:
                buckets.revive(
                    saved.slots[row], self.rate[row], self.burst[row], self.base[row],
                    saved.at_ns - self.base_at_ns[row], saved.passed_ns, now_ns,
                )


cdef const double[::1] column(dict columns, str name, Py_ssize_t rows, double lowest, double highest):
    cdef const double[::1] values = np.ascontiguousarray(columns[name], np.float64)
    cdef Py_ssize_t row
    must_have(values.shape[0], name, rows)
    for row in range(rows):
        if not lowest <= values[row] <= highest:
            raise ValueError(f"{name}[{row}] must be from {lowest:g} to {highest:g}, got {values[row]!r}")
    return values


cdef int must_have(Py_ssize_t entries, str name, Py_ssize_t rows) except -1:
    if entries != rows:
        raise ValueError(f"{name} must have one entry for each of the {rows} slots, got {entries}")
    return 0


cdef int must_be_tenants(const int32_t[::1] slots, TenantTable tenants) except -1:
    """Active ones, each once."""
    cdef Py_ssize_t row
    cdef int32_t slot
    seen = set()
    for row in range(slots.shape[0]):
        slot = slots[row]
        if slot == 0:
            continue
        if not 0 < slot < tenants.capacity or tenants.rows[slot].state != ACTIVE:
            raise KeyError(f"slots[{row}]: tenant {slot} is unknown")
        if slot in seen:
            raise ValueError(f"slots must differ, {slot} is there twice")
        seen.add(slot)
    return 0

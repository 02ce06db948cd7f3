"""A bounded log of who was in which slot of which device, and when."""
from libc.string cimport memset

import numpy as np

from aps_core.types cimport NONE, int32_t, int64_t


cdef object record_type():
    """The NumPy dtype of `Stay`, taken from the C declaration."""
    cdef Stay sample[1]
    cdef Stay[::1] view = sample
    memset(sample, 0, sizeof(sample))
    return np.asarray(view).dtype


cdef class StayLog:
    """The first `capacity` stays; later ones are counted and not kept."""

    def __cinit__(self, int64_t capacity):
        cdef Stay[::1] rows
        self.records = np.zeros(max(capacity, 1), record_type())
        rows = self.records
        self.rows = &rows[0]
        self.capacity = capacity

    cdef int64_t enter(self, int32_t device, int32_t slot, int64_t request, int64_t now_ns) noexcept nogil:
        """The stay's number, NONE when it is not kept."""
        cdef Stay* stay
        if self.count == self.capacity:
            self.dropped += self.capacity > 0
            return NONE
        stay = &self.rows[self.count]
        stay.device = device
        stay.slot = slot
        stay.request = request
        stay.began_ns = now_ns
        stay.prefilled_ns = stay.ended_ns = NONE
        stay.end = STILL_RUNNING
        self.count += 1
        return self.count - 1

    cdef void leave(self, int64_t stay, StayEnd end, int64_t now_ns) noexcept nogil:
        if stay != NONE:
            self.rows[stay].end = end
            self.rows[stay].ended_ns = now_ns

    cdef void prefilled(self, int64_t stay, int64_t now_ns) noexcept nogil:
        if stay != NONE and self.rows[stay].prefilled_ns == NONE:
            self.rows[stay].prefilled_ns = now_ns

    def read(self):
        """Copies of the columns by name, and `dropped`."""
        kept = self.records[: self.count]
        return {name: kept[name].copy() for name in kept.dtype.names} | {"dropped": int(self.dropped)}

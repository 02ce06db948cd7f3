"""What is asked and what became of it, a column a field, a row a request."""
from libc.stdint cimport INT64_MAX

import numpy as np

from aps_core.arguments cimport whole_array
from aps_core.types cimport BIDS, NONE, int32_t, int64_t

cdef int64_t MOST = 2147483647
cdef object INT32 = np.dtype(np.int32), INT64 = np.dtype(np.int64)
cdef tuple INSTANTS = ("submitted_ns", "started_ns", "first_token_ns", "finished_ns", "order")
cdef tuple COUNTS = ("generated", "recomputed_tokens", "preemptions", "device", "batch_size", "reason")


cdef class Ledger:
    """Checked arguments and results that say "never" yet: -1 for instants, order and device, else 0.

    ValueError (TypeError for a wrong type) names the entry, the value and what is allowed.
    """

    def __cinit__(self, tenants, prompt_tokens, output_tokens, max_tokens, bids, deadline_ns):
        cdef const int32_t[::1] slots = checked(tenants, "tenants", 1, MOST, INT32)
        cdef const int32_t[::1] prompts, outputs, most, offered
        cdef const long long[::1] deadlines
        self.n = slots.shape[0]
        prompts = self.column(prompt_tokens, "prompt_tokens", 1, MOST, INT32)
        outputs = self.column(output_tokens, "output_tokens", 1, MOST, INT32)
        most = self.column(max_tokens, "max_tokens", 1, MOST, INT32)
        offered = self.column(bids, "bids", 1, BIDS, INT32)
        deadlines = self.column(deadline_ns, "deadline_ns", 0)
        self.memory = [slots, prompts, outputs, most, offered, deadlines]
        self.results = {name: np.full(self.n, NONE, np.int64) for name in INSTANTS}
        self.results |= {name: np.zeros(self.n, np.int32) for name in COUNTS}
        self.results["device"][:] = NONE
        self.results["reason"][:] = NEVER_SUBMITTED
        if self.n:
            self.asked.slots = &slots[0]
            self.asked.prompt_tokens = &prompts[0]
            self.asked.output_tokens = &outputs[0]
            self.asked.max_tokens = &most[0]
            self.asked.bids = &offered[0]
            if deadlines is not None:
                self.asked.deadline_ns = <const int64_t*>&deadlines[0]
            self.told.submitted_ns = instants_of(self.results["submitted_ns"])
            self.told.started_ns = instants_of(self.results["started_ns"])
            self.told.first_token_ns = instants_of(self.results["first_token_ns"])
            self.told.finished_ns = instants_of(self.results["finished_ns"])
            self.told.order = instants_of(self.results["order"])
            self.told.generated = counts_of(self.results["generated"])
            self.told.recomputed_tokens = counts_of(self.results["recomputed_tokens"])
            self.told.preemptions = counts_of(self.results["preemptions"])
            self.told.device = counts_of(self.results["device"])
            self.told.batch_size = counts_of(self.results["batch_size"])
            self.told.reason = counts_of(self.results["reason"])

    def slots(self):
        """The different tenants, ascending."""
        cdef const int32_t[::1] slots = self.memory[0]
        return np.unique(slots).tolist()

    def column(self, values, str field, lowest, highest=INT64_MAX, dtype=INT64):
        """One entry for each request, checked and contiguous; None for None."""
        if values is None:
            return None
        array = checked(values, field, lowest, highest, dtype)
        if len(array) != self.n:
            raise ValueError(f"{field} must have one entry for each of the {self.n} tenants, got {len(array)}")
        return array


cdef object checked(object values, str field, int64_t lowest, int64_t highest, object dtype):
    limits = np.iinfo(dtype)
    array = whole_array(values, field, limits.min, limits.max, dtype)
    if array.ndim != 1:
        raise ValueError(f"{field} must have one dimension, got {array.ndim}")
    if len(array) and not (lowest <= array.min() and array.max() <= highest):
        at = int(np.flatnonzero((array < lowest) | (array > highest))[0])
        raise ValueError(f"{field}[{at}] must be from {lowest} to {highest}, got {array[at]}")
    return array


cdef int64_t* instants_of(object array) except NULL:
    cdef long long[::1] view = array
    return <int64_t*>&view[0]


cdef int32_t* counts_of(object array) except NULL:
    cdef int32_t[::1] view = array
    return &view[0]

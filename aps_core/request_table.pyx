"""Requests as rows of a table: 64 packed bytes a request, plus its deadline and the deadline wheel's links (80 in all).

A row is named outside by a *handle*: an int64 > 0 holding the row, its generation and the table's tag. A generation
is used once, so a stale handle is an error and never another request; a row whose generations are used up is retired.
Tags come from a process-wide counter modulo 1023, so handles of another table are refused too.

Rows are reused last in, first out, while they are warm in cache. Rows at and above `fresh` have never been used.
"""
import numpy as np

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport INT32_MAX, INT32_MIN
from libc.string cimport memmove, memset

from aps_core.types cimport NONE

cdef enum:
    TAGS = 1023               # ten bits, without 0: a handle is positive

cdef int64_t MAX_ROWS = (1 << ROW_BITS) - 1
cdef int64_t MIN_ROWS = 1024

cdef int64_t tables = 0       # tables made in this process


cdef object record_type():
    """The NumPy dtype of `Request`, taken from the C declaration."""
    cdef Request sample[1]
    cdef Request[::1] view = sample
    memset(sample, 0, sizeof(sample))
    return np.asarray(view).dtype


RECORD = record_type()


cdef size_t address(object array) noexcept:
    """Where an array's data are. No Python code runs on the way, so no signal handler can raise in the middle of growth
    and leave old pointers (`array.ctypes` is written in Python)."""
    cdef Py_buffer view
    PyObject_GetBuffer(array, &view, PyBUF_SIMPLE)
    cdef size_t data = <size_t>view.buf
    PyBuffer_Release(&view)
    return data


cdef class RequestTable:
    """A growing table of requests.

    capacity: rows to start with (at least 1024 are made).
    generation_limit: uses of a row before it is retired, 1..2**25.
    """

    def __cinit__(self, Py_ssize_t capacity=0, *, Py_ssize_t generation_limit=1 << GENERATION_BITS):
        global tables
        if not 1 <= generation_limit <= 1 << GENERATION_BITS:
            raise ValueError(f"generation_limit must be in 1..{1 << GENERATION_BITS}, not {generation_limit}")
        self.generation_limit = generation_limit
        self.free_head = NONE
        self.tag = tables % TAGS + 1
        tables += 1
        self.records = np.empty(0, RECORD)
        self.deadlines = np.empty(0, np.int64)
        self.nexts = np.empty(0, np.int32)
        self.prevs = np.empty(0, np.int32)
        self.reserve(max(capacity, MIN_ROWS) if capacity >= 0 else capacity)

    cpdef void reserve(self, Py_ssize_t capacity) except *:
        """Grow to at least `capacity` rows (and by at least an eighth). Handles stay valid.

        ValueError: negative; OverflowError: above 2**28 - 1 rows; MemoryError: the table is as it was.
        """
        cdef int64_t rows
        if capacity < 0:
            raise ValueError(f"capacity must be >= 0, not {capacity}")
        if capacity <= self.capacity:
            return
        if capacity > MAX_ROWS:
            raise OverflowError(f"capacity must be at most {MAX_ROWS} rows, not {capacity}")
        rows = min(max(capacity, self.capacity + (self.capacity >> 3)), MAX_ROWS)
        try:
            if self.capacity == 0:       # calloc: pages come as rows are used
                self.records = np.zeros(rows + 1, RECORD)
                self.deadlines = np.zeros(rows, np.int64)
                self.nexts = np.zeros(rows, np.int32)
                self.prevs = np.zeros(rows, np.int32)
            else:                        # realloc remaps a large block without a copy; nobody else holds these arrays
                self.records.resize(rows + 1, refcheck=False)
                for array in (self.deadlines, self.nexts, self.prevs):
                    array.resize(rows, refcheck=False)
        finally:                         # some may have moved before one failed
            self.align()
            self.deadline_ns = <int64_t*>address(self.deadlines)
            self.wheel_next = <int32_t*>address(self.nexts)
            self.wheel_prev = <int32_t*>address(self.prevs)
        self.capacity = <int32_t>rows

    cdef int room(self, int64_t more) except -1:
        """Rows for `more` requests, so that the paths without the GIL never allocate."""
        cdef int64_t used = <int64_t>self.count + self.retired
        if used + more > self.capacity:
            self.reserve(used + more)
        return 0

    cdef void align(self) noexcept:
        """A row is one cache line, not parts of two: row 0 is at the first such boundary in `records`."""
        cdef size_t base = address(self.records)
        cdef int64_t shift = <int64_t>(-base & (sizeof(Request) - 1))
        if shift != self.shift:
            memmove(<char*>base + shift, <char*>base + self.shift, self.fresh * sizeof(Request))
            self.shift = shift
        self.rows = <Request*>(base + shift)

    def allocate(self, Py_ssize_t tenant=0, Py_ssize_t number=0):
        """Take a row for `tenant` with arrival number `number`, growing when full (errors: see reserve); its handle.

        OverflowError: tenant beyond int32, number beyond int64.
        """
        if not INT32_MIN <= tenant <= INT32_MAX:
            raise OverflowError(f"tenant must be in {INT32_MIN}..{INT32_MAX}, not {tenant}")
        if self.free_head == NONE and self.fresh == self.capacity:
            self.reserve(<int64_t>self.capacity + 1)
        cdef int32_t row = self.take()
        self.rows[row].tenant = <int32_t>tenant
        self.rows[row].number = number
        return self.handle(row)

    def free(self, Py_ssize_t handle):
        """Give the row back: the handle is stale now. KeyError: stale or foreign handle. ValueError: has a deadline."""
        cdef int32_t row = self.checked(handle)
        if self.rows[row].flags & TIMED:
            raise ValueError(f"request {handle} has a deadline: discard it first")
        self.give(row)

    def row_of(self, Py_ssize_t handle):
        """The row, 0..capacity-1. KeyError: stale or foreign handle."""
        return self.checked(handle)

    def column(self, str name):
        """A copy of one field of all rows ever used, by row: a view would dangle when the table grows.

        Fields: those of RECORD, and deadline_ns. KeyError: no such field.
        """
        if name == "deadline_ns":
            return self.deadlines[:self.fresh].copy()
        if name not in RECORD.names:
            raise KeyError(f"no field {name!r}: allowed are deadline_ns, {', '.join(RECORD.names)}")
        rows = self.records.view(np.uint8)[self.shift:][:self.fresh * sizeof(Request)].view(RECORD)
        return rows[name].copy()

    @property
    def bytes_per_row(self):
        return sizeof(Request) + sizeof(int64_t) + 2 * sizeof(int32_t)

    @property
    def nbytes(self):
        """Bytes allocated for rows: capacity * bytes_per_row."""
        return self.capacity * self.bytes_per_row

    cdef int32_t checked(self, int64_t handle) except -1:
        cdef int32_t row = self.find(handle)
        if row == NONE:
            raise KeyError(f"stale or foreign handle {handle}")
        return row

    cdef int must_differ(self, const long long[::1] handles) except -1:
        """Each names a row in use; none may be there twice."""
        cdef Request* request
        cdef Py_ssize_t i, n = handles.shape[0]
        cdef bint twice = False
        for i in range(n):
            request = &self.rows[self.find(handles[i])]
            twice |= (request.flags & NAMED) != 0
            request.flags |= NAMED
        for i in range(n):
            request = &self.rows[self.find(handles[i])]
            request.flags &= ~NAMED
        if twice:
            raise ValueError("handles must differ, one is there twice")
        return 0

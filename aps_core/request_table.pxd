"""See request_table.pyx."""
cimport cython
from libc.string cimport memset
from aps_core.types cimport FREE, NONE, RETIRED, int32_t, int64_t, uint8_t, uint16_t, uint32_t

cdef enum:                    # a handle: tag, generation, row
    ROW_BITS = 28
    GENERATION_BITS = 25

cdef packed struct Request:   # 64 bytes; what a pop touches comes first
    int32_t next              # lane links: FIFO neighbours, or siblings in the lane's pairing heap
    int32_t prev
    int32_t child             # first child in the pairing heap
    int32_t tenant
    int64_t number            # arrival number
    int64_t arrival_ns
    int32_t prompt_tokens
    int32_t max_tokens
    uint8_t state             # types.State
    uint8_t bid               # rank: the bid it has now
    uint8_t charge_bid        # the bid at first dispatch; 0 before
    uint8_t flags             # PAID, STRAY, DEADLINE
    int32_t expected_output
    uint32_t generation
    int32_t generated         # output tokens reported so far
    uint16_t device           # while it runs
    uint16_t row              # its row in that device's KV cache
    uint16_t passes           # backfills that may have delayed it
    uint8_t preemptions
    uint8_t in_use            # the table's own: taken and not given back

cdef enum:
    PAID = 1                  # its bucket cost has been taken
    STRAY = 2                 # it sits in its lane's pairing heap, not in the FIFO
    TIMED = 4                 # it has a deadline (in the deadline wheel)
    NAMED = 8                 # met once in the arrays of a bulk call


@cython.final
cdef class RequestTable:
    cdef Request* rows        # the data of `records`; moves only in `reserve`
    cdef int64_t* deadline_ns
    cdef int32_t* wheel_next  # deadline-wheel links
    cdef int32_t* wheel_prev
    cdef readonly int32_t capacity
    cdef readonly int32_t count      # rows in use
    cdef readonly int32_t retired    # rows whose generations are used up
    cdef int32_t free_head
    cdef int32_t fresh        # rows at and above have never been used
    cdef int64_t tag          # in every handle of this table; 1..1023
    cdef readonly int64_t generation_limit  # uses of a row before it is retired
    cdef bint has_wheel       # a deadline wheel links its rows
    cdef object records, deadlines, nexts, prevs    # the NumPy arrays that own the memory
    cdef int64_t shift        # bytes from the start of `records` to row 0

    cdef void align(self) noexcept
    cpdef void reserve(self, Py_ssize_t capacity) except *    # grow to at least this many rows (may raise MemoryError)
    cdef int room(self, int64_t more) except -1
    cdef int32_t checked(self, int64_t handle) except -1     # find, or KeyError (GIL)
    cdef int must_differ(self, const long long[::1] handles) except -1

    cdef inline int32_t take(self) noexcept nogil:
        """A zeroed row (state FREE, links NONE); NONE when full."""
        cdef int32_t row = self.free_head
        cdef uint32_t generation = 0
        cdef Request* record
        if row != NONE:
            record = &self.rows[row]
            self.free_head = record.next
            generation = record.generation
        elif self.fresh < self.capacity:
            row = self.fresh
            record = &self.rows[row]
            self.fresh += 1
        else:
            return NONE
        memset(record, 0, sizeof(Request))
        record.generation = generation
        record.next = record.prev = record.child = NONE
        record.in_use = 1
        self.count += 1
        return row

    cdef inline void give(self, int32_t row) noexcept nogil:
        """Free it: the generation moves on."""
        cdef Request* record = &self.rows[row]
        record.in_use = 0
        record.generation += 1
        self.count -= 1
        if record.generation >= self.generation_limit:
            record.state = RETIRED
            self.retired += 1
            return
        record.state = FREE
        record.next = self.free_head
        self.free_head = row

    cdef inline int64_t handle(self, int32_t row) noexcept nogil:
        return self.tag << (ROW_BITS + GENERATION_BITS) | <int64_t>self.rows[row].generation << ROW_BITS | row

    cdef inline int32_t find(self, int64_t handle) noexcept nogil:
        """The row; NONE when stale or foreign."""
        cdef int64_t row = handle & ((<int64_t>1 << ROW_BITS) - 1)
        if row >= self.fresh or handle >> (ROW_BITS + GENERATION_BITS) != self.tag:
            return NONE
        if self.rows[row].generation != (handle >> ROW_BITS & ((<int64_t>1 << GENERATION_BITS) - 1)) or not self.rows[row].in_use:
            return NONE
        return <int32_t>row

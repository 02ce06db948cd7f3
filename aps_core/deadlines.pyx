"""Deadlines of waiting requests: a hierarchical timing wheel (Varghese and Lauck 1987), O(1) to insert and to remove.

Time is cut into ticks of 2**20 ns. A later tick lies at the level of the highest group of six bits by which it
differs from the current tick, in the slot of its own six bits there. So everything at a lower level comes before
everything at a higher one, and a slot is handed down when its first tick is reached: at most once a level. What has
reached its tick is in the due list, sorted by (deadline, tenant, arrival number). Lists are intrusive; the first of a
list holds -2 - (its head's index) for its predecessor.
"""
import numpy as np

from libc.stdint cimport INT64_MAX

from aps_core.clock cimport MAX_EPOCH, MAX_SECONDS, is_epoch, is_time, to_ns, to_seconds_up
from aps_core.request_table cimport TIMED, Request
from aps_core.types cimport NONE

cdef extern from * nogil:
    int count_trailing_zeros "__builtin_ctzll"(uint64_t) noexcept
    int count_leading_zeros "__builtin_clzll"(uint64_t) noexcept

cdef enum:
    TICK_BITS = 20
    LEVEL_BITS = 6
    SLOTS = 64
    LEVELS = 8                # 48 bits of ticks: more than int64 nanoseconds have
    DUE = LEVELS * SLOTS      # the head of what is due
    RUNS = 32                 # sorted runs of 1, 2, 4, ... rows


cdef class DeadlineWheel:
    """The deadlines of a table's requests; a table has one wheel.

    Instants are in seconds; epoch: the instant of 0 ns, within 1e10 s. An error changes nothing.
    """

    def __cinit__(self, RequestTable table not None, double epoch=0.0):
        if not is_epoch(epoch):
            raise ValueError(f"epoch must be within {MAX_EPOCH} s of 0, not {epoch}")
        if table.has_wheel:
            raise ValueError("table has a deadline wheel already")
        self.heads = np.full(DUE + 1, NONE, np.int32)
        self.due_tail = NONE
        self.epoch = epoch
        self.table = table
        table.has_wheel = True

    cdef void insert(self, int32_t row) noexcept nogil:
        cdef Request* record = &self.table.rows[row]
        record.flags |= TIMED
        self.count += 1
        if self.table.deadline_ns[row] >> TICK_BITS <= self.tick:
            self.link_due(row)
        else:
            self.place(row)

    cdef void remove(self, int32_t row) noexcept nogil:
        cdef int32_t after = self.table.wheel_next[row], before = self.table.wheel_prev[row], head
        cdef Request* record = &self.table.rows[row]
        record.flags &= ~TIMED
        self.count -= 1
        if row == self.due_tail:
            self.due_tail = before if before >= 0 else NONE
        if after != NONE:
            self.table.wheel_prev[after] = before
        if before >= 0:
            self.table.wheel_next[before] = after
            return
        head = -2 - before
        self.heads[head] = after
        if after == NONE and head != DUE:
            self.occupied[head // SLOTS] &= ~(<uint64_t>1 << head % SLOTS)

    cdef void advance(self, int64_t now_ns) noexcept nogil:
        cdef int64_t target = now_ns >> TICK_BITS
        cdef int32_t head, row, after, reached = NONE
        if target <= self.tick:
            return
        while True:
            head = self.next_head()
            if head == NONE or self.slot_tick(head) > target:
                break
            self.tick = self.slot_tick(head)
            row = self.heads[head]
            self.heads[head] = NONE
            self.occupied[head // SLOTS] &= ~(<uint64_t>1 << head % SLOTS)
            while row != NONE:
                after = self.table.wheel_next[row]
                if self.table.deadline_ns[row] >> TICK_BITS <= target:
                    self.table.wheel_next[row] = reached
                    reached = row
                else:
                    self.place(row)
                row = after
        self.tick = target               # what is left stays where it is: its slot begins after target
        self.append_due(self.sorted(reached))

    cdef int32_t first_due(self, int64_t now_ns) noexcept nogil:
        cdef int32_t row = self.heads[DUE]
        return row if row != NONE and self.table.deadline_ns[row] <= now_ns else NONE

    cdef int64_t wake_ns(self) noexcept nogil:
        cdef int32_t head
        if self.heads[DUE] != NONE:
            return self.table.deadline_ns[self.heads[DUE]]
        head = self.next_head()
        return INT64_MAX if head == NONE else self.slot_tick(head) << TICK_BITS

    cdef void place(self, int32_t row) noexcept nogil:
        """Into the wheel: its tick is after the current one."""
        cdef int64_t tick = self.table.deadline_ns[row] >> TICK_BITS
        cdef int32_t level = (63 - count_leading_zeros(<uint64_t>(tick ^ self.tick))) // LEVEL_BITS
        cdef int32_t slot = <int32_t>(tick >> level * LEVEL_BITS & (SLOTS - 1))
        self.occupied[level] |= <uint64_t>1 << slot
        self.link(row, level * SLOTS + slot)

    cdef void link(self, int32_t row, int32_t head) noexcept nogil:
        cdef int32_t after = self.heads[head]
        self.table.wheel_next[row] = after
        self.table.wheel_prev[row] = -2 - head
        self.heads[head] = row
        if after != NONE:
            self.table.wheel_prev[after] = row

    cdef void link_due(self, int32_t row) noexcept nogil:
        """Into the due list in order, looked for from the end: a later deadline is the common case."""
        cdef int32_t before = self.due_tail, after
        while before >= 0 and self.earlier(row, before):
            before = self.table.wheel_prev[before]
        if before < 0:                   # NONE (empty) or the mark of the head
            self.link(row, DUE)
            if self.table.wheel_next[row] == NONE:
                self.due_tail = row
            return
        after = self.table.wheel_next[before]
        self.table.wheel_next[row] = after
        self.table.wheel_prev[row] = before
        self.table.wheel_next[before] = row
        if after == NONE:
            self.due_tail = row
        else:
            self.table.wheel_prev[after] = row

    cdef int64_t slot_tick(self, int32_t head) noexcept nogil:
        """The first tick of a slot: the current one's higher bits, the slot's own, then zeros."""
        cdef int32_t shift = head // SLOTS * LEVEL_BITS
        return (self.tick >> shift + LEVEL_BITS << LEVEL_BITS | head % SLOTS) << shift

    cdef int32_t next_head(self) noexcept nogil:
        """The occupied slot with the earliest ticks, or NONE."""
        cdef int32_t level
        for level in range(LEVELS):
            if self.occupied[level]:
                return level * SLOTS + count_trailing_zeros(self.occupied[level])
        return NONE

    cdef bint earlier(self, int32_t a, int32_t b) noexcept nogil:
        cdef Request* rows = self.table.rows
        cdef int64_t* deadlines = self.table.deadline_ns
        if deadlines[a] != deadlines[b]:
            return deadlines[a] < deadlines[b]
        if rows[a].tenant != rows[b].tenant:
            return rows[a].tenant < rows[b].tenant
        return rows[a].number < rows[b].number

    cdef int32_t merge(self, int32_t a, int32_t b) noexcept nogil:
        """Two sorted lists, by wheel_next alone, into one."""
        cdef int32_t* next = self.table.wheel_next
        cdef int32_t first = NONE
        cdef int32_t* end = &first
        while a != NONE and b != NONE:
            if self.earlier(b, a):
                end[0] = b
                end = &next[b]
                b = next[b]
            else:
                end[0] = a
                end = &next[a]
                a = next[a]
        end[0] = a if a != NONE else b
        return first

    cdef int32_t sorted(self, int32_t row) noexcept nogil:
        """Merge sort of a list by wheel_next alone: runs[i] is empty or holds 2**i rows."""
        cdef int32_t runs[RUNS]
        cdef int32_t run, after, i
        for i in range(RUNS):
            runs[i] = NONE
        while row != NONE:
            after = self.table.wheel_next[row]
            self.table.wheel_next[row] = NONE
            run = row
            i = 0
            while runs[i] != NONE:
                run = self.merge(runs[i], run)
                runs[i] = NONE
                i += 1
            runs[i] = run
            row = after
        run = NONE
        for i in range(RUNS):
            run = self.merge(runs[i], run)
        return run

    cdef void append_due(self, int32_t row) noexcept nogil:
        """A sorted list, all after what is due already."""
        cdef int32_t before = self.due_tail
        if row == NONE:
            return
        if before == NONE:
            self.heads[DUE] = row
            before = -2 - DUE
        else:
            self.table.wheel_next[before] = row
        while row != NONE:
            self.table.wheel_prev[row] = before
            before = row
            row = self.table.wheel_next[row]
        self.due_tail = before

    def add(self, Py_ssize_t handle, double deadline_at, /):
        """Give a request a deadline after the latest now. KeyError: stale handle. ValueError: bad deadline, has one."""
        cdef int32_t row = self.table.checked(handle)
        cdef int64_t deadline_ns
        if not is_time(deadline_at, self.epoch):
            raise ValueError(
                f"deadline_at must be 0 to {MAX_SECONDS} s after the epoch {self.epoch}, not {deadline_at}"
            )
        deadline_ns = to_ns(deadline_at, self.epoch)
        if deadline_ns <= self.last_ns:
            raise ValueError(f"deadline_at must be after now, {self.epoch + self.last_ns * 1e-9}, not {deadline_at}")
        if self.table.rows[row].flags & TIMED:
            raise ValueError(f"request {handle} has a deadline already")
        self.table.deadline_ns[row] = deadline_ns
        self.insert(row)

    def discard(self, Py_ssize_t handle, /):
        """Take a request's deadline away. KeyError: stale handle. ValueError: it has none."""
        cdef int32_t row = self.table.checked(handle)
        if not self.table.rows[row].flags & TIMED:
            raise ValueError(f"request {handle} has no deadline")
        self.remove(row)

    def expire(self, double now, /):
        """Take out all with deadline <= now: their handles by (deadline, tenant, arrival number).

        ValueError: now goes backwards or is no time.
        """
        cdef int64_t now_ns = self.instant(now)
        cdef int32_t row
        self.last_ns = now_ns
        self.advance(now_ns)
        handles = []
        while (row := self.first_due(now_ns)) != NONE:
            self.remove(row)
            handles.append(self.table.handle(row))
        return handles

    def next_wakeup(self):
        """When to call expire: after the latest now, never after the next deadline; infinity when empty."""
        return to_seconds_up(self.wake_ns(), self.epoch)

    cdef int64_t instant(self, double now) except -1:
        if not is_time(now, self.epoch):
            raise ValueError(f"now must be 0 to {MAX_SECONDS} s after the epoch {self.epoch}, not {now}")
        cdef int64_t now_ns = to_ns(now, self.epoch)
        if now_ns < self.last_ns:
            raise ValueError(f"now must not go backwards: {now} is before {self.epoch + self.last_ns * 1e-9}")
        return now_ns

"""The scheduler's time: what happens by itself, and when. rules.md, sections 1 and 9."""
from aps_core.clock cimport MAX_SECONDS, is_epoch, is_time, to_ns, to_seconds_up
from aps_core.tenant_table cimport Tenant
from aps_core.types cimport DEADLINE_EXPIRED, NONE, int32_t, int64_t


cdef class Timeline:
    """Plays deadlines and affordable bills in order of time, so that how often anybody calls changes nothing."""

    def __cinit__(self, Settlement settlement not None, object epoch):
        self.settlement = settlement
        self.contention = settlement.contention
        self.assembler = settlement.assembler
        self.wheel = self.contention.wheel
        self.epoch = epoch
        if not is_epoch(self.epoch):
            raise ValueError(f"epoch must be within 1e10 s of 0, got {epoch!r}")
        self.now = self.epoch

    cdef int64_t check(self, double now) except -1:
        """`now` in ns. ValueError when it is not finite, out of range, or before the last call's."""
        cdef int64_t now_ns
        if not is_time(now, self.epoch):
            raise ValueError(
                f"now must be finite and from 0 to {MAX_SECONDS:g} s after the epoch {self.epoch!r}, got {now!r}"
            )
        now_ns = to_ns(now, self.epoch)
        if now_ns < self.now_ns:
            raise ValueError(f"now must not be before the last call's {self.now!r}, got {now!r}")
        return now_ns

    cdef void play(self, double now, int64_t now_ns) noexcept nogil:
        """Deadlines first, then bills that can be paid."""
        cdef int64_t payable_ns, at_ns
        cdef int32_t row, slot
        cdef Tenant* tenant
        while True:
            payable_ns = self.contention.next_affordable_ns()
            at_ns = min(payable_ns, now_ns)
            row = NONE
            if self.wheel.count:
                self.wheel.advance(at_ns)
                row = self.wheel.first_due(at_ns)
            if row != NONE:
                self.now_ns = self.contention.table.deadline_ns[row]
                tenant = &self.contention.tenants.rows[self.contention.table.rows[row].tenant]
                tenant.expired += 1
                self.settlement.take_out(row, DEADLINE_EXPIRED, self.now_ns)
            elif payable_ns <= now_ns:
                slot = self.contention.affordable.entries[0].id
                self.contention.evaluate(slot, payable_ns)
                self.contention.finish(payable_ns)
            else:
                break
        self.now_ns = now_ns
        self.now = now

    cdef double next_wakeup(self) noexcept nogil:
        """Seconds, after `play`; infinity when nothing changes by itself."""
        cdef int64_t wake = self.wake_ns()
        return self.now if wake <= self.now_ns else to_seconds_up(wake, self.epoch)

    cdef int64_t wake_ns(self) noexcept nogil:
        """The same in ns: not after now when something is due, INT64_MAX when nothing changes by itself."""
        cdef int64_t wake = min(self.contention.next_affordable_ns(), self.wheel.wake_ns())
        cdef int32_t device
        if self.assembler.rules.micro and self.contention.ready:
            for device in range(self.contention.kv.devices):
                wake = min(wake, self.assembler.release_ns(device, self.now_ns))
        return wake

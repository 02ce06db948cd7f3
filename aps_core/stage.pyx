"""The instants of a scheduler and a backend, one after the other. Of `aps.pump` this is compiled: every step passes it."""
from aps_core.tickets cimport Desk

cdef enum:
    FAILED = 8                # of the flags of a request's progress; aps.backends.protocol has the same

MISSED_S = 1e-3               # when to ask again after a wake-up at which nothing could start
cdef double MISSED = MISSED_S


cdef class Stage:
    """What `aps.pump.Pump` is built on; its fields are described there. Beside them:

    _wake(waiters): wakes them. _range: of the devices. _wakeup: the scheduler's next event. _micro: whether it waits for
    batches to fill. _watch: whether totals are kept, see `Desk.note`.

    Its methods beside: _displace(device, handles), which takes them off it. _sort_out(tickets, computed, generated,
    flags): those of the ended that are not FAILED; it loses the others. _ended(handle, reason).
    """

    def play(self, double now, clock, double until):
        """Every instant up to now. Once the clock is past `until`, the backend's is set back to the instant that was
        played last."""
        cdef double event_at, late
        backend = self.backend
        while self.next_at <= now:
            event_at = backend.next_event_at()
            if min(event_at, self._wakeup) > now:
                self.next_at = min(event_at, self._wakeup, self.never)
                break
            if event_at <= self._wakeup:
                self.now = max(self.now, event_at)
                self.take(backend.take())
            else:
                self.now = max(self.now, self._wakeup)
            self.fill()
            if clock() > until:
                late = backend.now()                  # later than `now` by what playing took
                backend.slip(self.now)
                self.metrics.slipped_s += max(0.0, late - <double>backend.now())
                return
        self.now = max(self.now, now)

    cpdef object fill(self):
        """Something has changed: give every device that takes requests what may start now, and see what is due next."""
        cdef double now = self.now, wakeup
        cdef list busy = []
        backend, scheduler = self.backend, self.scheduler
        for device in self._range:
            if not backend.ready(device):
                busy.append(device)
                continue
            handles, preempted, released = scheduler.next_batch(device, now=now)
            jobs = self.started(device, handles, preempted, released) if handles else ()
            backend.start(device, jobs, now)
        wakeup = scheduler.next_wakeup(now=now, without=busy if self._micro else ())
        # It may be due although nothing could start (the start on one device has changed it for another): do not spin.
        self._wakeup = wakeup if wakeup > now else now + MISSED
        self.next_at = min(self._wakeup, <double>backend.next_event_at(), self.never)
        self.open = self.guard is not None
        if not self.open and len(busy) < len(self._range):
            self.open = any([backend.ready(device) for device in self._range])
        for handle, reason in scheduler.ended():
            self._ended(handle, reason)

    cdef object started(self, device, handles, preempted, released):
        cdef double now = self.now
        if preempted:
            self._displace(device, preempted)
        jobs, size = self.desk.start(handles, device, released, now)
        self.metrics.batch(size, released, now)
        if now >= <double>self.recent.due_at:
            self.recent.roll(now)
        return jobs

    cdef object take(self, news):
        """News of one device, at their instant, which is now."""
        cdef Py_ssize_t ended, stay
        cdef double now = self.now
        cdef Desk desk = self.desk
        cdef list tickets
        scheduler, backend = self.scheduler, self.backend
        self.progressed_at = now
        _, _, began_at, handles, computed, generated, flags, ended = news
        stay = len(handles) - ended
        if stay:
            scheduler.progress_many(handles[:stay], computed[:stay], generated[:stay], now=now)
        some_failed, heard, tickets = desk.note(handles, computed, generated, flags, ended, began_at, now, self._watch)
        for ticket, tokens in heard:
            ticket.deliver(backend.tokens(ticket, ticket.delivered, tokens))
            ticket.delivered = tokens
        if not ended:
            return None
        if stay:
            handles, generated = handles[stay:], generated[stay:]
        if some_failed:
            lost = flags[stay:] & FAILED > 0
            tickets = self._sort_out(tickets, computed[stay:].tolist(), generated.tolist(), lost.tolist())
            handles, generated = handles[~lost], generated[~lost]
        texts = backend.texts(tickets, generated.tolist())
        charges = scheduler.settle_many(handles, generated, now=now)
        self._wake(desk.finish(tickets, generated, charges, texts, now))

"""What a driver knows of each request, and what happens to many of them at one instant.

A `Ticket` is what the caller, the device and the books know of one request; the `Desk` has those that are under way.
Durations and instants are seconds of the scheduler's clock.
"""
cimport cython
from cpython.list cimport PyList_GET_ITEM

from aps_core.books cimport Books
from aps_core.device_time cimport DeviceTime
from aps_core.named_rows cimport make, make_row
from aps_core.request_table cimport ROW_BITS
from aps_core.tally cimport Tally, to_micro
from aps_core.types cimport NONE, int32_t, int64_t

cdef extern from "math.h":
    double NAN
    double floor(double x) nogil

cdef extern from *:
    """
    static void aps_fetch(void *object) {           /* its header, and what is at the front of a Ticket */
        char *line = (char *)((uintptr_t)object & ~(uintptr_t)63);
        __builtin_prefetch(line, 1);
        __builtin_prefetch(line + 64, 1);
        __builtin_prefetch(line + 128, 1);
    }
    """
    # Have the processor load an object that is needed soon. With many requests under way none of them is in its caches,
    # and of many that are visited one after the other all can be on their way at once.
    void fetch "aps_fetch" (void* object) noexcept

cdef enum:                    # flags of one request's progress; aps.backends.protocol has the same
    FIRST_STEP = 1
    FIRST_TOKEN = 2
    FINISHED = 4
    FAILED = 8

cdef inline double whole_ns(double seconds) noexcept nogil:
    """Below a nanosecond there is only rounding. NaN stays."""
    return floor(seconds * 1e9 + 0.5) / 1e9


cdef int64_t ROW_MASK = (<int64_t>1 << ROW_BITS) - 1


cdef class Ticket:
    """One submitted request.

    own: the backend's, None at first. trace: None unless the driver sets it. generated, prefill, trace: see
    `aps.backends.Job`. retries: times that a device lost it and it was started again. delivered: output tokens that its
    stream was given, `mail` those of them that are not read yet; listening: it has a stream. waiter: a future or a
    call (`aps.tickets.Done`), or a list of them. answer: how it ended; error: why that will never be known.
    """

    @property
    @cython.nonecheck(True)   # one that no desk has entered has no tenant
    def tenant(self):
        """Its tenant's name."""
        return self.metrics.name

    @property
    @cython.nonecheck(True)
    def account(self):
        """Its tenant's number."""
        return self.metrics.account

    @property
    def prefill(self):
        """Tokens to compute first; None: its prompt."""
        return None if self.left == NONE else self.left

    @property
    def simulated_output_tokens(self):
        """What a simulation is to generate; None: max_tokens."""
        return None if self.simulated == NONE else self.simulated

    @property
    def scheduled_at(self):
        """When its first step began; None: not yet."""
        return None if self.scheduled != self.scheduled else self.scheduled

    @property
    def first_token_at(self):
        """When its first output token came; None: not yet."""
        return None if self.first_token != self.first_token else self.first_token

    cdef int64_t to_generate(self) noexcept:
        if self.simulated == NONE:
            return self.max_tokens
        return max(self.generated + 1, min(self.max_tokens, self.simulated))

    cdef int64_t to_prefill(self) noexcept:
        return self.prompt_tokens if self.left == NONE else self.left


@cython.final
cdef class Desk:
    """The requests under way.

    books: where they are counted. ticket, result: the types of tickets, and of their answers (a NamedTuple). devices:
    how many there are. named: tickets with an id of the caller's. outstanding: how many there are; listeners: of them,
    how many have a stream. epoch: of the scheduler's clock.

    Nothing here checks what it is told, but for `truthful`.
    """

    def __cinit__(self, Books books not None, type ticket not None, type result not None, int32_t devices, double epoch=0.0):
        self.books = books
        self.time = books.time = DeviceTime(devices, epoch)
        self.ticket_type = ticket
        self.result_type = result
        self.rows = []
        self.named = {}

    @classmethod
    def __class_getitem__(cls, ticket):
        """For annotations: `Desk[Ticket]`."""
        return cls

    # They come

    cpdef Ticket enter(
        self, verdict, tenant, prompt, int64_t prompt_tokens, int64_t max_tokens, simulated, id, double now
    ):
        """The ticket of a request: of one that was admitted, or with the answer of one that was not.

        verdict: the scheduler's, whose id is its own, or None. tenant: its name. id: the caller's own, or None.
        """
        cdef Tally tally = self.books.tally(tenant)
        cdef tuple says = <tuple>verdict              # a NamedTuple
        cdef int32_t bid = says[3]
        own = says[2]
        cdef Ticket ticket = make(self.ticket_type, ())
        cdef int64_t handle
        cdef Py_ssize_t row
        ticket.desk = self
        ticket.id = own
        if id is not None:
            ticket.id = id
            verdict = verdict._replace(id=id)
        ticket.verdict = verdict
        ticket.metrics = tally
        ticket.by_bid = self.books.of_bid(bid)
        ticket.bid = bid
        ticket.prompt = prompt
        ticket.prompt_tokens = prompt_tokens
        ticket.max_tokens = max_tokens
        ticket.simulated = NONE if simulated is None else simulated
        ticket.arrived_at = now
        ticket.scheduled = ticket.first_token = NAN
        ticket.left = NONE
        ticket.device = NONE
        if own is None:
            self.books.turned_away(tally, bid, says[1])
            self.conclude(ticket, says[0], says[1], now, 0, 0.0, "")
            return ticket
        handle = own
        ticket.handle = handle
        if id is not None:
            self.named[id] = ticket
        row = handle & ROW_MASK
        while row >= len(self.rows):
            self.rows.append(None)
        self.rows[row] = ticket
        self.outstanding += 1
        self.books.arrived(tally, now, ticket.by_bid, prompt_tokens + max_tokens)
        return ticket

    cdef Ticket at(self, int64_t handle):
        return <Ticket>self.rows[<Py_ssize_t>(handle & ROW_MASK)]

    cdef void* address(self, int64_t handle):
        return <void*>PyList_GET_ITEM(self.rows, <Py_ssize_t>(handle & ROW_MASK))

    def find(self, int64_t handle):
        """The ticket of a request under way, or None."""
        cdef Py_ssize_t row = handle & ROW_MASK
        if row < len(self.rows):
            ticket = self.rows[row]
            if ticket is not None and (<Ticket>ticket).handle == handle:
                return ticket
        return None

    def tickets(self):
        """All, in no order that means anything."""
        return [ticket for ticket in self.rows if ticket is not None]

    # They run

    cpdef tuple start(self, handles, int32_t device, released, double now):
        """They join a device: (their tickets, how many run there now)."""
        cdef Ticket ticket
        cdef int64_t handle
        cdef list started = []
        cdef int64_t size = self.time.lines[device].running + <int64_t>len(handles)
        self.time.turn(device, now)
        self.time.lines[device].running = size
        for handle in handles:
            fetch(self.address(handle))
        for handle in handles:
            ticket = self.at(handle)
            if ticket.device == NONE:
                ticket.batch_size = size
                ticket.released = released
                self.books.started(ticket.metrics, now, ticket.by_bid)
            self.books.touch(ticket.metrics)
            ticket.metrics.join(self.time, device)
            ticket.by_bid.join(self.time, device)
            ticket.device = device
            ticket.running = True
            ticket.computed = 0
            ticket.output = ticket.generated
            ticket.quiet = 0
            ticket.looked_at = NONE
            started.append(ticket)
        return started, size

    cdef object stop(self, Ticket ticket, double now):
        if ticket.running:
            ticket.running = False
            self.time.turn(ticket.device, now)
            self.time.lines[ticket.device].running -= 1
            ticket.metrics.gpu.leave(ticket.device)
            ticket.by_bid.gpu.leave(ticket.device)

    def displace(self, Ticket ticket not None, int64_t generated, int64_t prefill, double now):
        """It leaves its device, to be started again with so much output and so much to prefill; how many tokens will be
        computed again."""
        cdef int64_t had = ticket.computed + ticket.output - ticket.generated
        cdef int64_t kept = ticket.prompt_tokens + generated - prefill
        self.stop(ticket, now)
        had += 0 if ticket.left == NONE else ticket.prompt_tokens + ticket.generated - ticket.left
        ticket.generated = generated
        ticket.left = prefill
        return max(0, had - kept)

    def lose(self, Ticket ticket not None, double now):
        """Its device has lost it, and all that it had; it is to be started again."""
        ticket.retries += 1
        ticket.metrics.retried += 1
        ticket.by_bid.retried += 1
        ticket.first_token = NAN
        again = self.displace(ticket, 0, ticket.prompt_tokens, now)
        ticket.left = NONE
        return again

    def running(self, int32_t device):
        """How many run on a device."""
        return self.time.lines[device].running

    def running_on(self, int32_t device):
        """Who runs on a device."""
        return [ticket for ticket in self.tickets() if (<Ticket>ticket).running and (<Ticket>ticket).device == device]

    def look_for_quiet(self, int32_t looks):
        """The running tickets of which nothing has been heard in so many looks, this one included."""
        cdef Ticket ticket
        quiet = []
        for ticket in self.tickets():
            if not ticket.running:
                continue
            if ticket.looked_at == ticket.computed + ticket.output:
                ticket.quiet += 1
            else:
                ticket.quiet = 0
                ticket.looked_at = ticket.computed + ticket.output
            if ticket.quiet >= looks:
                quiet.append(ticket)
        return quiet

    def census(self, int64_t block_tokens):
        """A count of all, anew: requests that wait and return, tokens of those that wait; by device, what runs, and the
        most blocks that it may come to hold."""
        cdef Ticket ticket
        cdef int64_t waiting = 0, waiting_tokens = 0, returning = 0
        running = [0] * self.time.devices
        blocks = [0] * self.time.devices
        for ticket in self.tickets():
            if ticket.device == NONE:
                waiting += 1
                waiting_tokens += ticket.prompt_tokens + ticket.max_tokens
            elif ticket.running:
                running[ticket.device] += 1
                blocks[ticket.device] += (ticket.prompt_tokens + ticket.max_tokens + block_tokens - 1) // block_tokens
            else:
                returning += 1
        return {
            "waiting": waiting, "waiting_tokens": waiting_tokens, "returning": returning, "running": running,
            "blocks": blocks,
        }

    # News of one device

    def truthful(
        self, int32_t device, const long long[::1] handles not None, const long long[::1] computed not None,
        const long long[::1] generated not None, const long long[::1] flags not None, Py_ssize_t ended,
    ):
        """Whether each is of a request that runs on the device, once, within its bounds and never less than before, and
        the last `ended` and no others are FINISHED or FAILED."""
        cdef Py_ssize_t i, n = handles.shape[0]
        cdef Ticket ticket
        if not (computed.shape[0] == generated.shape[0] == flags.shape[0] == n and 0 <= ended <= n):
            return False
        self.news += 1
        for i in range(n):
            ticket = self.find(handles[i])
            if ticket is None or not ticket.running or ticket.device != device or ticket.met == self.news:
                return False
            ticket.met = self.news
            if not self.plausible(ticket, computed[i], generated[i]):
                return False
            if ((flags[i] & (FINISHED | FAILED)) != 0) != (i >= n - ended):
                return False
        return True

    def plausible(self, Ticket ticket not None, int64_t computed, int64_t generated):
        """Whether a report is within the request's bounds and not less than the last."""
        return (
            ticket.computed <= computed <= ticket.to_prefill()
            and ticket.output <= generated <= ticket.max_tokens
        )

    cpdef tuple note(
        self, const long long[::1] handles, const long long[::1] computed, const long long[::1] generated,
        const long long[::1] flags, Py_ssize_t ended, double began_at, double now, bint watch,
    ):
        """What is told of them. (True when some are FAILED; [(ticket, its output tokens), ...] of those whose streams
        get more; the tickets of the last `ended`.) watch: keep the totals, for `look_for_quiet` and `displace`."""
        cdef Py_ssize_t i, n = handles.shape[0], stay = n - ended
        cdef int64_t failed = 0
        cdef Ticket ticket
        cdef bint all = watch or self.listeners > 0
        cdef list heard = [], ending = []
        for i in range(n):
            if all or flags[i]:
                fetch(self.address(handles[i]))
        for i in range(n):
            if not (all or flags[i]):
                continue
            ticket = self.at(handles[i])
            if watch:
                # output comes after the whole prefill
                ticket.computed = ticket.to_prefill() if generated[i] > ticket.output else computed[i]
                ticket.output = generated[i]
            if flags[i] & FIRST_STEP and ticket.scheduled != ticket.scheduled:
                ticket.scheduled = began_at
            if flags[i] & FIRST_TOKEN:
                ticket.first_token = now
            if ticket.listening and generated[i] > ticket.delivered:
                heard.append((ticket, generated[i]))
            if i >= stay:
                ending.append(ticket)
            failed |= flags[i] & FAILED
        return failed != 0, heard, ending

    def hear(self, Ticket ticket not None, int64_t delivered):
        """It has a stream from now on, which has got so many of its tokens."""
        self.listeners += not ticket.listening
        ticket.listening = True
        ticket.delivered = delivered

    # They go

    cpdef list finish(
        self, list tickets, const long long[::1] outputs, const double[::1] charges, texts, double now
    ):
        """They have all of their output; whom to wake."""
        cdef Py_ssize_t i
        cdef Ticket ticket
        cdef list woken = []
        for ticket in tickets:
            fetch(<void*>ticket.waiter)
        for i in range(len(tickets)):
            ticket = tickets[i]
            ticket.metrics.finished += 1
            ticket.by_bid.finished += 1
            ticket.metrics.prompt_tokens += ticket.prompt_tokens
            ticket.by_bid.prompt_tokens += ticket.prompt_tokens
            self.conclude(ticket, "finished", "finished", now, outputs[i], charges[i], texts[i])
            self.leave(ticket, now)
            self.wake(ticket, woken)
        return woken

    def end(
        self, Ticket ticket not None, str status not None, str reason not None, double now, int64_t prompt_tokens=0,
        int64_t tokens=0, double charge=0.0, error=None,
    ):
        """It ends without having finished, with what it used; whom to wake. error: what they are to be told instead."""
        cdef Tally tally
        cdef list woken = []
        for tally in (ticket.metrics, ticket.by_bid):
            tally.prompt_tokens += prompt_tokens
            if status == "cancelled":
                tally.cancelled += 1
            elif status == "failed":
                tally.failed += 1
            elif status == "expired":
                tally.expired += 1
            else:
                tally.dropped += 1
        self.conclude(ticket, status, reason, now, tokens, charge, "")
        if error is not None:
            ticket.error = error
            ticket.answer = None
        self.leave(ticket, now)
        self.wake(ticket, woken)
        return woken

    cdef object conclude(self, Ticket ticket, str status, str reason, double now, int64_t tokens, double charge, text):
        """Its answer, and what it used, in the books."""
        cdef double wait = whole_ns(ticket.scheduled - ticket.arrived_at)
        cdef double first = whole_ns(ticket.first_token - ticket.arrived_at)
        cdef double took = whole_ns(now - ticket.arrived_at), pace = NAN
        cdef bint finished = status == "finished"
        cdef int64_t micro = to_micro(charge)
        if wait < 0.0:        # the engine counts whole nanoseconds: a step may seem to begin a hair before its request
            wait = 0.0
        ticket.answer = make_row(self.result_type, (
            ticket.id, status, reason, ticket.verdict, ticket.metrics.name, text, ticket.prompt_tokens, tokens, ticket.bid,
            <double>micro / 1e6, ticket.arrived_at, None if wait != wait else wait, None if first != first else first, took,
            ticket.device, ticket.batch_size, ticket.released,
        ))
        self.books.touch(ticket.metrics)
        ticket.metrics.output_tokens += tokens
        ticket.metrics.charge(micro)
        ticket.by_bid.output_tokens += tokens
        ticket.by_bid.charge(micro)
        if wait != wait:
            return None
        if finished and tokens > 1:
            pace = (took - first) / <double>(tokens - 1)
        if not finished:
            took = NAN
        ticket.metrics.times(wait, first, pace, took)
        ticket.by_bid.times(wait, first, pace, took)

    cdef object leave(self, Ticket ticket, double now):
        self.books.ended(ticket.metrics, ticket.device == NONE, now, ticket.by_bid)
        self.stop(ticket, now)
        self.rows[<Py_ssize_t>(ticket.handle & ROW_MASK)] = None
        self.outstanding -= 1
        if self.named:
            self.named.pop(ticket.id, None)
        if ticket.listening:
            ticket.listening = False
            self.listeners -= 1

    cdef object wake(self, Ticket ticket, list woken):
        waiter = ticket.waiter
        if waiter is None:
            return None
        ticket.waiter = None
        if type(waiter) is list:
            woken.extend(waiter)
        else:
            woken.append(waiter)

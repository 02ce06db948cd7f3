"""A scheduler that writes down what it is asked and what it answers: a line of JSON a call, in memory.

docs/record.md is the format. Requests are named by their arrival numbers, which do not depend on handles. The core is
told each instant as one certain double for its nanosecond, so that its answers follow from what is written, to the last
bit. A call that raises is not written: it has changed nothing.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport INT64_MAX
from libc.stdlib cimport calloc, free, realloc

import numpy as np

from aps_core.arguments cimport whole, whole_array
from aps_core.clock cimport FOREVER, MAX_SECONDS, is_time, nextafter, to_ns, to_seconds_up
from aps_core.request_table cimport Request
from aps_core.types cimport NONE

cdef enum:
    NUMBER = 21               # bytes of an int64 and a comma
    NO_REQUEST = 0            # arrival numbers begin at 1

cdef object INT64 = np.dtype(np.int64)

cdef inline int64_t taken(object value) except? -1:
    """The integer that the core has taken this for."""
    return whole(value, "", NONE, INT64_MAX)


cdef class Recorded:
    """In place of `core` for whoever calls it. What changes nothing is passed on unseen.

    statuses, reasons: of verdicts by code, and releases: of batches by code, as bytes. lines: where to write.
    """

    def __cinit__(
        self, Scheduler core not None, tuple statuses, tuple reasons, tuple releases, JsonLines lines not None
    ):
        self.core = core
        self.lines = lines
        self._submit, self._next_batch = core.submit, core.next_batch
        self._progress, self._progress_many = core.progress, core.progress_many
        self._settle, self._settle_many, self._cancel = core.settle, core.settle_many, core.cancel
        self.next_wakeup, self._ended = core.next_wakeup, core.ended
        self.level, self.request_level = core.level, core.request_level
        self.statuses, self.reasons, self.releases = statuses, reasons, releases
        self.names = []
        self.devices = core.kv.devices
        self.reports = <Report*>calloc(self.devices, sizeof(Report))
        if self.reports == NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef int32_t device
        if self.reports != NULL:
            for device in range(self.devices):
                free(self.reports[device].values)
            free(self.reports)

    def __getattr__(self, name):
        return getattr(self.core, name)

    # Text

    def name(self, int32_t slot, bytes name not None):
        """The tenant in that slot, as JSON."""
        while len(self.names) <= slot:
            self.names.append(b'""')
        self.names[slot] = name

    def note(self, bytes call not None, bytes rest not None):
        """A line for a call that is not made here, at the scheduler's instant: its name, and `,"key":...`."""
        if self.begin(PyBytes_AS_STRING(call), PyBytes_GET_SIZE(call) + PyBytes_GET_SIZE(rest)):
            self.lines.put_bytes(rest)
            self.lines.end()

    cdef bint begin(self, const char* op, Py_ssize_t more) noexcept:
        """Begin a line, with room for `more` bytes beside the usual; False: nothing is written any more."""
        if not self.lines.begin(more):
            return False
        self.lines.put(b'{"t":')
        self.lines.put_time(self.core.timeline.now_ns)
        self.lines.put(b',"op":"')
        self.lines.put(op)
        self.lines.put(b'"')
        return True

    def at(self, int64_t ns):
        """Seconds: the instant so many nanoseconds after the epoch, as the core is told it."""
        return self.seconds(ns)

    cdef double seconds(self, int64_t ns) noexcept nogil:
        cdef double x = to_seconds_up(ns, self.core.timeline.epoch)
        while to_ns(x, self.core.timeline.epoch) > ns:
            x = nextafter(x, -FOREVER)
        return x

    cdef double told(self, double now) noexcept nogil:
        """`now`, or another double of the same nanosecond."""
        if not is_time(now, self.core.timeline.epoch):
            return now                                # the core says what is wrong with it
        return self.seconds(to_ns(now, self.core.timeline.epoch))

    cdef int64_t number_of(self, int64_t handle) noexcept nogil:
        cdef int32_t row = self.core.table.find(handle)
        return NO_REQUEST if row == NONE else self.core.table.rows[row].number

    # Requests

    def submit(
        self, tenant, prompt_tokens, max_tokens, bid, double now, double deadline_at=FOREVER, expected_output=-1
    ):
        """As the core's."""
        cdef int64_t answer, due_ns, asked = 0
        cdef Request* request
        answered = self._submit(tenant, prompt_tokens, max_tokens, bid, self.told(now), deadline_at, expected_output)
        if self.lines.stopped:
            return answered
        answer = answered
        cdef bytes name = self.names[tenant]
        if not self.begin(b"submit", PyBytes_GET_SIZE(name)):
            return answered
        self.lines.put(b',"id":')
        if answer < 0:
            self.refused += 1
            self.lines.put_int(-self.refused)
        else:
            self.lines.put_int(self.number_of(answer))
        self.lines.put(b',"tenant":')
        self.lines.put_bytes(name)
        self.lines.put(b',"bid":')
        asked = bid
        self.lines.put_int(asked)
        self.lines.put(b',"prompt_tokens":')
        self.lines.put_int(taken(prompt_tokens))
        self.lines.put(b',"max_tokens":')
        self.lines.put_int(taken(max_tokens))
        if deadline_at - self.core.timeline.epoch <= MAX_SECONDS:
            due_ns = to_ns(deadline_at, self.core.timeline.epoch) if deadline_at > self.core.timeline.epoch else 0
            self.lines.put(b',"deadline_s":')
            self.lines.put_time(max(<int64_t>0, due_ns - self.core.timeline.now_ns))
        if expected_output != -1:
            self.lines.put(b',"expected_output":')
            self.lines.put_int(taken(expected_output))
        if answer < 0:
            self.put_refusal(-answer)
        else:
            self.lines.put(b',"verdict":"admitted"')
            request = &self.core.table.rows[self.core.table.find(answer)]
            if request.bid != asked:
                self.lines.put(b',"counts":')
                self.lines.put_int(request.bid)
        self.lines.end()
        return answered

    def submit_many(self, tenants, prompts, max_tokens, bids, double now):
        """As the core's; written as calls of `submit`, which it is."""
        columns = [np.asarray(column).tolist() for column in (tenants, prompts, max_tokens, bids)]
        return np.array([self.submit(*row, now) for row in zip(*columns, strict=True)], INT64)

    cdef int put_refusal(self, int64_t code) except -1:
        cdef bytes status = self.statuses[code]
        self.lines.put(b',"verdict":"')
        self.lines.put_bytes(status)
        self.lines.put(b'","reason":"')
        self.lines.put_bytes(self.reasons[code])
        if status == b"throttled":
            self.lines.put(b'","retry_after_s":')
            self.lines.put_real(self.core.admission.retry_after)
        else:
            self.lines.put(b'","largest":')
            self.lines.put_int(self.core.admission.largest)
        return 0

    def next_batch(self, device, double now):
        """As the core's."""
        cdef int32_t count, gone, at
        cdef int64_t* handles = self.core.assembler.started
        counted = self._next_batch(device, self.told(now))
        if self.lines.stopped:
            return counted
        count, gone = self.core.assembler.started_count, self.core.assembler.preempted_count
        at = device
        if not count and self.core.kv.running(at) == self.core.kv.slots(at) and not self.core.assembler.rules.preemption:
            return counted                            # rules.md, section 6: a full device leaves everything as it is
        if not self.begin(b"batch", NUMBER * (count + gone)):
            return counted
        self.lines.put(b',"device":')
        self.lines.put_int(at)
        if count:
            self.lines.put(b',"started":[')
            for at in range(count):
                self.lines.put_int(self.number_of(handles[at]))
                self.lines.put(b"," if at < count - 1 else b"]")
            if gone:
                handles = self.core.assembler.preempted
                self.lines.put(b',"preempted":[')
                for at in range(gone):
                    self.lines.put_int(self.number_of(handles[at]))
                    self.lines.put(b"," if at < gone - 1 else b"]")
            self.lines.put(b',"released":"')
            self.lines.put_bytes(self.releases[<int>self.core.assembler.release_reason])
            self.lines.put(b'"')
        self.lines.end()
        return counted

    def cancel(self, Py_ssize_t handle, double now):
        """As the core's."""
        cdef int32_t row = self.core.table.find(handle)
        cdef int64_t number = NO_REQUEST, generated = 0
        if row != NONE:
            number, generated = self.core.table.rows[row].number, self.core.table.rows[row].generated
        charge = self._cancel(handle, self.told(now))
        if self.begin(b"cancel", 0):
            self.lines.put(b',"id":')
            self.lines.put_int(number)
            self.lines.put(b',"output_tokens":')
            self.lines.put_int(generated)
            self.lines.put(b',"charge":')
            self.lines.put_real(charge)
            self.lines.end()
        return charge

    def preempt(self, Py_ssize_t handle, double now):
        """As the core's."""
        self.core.preempt(handle, self.told(now))
        if self.begin(b"preempt", 0):
            self.lines.put(b',"id":')
            self.lines.put_int(self.number_of(handle))
            self.lines.end()

    def restart(self, Py_ssize_t handle, double now):
        """As the core's."""
        (<object>self.core).restart(handle, self.told(now))
        if self.begin(b"restart", 0):
            self.lines.put(b',"id":')
            self.lines.put_int(self.number_of(handle))
            self.lines.end()

    def rebid(self, Py_ssize_t handle, bid, double now):
        """As the core's."""
        code = self.core.rebid(handle, bid, self.told(now))
        cdef int64_t asked = bid, counts
        if self.begin(b"rebid", 0):
            counts = self.core.table.rows[self.core.table.find(handle)].bid
            self.lines.put(b',"id":')
            self.lines.put_int(self.number_of(handle))
            self.lines.put(b',"bid":')
            self.lines.put_int(asked)
            if code:
                self.put_refusal(-code)
            else:
                self.lines.put(b',"verdict":"admitted"')
                if counts != asked:
                    self.lines.put(b',"counts":')
                    self.lines.put_int(counts)
            self.lines.end()
        return code

    def ended(self):
        """As the core's."""
        cdef int32_t row = self.core.settlement.ended_head
        cdef Py_ssize_t count = 0
        if row == NONE:
            return []
        while row != NONE:
            count += 1
            row = self.core.table.rows[row].next
        if self.begin(b"ended", count * (NUMBER + 32)):
            self.lines.put(b',"ids":[')
            row = self.core.settlement.ended_head
            while row != NONE:
                self.lines.put_int(self.core.table.rows[row].number)
                row = self.core.table.rows[row].next
                self.lines.put(b"," if row != NONE else b"]")
            self.lines.put(b',"reasons":[')
            row = self.core.settlement.ended_head
            while row != NONE:
                self.lines.put(b'"')
                self.lines.put_bytes(self.reasons[self.core.table.rows[row].charge_bid])
                row = self.core.table.rows[row].next
                self.lines.put(b'",' if row != NONE else b'"]')
            self.lines.end()
        return self._ended()

    # While they run

    def progress(self, Py_ssize_t handle, computed, generated, double now):
        """As the core's."""
        self._progress(handle, computed, generated, self.told(now))
        if not self.lines.stopped:
            self.note_report(
                np.array([handle], INT64), np.array([computed], INT64), np.array([generated], INT64)
            )

    def progress_many(self, handles, computed, generated, double now):
        """As the core's."""
        self._progress_many(handles, computed, generated, self.told(now))
        if not self.lines.stopped:
            self.note_report(
                whole_array(handles, "handles", 0, INT64_MAX, INT64),
                whole_array(computed, "computed", 0, INT64_MAX, INT64),
                whole_array(generated, "generated", 0, INT64_MAX, INT64),
            )

    cdef int note_report(
        self, const long long[::1] handles, const long long[::1] computed, const long long[::1] generated
    ) except -1:
        """In full, or as the repetition of the last one about the same device with so many more tokens each."""
        cdef Py_ssize_t at, count = handles.shape[0]
        cdef int64_t tokens = 0
        cdef int32_t device
        cdef Report* last
        if not count:
            return 0
        device = self.core.table.rows[self.core.table.find(handles[0])].device
        last = &self.reports[device]
        if self.repeats(last, handles, computed, generated, &tokens):
            if self.begin(b"step", 0):
                self.lines.put(b',"device":')
                self.lines.put_int(device)
                self.lines.put(b',"tokens":')
                self.lines.put_int(tokens)
                self.lines.end()
            return 0
        if not self.keep(last, handles, computed, generated):
            self.lines.give_up()
        if self.begin(b"progress", 3 * NUMBER * count):
            self.lines.put(b',"device":')
            self.lines.put_int(device)
            self.lines.put(b',"ids":[')
            for at in range(count):
                self.lines.put_int(last.values[at])
                self.lines.put(b"," if at < count - 1 else b'],"computed":[')
            for at in range(count):
                self.lines.put_int(computed[at])
                self.lines.put(b"," if at < count - 1 else b'],"generated":[')
            for at in range(count):
                self.lines.put_int(generated[at])
                self.lines.put(b"," if at < count - 1 else b"]")
            self.lines.end()
        return 0

    cdef bint repeats(
        self, Report* last, const long long[::1] handles, const long long[::1] computed,
        const long long[::1] generated, int64_t* tokens
    ) noexcept nogil:
        """The same requests, their prefill as it was, each with equally many more tokens; then `last` is brought up
        to date."""
        cdef Py_ssize_t at, count = handles.shape[0]
        cdef int64_t* numbers = last.values
        cdef int64_t* before = last.values + last.room
        cdef int64_t* had = last.values + 2 * last.room
        if count != last.count:
            return False
        tokens[0] = generated[0] - had[0]
        for at in range(count):
            if numbers[at] != self.number_of(handles[at]) or before[at] != computed[at]:
                return False
            if generated[at] - had[at] != tokens[0]:
                return False
        for at in range(count):
            had[at] = generated[at]
        return True

    cdef bint keep(
        self, Report* last, const long long[::1] handles, const long long[::1] computed,
        const long long[::1] generated
    ) noexcept:
        """False: out of memory."""
        cdef Py_ssize_t at, count = handles.shape[0]
        cdef int64_t* values
        if count > last.room:
            values = <int64_t*>realloc(last.values, 6 * count * sizeof(int64_t))
            if values == NULL:
                return False
            last.values, last.room = values, <int32_t>(2 * count)
        last.count = <int32_t>count
        for at in range(count):
            last.values[at] = self.number_of(handles[at])
            last.values[last.room + at] = computed[at]
            last.values[2 * last.room + at] = generated[at]
        return True

    def settle(self, Py_ssize_t handle, output_tokens, double now):
        """As the core's."""
        cdef int64_t number = self.number_of(handle)
        charge = self._settle(handle, output_tokens, self.told(now))
        if self.begin(b"end", 0):
            self.lines.put(b',"id":')
            self.lines.put_int(number)
            self.lines.put(b',"output_tokens":')
            self.lines.put_int(taken(output_tokens))
            self.lines.put(b',"charge":')
            self.lines.put_real(charge)
            self.lines.end()
        return charge

    def settle_many(self, handles, outputs, double now):
        """As the core's."""
        cdef const long long[::1] names = whole_array(handles, "handles", 0, INT64_MAX, INT64)
        cdef Py_ssize_t at, count = names.shape[0]
        cdef long long[::1] numbers = np.empty(count, INT64)
        cdef const long long[::1] output
        cdef const double[::1] charge
        for at in range(count):
            numbers[at] = self.number_of(names[at])
        charges = self._settle_many(handles, outputs, self.told(now))
        if count and self.begin(b"end", 80 * count):
            output = whole_array(outputs, "outputs", 0, INT64_MAX, INT64)
            self.lines.put(b',"ids":[')
            for at in range(count):
                self.lines.put_int(numbers[at])
                self.lines.put(b"," if at < count - 1 else b'],"output_tokens":[')
            for at in range(count):
                self.lines.put_int(output[at])
                self.lines.put(b"," if at < count - 1 else b"]")
            if charges is not None:
                charge = charges
                self.lines.put(b',"charges":[')
                for at in range(count):
                    self.lines.put_real(charge[at])
                    self.lines.put(b"," if at < count - 1 else b"]")
            self.lines.end()
        return charges

    # What the last batch was, as the core says it

    @property
    def started(self):
        return self.core.assembler.started_handles

    @property
    def preempted(self):
        return self.core.assembler.preempted_handles

    @property
    def preempted_count(self):
        return self.core.assembler.preempted_count

    @property
    def release_reason(self):
        return self.core.assembler.release_reason

    @property
    def waiting(self):
        return self.core.waiting

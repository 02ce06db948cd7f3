"""What is counted of each request, for its tenant and for its bid.

Memory is bounded: nothing here grows with the number of requests.
"""
cimport cython
from libc.stdint cimport INT64_MAX

from collections import Counter

from aps_core.clock cimport llrint
from aps_core.device_time cimport DeviceTime, Part
from aps_core.histogram cimport Histogram
from aps_core.types cimport int32_t, int64_t

# What a cut has of each tenant, beside refusals by reason; the order of `Tally.news`.
COUNTS = (
    "admitted", "finished", "cancelled", "expired", "dropped", "failed", "prompt_tokens", "output_tokens",
    "charged_micro", "gpu_ns",
)

cdef double LARGEST_CHARGE = 9007199254740992.0    # 2^53: up to here the double of a whole number is itself


cdef int64_t to_micro(double tokens) noexcept:
    """A charge in whole micro-tokens, half to even: the one place where charges are rounded."""
    return llrint(min(tokens * 1e6, LARGEST_CHARGE))


@cython.final
cdef class Tally:
    """Counters and distributions of the requests of one label since the driver began.

    name: the tenant's, or the bid. account: the tenant's number for the backend, 0, 1, ...
    sent = admitted + the sum of refused; admitted = finished + cancelled + expired + dropped + failed + outstanding.
    expired: the deadline passed before the start. dropped: made impossible by a change of limits. failed: lost by the
    backend, in the end; retried: times that one was lost and started again. preempted: times that a
    running one was displaced. asked_tokens: prompt and max tokens of all
    that were admitted. prompt_tokens, output_tokens, charged: used by requests that have ended, and their final charges in
    tokens; charged_micro: the same in whole micro-tokens, exactly the sum. gpu_ns, gpu_s: time of devices, shared
    equally by the requests on them at each instant, requests that run included.
    waiting, outstanding: requests now; waiting ones have not started. waits_since: the instant at which `waiting` last
    rose from 0.

    queue_wait: arrival to first scheduled step. ttft: arrival to first output token. e2e: arrival to end. tpot: first
    to last output token over the tokens after the first, of requests with at least two. Requests that finished, and for
    queue_wait and ttft also those that ended otherwise after that point.
    """

    def __cinit__(self, str name="", int32_t account=-1):
        self.name = name
        self.account = account
        self.refused = Counter()
        self.queue_wait = Histogram()
        self.ttft = Histogram()
        self.tpot = Histogram()
        self.e2e = Histogram()
        self.told_refused = {}

    @property
    def sent(self):
        return self.admitted + sum(self.refused.values())

    @property
    def charged(self):
        """Tokens."""
        return self.charged_micro / 1e6

    @property
    def gpu_ns(self):
        """Up to the last instant that the books were told of, or at which a request came to a device or left it."""
        return self.gpu.total() if self.gpu is not None else 0

    @property
    def gpu_s(self):
        """Seconds of the scheduler's clock."""
        return self.gpu_ns / 1e9

    cdef void charge(self, int64_t micro) noexcept:
        """One more final charge; a sum that int64 cannot hold stays at the largest."""
        self.charged_micro = min(self.charged_micro, INT64_MAX - micro) + micro

    cdef object join(self, DeviceTime time, int32_t device):
        """One of its requests is on a device."""
        if self.gpu is None:
            self.gpu = Part(time)
        self.gpu.join(device)

    cdef bint news(self, int64_t* row) noexcept:
        """What it has counted since it was last asked, to the row; False: nothing."""
        cdef int64_t[COUNTED] now
        cdef int i
        cdef bint some = False
        now[0], now[1], now[2] = self.admitted, self.finished, self.cancelled
        now[3], now[4], now[5] = self.expired, self.dropped, self.failed
        now[6], now[7], now[8] = self.prompt_tokens, self.output_tokens, self.charged_micro
        now[9] = self.gpu.total() if self.gpu is not None else 0
        for i in range(COUNTED):
            row[i] = now[i] - self.told[i]
            some |= row[i] != 0
            self.told[i] = now[i]
        return some

    cdef dict refused_news(self):
        """Refusals by reason since it was last asked; None: none."""
        cdef dict had = self.told_refused, found = None
        for reason, n in self.refused.items():
            before = had.get(reason, 0)
            if n != before:
                found = found or {}
                found[reason] = n - before
                had[reason] = n
        return found

    cpdef void times(self, double queue_wait, double ttft, double tpot, double e2e) except *:
        """Of one request that has ended; NaN: it has none."""
        if queue_wait == queue_wait:
            self.queue_wait.add(queue_wait)
        if ttft == ttft:
            self.ttft.add(ttft)
        if tpot == tpot:
            self.tpot.add(tpot)
        if e2e == e2e:
            self.e2e.add(e2e)

"""Token buckets over arrays, one row per tenant: lazy refill, debt, and the exact nanosecond a cost is affordable.

Source: the token bucket of traffic shaping (RFC 2697 meters with it), with a level that may be negative. A level is
computed from the last take, give-back or change, never from the last look:
`min(burst, base + rate * ((t - base_ns) * 1e-9))`, t in ns. Every step of that is monotone in t also after rounding, so
the instant of affordability is found by bisection on the very expression.
"""
import numpy as np

from libc.math cimport INFINITY
from libc.stdint cimport INT32_MAX, INT64_MAX, uint8_t

from aps_core.clock cimport MAX_EPOCH, MAX_SECONDS, is_epoch, is_time, to_ns, wait_until

cdef int64_t MAX_SLOTS = INT32_MAX
cdef double MAX_TOKENS = 1e18             # of the Python API: no sum of these overflows
cdef double MIN_RATE = 1e-6               # tokens/s: less would not be a rate but a stop
cdef int64_t HORIZON_NS = 1 << 62         # what takes longer is never affordable
cdef int64_t OLDEST_NS = 1 << 61          # of a base that comes from before a restart: no difference overflows


cdef class TokenBuckets:
    """Buckets in rows 0..capacity-1, each to be added before use. `now` is in seconds and never goes backwards.

    Amounts are in tokens, finite, in 0..1e18. Errors, which change nothing: ValueError for a bad number or `now`,
    IndexError for a slot out of range or not added. epoch: the instant of 0 ns, within 1e10 s.
    """

    def __cinit__(self, Py_ssize_t capacity=16, double epoch=0.0):
        if not is_epoch(epoch):
            raise ValueError(f"epoch must be within {MAX_EPOCH} s of 0, not {epoch}")
        self.epoch = epoch
        self.rate = self.burst = self.base = np.empty(0)
        self.base_ns = np.empty(0, np.int64)
        self.reserve(capacity)

    cpdef void reserve(self, Py_ssize_t capacity) except *:
        """Grow to at least `capacity` rows (at least twofold). ValueError: not in 0..2**31-1."""
        if not 0 <= capacity <= MAX_SLOTS:
            raise ValueError(f"capacity must be in 0..{MAX_SLOTS}, not {capacity}")
        if capacity <= self.capacity:
            return
        cdef int64_t rows = min(max(<int64_t>capacity, 2 * <int64_t>self.capacity), MAX_SLOTS)
        more = np.zeros(rows - self.capacity)   # rate 0: not added
        rate, burst, base = [np.concatenate((old, more)) for old in (self.rate.base, self.burst.base, self.base.base)]
        base_ns = np.concatenate((self.base_ns.base, more.astype(np.int64)))
        self.rate, self.burst, self.base, self.base_ns = rate, burst, base, base_ns
        self.capacity = <int32_t>rows

    cdef void open(self, int32_t slot, double rate, double burst, int64_t now_ns) noexcept nogil:
        self.rate[slot] = rate
        self.burst[slot] = burst
        self.base[slot] = burst
        self.base_ns[slot] = now_ns

    cdef void configure(self, int32_t slot, double rate, double burst, int64_t now_ns) noexcept nogil:
        cdef double level = self.level_at(slot, now_ns)   # infinite when unlimited so far
        if rate == self.rate[slot] and burst == self.burst[slot]:
            return                       # nothing new: the level keeps its base
        self.base[slot] = burst if burst < level else level
        self.base_ns[slot] = now_ns
        self.rate[slot] = rate
        self.burst[slot] = burst

    cdef void revive(
        self, int32_t slot, double rate, double burst, double base, int64_t age_ns, int64_t passed_ns, int64_t now_ns
    ) noexcept nogil:
        cdef double new_rate = self.rate[slot], new_burst = self.burst[slot]
        self.rate[slot] = rate
        self.burst[slot] = burst
        self.base[slot] = base
        self.base_ns[slot] = now_ns - min(age_ns + passed_ns, OLDEST_NS)
        self.configure(slot, new_rate, new_burst, now_ns - passed_ns)

    cdef double level_at(self, int32_t slot, int64_t now_ns) noexcept nogil:
        if self.rate[slot] == INFINITY:
            return INFINITY
        cdef double level = self.base[slot] + self.rate[slot] * ((now_ns - self.base_ns[slot]) * 1e-9)
        return self.burst[slot] if self.burst[slot] < level else level

    cdef bint affords(self, int32_t slot, double cost, int64_t now_ns) noexcept nogil:
        return self.level_at(slot, now_ns) >= cost

    cdef void charge(self, int32_t slot, double cost, int64_t now_ns) noexcept nogil:
        if self.rate[slot] == INFINITY:
            return
        self.base[slot] = self.level_at(slot, now_ns) - cost
        self.base_ns[slot] = now_ns

    cdef bint take_at(self, int32_t slot, double cost, int64_t now_ns) noexcept nogil:
        cdef double level = self.level_at(slot, now_ns)
        if level < cost:
            return False
        if level != INFINITY:
            self.base[slot] = level - cost
            self.base_ns[slot] = now_ns
        return True

    cdef void refund(self, int32_t slot, double amount, int64_t now_ns) noexcept nogil:
        if self.rate[slot] == INFINITY:
            return
        cdef double level = self.level_at(slot, now_ns) + amount
        self.base[slot] = self.burst[slot] if self.burst[slot] < level else level
        self.base_ns[slot] = now_ns

    cdef int64_t affordable_ns(self, int32_t slot, double cost, int64_t now_ns) noexcept nogil:
        cdef int64_t short, enough, middle, step = 1   # level(short) < cost <= level(enough)
        cdef double estimate
        if self.affords(slot, cost, now_ns):
            return now_ns
        if now_ns >= HORIZON_NS or not self.affords(slot, cost, HORIZON_NS):
            return INT64_MAX
        estimate = self.base_ns[slot] + (cost - self.base[slot]) / self.rate[slot] * 1e9
        middle = <int64_t>estimate if estimate < HORIZON_NS else HORIZON_NS
        short = now_ns
        enough = HORIZON_NS
        if middle <= short:
            middle = short + 1
        if self.affords(slot, cost, middle):           # gallop from the estimate, then bisect
            enough = middle
            while enough - step > short and self.affords(slot, cost, enough - step):
                enough -= step
                step *= 2
            if enough - step > short:
                short = enough - step
        else:
            short = middle
            while enough - step > short and not self.affords(slot, cost, short + step):
                short += step
                step *= 2
            if enough - step > short:
                enough = short + step
        while enough - short > 1:
            middle = short + (enough - short) // 2
            if self.affords(slot, cost, middle):
                enough = middle
            else:
                short = middle
        return enough

    def add(self, Py_ssize_t slot, double rate, double burst, double now, /):
        """A new, full bucket of `rate` tokens/s, 1e-6..1e18, and `burst` tokens, above 0 to 1e18; or both infinite."""
        self.check_limits(slot, rate, burst)
        self.last_ns = self.instant(now)
        self.open(<int32_t>slot, rate, burst, self.last_ns)

    def set_limits(self, Py_ssize_t slot, double rate, double burst, double now, /):
        """A new rate and burst (as for add); the level stays, down to the new burst. From unlimited: full."""
        self.check_slot(slot)
        self.check_limits(slot, rate, burst)
        self.last_ns = self.instant(now)
        self.configure(<int32_t>slot, rate, burst, self.last_ns)

    def level(self, Py_ssize_t slot, double now, /):
        """Tokens there are: at most the burst, negative when in debt, infinite when unlimited."""
        self.check_slot(slot)
        self.last_ns = self.instant(now)
        return self.level_at(<int32_t>slot, self.last_ns)

    def take(self, Py_ssize_t slot, double amount, double now, /):
        """Take `amount` tokens if the level affords them: True. Else False, and nothing is taken."""
        self.check_slot(slot)
        self.check_amount(amount)
        self.last_ns = self.instant(now)
        return self.take_at(<int32_t>slot, amount, self.last_ns)

    def overdraw(self, Py_ssize_t slot, double amount, double now, /):
        """Take `amount` tokens, into debt if need be."""
        self.check_slot(slot)
        self.check_amount(amount)
        self.last_ns = self.instant(now)
        self.charge(<int32_t>slot, amount, self.last_ns)

    def give_back(self, Py_ssize_t slot, double amount, double now, /):
        """Return `amount` tokens, up to the burst."""
        self.check_slot(slot)
        self.check_amount(amount)
        self.last_ns = self.instant(now)
        self.refund(<int32_t>slot, amount, self.last_ns)

    def time_until(self, Py_ssize_t slot, double amount, double now, /):
        """Seconds from now, rounded up, until `amount` is affordable if nothing is taken: 0.0 now, infinity never."""
        self.check_slot(slot)
        self.check_amount(amount)
        self.last_ns = self.instant(now)
        return wait_until(self.affordable_ns(<int32_t>slot, amount, self.last_ns), now, self.epoch)

    def take_many(self, const int32_t[::1] slots, const double[::1] amounts, double now, /, out=None):
        """`take` for each pair in order, at one instant: which were taken, a bool array (`out` if given).

        slots: (n,) int32; amounts: (n,) float64; out: (n,) bool; all contiguous, else ValueError.
        All is checked before anything is taken.
        """
        cdef Py_ssize_t n = slots.shape[0], i
        cdef int32_t slot
        cdef double amount
        if amounts.shape[0] != n:
            raise ValueError(f"amounts must have the {n} entries slots has, not {amounts.shape[0]}")
        if out is None:
            out = np.empty(n, np.bool_)
        elif getattr(out, "dtype", None) != np.bool_ or out.shape != (n,):
            raise ValueError(f"out must be a bool array of shape ({n},)")
        elif np.may_share_memory(out, slots) or np.may_share_memory(out, amounts):
            raise ValueError("out must not share memory with slots or amounts")
        cdef uint8_t[::1] taken = out.view(np.uint8)
        for i in range(n):
            slot, amount = slots[i], amounts[i]
            if not (0 <= slot < self.capacity and self.rate[slot] > 0.0 and 0.0 <= amount <= MAX_TOKENS):
                self.check_slot(slot)
                self.check_amount(amount)
        cdef int64_t now_ns = self.instant(now)
        self.last_ns = now_ns
        for i in range(n):               # the GIL is held: no other thread may change what has been checked
            taken[i] = self.take_at(slots[i], amounts[i], now_ns)
        return out

    cdef int64_t instant(self, double now) except -1:
        if not is_time(now, self.epoch):
            raise ValueError(f"now must be 0 to {MAX_SECONDS} s after the epoch {self.epoch}, not {now}")
        cdef int64_t now_ns = to_ns(now, self.epoch)
        if now_ns < self.last_ns:
            raise ValueError(f"now must not go backwards: {now} is before {self.epoch + self.last_ns * 1e-9}")
        return now_ns

    cdef int check_slot(self, Py_ssize_t slot) except -1:
        if not 0 <= slot < self.capacity:
            raise IndexError(f"slot must be in 0..{self.capacity - 1}, not {slot}")
        if self.rate[slot] == 0.0:
            raise IndexError(f"slot {slot} has not been added")
        return 0

    cdef int check_amount(self, double amount) except -1:
        if not 0.0 <= amount <= MAX_TOKENS:
            raise ValueError(f"amount must be in 0..{MAX_TOKENS} tokens, not {amount}")
        return 0

    cdef int check_limits(self, Py_ssize_t slot, double rate, double burst) except -1:
        if not 0 <= slot < self.capacity:
            raise IndexError(f"slot must be in 0..{self.capacity - 1}, not {slot}")
        if rate == INFINITY and burst == INFINITY:
            return 0
        if not MIN_RATE <= rate <= MAX_TOKENS:
            raise ValueError(f"rate must be {MIN_RATE} to {MAX_TOKENS} tokens/s or infinite with burst, not {rate}")
        if not 0.0 < burst <= MAX_TOKENS:
            raise ValueError(f"burst must be above 0, at most {MAX_TOKENS} tokens or infinite with rate, not {burst}")
        return 0

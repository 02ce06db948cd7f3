"""The one conversion between seconds (float) and nanoseconds since the epoch (int64): docs/rules.md, section 1."""
from libc.math cimport nextafter
from libc.stdint cimport INT64_MAX, int64_t

cdef extern from *:
    """
    #include <math.h>
    #define APS_MAX_SECONDS 4e8
    #define APS_MAX_EPOCH 1e10
    """
    const double MAX_SECONDS "APS_MAX_SECONDS"   # the farthest instant, in seconds after the epoch
    const double MAX_EPOCH "APS_MAX_EPOCH"       # |epoch|: a double there still tells microseconds apart
    const double FOREVER "HUGE_VAL"              # infinity
    long long llrint(double x) noexcept nogil    # rounds half to even in the default rounding mode


cdef inline bint is_epoch(double epoch) noexcept nogil:
    return -MAX_EPOCH <= epoch <= MAX_EPOCH      # false for NaN


cdef inline bint is_time(double seconds, double epoch) noexcept nogil:
    return 0.0 <= seconds - epoch <= MAX_SECONDS  # false for NaN


cdef inline int64_t to_ns(double seconds, double epoch) noexcept nogil:
    """Meaningful where is_time() holds (or a little beyond)."""
    return llrint((seconds - epoch) * 1e9)


cdef inline double to_seconds_up(int64_t ns, double epoch) noexcept nogil:
    """A double x near epoch + ns * 1e-9 with to_ns(x, epoch) >= ns. INT64_MAX gives infinity."""
    cdef double x
    if ns == INT64_MAX:
        return FOREVER
    x = epoch + ns * 1e-9
    while to_ns(x, epoch) < ns:
        x = nextafter(x, FOREVER)
    return x


cdef inline double wait_until(int64_t ns, double now, double epoch) noexcept nogil:
    """Seconds w >= 0 with to_ns(now + w, epoch) >= ns, near the least. INT64_MAX gives infinity."""
    cdef double until, wait
    if ns == INT64_MAX:
        return FOREVER
    if to_ns(now, epoch) >= ns:
        return 0.0
    until = to_seconds_up(ns, epoch)
    wait = until - now
    while now + wait < until:
        wait = nextafter(wait, FOREVER)
    return wait

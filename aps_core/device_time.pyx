"""The time of devices, shared at each instant equally by the requests on them: docs/rules.md, section 11.

Instants are nanoseconds since the epoch. All is whole nanoseconds, and none is lost: what cannot be divided is kept for
the next time.
"""
cimport cython
from libc.stdlib cimport calloc, free

from aps_core.clock cimport to_ns
from aps_core.types cimport int32_t, int64_t, uint64_t


@cython.final
cdef class DeviceTime:
    """What each device has done, and what every request on it has of that. Nothing here checks what it is told."""

    def __cinit__(self, int32_t devices, double epoch=0.0):
        self.lines = <Line*>calloc(max(1, devices), sizeof(Line))
        if self.lines == NULL:
            raise MemoryError
        self.devices = devices
        self.epoch = epoch

    def __dealloc__(self):
        free(self.lines)

    cdef void turn(self, int32_t device, double now) noexcept:
        """Share out its time up to now. Before its requests change."""
        cdef Line* line = &self.lines[device]
        cdef int64_t now_ns = to_ns(now, self.epoch)
        if now_ns <= line.at:
            return
        if line.running:
            line.busy += now_ns - line.at
            line.left += now_ns - line.at
            line.each += line.left // line.running
            line.left %= line.running
        line.at = now_ns

    def advance(self, double now):
        """Share out all time up to now."""
        cdef int32_t device
        for device in range(self.devices):
            self.turn(device, now)

    @property
    def busy_ns(self):
        """By device: the time with any request on it, as far as it is shared out or left."""
        return [self.lines[device].busy for device in range(self.devices)]

    @property
    def left_ns(self):
        """By device: of it, what is not shared out; fewer than requests have been on it at once."""
        return [self.lines[device].left for device in range(self.devices)]


@cython.final
cdef class Part:
    """What the requests of one label have of it.

    A request on a device has `each` at its leave less `each` at its join: so a sum over labels is kept by one addition
    a join and a leave, and what it has by now needs only how many are on each device.
    """

    def __cinit__(self, DeviceTime time not None):
        self.time = time
        self.on = <int32_t*>calloc(max(1, time.devices), sizeof(int32_t))
        if self.on == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.on)

    cdef void join(self, int32_t device) noexcept:
        self.sum -= <uint64_t>self.time.lines[device].each
        self.on[device] += 1
        self.running += 1

    cdef void leave(self, int32_t device) noexcept:
        self.sum += <uint64_t>self.time.lines[device].each
        self.on[device] -= 1
        self.running -= 1

    cdef int64_t total(self) noexcept:
        """Nanoseconds, those of requests that are still there included."""
        cdef uint64_t total = self.sum
        cdef int32_t device
        if self.running:
            for device in range(self.time.devices):
                total += <uint64_t>self.time.lines[device].each * <uint64_t>self.on[device]
        return <int64_t>total

"""See recorded.pyx."""
cimport cython

from aps_core.json_lines cimport JsonLines
from aps_core.scheduler cimport Scheduler
from aps_core.types cimport int32_t, int64_t

cdef struct Report:           # the last `progress_many` about a device
    int32_t count
    int32_t room
    int64_t* values           # (3, room): numbers, computed, generated


@cython.final
cdef class Recorded:
    cdef readonly Scheduler core
    cdef readonly JsonLines lines
    cdef object _submit, _next_batch, _progress, _progress_many, _settle, _settle_many, _cancel, _ended
    cdef readonly object next_wakeup, level, request_level
    cdef tuple statuses, reasons, releases
    cdef list names           # of tenants, as JSON, by slot
    cdef int64_t refused
    cdef Report* reports
    cdef int32_t devices

    cdef bint begin(self, const char* op, Py_ssize_t more) noexcept
    cdef double seconds(self, int64_t ns) noexcept nogil
    cdef double told(self, double now) noexcept nogil
    cdef int64_t number_of(self, int64_t handle) noexcept nogil
    cdef int put_refusal(self, int64_t code) except -1
    cdef bint repeats(self, Report* last, const long long[::1] handles, const long long[::1] computed,
                      const long long[::1] generated, int64_t* tokens) noexcept nogil
    cdef bint keep(self, Report* last, const long long[::1] handles, const long long[::1] computed,
                   const long long[::1] generated) noexcept
    cdef int note_report(self, const long long[::1] handles, const long long[::1] computed,
                         const long long[::1] generated) except -1

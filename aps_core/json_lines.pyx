"""Lines of JSON in memory, written by one thread and taken away from time to time.

The writer allocates only to grow. When more waits to be taken than may, or there is no memory, no further line is
written; those before it are whole.
"""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free
from libc.math cimport INFINITY
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, strlen


cdef extern from "Python.h":
    char* PyOS_double_to_string(double number, char format, int precision, int flags, int* kind) except NULL

cdef enum:
    USUAL = 512               # bytes of a line without what is said to come on top
    FIRST_ROOM = 1 << 16


cdef class JsonLines:
    """most_bytes: text that may wait to be taken. stopped: no line is written any more; overflowed: because too much
    waited. count: lines written."""

    def __cinit__(self, Py_ssize_t most_bytes):
        self.most = most_bytes

    def __dealloc__(self):
        free(self.text)

    def take(self):
        """The lines since the last time, as bytes."""
        taken = PyBytes_FromStringAndSize(self.text, self.used) if self.used else b""
        self.used = 0
        return taken

    def stop(self):
        """Write no more."""
        self.stopped = True

    cdef bint begin(self, Py_ssize_t more) noexcept nogil:
        """There is room for a line with `more` bytes beside the usual; False: no line may be written any more."""
        if self.stopped or (self.used + more + USUAL > self.room and not self.grow(more + USUAL)):
            return False
        self.count += 1
        return True

    cdef void give_up(self) noexcept nogil:
        self.stopped = self.overflowed = True

    cdef bint grow(self, Py_ssize_t more) noexcept nogil:
        cdef Py_ssize_t room = max(2 * self.room, self.used + more, FIRST_ROOM)
        cdef char* text = NULL
        if self.used + more <= self.most:
            text = <char*>realloc(self.text, room)
        if text == NULL:
            self.give_up()
            return False
        self.text, self.room = text, room
        return True

    cdef void put(self, const char* piece) noexcept nogil:
        cdef Py_ssize_t size = <Py_ssize_t>strlen(piece)
        memcpy(self.text + self.used, piece, size)
        self.used += size

    cdef void put_bytes(self, bytes piece) noexcept:
        memcpy(self.text + self.used, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece))
        self.used += PyBytes_GET_SIZE(piece)

    cdef void put_int(self, int64_t number) noexcept nogil:
        cdef char digits[24]
        cdef int at = 24
        if number < 0:
            self.text[self.used] = b'-'
            self.used += 1
            number = -number
        while True:
            at -= 1
            digits[at] = <char>(48 + number % 10)
            number //= 10
            if not number:
                break
        memcpy(self.text + self.used, digits + at, 24 - at)
        self.used += 24 - at

    cdef void put_time(self, int64_t ns) noexcept nogil:
        """Seconds, exactly: at most nine digits after the point."""
        cdef int64_t part = ns % 1000000000
        cdef int at
        self.put_int(ns // 1000000000)
        if part:
            self.text[self.used] = b'.'
            for at in range(9, 0, -1):
                self.text[self.used + at] = <char>(48 + part % 10)
                part //= 10
            self.used += 10
            while self.text[self.used - 1] == b'0':
                self.used -= 1

    cdef int put_real(self, double number) except -1:
        """The shortest text that reads as the same double; "inf" for infinity."""
        cdef char* digits
        if -1e15 < number < 1e15 and number == <double><int64_t>number:
            self.put_int(<int64_t>number)
        elif number == INFINITY:
            self.put(b'"inf"')
        else:
            digits = PyOS_double_to_string(number, b'r', 0, 0, NULL)
            self.put(digits)
            PyMem_Free(digits)
        return 0

    cdef void end(self) noexcept nogil:
        self.put(b"}\n")

"""Arguments from Python, checked once at the door: each error names the field, the value and what is allowed."""
from cpython.long cimport PyLong_AsLongLongAndOverflow

from aps_core.types cimport int64_t

cdef extern from "Python.h":
    bint PyLong_CheckExact(object value)


cdef inline int64_t whole(object value, str field, int64_t lowest, int64_t highest) except? -1:
    """An integer in lowest..highest. TypeError for anything that is no integer (a bool, 5.0), ValueError outside."""
    cdef int overflow = 0
    cdef int64_t number
    if not PyLong_CheckExact(value):
        value = to_index(value, field)
    number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow or number < lowest or number > highest:
        raise ValueError(f"{field} must be an integer from {lowest} to {highest}, got {value}")
    return number


cdef inline object to_index(object value, str field):
    if not isinstance(value, bool) and hasattr(value, "__index__"):
        return value.__index__()
    raise TypeError(f"{field} must be an integer, got {value!r}")


cdef inline object whole_array(object values, str field, int64_t lowest, int64_t highest, object dtype):
    """Integers in lowest..highest as a contiguous array of `dtype`, (n,); the bounds are tested only where `dtype` is
    the narrower one. TypeError and ValueError as of `whole`."""
    import numpy as np
    if not isinstance(values, np.ndarray):
        values = np.array([whole(value, field, lowest, highest) for value in values], np.int64)
    if values.dtype.kind not in "iu":
        raise TypeError(f"{field} must be integers, got an array of {values.dtype}")
    if values.size and not np.can_cast(values.dtype, dtype):
        whole(values.min(), field, lowest, highest)
        whole(values.max(), field, lowest, highest)
    return np.ascontiguousarray(values, dtype)


cdef inline double real(object value, str field, double lowest, double highest) except? -1:
    """A number in lowest..highest (infinity only if `highest` is). ValueError outside and for NaN."""
    cdef double number
    try:
        number = value
    except TypeError:
        raise TypeError(f"{field} must be a number, got {value!r}") from None
    except OverflowError:                        # an int beyond every double
        raise ValueError(f"{field} must be from {lowest:g} to {highest:g}, got {value!r}") from None
    if not lowest <= number <= highest:
        raise ValueError(f"{field} must be from {lowest:g} to {highest:g}, got {value!r}")
    return number


cdef inline double positive(object value, str field, bint infinite) except? -1:
    """A number above 0; infinity only when `infinite`."""
    cdef double number = real(value, field, 0.0, float("inf"))
    if number == 0.0 or (number == float("inf") and not infinite):
        allowed = "above 0" if infinite else "finite and above 0"
        raise ValueError(f"{field} must be {allowed}, got {value!r}")
    return number

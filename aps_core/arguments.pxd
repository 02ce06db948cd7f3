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
        try:
            return value.__index__()
        except TypeError:                        # an array of several, for one
            pass
    raise TypeError(f"{field} must be an integer, got {value!r}")


cdef inline object whole_array(object values, str field, int64_t lowest, int64_t highest, object dtype):
    """Integers as a contiguous array, (n,), of `dtype` (an np.dtype); tested for lowest..highest where that takes a
    conversion. TypeError and ValueError as of `whole`."""
    if getattr(values, "dtype", None) is dtype and values.flags.c_contiguous:
        return values
    import numpy as np
    if not isinstance(values, np.ndarray):
        return np.array([whole(value, field, lowest, highest) for value in values], dtype)
    if values.dtype.kind not in "iu":
        raise TypeError(f"{field} must be integers, got an array of {values.dtype}")
    converted = np.ascontiguousarray(values, dtype)
    if values.dtype.itemsize >= dtype.itemsize and not (converted == values).all():
        whole(values.min(), field, lowest, highest)
        whole(values.max(), field, lowest, highest)
    return converted


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

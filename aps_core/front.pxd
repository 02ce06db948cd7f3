"""See front.pyx."""

cdef class Front:
    cdef public object _core_submit
    cdef public dict _accounts
    cdef public dict _handles
    cdef public dict _ids
    cdef public object _verdict_type

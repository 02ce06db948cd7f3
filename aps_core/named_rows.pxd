"""NamedTuples and instances without their Python-level constructors."""

cdef extern from *:
    """
    static CYTHON_UNUSED PyObject *aps_make(PyObject *type, PyObject *arguments) {
        return ((PyTypeObject *)type)->tp_new((PyTypeObject *)type, arguments, NULL);
    }
    static CYTHON_UNUSED PyObject *aps_row(PyObject *type, PyObject *row) {
        Py_ssize_t n = PyTuple_GET_SIZE(row);
        PyObject *made = ((PyTypeObject *)type)->tp_alloc((PyTypeObject *)type, n);
        if (made == NULL)
            return NULL;
        const int ours = Py_REFCNT(row) == 1;       /* made for this call: its items can be taken over */
        while (n--) {
            PyObject *item = PyTuple_GET_ITEM(row, n);
            if (ours)
                PyTuple_SET_ITEM(row, n, NULL);
            else
                Py_INCREF(item);
            PyTuple_SET_ITEM(made, n, item);
        }
        return made;
    }
    """
    # type(*arguments) without __init__; and a NamedTuple of a row, which nobody has seen yet
    object make "aps_make" (object type, tuple arguments)
    object make_row "aps_row" (object type, tuple row)

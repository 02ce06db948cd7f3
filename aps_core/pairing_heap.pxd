"""A pairing heap threaded through the request table's links: `child`, `next` (right sibling), `prev` (left sibling or
parent).

Keyed by arrival number. For the few requests that enter a lane out of arrival order.
"""
from aps_core.request_table cimport Request
from aps_core.types cimport NONE, int32_t


cdef inline int32_t meld(Request* rows, int32_t one, int32_t other) noexcept nogil:
    """The root of two heaps joined; either may be NONE."""
    cdef int32_t first
    if one == NONE:
        return other
    if other == NONE:
        return one
    if rows[other].number < rows[one].number:
        one, other = other, one
    first = rows[one].child
    rows[other].next = first
    rows[other].prev = one
    if first != NONE:
        rows[first].prev = other
    rows[one].child = other
    return one


cdef inline int32_t take_root(Request* rows, int32_t root) noexcept nogil:
    """The heap without its root: its children joined in pairs, left to right, then right to left."""
    cdef int32_t left = rows[root].child, right, rest, pairs = NONE, joined = NONE
    rows[root].child = NONE
    while left != NONE:
        right = rows[left].next
        rest = NONE if right == NONE else rows[right].next
        rows[left].next = NONE
        if right != NONE:
            rows[right].next = NONE
        left = meld(rows, left, right)
        rows[left].next = pairs           # a stack of pairs
        pairs = left
        left = rest
    while pairs != NONE:
        rest = rows[pairs].next
        rows[pairs].next = NONE
        joined = meld(rows, joined, pairs)
        pairs = rest
    if joined != NONE:
        rows[joined].prev = NONE
    return joined


cdef inline int32_t unhook(Request* rows, int32_t row) noexcept nogil:
    """Cut a row that is not the root out of its heap; the heap of its own children, to be melded back."""
    cdef int32_t before = rows[row].prev, after = rows[row].next
    if rows[before].child == row:
        rows[before].child = after
    else:
        rows[before].next = after
    if after != NONE:
        rows[after].prev = before
    rows[row].next = NONE
    rows[row].prev = NONE
    return take_root(rows, row)

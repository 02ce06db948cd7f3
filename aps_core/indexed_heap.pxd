"""A binary min-heap of small integer ids with int64 keys, in memory that its owner holds.

`place[id]` is the id's index in `entries`, or NONE, so a key can change or leave in O(log n). Ties go to the lower id.
"""
from libc.stdint cimport INT64_MAX
from libc.string cimport memcpy

from aps_core.types cimport NONE, int32_t, int64_t

cdef struct HeapEntry:
    int64_t key
    int32_t id
    int32_t unused

cdef struct IndexedHeap:
    HeapEntry* entries
    int32_t* place
    int32_t size


cdef inline int64_t sortable(double value) noexcept nogil:
    """An int64 in the order of the doubles (not NaN); 0.0 and -0.0 are one."""
    cdef int64_t bits
    value = value + 0.0
    memcpy(&bits, &value, 8)
    return bits ^ ((bits >> 63) & INT64_MAX)


cdef inline bint precedes(HeapEntry a, HeapEntry b) noexcept nogil:
    return a.key < b.key or (a.key == b.key and a.id < b.id)


cdef inline void sift_up(IndexedHeap* heap, int32_t at, HeapEntry entry) noexcept nogil:
    cdef int32_t above
    while at > 0:
        above = (at - 1) >> 1
        if not precedes(entry, heap.entries[above]):
            break
        heap.entries[at] = heap.entries[above]
        heap.place[heap.entries[at].id] = at
        at = above
    heap.entries[at] = entry
    heap.place[entry.id] = at


cdef inline void sift_down(IndexedHeap* heap, int32_t at, HeapEntry entry) noexcept nogil:
    cdef int32_t below
    while True:
        below = 2 * at + 1
        if below >= heap.size:
            break
        if below + 1 < heap.size and precedes(heap.entries[below + 1], heap.entries[below]):
            below += 1
        if not precedes(heap.entries[below], entry):
            break
        heap.entries[at] = heap.entries[below]
        heap.place[heap.entries[at].id] = at
        at = below
    heap.entries[at] = entry
    heap.place[entry.id] = at


cdef inline void heap_put(IndexedHeap* heap, int32_t id, int64_t key) noexcept nogil:
    """Insert the id, or change its key."""
    cdef HeapEntry entry
    cdef int32_t at = heap.place[id]
    entry.key = key
    entry.id = id
    entry.unused = 0
    if at == NONE:
        heap.size += 1
        sift_up(heap, heap.size - 1, entry)
    elif key < heap.entries[at].key:
        sift_up(heap, at, entry)
    else:
        sift_down(heap, at, entry)


cdef inline void heap_drop(IndexedHeap* heap, int32_t id) noexcept nogil:
    """Take the id out if it is in."""
    cdef int32_t at = heap.place[id]
    cdef HeapEntry last
    if at == NONE:
        return
    heap.place[id] = NONE
    heap.size -= 1
    if at == heap.size:
        return
    last = heap.entries[heap.size]
    if at > 0 and precedes(last, heap.entries[(at - 1) >> 1]):
        sift_up(heap, at, last)
    else:
        sift_down(heap, at, last)

"""The blocks that running requests may hold in each step to come, at the most. Steps are counted from now: 1, 2, ...

A span is a request that grows by a token a step and releases all after its `end`. Between two ends the sum only rises,
so it is looked at in the ends alone. Header only: the spans are the caller's, sorted by end.
"""
from aps_core.types cimport NONE, int64_t

cdef enum:
    MAX_GROWTH = 2147483647   # steps after which no request grows any more

cdef struct Span:
    int64_t end
    int64_t max_blocks
    int64_t whole             # tokens it holds now + block_tokens - 1: whole blocks of that ...
    int64_t rest              # ... and the tokens left over
    int64_t maxima_from       # sum of max_blocks over this span and all later ones
    int64_t tokens_from       # sum of whole * block_tokens + rest over them

cdef struct Envelope:
    Span* spans
    int64_t count
    int64_t block_tokens
    int64_t limit             # of their blocks
    int64_t slots             # limit of their number


cdef inline void sum_up(const Envelope* envelope) noexcept nogil:
    cdef Span* spans = envelope.spans
    cdef int64_t i, maxima = 0, tokens = 0
    for i in range(envelope.count - 1, -1, -1):
        maxima += spans[i].max_blocks
        tokens += spans[i].whole * envelope.block_tokens + spans[i].rest
        spans[i].maxima_from = maxima
        spans[i].tokens_from = tokens


cdef inline int64_t load(const Envelope* envelope, int64_t first, int64_t step) noexcept nogil:
    """Blocks in that step of the spans from `first` on, none of which has ended."""
    cdef const Span* spans = envelope.spans
    cdef int64_t i, blocks = 0
    cdef int64_t whole = step // envelope.block_tokens
    cdef int64_t carry = envelope.block_tokens - step % envelope.block_tokens
    for i in range(first, envelope.count):
        blocks += min(spans[i].max_blocks, spans[i].whole + whole + (spans[i].rest >= carry))
    return blocks


cdef inline bint within(const Envelope* envelope, int64_t first, int64_t step, int64_t room) noexcept nogil:
    """load(first, step) <= room. Two bounds, by the maxima and by all tokens in one heap, often spare the sum."""
    cdef const Span* span = envelope.spans + first
    if first == envelope.count:
        return room >= 0
    return (
        span.maxima_from <= room
        or span.tokens_from + (envelope.count - first) * min(step, MAX_GROWTH) < (room + 1) * envelope.block_tokens
        or load(envelope, first, step) <= room
    )


cdef inline int64_t first_after(const Envelope* envelope, int64_t first, int64_t step) noexcept nogil:
    """The first span, from `first` on, that ends after that step."""
    while first < envelope.count and envelope.spans[first].end <= step:
        first += 1
    return first


cdef inline bint all_within(const Envelope* envelope) noexcept nogil:
    """Are the spans within the limit in every step?"""
    cdef int64_t i = 0
    while i < envelope.count and envelope.spans[i].maxima_from > envelope.limit:
        if not within(envelope, i, envelope.spans[i].end, envelope.limit):
            return False
        i = first_after(envelope, i, envelope.spans[i].end)
    return True


cdef inline bint fits_after(const Envelope* envelope, const Span* later, int64_t step) noexcept nogil:
    """Does `later`, not one of the spans, fit if it starts when `step` steps are over?"""
    cdef int64_t i = first_after(envelope, 0, step)
    cdef int64_t last = step + later.end
    cdef int64_t k, grown
    if envelope.count - i >= envelope.slots:
        return False
    while i < envelope.count and envelope.spans[i].maxima_from > envelope.limit - later.max_blocks:
        k = min(envelope.spans[i].end, last)
        grown = min(later.max_blocks, later.whole + (later.rest + k - step) // envelope.block_tokens)
        if not within(envelope, i, k, envelope.limit - grown):
            return False
        if k == last:
            return True
        i = first_after(envelope, i, k)
    return later.max_blocks <= envelope.limit


cdef inline int64_t earliest(const Envelope* envelope, const Span* later) noexcept nogil:
    """The least number of steps after which `later`, not one of the spans, fits; NONE if it is larger than the limit.

    One pass over the ends: if it is too large in one of them it has to start later, so as to be small enough there. A
    later start only makes it smaller in any given step, so what has been looked at stays good.
    """
    cdef int64_t room = envelope.limit - later.max_blocks
    cdef int64_t i, k, free, step = 0
    if room < 0:
        return NONE
    if envelope.count >= envelope.slots:
        step = envelope.spans[0].end
    i = first_after(envelope, 0, step)
    while i < envelope.count and envelope.spans[i].maxima_from > room:
        k = envelope.spans[i].end
        if k > step + later.end and within(envelope, i, step + later.end, room):
            break                 # gone before this end; else it is too large there too, as the sum rises up to it
        if not within(envelope, i, k, room):
            free = envelope.limit - load(envelope, i, k)
            step = max(step, k - max(0, (free - later.whole + 1) * envelope.block_tokens - 1 - later.rest))
        i = first_after(envelope, i, k)
    return step

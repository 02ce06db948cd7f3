"""A winner tree: the best of many candidates; one change costs O(log candidates), without a branch that depends on the data.

Candidate i has the leaf i; `winners[size + i]` is i, and each inner node holds the better of its two children, so
`winners[1]` is the best of all. Larger keys first. Knuth, TAOCP vol. 3, 5.4.1.
"""
from libc.stdint cimport INT64_MAX, INT64_MIN

from aps_core.types cimport int32_t, int64_t

cdef extern from *:
    """
    /* One comparison of two words, and a hint that it cannot be foretold: a conditional move, not a branch. */
    #define aps_pair(high, low) (((__int128)(high) << 64) | (uint64_t)(low))
    #define aps_beats(a_high, a_low, b_high, b_low) \\
        __builtin_expect_with_probability(aps_pair(a_high, a_low) > aps_pair(b_high, b_low), 1, 0.5)
    """
    bint aps_beats(int64_t a_high, int64_t a_low, int64_t b_high, int64_t b_low) noexcept nogil

cdef struct Key:              # larger goes first
    int64_t rank              # INT64_MIN: nothing there
    int64_t turn              # among equal ranks: INT64_MAX - arrival number (>= 0)

cdef struct WinnerTree:
    Key* leaves               # `size` of them
    int32_t* winners          # 2 * size; [0] is not used
    int32_t size              # a power of two


cdef inline void replay(WinnerTree* tree, int32_t candidate) noexcept nogil:
    """The candidate's leaf has changed: it plays its matches anew, up to where nothing changes any more."""
    cdef int32_t* winners = tree.winners
    cdef Key* leaves = tree.leaves
    cdef int32_t node = tree.size + candidate, winner = candidate, rival, before
    cdef int64_t rank = leaves[candidate].rank, turn = leaves[candidate].turn, its_rank, its_turn
    cdef bint beaten
    while node > 1:
        rival = winners[node ^ 1]
        its_rank = leaves[rival].rank
        its_turn = leaves[rival].turn
        beaten = aps_beats(its_rank, its_turn, rank, turn)
        winner = rival if beaten else winner
        rank = its_rank if beaten else rank
        turn = its_turn if beaten else turn
        node >>= 1
        before = winners[node]
        winners[node] = winner
        if before == winner and winner != candidate:
            return

"""See physics.pyx."""
from aps_core.step_time cimport StepShape, StepTimeModel
from aps_core.types cimport int64_t

cdef enum:
    SINGLE = 64               # tokens whose matrix products are not padded
    TILE = 128                # beyond, tokens come in tiles of so many
    TILES = 32                # whose times are computed once: 4,096 tokens
    KNOWN = 97                # SINGLE + 1 + TILES

cdef class PhysicsModel(StepTimeModel):
    cdef readonly int64_t layers                      # L
    cdef readonly int64_t width                       # d
    cdef readonly double kv_bytes_per_token_layer     # kv
    cdef readonly double decoder_bytes                # W
    cdef readonly double head_bytes                   # H
    cdef readonly double weight_bandwidth             # BW
    cdef readonly double compute                      # F
    cdef readonly double roofline_power               # p
    cdef readonly double linear_token_s               # e1
    cdef readonly double linear_layer_s               # e0
    cdef readonly double kv_bandwidth                 # BW_kv
    cdef readonly double attention_layer_s            # a0
    cdef readonly double attention_sequence_s         # a1
    cdef readonly double self_attention_compute       # F_self
    cdef readonly double past_attention_compute       # F_past
    cdef readonly double host_s                       # t_host
    cdef readonly double swap_bandwidth               # BW_swap
    cdef double units                                 # u
    cdef double[KNOWN] products                       # of 0..SINGLE tokens, then of 1..TILES tiles

    cdef double product_s(self, double tokens) noexcept nogil
    cdef double linear_s(self, int64_t tokens) noexcept nogil

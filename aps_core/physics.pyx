"""How long a step takes on a GPU of known memory and arithmetic: a rounded roofline, overheads, attention."""
cimport cython
from libc.math cimport pow

from aps_core.arguments cimport real, whole
from aps_core.step_time cimport StepShape, StepTimeModel
from aps_core.types cimport int64_t

cdef double _LAYER_WIDTH = 4096.0       # of the layer that linear_token_s and linear_layer_s are of


@cython.final
cdef class PhysicsModel(StepTimeModel):
    """Seconds of a step of a dense transformer decoder in fp16 on one GPU.

    A step computes n tokens: c prompt tokens in chunks (chunk i has c_i tokens after k_i cached ones) and b decodes with
    K cached tokens in all; s sequences get a token; m cached tokens have been swapped out or in since the last step::

        t    = t_host + lin + head + dec + pre + swap
        lin  = ((W/BW)^p + (W*T(n)/F)^p)^(1/p) + e1*n*u + e0*u        u = L*d/4096
        T(n) = n if n <= 64 else 128*ceil(n/128)
        head = max(H/BW, H*s/F)
        dec  = L*(a0 + K*kv/BW_kv + a1*b)                             0 without decodes
        pre  = L*4*d*(sum c_i^2 / (2*F_self) + sum c_i*k_i / F_past)
        swap = m*L*kv/BW_swap

    The model's: layers L; width d; kv_bytes_per_token_layer kv = 2 * kv_heads * head size * 2; decoder_bytes W and
    head_bytes H, two bytes a parameter, so that W is also the floating-point operations of a token.

    The GPU's, bytes/s, FLOP/s and seconds: weight_bandwidth BW, compute F and roofline_power p round the corner between
    reading weights and multiplying them; linear_token_s e1 and linear_layer_s e0 are a layer's of width 4,096, per
    token and per step; kv_bandwidth BW_kv, attention_layer_s a0 (per layer) and attention_sequence_s a1 (per layer and
    decode); self_attention_compute F_self and past_attention_compute F_past; host_s t_host, the engine's own work
    between steps; swap_bandwidth BW_swap, between GPU and host.

    The defaults are an A100-80GB SXM: BW, F, p, e0, e1 fitted to the operator profiles of Vidur (Agrawal et al., MLSys
    2024) for four Llama models at every token count to 4,096, mean error 2.6 %; the attention constants to 56 rows of
    its Llama-2-7B profile, 7.7 % for decodes, 0.8 % for prefill. swap_bandwidth is no fit: copies reach about 25 of the
    31.5 GB/s of PCI Express 4.0 x16. Not covered: several GPUs, experts, quantised weights, speculation.

    ValueError (TypeError for a wrong type) names the constant, the value and what is allowed: layers and width at least
    1, bytes 1..1e15, rates 1e6..1e18 a second, seconds 0..1e6, roofline_power 1..16.
    """

    def __cinit__(self, *, layers, width, kv_bytes_per_token_layer, decoder_bytes, head_bytes,
                  weight_bandwidth=1.540e12, compute=236e12, roofline_power=2.8,
                  linear_token_s=0.26e-6, linear_layer_s=21.6e-6,
                  kv_bandwidth=1.832e12, attention_layer_s=7.9e-6, attention_sequence_s=1.02e-6,
                  self_attention_compute=47e12, past_attention_compute=154e12,
                  host_s=0.0, swap_bandwidth=25e9):
        cdef int64_t i
        self.layers = whole(layers, "layers", 1, 100_000)
        self.width = whole(width, "width", 1, 10_000_000)
        self.kv_bytes_per_token_layer = real(kv_bytes_per_token_layer, "kv_bytes_per_token_layer", 1.0, 1e15)
        self.decoder_bytes = real(decoder_bytes, "decoder_bytes", 1.0, 1e15)
        self.head_bytes = real(head_bytes, "head_bytes", 1.0, 1e15)
        self.weight_bandwidth = real(weight_bandwidth, "weight_bandwidth", 1e6, 1e18)
        self.compute = real(compute, "compute", 1e6, 1e18)
        self.roofline_power = real(roofline_power, "roofline_power", 1.0, 16.0)
        self.linear_token_s = real(linear_token_s, "linear_token_s", 0.0, 1e6)
        self.linear_layer_s = real(linear_layer_s, "linear_layer_s", 0.0, 1e6)
        self.kv_bandwidth = real(kv_bandwidth, "kv_bandwidth", 1e6, 1e18)
        self.attention_layer_s = real(attention_layer_s, "attention_layer_s", 0.0, 1e6)
        self.attention_sequence_s = real(attention_sequence_s, "attention_sequence_s", 0.0, 1e6)
        self.self_attention_compute = real(self_attention_compute, "self_attention_compute", 1e6, 1e18)
        self.past_attention_compute = real(past_attention_compute, "past_attention_compute", 1e6, 1e18)
        self.host_s = real(host_s, "host_s", 0.0, 1e6)
        self.swap_bandwidth = real(swap_bandwidth, "swap_bandwidth", 1e6, 1e18)
        self.units = <double>self.layers * <double>self.width / _LAYER_WIDTH
        for i in range(SINGLE + 1):
            self.products[i] = self.product_s(<double>i)
        for i in range(1, TILES + 1):
            self.products[SINGLE + i] = self.product_s(<double>(TILE * i))

    def constants(self):
        return {
            "layers": self.layers, "width": self.width, "kv_bytes_per_token_layer": self.kv_bytes_per_token_layer,
            "decoder_bytes": self.decoder_bytes, "head_bytes": self.head_bytes,
            "weight_bandwidth": self.weight_bandwidth, "compute": self.compute, "roofline_power": self.roofline_power,
            "linear_token_s": self.linear_token_s, "linear_layer_s": self.linear_layer_s,
            "kv_bandwidth": self.kv_bandwidth, "attention_layer_s": self.attention_layer_s,
            "attention_sequence_s": self.attention_sequence_s, "self_attention_compute": self.self_attention_compute,
            "past_attention_compute": self.past_attention_compute, "host_s": self.host_s,
            "swap_bandwidth": self.swap_bandwidth,
        }

    cdef double product_s(self, double tokens) noexcept nogil:
        cdef double p = self.roofline_power
        return pow(pow(self.decoder_bytes / self.weight_bandwidth, p)
                   + pow(self.decoder_bytes * tokens / self.compute, p), 1.0 / p)

    cdef double linear_s(self, int64_t tokens) noexcept nogil:
        cdef int64_t tiles = (tokens + TILE - 1) // TILE
        cdef double product
        if tokens <= SINGLE:
            product = self.products[tokens]
        elif tiles <= TILES:
            product = self.products[SINGLE + tiles]
        else:
            product = self.product_s(<double>(TILE * tiles))
        return product + self.linear_token_s * <double>tokens * self.units + self.linear_layer_s * self.units

    cdef double seconds(self, const StepShape* shape) noexcept nogil:
        cdef double L = <double>self.layers, kv = self.kv_bytes_per_token_layer
        cdef double head, decode = 0.0, prefill = 0.0, swap = 0.0
        head = max(self.head_bytes / self.weight_bandwidth, self.head_bytes * <double>shape.emits / self.compute)
        if shape.decodes > 0:
            decode = L * (self.attention_layer_s + <double>shape.decode_context * kv / self.kv_bandwidth
                          + self.attention_sequence_s * <double>shape.decodes)
        if shape.chunks > 0:
            prefill = L * 4.0 * <double>self.width * (
                shape.prefill_squares / (2.0 * self.self_attention_compute)
                + shape.prefill_past / self.past_attention_compute)
        if shape.swapped_tokens > 0:
            swap = <double>shape.swapped_tokens * L * kv / self.swap_bandwidth
        return self.host_s + self.linear_s(shape.prefill_tokens + shape.decodes) + head + decode + prefill + swap

from typing import Self, final

from aps_core.step_time import StepTimeModel

@final
class PhysicsModel(StepTimeModel):
    layers: int
    width: int
    kv_bytes_per_token_layer: float
    decoder_bytes: float
    head_bytes: float
    weight_bandwidth: float
    compute: float
    roofline_power: float
    linear_token_s: float
    linear_layer_s: float
    kv_bandwidth: float
    attention_layer_s: float
    attention_sequence_s: float
    self_attention_compute: float
    past_attention_compute: float
    host_s: float
    swap_bandwidth: float
    def __new__(
        cls,
        *,
        layers: int,
        width: int,
        kv_bytes_per_token_layer: float,
        decoder_bytes: float,
        head_bytes: float,
        weight_bandwidth: float = 1.540e12,
        compute: float = 236e12,
        roofline_power: float = 2.8,
        linear_token_s: float = 0.26e-6,
        linear_layer_s: float = 21.6e-6,
        kv_bandwidth: float = 1.832e12,
        attention_layer_s: float = 7.9e-6,
        attention_sequence_s: float = 1.02e-6,
        self_attention_compute: float = 47e12,
        past_attention_compute: float = 154e12,
        host_s: float = 0.0,
        swap_bandwidth: float = 25e9,
    ) -> Self: ...

from typing import Self, final

from typing_extensions import disjoint_base

@disjoint_base
class StepTimeModel:
    def step_seconds(
        self,
        *,
        prefill_tokens: int = 0,
        chunks: int | None = None,
        decodes: int = 0,
        emits: int | None = None,
        decode_context: int = 0,
        prefill_squares: float | None = None,
        prefill_past: float = 0.0,
    ) -> float: ...

@final
class ReferenceModel(StepTimeModel):
    prefill_rate: float
    decode_rate: float
    speedup: float
    speedup_batch: int
    def __new__(
        cls, *, prefill_rate: float = 1024.0, decode_rate: float = 128.0, speedup: float = 2.5, speedup_batch: int = 16
    ) -> Self: ...

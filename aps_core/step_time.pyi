from typing import Any, Self, SupportsFloat, SupportsIndex, final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

@disjoint_base
class StepTimeModel:
    def constants(self) -> dict[str, Any]: ...
    def step_seconds(
        self,
        *,
        prefill_tokens: SupportsIndex = 0,
        chunks: SupportsIndex | None = None,
        decodes: SupportsIndex = 0,
        emits: SupportsIndex | None = None,
        decode_context: SupportsIndex = 0,
        prefill_squares: SupportsFloat | None = None,
        prefill_past: SupportsFloat = 0.0,
        swapped_tokens: SupportsIndex = 0,
    ) -> float: ...
    def steps_seconds(
        self,
        *,
        prefill_tokens: NDArray[np.int64],
        decodes: NDArray[np.int64],
        decode_context: NDArray[np.int64],
        prefill_past: NDArray[np.float64],
    ) -> NDArray[np.float64]: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __hash__(self) -> int: ...
    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]: ...

@final
class ReferenceModel(StepTimeModel):
    prefill_rate: float
    decode_rate: float
    speedup: float
    speedup_batch: int
    swap_rate: float
    def __new__(
        cls,
        *,
        prefill_rate: float = 1024.0,
        decode_rate: float = 128.0,
        speedup: float = 2.5,
        speedup_batch: int = 16,
        swap_rate: float = 47_684.0,
    ) -> Self: ...

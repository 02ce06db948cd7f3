from typing import Any, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

@final
class Ledger:
    n: int
    results: dict[str, NDArray[Any]]
    def __new__(
        cls,
        tenants: ArrayLike,
        prompt_tokens: ArrayLike,
        output_tokens: ArrayLike,
        max_tokens: ArrayLike,
        bids: ArrayLike,
        deadline_ns: ArrayLike | None,
    ) -> Ledger: ...
    def slots(self) -> list[int]: ...
    def column(
        self, values: ArrayLike | None, field: str, lowest: int, highest: int = ..., dtype: np.dtype[Any] = ...
    ) -> NDArray[Any] | None: ...

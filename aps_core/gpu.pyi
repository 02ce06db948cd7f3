from collections.abc import Iterable
from typing import Any, Self, final

import numpy as np
from numpy.typing import NDArray

from aps_core.step_time import StepTimeModel

@final
class Engine:
    model: StepTimeModel
    slots: int
    kv_blocks: int
    block_tokens: int
    token_budget: int
    running: int
    held_blocks: int
    stepping: bool
    began_ns: int
    end_ns: int
    steps: int
    busy_ns: int
    @property
    def slot_ns(self) -> int: ...
    @property
    def block_ns(self) -> int: ...
    prefill_tokens: int
    output_tokens: int
    swapped_tokens: int
    ended: int
    request_ids: NDArray[np.int64]
    computed: NDArray[np.int64]
    generated: NDArray[np.int64]
    flags: NDArray[np.int64]
    served: NDArray[np.int64]
    def __new__(
        cls, model: StepTimeModel, slots: int, kv_blocks: int, *, block_tokens: int = 16, token_budget: int = 0
    ) -> Self: ...
    def start(
        self,
        request_id: int,
        prompt_tokens: int,
        output_tokens: int,
        bid: int,
        *,
        generated: int = 0,
        prefill: int | None = None,
        account: int = 0,
    ) -> None: ...
    def start_many(self, jobs: Iterable[Any]) -> None: ...
    def reserve_accounts(self, accounts: int) -> None: ...
    def abort(self, request_id: int, *, keep: bool = False) -> None: ...
    def begin_step(self, now_ns: int) -> int: ...
    def end_step(self) -> int: ...

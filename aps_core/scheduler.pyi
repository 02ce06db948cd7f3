from collections.abc import Iterable, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

_IntArray = NDArray[np.integer[Any]]
_Counts = Sequence[int] | _IntArray

@final
class Scheduler:
    def __new__(
        cls,
        slots: Sequence[int],
        kv_blocks: Sequence[int],
        token_budgets: Sequence[int],
        *,
        block_tokens: int = 16,
        aging_horizon_s: float = 30.0,
        fairness_window: float = 2048.0,
        input_weight: float = 1.0,
        output_weight: float = 1.0,
        expected_output: int = -1,
        bid_premium: float = 0.0,
        max_passes: int = 64,
        backfill_depth: int = 32,
        preemption: int = 0,
        preempt_margin: int = 3,
        max_preemptions: int = 2,
        micro: bool = False,
        batch_window_s: float = 0.01,
        batch_fill_target: float = 0.8,
        kv_high_watermark: float = 1.0,
        max_queued: int = ...,
        max_queued_tokens: int = ...,
        max_context: int = ...,
        epoch: float = 0.0,
    ) -> Scheduler: ...
    def add_tenant(
        self,
        *,
        weight: float = 1.0,
        rate: float = ...,
        burst: float = ...,
        queue_over_rate: bool = False,
        request_rate: float = ...,
        request_burst: float = ...,
        max_request_tokens: int = ...,
        max_bid: int = 10,
        max_in_flight: int = ...,
        max_queued: int = ...,
        max_queued_tokens: int = ...,
        kv_share: float = 1.0,
        now: float,
    ) -> int: ...
    def set_tenant(
        self,
        tenant: int,
        *,
        weight: float = 1.0,
        rate: float = ...,
        burst: float = ...,
        queue_over_rate: bool = False,
        request_rate: float = ...,
        request_burst: float = ...,
        max_request_tokens: int = ...,
        max_bid: int = 10,
        max_in_flight: int = ...,
        max_queued: int = ...,
        max_queued_tokens: int = ...,
        kv_share: float = 1.0,
        now: float,
    ) -> None: ...
    def readmit_tenant(
        self,
        tenant: int,
        *,
        weight: float = 1.0,
        rate: float = ...,
        burst: float = ...,
        queue_over_rate: bool = False,
        request_rate: float = ...,
        request_burst: float = ...,
        max_request_tokens: int = ...,
        max_bid: int = 10,
        max_in_flight: int = ...,
        max_queued: int = ...,
        max_queued_tokens: int = ...,
        kv_share: float = 1.0,
        now: float,
    ) -> None: ...
    def remove_tenant(self, tenant: int, now: float) -> bool: ...
    def tenant_state(self, tenant: int) -> int: ...
    def set_aging_horizon(self, seconds: float, now: float) -> None: ...
    def set_fairness_window(self, cost: float, now: float) -> None: ...
    def submit(
        self,
        tenant: int,
        prompt_tokens: int,
        max_tokens: int,
        bid: int,
        now: float,
        deadline_at: float = ...,
        expected_output: int = -1,
    ) -> int: ...
    def next_batch(self, device: int, now: float) -> int: ...
    def progress(self, handle: int, computed: int, generated: int, now: float) -> None: ...
    def settle(self, handle: int, output_tokens: int, now: float) -> float: ...
    def cancel(self, handle: int, now: float) -> float: ...
    def preempt(self, handle: int, now: float) -> None: ...
    def restart(self, handle: int, now: float) -> None: ...
    def rebid(self, handle: int, bid: int, now: float) -> int: ...
    def is_live(self, handle: int, now: float) -> bool: ...
    def bid_of(self, handle: int) -> int: ...
    def next_wakeup(self, now: float, without: Iterable[int] = ()) -> float: ...
    def ended(self) -> list[tuple[int, int]]: ...
    def level(self, tenant: int) -> float: ...
    def request_level(self, tenant: int) -> float: ...
    def explain(self, handle: int, now: float) -> dict[str, Any]: ...
    def snapshot(self, now: float) -> dict[str, Any]: ...
    def state(self, now: float) -> dict[str, Any]: ...
    def restore(self, state: dict[str, Any], slots: _Counts, passed_s: float, now: float) -> None: ...
    @property
    def restored(self) -> bool: ...
    def submit_many(
        self,
        tenants: _IntArray,
        prompts: _IntArray,
        max_tokens: _IntArray,
        bids: _IntArray,
        now: float,
    ) -> NDArray[np.int64]: ...
    def settle_many(self, handles: _IntArray, outputs: _Counts, now: float) -> NDArray[np.float64]: ...
    def progress_many(
        self, handles: _IntArray, computed: _Counts, generated: _Counts, now: float
    ) -> None: ...
    @property
    def started(self) -> NDArray[np.int64]: ...
    @property
    def preempted(self) -> NDArray[np.int64]: ...
    @property
    def preempted_count(self) -> int: ...
    @property
    def release_reason(self) -> int: ...
    @property
    def retry_after(self) -> float: ...
    @property
    def largest(self) -> int: ...
    @property
    def waiting(self) -> int: ...
    @property
    def now(self) -> float: ...

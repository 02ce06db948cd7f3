from collections.abc import Iterable
from typing import Literal, NamedTuple, SupportsFloat, SupportsIndex, final

class Need(NamedTuple):
    prompt_tokens: int
    max_tokens: int
    generated: int = 0
    prefill: int | None = None
    bid: int = 5

class DeviceState(NamedTuple):
    slots: int
    running: int
    held_blocks: int
    max_blocks: int
    limit: int

class RowState(NamedTuple):
    request: int
    number: int
    computed: int
    cached: int

@final
class KVCache:
    def __init__(
        self,
        slots: Iterable[SupportsIndex],
        kv_blocks: Iterable[SupportsIndex],
        token_budgets: Iterable[SupportsIndex],
        block_tokens: SupportsIndex = 16,
        kv_high_watermark: SupportsFloat = 1.0,
    ) -> None: ...
    @property
    def devices(self) -> int: ...
    @property
    def block_tokens(self) -> int: ...
    @property
    def total_blocks(self) -> int: ...
    @property
    def largest_limit(self) -> int: ...
    def can_start(self, device: SupportsIndex, need: Need, without: Iterable[SupportsIndex] = ()) -> bool: ...
    def earliest_step(self, device: SupportsIndex, need: Need) -> int: ...
    def backfill_kind(
        self, device: SupportsIndex, need: Need, reserved: Need, step: SupportsIndex
    ) -> Literal["blocked", "ends_before", "ends_after"]: ...
    def start(self, device: SupportsIndex, need: Need, request: SupportsIndex = -1) -> int: ...
    def advance(self, device: SupportsIndex, row: SupportsIndex, computed: SupportsIndex, generated: SupportsIndex) -> None: ...
    def finish(self, device: SupportsIndex, row: SupportsIndex) -> None: ...
    def device_state(self, device: SupportsIndex) -> DeviceState: ...
    def row_state(self, device: SupportsIndex, row: SupportsIndex) -> RowState: ...

from collections.abc import Iterable
from typing import Literal, NamedTuple, SupportsFloat, SupportsIndex, final

class Need(NamedTuple):
    """What a request needs on a device, in tokens; prefill None: prompt and generated; bid: its place in the order."""

    prompt_tokens: int
    max_tokens: int
    generated: int = 0
    prefill: int | None = None
    bid: int = 5

class DeviceState(NamedTuple):
    """Slots, requests running, blocks held now, the sum of their maxima, and how many may be held."""

    slots: int
    running: int
    held_blocks: int
    max_blocks: int
    limit: int

class RowState(NamedTuple):
    """The caller's number, the start's, and tokens to prefill, left, computed, and computed or generated since."""

    request: int
    number: int
    prefill_target: int
    prefill_left: int
    computed: int
    cached: int

@final
class KVCache:
    """KV-cache blocks of one or more devices: what runs, what would fit, and when. See the module.

    Errors change nothing: ValueError or TypeError for a bad number, IndexError for a device or row that is not there.
    """

    def __new__(
        cls,
        slots: Iterable[SupportsIndex],
        kv_blocks: Iterable[SupportsIndex],
        token_budgets: Iterable[SupportsIndex],
        block_tokens: SupportsIndex = 16,
        kv_high_watermark: SupportsFloat = 1.0,
    ) -> KVCache: ...
    @property
    def devices(self) -> int:
        """Devices there are."""
    @property
    def block_tokens(self) -> int:
        """Tokens of a block."""
    @property
    def total_blocks(self) -> int:
        """Blocks of all devices."""
    @property
    def largest_limit(self) -> int:
        """The most blocks that one request can ever hold."""
    def can_start(self, device: SupportsIndex, need: Need, without: Iterable[SupportsIndex] = ()) -> bool:
        """Would it fit now, as if the rows `without` were released?"""
    def earliest_step(self, device: SupportsIndex, need: Need) -> int:
        """Steps after which it fits at the latest, if nothing else starts. ValueError: larger than the limit."""
    def backfill_kind(
        self, device: SupportsIndex, need: Need, reserved: Need, step: SupportsIndex
    ) -> Literal["blocked", "ends_before", "ends_after"]:
        """May it start now although `reserved` starts in at most `step` steps, and does it end by then?"""
    def start(self, device: SupportsIndex, need: Need, request: SupportsIndex = -1) -> int:
        """Start it; its row, the same until it finishes. ValueError: it does not fit."""
    def advance(
        self, device: SupportsIndex, row: SupportsIndex, computed: SupportsIndex, generated: SupportsIndex
    ) -> None:
        """Totals of a row: prefill tokens since its start, output tokens in all."""
    def finish(self, device: SupportsIndex, row: SupportsIndex) -> None:
        """Release a row's slot and blocks."""
    def device_state(self, device: SupportsIndex) -> DeviceState:
        """What a device holds now."""
    def row_state(self, device: SupportsIndex, row: SupportsIndex) -> RowState:
        """Where a running request is."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Self, final

from typing_extensions import disjoint_base

@final
class Histogram:
    count: int
    total: float
    smallest: float
    largest: float
    def extend(self, values: Iterable[float]) -> None: ...
    def merge(self, other: Histogram) -> None: ...
    def quantile(self, q: float) -> float | None: ...
    @property
    def mean(self) -> float | None: ...
    @property
    def buckets_held(self) -> int: ...
    def counts(self, edges: Sequence[float]) -> list[int]: ...

@final
class Tally:
    name: str
    account: int
    admitted: int
    finished: int
    cancelled: int
    expired: int
    dropped: int
    failed: int
    retried: int
    preempted: int
    waiting: int
    outstanding: int
    asked_tokens: int
    prompt_tokens: int
    output_tokens: int
    charged: float
    waits_since: float
    refused: Counter[str]
    queue_wait: Histogram
    ttft: Histogram
    tpot: Histogram
    e2e: Histogram
    @property
    def sent(self) -> int: ...
    def __new__(cls, name: str = "", account: int = -1) -> Self: ...
    def times(self, queue_wait: float, ttft: float, tpot: float, e2e: float) -> None: ...

@disjoint_base
class Books:
    bids: dict[int, Tally]
    all_wait: bool
    def all_wait_changed(self, now: float) -> None: ...
    def turned_away(self, tenant: Tally, bid: int, tokens: int, reason: str) -> None: ...
    def arrived(self, tenant: Tally, now: float, bid: Tally | None = None, tokens: int = 0) -> None: ...
    def started(self, tenant: Tally, now: float, bid: Tally | None = None) -> None: ...
    def ended(self, tenant: Tally, waiting: bool, now: float, bid: Tally | None = None) -> None: ...

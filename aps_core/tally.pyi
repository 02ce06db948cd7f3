from collections import Counter
from typing import Self, final

from aps_core.histogram import Histogram

COUNTS: tuple[str, ...]

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
    charged_micro: int
    waits_since: float
    refused: Counter[str]
    queue_wait: Histogram
    ttft: Histogram
    tpot: Histogram
    e2e: Histogram
    @property
    def sent(self) -> int: ...
    @property
    def charged(self) -> float: ...
    @property
    def gpu_ns(self) -> int: ...
    @property
    def gpu_s(self) -> float: ...
    def __new__(cls, name: str = "", account: int = -1) -> Self: ...
    def times(self, queue_wait: float, ttft: float, tpot: float, e2e: float) -> None: ...

"""What the slow scheduler keeps: requests, tenants with their buckets, devices. Plain records, no decisions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum

NEVER = 2**63 - 1  # an instant that does not come, ns


class Reason(IntEnum):
    """Why an answer is not "admitted", or why a request ended without a call of its own (docs/rules.md, section 4)."""

    ADMITTED = 0
    EXCEEDS_CONTEXT = 1
    EXCEEDS_KV_CACHE = 2
    EXCEEDS_MAX_REQUEST = 3
    EXCEEDS_KV_SHARE = 4
    EXCEEDS_BURST = 5
    EXCEEDS_QUEUE = 6
    EXCEEDS_TENANT_QUEUE = 7
    QUEUE_FULL = 8
    QUEUE_TOKENS_FULL = 9
    TENANT_QUEUE_FULL = 10
    TENANT_QUEUE_TOKENS_FULL = 11
    OVER_REQUEST_RATE = 12
    OVER_RATE = 13
    DEADLINE_EXPIRED = 14


class Release(IntEnum):
    """Why a batch was released."""

    NOT_RELEASED = 0
    CONTINUOUS = 1
    WINDOW = 2
    FILL = 3


class State(IntEnum):
    """Of a request."""

    WAITING = 1
    RUNNING = 2
    RETURNING = 3


class Bucket:
    """One bucket (section 3). Instants in ns; levels and costs in tokens, or in requests."""

    def __init__(self, rate: float, burst: float, at: int) -> None:
        self.rate = rate
        self.burst = burst
        self.base = burst
        self.base_at = at

    @property
    def unlimited(self) -> bool:
        return math.isinf(self.rate)

    def level(self, at: int) -> float:
        if self.unlimited:
            return math.inf
        return min(self.burst, self.base + self.rate * ((at - self.base_at) * 1e-9))

    def affords(self, cost: float, at: int) -> bool:
        return self.level(at) >= cost

    def take(self, cost: float, at: int) -> None:
        if not self.unlimited:
            self.base = self.level(at) - cost
            self.base_at = at

    def give_back(self, amount: float, at: int) -> None:
        if not self.unlimited:
            self.base = min(self.burst, self.level(at) + amount)
            self.base_at = at

    def configure(self, rate: float, burst: float, at: int) -> None:
        if (rate, burst) == (self.rate, self.burst):
            return
        self.base = min(burst, self.level(at))
        self.base_at = at
        self.rate = rate
        self.burst = burst

    def affordable_at(self, cost: float, at: int) -> int:
        """The first instant >= `at` at which the cost is affordable (waiting never lowers the level); NEVER if none."""
        if self.affords(cost, at):
            return at
        too_early, late_enough = at, NEVER - 1
        if not self.affords(cost, late_enough):
            return NEVER
        while late_enough - too_early > 1:
            middle = (too_early + late_enough) // 2
            if self.affords(cost, middle):
                late_enough = middle
            else:
                too_early = middle
        return late_enough


@dataclass
class Limits:
    """The keywords of `add_tenant`."""

    weight: float
    rate: float
    burst: float
    queue_over_rate: bool
    max_bid: int
    max_in_flight: int
    max_queued: int
    max_queued_tokens: int
    kv_share: float
    request_rate: float
    request_burst: float
    max_request_tokens: int


@dataclass
class Interval:
    """Smoothed time between first dispatches, while requests wait (section 4)."""

    last_at: int | None = None
    seconds: float | None = None
    earlier_at: int | None = None
    earlier_seconds: float | None = None
    waited: int = 0

    def dispatched(self, arrival: int, at: int) -> None:
        if at != self.last_at:
            self.earlier_at, self.last_at = self.last_at, at
            self.earlier_seconds = self.seconds
            self.waited = 0
        if self.earlier_at is None or arrival > self.earlier_at:
            return
        self.waited += 1
        self.seconds = (at - self.earlier_at) * 1e-9 / self.waited
        if self.earlier_seconds is not None:
            part = 0.0
            for _ in range(self.waited):
                part = part + 0.0625 * (1.0 - part)
            self.seconds = self.earlier_seconds + part * (self.seconds - self.earlier_seconds)

    def retry_after(self) -> float:
        return 1.0 if self.seconds is None else max(0.001, self.seconds)


COUNTERS = (
    "admitted",
    "rejected",
    "throttled",
    "started",
    "finished",
    "cancelled",
    "expired",
    "preempted",
    "prompt_tokens",
    "output_tokens",
    "charged_tokens",
)


@dataclass(eq=False)
class Tenant:
    slot: int
    limits: Limits
    bucket: Bucket
    request_bucket: Bucket
    draining: bool = False
    service: float = 0.0
    credit: float = 0.0
    threshold: float = 0.0  # S - D / w
    contending: bool = False
    held_by: str = ""  # which of its own limits keeps it from contending
    event: int = NEVER  # when its first request becomes affordable, if only the bucket is short
    interval: Interval = field(default_factory=Interval)
    counters: dict[str, float] = field(default_factory=lambda: dict.fromkeys(COUNTERS, 0))


@dataclass(eq=False)
class Request:
    handle: int
    tenant: Tenant
    prompt_tokens: int
    max_tokens: int
    expected_output: int
    bid: int
    number: int
    arrival: int
    deadline: int
    max_blocks: int
    paid: bool = False
    state: State = State.WAITING
    charge_bid: int = 0
    generated: int = 0
    charged_output: int = 0
    passes: int = 0
    preemptions: int = 0
    device: Device | None = None  # while it runs, and what follows
    start_number: int = 0
    start_bid: int = 0
    prefill_target: int = 0
    computed: int = 0
    generated_before: int = 0  # output tokens at this start

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.max_tokens

    @property
    def computed_or_generated(self) -> int:
        """Tokens whose keys and values were computed since this start."""
        return self.computed + self.generated - self.generated_before


@dataclass(eq=False)
class Device:
    index: int
    slots: int
    kv_blocks: int
    token_budget: int
    limit: int
    starts: int = 0
    idle_since: int = 0
    vain: int = -1  # the count of changes at which it last assembled nothing
    reserved: Request | None = None

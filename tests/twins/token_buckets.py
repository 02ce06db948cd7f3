"""Section 3 of the rules, one object a bucket."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tests.twins.clock import Clock, wait_until

HORIZON_NS = 2**62
MAX_TOKENS = 1e18
MIN_RATE = 1e-6


@dataclass
class Bucket:
    rate: float
    burst: float
    base: float
    base_at: int

    def level(self, at: int) -> float:
        if self.rate == math.inf:
            return math.inf
        return min(self.burst, self.base + self.rate * ((at - self.base_at) * 1e-9))

    def rebase(self, base: float, at: int) -> None:
        if self.rate != math.inf:
            self.base, self.base_at = base, at

    def affordable_at(self, cost: float, at: int) -> int | None:
        """The first nanosecond, by plain bisection; None: never."""
        if self.level(at) >= cost:
            return at
        if self.level(HORIZON_NS) < cost:
            return None
        short, enough = at, HORIZON_NS
        while enough - short > 1:
            middle = (short + enough) // 2
            if self.level(middle) >= cost:
                enough = middle
            else:
                short = middle
        return enough


class TokenBuckets:
    def __init__(self, capacity: int = 16, epoch: float = 0.0) -> None:
        self.clock = Clock(epoch)
        self.capacity = capacity
        self.buckets: dict[int, Bucket] = {}

    def bucket(self, slot: int) -> Bucket:
        if slot not in self.buckets:
            raise IndexError("no bucket")
        return self.buckets[slot]

    def checked(self, slot: int, amount: float, now: float) -> tuple[Bucket, int]:
        """All checks first; then time moves."""
        bucket = self.bucket(slot)
        if not 0.0 <= amount <= MAX_TOKENS:
            raise ValueError("amount")
        self.clock.last_ns = self.clock.check(now)
        return bucket, self.clock.last_ns

    def limits(self, slot: int, rate: float, burst: float, now: float) -> int:
        if not 0 <= slot < self.capacity:
            raise IndexError("slot")
        both_infinite = rate == burst == math.inf
        if not both_infinite and not (MIN_RATE <= rate <= MAX_TOKENS and 0.0 < burst <= MAX_TOKENS):
            raise ValueError("limits")
        self.clock.last_ns = self.clock.check(now)
        return self.clock.last_ns

    def add(self, slot: int, rate: float, burst: float, now: float) -> None:
        self.buckets[slot] = Bucket(rate, burst, burst, self.limits(slot, rate, burst, now))

    def set_limits(self, slot: int, rate: float, burst: float, now: float) -> None:
        bucket = self.bucket(slot)
        at = self.limits(slot, rate, burst, now)
        if (rate, burst) != (bucket.rate, bucket.burst):
            self.buckets[slot] = Bucket(rate, burst, min(burst, bucket.level(at)), at)

    def level(self, slot: int, now: float) -> float:
        bucket, at = self.checked(slot, 0.0, now)
        return bucket.level(at)

    def take(self, slot: int, amount: float, now: float) -> bool:
        bucket, at = self.checked(slot, amount, now)
        if bucket.level(at) < amount:
            return False
        bucket.rebase(bucket.level(at) - amount, at)
        return True

    def overdraw(self, slot: int, amount: float, now: float) -> None:
        bucket, at = self.checked(slot, amount, now)
        bucket.rebase(bucket.level(at) - amount, at)

    def give_back(self, slot: int, amount: float, now: float) -> None:
        bucket, at = self.checked(slot, amount, now)
        bucket.rebase(min(bucket.burst, bucket.level(at) + amount), at)

    def time_until(self, slot: int, amount: float, now: float) -> float:
        bucket, at = self.checked(slot, amount, now)
        return wait_until(bucket.affordable_at(amount, at), now, self.clock.epoch)

    def take_many(self, slots: Sequence[int], amounts: Sequence[float], now: float) -> list[bool]:
        for slot, amount in zip(slots, amounts, strict=True):
            self.bucket(slot)
            if not 0.0 <= amount <= MAX_TOKENS:
                raise ValueError("amount")
        self.clock.last_ns = self.clock.check(now)
        return [self.take(slot, amount, now) for slot, amount in zip(slots, amounts, strict=True)]

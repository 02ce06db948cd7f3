"""Rate limiters to compare with: a pure-Python token bucket, and the libraries people install.

Each library's function takes the keys of a round and returns a timed part that decides once for every key, and whether
all of a round were let through (limits are set so that they must be). Where a library has several algorithms, each is a
candidate.
"""

import asyncio
import importlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from loadtests.micro.timing import Timed

RATE = 10**9  # tokens/s: nothing is refused

Limiter = Callable[[Sequence[str]], tuple[Timed, Callable[[], bool]]]


class PythonBucket:
    """A token bucket as a good hand would write it: lazy refill, `now` given, no clock of its own."""

    __slots__ = ("at", "burst", "level", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self.level = burst
        self.at = 0.0

    def take(self, amount: float, now: float) -> bool:
        level = self.level + (now - self.at) * self.rate
        if level > self.burst:
            level = self.burst
        self.at = now
        if amount > level:
            self.level = level
            return False
        self.level = level - amount
        return True


def calls(decide: Callable[[str], Any], allowed: Callable[[Any], bool] = bool) -> Limiter:
    """A limiter that is one call a decision."""

    def limiter(keys: Sequence[str]) -> tuple[Timed, Callable[[], bool]]:
        def timed() -> int:
            for key in keys:
                decide(key)
            return len(keys)

        return timed, lambda: all(allowed(decide(key)) for key in keys)

    return limiter


def token_bucket() -> dict[str, Limiter]:
    library = importlib.import_module("token_bucket")
    return {"token-bucket": calls(library.Limiter(RATE, RATE, library.MemoryStorage()).consume)}


def limits() -> dict[str, Limiter]:
    library = importlib.import_module("limits")
    rate = library.RateLimitItemPerSecond(RATE)
    found = {}
    for name in ("FixedWindowRateLimiter", "SlidingWindowCounterRateLimiter"):
        strategy = getattr(library.strategies, name)(library.storage.MemoryStorage())
        found[f"limits {name}"] = calls(partial(strategy.hit, rate))
    return found


def throttled() -> dict[str, Limiter]:
    library = importlib.import_module("throttled")
    found = {}
    for algorithm in ("fixed_window", "gcra", "token_bucket"):
        limiter = library.Throttled(
            using=algorithm, quota=library.rate_limiter.per_sec(RATE, burst=RATE), store=library.MemoryStore()
        )
        found[f"throttled-py {algorithm}"] = calls(limiter.limit, lambda result: not result.limited)
    return found


def pyrate_limiter() -> dict[str, Limiter]:
    library = importlib.import_module("pyrate_limiter")
    rates = [library.Rate(RATE, library.Duration.SECOND)]
    buckets: dict[str, Any] = {}

    class Keyed(library.BucketFactory):  # type: ignore[misc, name-defined]
        """A bucket a key, the library's documented way to tell keys apart."""

        def __init__(self, make: Callable[[], Any]) -> None:
            self.make = make
            self.clock = library.MonotonicClock()

        def wrap_item(self, name: str, weight: int = 1) -> Any:
            return library.RateItem(name, self.clock.now(), weight=weight)

        def get(self, item: Any) -> Any:
            bucket = buckets.get(item.name)
            if bucket is None:
                bucket = buckets[item.name] = self.make()
            return bucket

    limiter = library.Limiter(Keyed(lambda: library.InMemoryBucket(rates)))
    return {"pyrate-limiter": calls(lambda key: limiter.try_acquire(key, blocking=False))}


def aiolimiter() -> dict[str, Limiter]:
    library = importlib.import_module("aiolimiter")

    def limiter(keys: Sequence[str]) -> tuple[Timed, Callable[[], bool]]:
        loop = asyncio.new_event_loop()
        one = {key: library.AsyncLimiter(RATE, 1.0) for key in set(keys)}
        mine = [one[key] for key in keys]

        async def decide() -> int:
            allowed = 0
            for each in mine:
                if each.has_capacity():
                    await each.acquire()
                    allowed += 1
            return allowed

        def timed() -> int:
            return loop.run_until_complete(decide())

        return timed, lambda: timed() == len(mine)

    return {"aiolimiter": limiter}


LIBRARIES: dict[str, Callable[[], dict[str, Limiter]]] = {
    "token-bucket": token_bucket,
    "limits": limits,
    "aiolimiter": aiolimiter,
    "throttled-py": throttled,
    "pyrate-limiter": pyrate_limiter,
}

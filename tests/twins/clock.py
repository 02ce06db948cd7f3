"""Seconds to nanoseconds and back, section 1 of the rules."""

import math

MAX_SECONDS = 4e8


def to_ns(seconds: float, epoch: float) -> int:
    if not 0.0 <= seconds - epoch <= MAX_SECONDS:
        raise ValueError("no time")
    return round((seconds - epoch) * 1e9)


class Clock:
    """An instant that never goes backwards."""

    def __init__(self, epoch: float) -> None:
        self.epoch = epoch
        self.last_ns = 0

    def check(self, now: float) -> int:
        ns = to_ns(now, self.epoch)
        if ns < self.last_ns:
            raise ValueError("backwards")
        return ns


def to_seconds_up(ns: int, epoch: float) -> float:
    """An instant in seconds that is not before `ns`."""
    seconds = epoch + ns * 1e-9
    while round((seconds - epoch) * 1e9) < ns:
        seconds = math.nextafter(seconds, math.inf)
    return seconds


def wait_until(ns: int | None, now: float, epoch: float) -> float:
    """Seconds from now such that now + them is not before the instant `ns`; None: it never comes."""
    if ns is None:
        return math.inf
    if round((now - epoch) * 1e9) >= ns:
        return 0.0
    until = to_seconds_up(ns, epoch)
    wait = until - now
    while now + wait < until:
        wait = math.nextafter(wait, math.inf)
    return wait

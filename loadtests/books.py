"""Whether a service that has nothing to do has lost anything, by its own counters; and the memory of rounds."""

import asyncio
import time
from collections.abc import Mapping
from itertools import pairwise

from aps.stress.counters import Counters
from loadtests.serving import Service

HELD = ("aps_waiting_requests", "aps_running_requests", "aps_held_kv_blocks", "aps_device_running")
FIGURE = "aps_invariant_violations"
MEGABYTE = 2**20
LEAST = 8 * MEGABYTE


def astray(text: str) -> dict[str, float]:
    """What a scrape of an idle service leaves unexplained, by name; all 0 when everything is conserved.

    Requests admitted and neither ended nor there; requests and KV blocks that are still held; and the service's own
    figure of invariants.
    """
    counters = Counters(text)
    found = {name: counters.total(name) for name in HELD}
    found["admitted and not ended"] = counters.total("aps_admitted_total") - counters.total("aps_requests_total")
    if counters.has(FIGURE):
        found[FIGURE] = counters.total(FIGURE)
    return found


async def outstanding(service: Service, headers: Mapping[str, str] = {}) -> int:
    """Requests that are admitted and have not ended."""
    counters = Counters(await asyncio.to_thread(service.get, "/metrics", headers))
    return int(counters.total("aps_waiting_requests") + counters.total("aps_running_requests"))


async def idle(service: Service, within_s: float, headers: Mapping[str, str] = {}) -> float:
    """Wait until nothing is outstanding; the seconds it took. TimeoutError. headers: a key that reads the metrics."""
    began = time.monotonic()
    while await outstanding(service, headers):
        if time.monotonic() - began > within_s:
            raise TimeoutError(f"requests are still outstanding after {within_s:g} s")
        await asyncio.sleep(0.2)
    return time.monotonic() - began


def memory_verdict(sizes: list[int], peak: int) -> tuple[str, bool]:
    """Of resident sizes at the start and after each round, and the peak: a line, and whether rounds do not add up.

    A round leaves nothing in use, but allocators keep pools of what it needed. What leaks is added by every round, so
    the least that one after the first has added tells: at most 8 MiB.
    """
    least = min(after - before for before, after in pairwise(sizes[1:]))
    said = ", ".join(f"{size / MEGABYTE:.0f}" for size in sizes[1:])
    line = (
        f"resident, MiB: {sizes[0] / MEGABYTE:.0f} before, {peak / MEGABYTE:.0f} at the peak, {said} after each round; "
        f"the least that one added {least / MEGABYTE:.1f} <= {LEAST / MEGABYTE:.0f}"
    )
    return line, least <= LEAST


def verdict(lines: list[tuple[str, bool]]) -> int:
    """Print lines with whether they hold; the exit code."""
    for line, met in lines:
        print(f"{'met   ' if met else 'MISSED'}  {line}")
    return 0 if all(met for _, met in lines) else 1

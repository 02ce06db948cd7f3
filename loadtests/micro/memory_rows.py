"""Memory row: by how much the process grows, in resident pages, for each request that waits."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from loadtests.micro.load import BIDS
from loadtests.micro.rows import BY_NAME, Row
from loadtests.micro.timing import peak_resident_bytes, resident_bytes

TENANTS = 100
CHUNK = 10_000


def waiting(quick: bool) -> Iterator[Row]:
    """Ends in the compiled class and, as a figure, in the Python face with the core's own ids."""
    count, through_face = (50_000, 5_000) if quick else (2_000_000, 200_000)
    grown, peak = core_growth(count)
    note = f"{count:,} waiting of {TENANTS} tenants; at the peak, growing included, {peak:.1f} bytes"
    try:
        note += f"; through the Python face {face_growth(through_face):.1f} bytes ({through_face:,} waiting)"
    except ImportError as error:
        note += f"; no Python face: {error}"
    yield BY_NAME["memory.request"].judge(grown, note=note)


def core_growth(count: int) -> tuple[float, float]:
    """Bytes a request after submitting `count`, and at the worst moment on the way."""
    from aps_core.scheduler import Scheduler

    core = Scheduler([16], [4096], [512])
    slots = np.array([core.add_tenant(rate=1e9, burst=1e12, now=0.0) for _ in range(TENANTS)], np.int32)
    random = np.random.default_rng(6)
    tenants, bids = slots[random.integers(0, TENANTS, CHUNK)], random.integers(1, BIDS + 1, CHUNK, np.int32)
    prompts, most = random.integers(16, 513, CHUNK, np.int32), random.integers(16, 257, CHUNK, np.int32)
    core.submit_many(tenants, prompts, most, bids, 0.0)  # what the first use costs once is not a request's
    before, before_peak = resident_bytes(), peak_resident_bytes()
    for turn in range(1, count // CHUNK + 1):
        core.submit_many(tenants, prompts, most, bids, turn * 0.001)
    if core.waiting != CHUNK + count // CHUNK * CHUNK:
        raise AssertionError(f"{core.waiting:,} wait")
    added = count // CHUNK * CHUNK
    return (resident_bytes() - before) / added, (peak_resident_bytes() - before_peak) / added


def face_growth(count: int) -> float:
    """Bytes a request in `aps.Scheduler`."""
    import aps

    names = [f"tenant-{number}" for number in range(TENANTS)]
    scheduler: Any = aps.Scheduler(
        [aps.Tenant(name, rate=1e9, burst=1e12) for name in names], limits=aps.Limits(max_queued=2 * count)
    )
    before = resident_bytes()
    for number in range(count):
        scheduler.submit(names[number % TENANTS], prompt_tokens=100, max_tokens=100, bid=number % BIDS + 1, now=0.0)
    return (resident_bytes() - before) / count

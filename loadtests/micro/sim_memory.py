"""Peak memory of a large simulation, made, played and read: `python loadtests/micro/sim_memory.py [requests]`."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[2]))  # last: an installed aps wins

from aps.lab.run import Run, Setup, simulate
from aps.lab.workload import Workload
from aps.policy import Policy
from aps.profiles import PROFILES
from aps.tenants import Tenant
from loadtests.micro.rows import BY_NAME, Row
from loadtests.micro.timing import peak_resident_bytes

RATE = 15.0  # requests a second
TENANTS = 10
CHUNK = 1 << 20


def steady(n: int) -> Workload:
    """Poisson arrivals of short requests: prompts of 64 to 192 tokens, outputs of 16 to 48."""
    rng = np.random.default_rng(3)
    at_s = np.empty(n)
    now = 0.0
    for start in range(0, n, CHUNK):
        piece = at_s[start : start + CHUNK]
        piece[:] = rng.exponential(1 / RATE, len(piece))
        np.cumsum(piece, out=piece)
        piece += now
        now = float(piece[-1])
    outputs = rng.integers(16, 49, n, np.int32)
    return Workload(
        "steady",
        tuple(Tenant(f"t{i}") for i in range(TENANTS)),
        tenant=rng.integers(0, TENANTS, n, np.int32),
        at_s=at_s,
        prompt_tokens=rng.integers(64, 193, n, np.int32),
        output_tokens=outputs,
        max_tokens=outputs,
        bid=rng.integers(1, 11, n, np.int32),
    )


def play(n: int) -> tuple[Run, str]:
    workload = steady(n)
    began = time.perf_counter()
    run = simulate(workload, Policy(), Setup(PROFILES["a100-llama2-7b"]))
    seconds = time.perf_counter() - began
    note = f"{n:,} requests, {run.steps:,} steps, {seconds:.0f} s of wall time; "
    busy, occupancy = run.busy_s[0] / run.ended_at, run.slot_s[0] / 16 / run.ended_at
    return run, f"{note}GPU busy {busy:.0%} of the time, {occupancy:.0%} of its slots in use"


def peak(quick: bool) -> Iterator[Row]:
    n = 20_000 if quick else 10_000_000
    run, note = play(n)
    if not (run.reason == 0).all():
        raise AssertionError("some have not finished")
    yield BY_NAME["sim.memory"].judge(peak_resident_bytes() / 1e9, note=note)


if __name__ == "__main__":
    _, said = play(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
    print(f"{said}; peak memory {peak_resident_bytes() / 1e9:.2f} GB")

"""How everything here is timed: cases take turns in short rounds, GC off, one core, CPU time; medians count."""

import gc
import os
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

Timed = Callable[[], int]
"""The timed part of one round: does its operations and returns how many they were."""

Case = Callable[[], Timed]
"""Prepares one round, untimed (draws arrivals, makes lists), and returns its timed part."""


def pin() -> str:
    """Bind this process to the idlest core it may use; says in words what was done."""
    if not hasattr(os, "sched_setaffinity"):
        return "not pinned (this system has no sched_setaffinity)"
    allowed = sorted(os.sched_getaffinity(0))
    before = idle_ticks()
    time.sleep(0.1)
    after = idle_ticks()
    core = max(allowed, key=lambda cpu: (after.get(cpu, 0) - before.get(cpu, 0), cpu))
    try:
        os.sched_setaffinity(0, {core})
    except OSError as error:
        return f"not pinned ({error})"
    return f"pinned to core {core} of {allowed}"


def idle_ticks() -> dict[int, int]:
    """Idle clock ticks of each core since boot; empty where /proc/stat is not there."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return {}
    cores = (line.split() for line in lines if line.startswith("cpu") and line[3].isdigit())
    return {int(words[0][3:]): int(words[4]) for words in cores}


def measure(cases: Mapping[str, Case], rounds: int, warm_up: int = 1) -> dict[str, float]:
    """Median nanoseconds an operation of each case, the cases taking turns (in rotated order) within every round."""
    samples: dict[str, list[float]] = {name: [] for name in cases}
    names = list(cases)
    for turn in range(warm_up + rounds):
        for name in names:
            cost = once(cases[name]())
            if turn >= warm_up:
                samples[name].append(cost)
        names.append(names.pop(0))
    return {name: statistics.median(costs) for name, costs in samples.items()}


def once(timed: Timed) -> float:
    """Nanoseconds of CPU time an operation of one timed part, garbage collection off.

    CPU time of this thread, not wall time: whoever else uses the machine costs us turns, but not the figure.
    """
    gc.collect(0)
    gc.disable()
    try:
        start = time.thread_time_ns()
        operations = timed()
        spent = time.thread_time_ns() - start
    finally:
        gc.enable()
    return spent / operations


def resident_bytes() -> int:
    """Memory of this process that is in RAM now. OSError where /proc is not there."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def peak_resident_bytes() -> int:
    """The most memory of this process that has been in RAM at once."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("VmHWM is not in /proc/self/status")

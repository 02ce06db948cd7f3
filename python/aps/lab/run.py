"""A workload, a policy and simulated GPUs, played in virtual time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from hashlib import sha256
from math import inf
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aps import _checks as check
from aps.devices import Device
from aps.lab.charges import largest_charge
from aps.lab.workload import Workload
from aps.policy import Limits, Policy
from aps.profile import Profile
from aps.scheduler import Scheduler
from aps.verdicts import REASONS, RELEASES
from aps_core.gpu import Engine
from aps_core.replay import Replay

SLICE_S = 0.1  # wall seconds between two looks at the progress
FIRST_SLICE = 5_000  # events
BEYOND_NS = 2**62  # later than any event
CHUNK = 65_536  # entries at once where an array may be large
NO_LIMITS = Limits(max_queued=None)
MOST_SLOTS = 1_000_000  # of all GPUs together: some 300 bytes each


@dataclass(frozen=True)
class Setup:
    """`gpus` equal devices of a profile.

    slots, kv_tokens, token_budget: instead of the profile's (token_budget 0: whole prompts). block_tokens: tokens in a
    KV block. limits: bounds over all tenants; none by default. ValueError names the field, the value and what is
    allowed.
    """

    profile: Profile
    gpus: int = 1
    slots: int | None = None
    kv_tokens: int | None = None
    token_budget: int | None = None
    block_tokens: int = 16
    limits: Limits = NO_LIMITS

    def __post_init__(self) -> None:
        check.integer("Setup.gpus", self.gpus, 1, 65536)
        check.integer("Setup.slots", self.slots, 1, 65536, optional=True)
        slots = self.gpus * (self.profile.slots if self.slots is None else self.slots)
        if slots > MOST_SLOTS:
            raise ValueError(f"Setup.gpus x Setup.slots must be at most {MOST_SLOTS:,}, got {slots:,}")
        check.integer("Setup.block_tokens", self.block_tokens, 1, check.INT32_MAX)
        check.integer("Setup.kv_tokens", self.kv_tokens, self.block_tokens, 2**53, optional=True)
        check.integer("Setup.token_budget", self.token_budget, 0, check.INT32_MAX, optional=True)

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        """As the scheduler sees them: whole blocks only."""
        profile = self.profile
        kv_tokens = profile.kv_tokens if self.kv_tokens is None else self.kv_tokens
        return tuple(
            Device(
                slots=profile.slots if self.slots is None else self.slots,
                kv_blocks=kv_tokens // self.block_tokens,
                token_budget=profile.token_budget if self.token_budget is None else self.token_budget or None,
                name=f"gpu{i}",
            )
            for i in range(self.gpus)
        )

    def engines(self) -> tuple[Engine, ...]:
        """New ones, one a device."""
        return tuple(
            Engine(
                self.profile.step_time,
                device.slots,
                device.kv_blocks,
                block_tokens=self.block_tokens,
                token_budget=device.token_budget or 0,
            )
            for device in self.devices
        )


@dataclass(frozen=True)
class Series:
    """What went on over time, in b bins of equal width but for the last; bin k lasts from edge k to edge k + 1.

    edges_s: (b + 1,) seconds. waiting, running: requests, and held_blocks: KV blocks, of all devices: (b, 3) least,
    mean over time, most. served: (b, 2, tenants) prefill and output tokens of steps that end in the bin. backlog:
    (b, tenants) part of the bin, 0..1, in which the tenant had a waiting request.
    """

    edges_s: NDArray[np.float64]
    waiting: NDArray[np.float64]
    running: NDArray[np.float64]
    held_blocks: NDArray[np.float64]
    served: NDArray[np.int64]
    backlog: NDArray[np.float64]


@dataclass(frozen=True)
class Stays:
    """Who was in which slot, in the order of the starts. Instants in seconds, NaN: not yet.

    request: index into the workload. prefilled_at: the end of the step that computed the last of its prefill.
    end: 0 finished, 1 preempted, -1 still running when the simulation stopped. dropped: later stays, not kept.
    """

    request: NDArray[np.int64]
    device: NDArray[np.int32]
    slot: NDArray[np.int32]
    began_at: NDArray[np.float64]
    prefilled_at: NDArray[np.float64]
    ended_at: NDArray[np.float64]
    end: NDArray[np.int64]
    dropped: int


@dataclass(frozen=True)
class Run:
    """What became of a workload of n requests under a policy. Instants in virtual seconds, NaN: never.

    ended_at: the horizon, when the workload has one, else the last event. steps: of all devices, ended.

    By request, (n,): submitted_at; started_at: the beginning of the first step that computed for it; first_token_at;
    finished_at: its end, however it ended; order: number of its first dispatch, 0, 1, ..., or -1; generated: output
    tokens; recomputed_tokens: prefilled again after preemptions by recompute; preemptions; device: the last it ran on,
    or -1; batch_size: requests that ran there with its first dispatch; reason: 0 finished, above 0 an index into
    `aps.verdicts.REASONS` (refused, or ended on its own), -1 never submitted, -2 still here at the end.

    By device: busy_s: time in steps; slot_s, block_s: the same times the requests in slots, and times the KV blocks
    they held; idle_slot_s: times the slots that were free as a step began although somebody who may go waited.
    prefill_tokens, output_tokens, swapped_tokens: computed and moved by all devices.

    all_wait_s: time in which at least two tenants had requests and each that had any had one not yet started;
    all_wait_tokens: (2, tenants) prefill and output tokens served in it (`aps.metrics.Metrics`). batch_sizes:
    (slots + 1,) batches by the requests that then ran; released: batches by why they were.

    widest_gap: the largest S_i - V of a contending tenant, in its own cost units; gap_bound: D + c_max, what it can be
    with these requests (docs/promises.md), inf when D is.
    """

    workload: Workload
    policy: Policy
    setup: Setup
    ended_at: float
    steps: int
    submitted_at: NDArray[np.float64]
    started_at: NDArray[np.float64]
    first_token_at: NDArray[np.float64]
    finished_at: NDArray[np.float64]
    order: NDArray[np.int64]
    generated: NDArray[np.int32]
    recomputed_tokens: NDArray[np.int32]
    preemptions: NDArray[np.int32]
    device: NDArray[np.int32]
    batch_size: NDArray[np.int32]
    reason: NDArray[np.int32]
    busy_s: NDArray[np.float64]
    slot_s: NDArray[np.float64]
    block_s: NDArray[np.float64]
    idle_slot_s: NDArray[np.float64]
    prefill_tokens: int
    output_tokens: int
    swapped_tokens: int
    all_wait_s: float
    all_wait_tokens: NDArray[np.int64]
    batch_sizes: NDArray[np.int64]
    released: dict[str, int]
    widest_gap: float
    gap_bound: float
    series: Series
    stays: Stays | None

    def digest(self) -> str:
        """SHA-256 over all results: same workload, policy and setup, same digest."""
        found = sha256()
        for name, value in _results(self):
            found.update(name.encode())
            found.update(np.ascontiguousarray(value).data)
        return found.hexdigest()


def _results(owner: Run | Series | Stays) -> Iterator[tuple[str, NDArray[Any]]]:
    for field in fields(owner):
        value = getattr(owner, field.name)
        if isinstance(value, Series | Stays):
            yield from _results(value)
        elif isinstance(value, np.ndarray | int | float):
            yield field.name, np.asarray(value)
        elif isinstance(value, dict):
            yield field.name, np.array(list(value.values()))


def simulate(
    workload: Workload,
    policy: Policy,
    setup: Setup,
    *,
    points: int = 1024,
    stays: int = 0,
    on_progress: Callable[[float], None] | None = None,
) -> Run:
    """Play a workload to its horizon, or until everything has ended.

    points: bins of the time series at most. stays: entries that the log of stays keeps. on_progress: called with the
    part done, 0..1, about every 0.1 s. RuntimeError: the profile gives a step no time in 0..4e8 s.
    """
    contexts = [c for c in (setup.limits.max_context, workload.context_tokens) if c is not None]
    limits = replace(setup.limits, max_context=min(contexts, default=None))
    scheduler = Scheduler(
        workload.tenants, policy=policy, devices=setup.devices, limits=limits, block_tokens=setup.block_tokens
    )
    slots = np.array([scheduler._roster.slot(tenant.name) for tenant in workload.tenants], dtype=np.int32)
    engines = setup.engines()
    replay = Replay(
        scheduler._core,
        engines,
        tenants=slots[workload.tenant],
        prompt_tokens=workload.prompt_tokens,
        output_tokens=workload.output_tokens,
        max_tokens=workload.max_tokens,
        bids=workload.bid,
        at_ns=_to_ns(workload.at_s),
        after=workload.after,
        deadline_ns=None if workload.deadline_s is None else _to_ns(workload.deadline_s),
        points=points,
        stays=stays,
    )
    _play(replay, workload, on_progress)
    replay.finish()
    return _run_of(replay, engines, workload, policy, setup, stays > 0)


def _play(replay: Replay, workload: Workload, on_progress: Callable[[float], None] | None) -> None:
    until_ns = BEYOND_NS if workload.until_s == inf else round(workload.until_s * 1e9)
    events = FIRST_SLICE
    began = perf_counter()
    while not replay.run(until_ns, events):
        took = perf_counter() - began
        events = max(FIRST_SLICE, int(events * min(10.0, SLICE_S / max(took, 1e-6))))
        if on_progress is not None:
            by_time = 0.0 if until_ns == BEYOND_NS else replay.now_ns / until_ns
            on_progress(max(by_time, replay.ended / replay.n))
        began = perf_counter()
    if on_progress is not None:
        on_progress(1.0)


def _to_ns(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    """Beyond what the scheduler's clock holds: never."""
    instants = np.empty(len(seconds), dtype=np.int64)
    for start in range(0, len(seconds), CHUNK):
        piece = np.minimum(seconds[start : start + CHUNK], BEYOND_NS / 1e9)
        instants[start : start + CHUNK] = np.rint(piece * 1e9)
    return instants


def _to_seconds(instants: NDArray[np.int64]) -> NDArray[np.float64]:
    """In the same memory."""
    seconds = instants.view(np.float64)
    for start in range(0, len(instants), CHUNK):
        piece = instants[start : start + CHUNK].copy()
        seconds[start : start + CHUNK] = np.where(piece < 0, np.nan, piece / 1e9)
    return seconds


def _run_of(
    replay: Replay, engines: tuple[Engine, ...], workload: Workload, policy: Policy, setup: Setup, logged: bool
) -> Run:
    found = replay.read()
    series, stays = replay.series(), replay.stays()
    now_ns = replay.now_ns
    open_ns = [now_ns - engine.began_ns if engine.stepping else 0 for engine in engines]  # of steps not yet ended

    def by_device(counted: Callable[[Engine], int], at_once: Callable[[Engine], int]) -> NDArray[np.float64]:
        pairs = zip(engines, open_ns, strict=True)
        return np.array([(counted(engine) + part * at_once(engine)) / 1e9 for engine, part in pairs])

    return Run(
        workload=workload,
        policy=policy,
        setup=setup,
        ended_at=now_ns / 1e9,
        steps=replay.steps,
        submitted_at=_to_seconds(found["submitted_ns"]),
        started_at=_to_seconds(found["started_ns"]),
        first_token_at=_to_seconds(found["first_token_ns"]),
        finished_at=_to_seconds(found["finished_ns"]),
        order=found["order"],
        generated=found["generated"],
        recomputed_tokens=found["recomputed_tokens"],
        preemptions=found["preemptions"],
        device=found["device"],
        batch_size=found["batch_size"],
        reason=found["reason"],
        busy_s=by_device(lambda engine: engine.busy_ns, lambda engine: 1),
        slot_s=by_device(lambda engine: engine.slot_ns, lambda engine: engine.running),
        block_s=by_device(lambda engine: engine.block_ns, lambda engine: engine.held_blocks),
        idle_slot_s=np.array([idle_ns / 1e9 for idle_ns in found["idle_slot_ns"]]),
        prefill_tokens=sum(engine.prefill_tokens for engine in engines),
        output_tokens=sum(engine.output_tokens for engine in engines),
        swapped_tokens=sum(engine.swapped_tokens for engine in engines),
        all_wait_s=found["all_wait_ns"] / 1e9,
        all_wait_tokens=found["all_wait_tokens"],
        batch_sizes=found["batch_sizes"],
        released={name: int(found["released"][code]) for code, name in enumerate(RELEASES) if name is not None},
        widest_gap=found["widest_gap"],
        gap_bound=policy.fairness_window
        + largest_charge(workload, policy, setup.devices, setup.block_tokens, _not_refused(found["reason"])),
        series=Series(edges_s=series.pop("edges_ns") / 1e9, **series),
        stays=_stays_of(stays) if logged else None,
    )


def _stays_of(found: dict[str, Any]) -> Stays:
    return Stays(
        request=found["request"],
        device=found["device"],
        slot=found["slot"],
        began_at=_to_seconds(found["began_ns"]),
        prefilled_at=_to_seconds(found["prefilled_ns"]),
        ended_at=_to_seconds(found["ended_ns"]),
        end=found["end"],
        dropped=found["dropped"],
    )


def _not_refused(reason: NDArray[np.int32]) -> NDArray[np.bool_]:
    refused: NDArray[np.bool_] = (reason > 0) & (reason != REASONS.index("deadline_expired"))
    return ~refused

"""The virtual-time loop in plain Python, over the public scheduler and the engine as Python sees it.

It keeps every change of state and works all figures out from that list in the end.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import count, pairwise
from math import inf
from typing import Any

import numpy as np

from aps import Scheduler, Snapshot
from aps.verdicts import REASONS, RELEASES
from aps_core.gpu import Engine
from aps_core.stage import MISSED_S

COLUMNS: tuple[str, ...] = (
    "submitted_ns",
    "started_ns",
    "first_token_ns",
    "finished_ns",
    "order",
    "generated",
    "recomputed_tokens",
)
COLUMNS += ("preemptions", "device", "batch_size", "reason")
FIRST_STEP, FIRST_TOKEN, FINISHED = 1, 2, 4
NEVER_SUBMITTED, STILL_HERE = -1, -2
FIRST_WIDTH_NS = 10**6
NEVER_NS = 2**62
CLOCK_END_NS = 4 * 10**17


@dataclass
class Request:
    number: int
    tenant: int
    name: str
    prompt_tokens: int
    output_tokens: int
    max_tokens: int
    bid: int
    at_ns: int
    after: int
    deadline_ns: int | None
    submitted_ns: int = -1
    started_ns: int = -1
    first_token_ns: int = -1
    finished_ns: int = -1
    order: int = -1
    generated: int = 0
    recomputed_tokens: int = 0
    preemptions: int = 0
    device: int = -1
    batch_size: int = 0
    reason: int = NEVER_SUBMITTED
    ever_cached: int = 0  # the most tokens that it has had in a cache
    computed: int = 0  # prefill of this stay
    skipped: int = 0  # tokens in the cache as this stay began
    stay: dict[str, int] | None = None

    @property
    def here(self) -> bool:
        return self.submitted_ns >= 0 and self.finished_ns < 0

    @property
    def waits(self) -> bool:
        return self.here and self.order < 0


@dataclass
class State:
    """What held from an instant to the next."""

    at_ns: int
    waiting: int
    running: int
    held_blocks: int
    with_waiting: tuple[bool, ...]


@dataclass
class Replay:
    """Plays on construction. names: of the tenants, in the order of their accounts; until_ns: the horizon."""

    scheduler: Scheduler
    engines: list[Engine]
    names: list[str]
    requests: list[Request]
    until_ns: int = NEVER_NS
    points: int = 1024
    now_ns: int = 0
    wake_ns: int = NEVER_NS
    ends: list[int] = field(default_factory=list)  # of the steps that run
    idle: list[int] = field(default_factory=list)  # slots left free in them though somebody waits
    idle_slot_ns: list[int] = field(default_factory=list)
    arrivals: list[tuple[int, int]] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    tokens: list[tuple[int, int, int, int, bool]] = field(default_factory=list)  # at, tenant, prefill, output, all wait
    changes: list[tuple[int, bool]] = field(default_factory=list)  # at, all wait from now on
    batches: list[tuple[int, str | None]] = field(default_factory=list)
    stays: list[dict[str, int]] = field(default_factory=list)
    steps: int = 0

    def __post_init__(self) -> None:
        self.handles: dict[Any, Request] = {}
        self.orders = count()
        self.ends = [NEVER_NS] * len(self.engines)
        self.idle = [0] * len(self.engines)
        self.idle_slot_ns = [0] * len(self.engines)
        self.arrivals = [(request.at_ns, request.number) for request in self.requests if request.after < 0]
        self.note()
        while True:
            due_ns = min([*self.ends, self.wake_ns, *(at for at, _ in self.arrivals)])
            if due_ns > min(self.until_ns, CLOCK_END_NS):
                break
            self.instant(due_ns)
        if self.until_ns <= CLOCK_END_NS:
            self.now_ns = self.until_ns

    # Instants

    @property
    def now(self) -> float:
        return self.now_ns / 1e9

    def instant(self, due_ns: int) -> None:
        self.now_ns = due_ns
        if due_ns in self.ends:
            self.news(self.ends.index(due_ns))
        elif self.wake_ns != due_ns:
            while self.arrivals and min(self.arrivals)[0] == due_ns:
                first = min(self.arrivals)
                self.arrivals.remove(first)
                self.submit(self.requests[first[1]])
        self.fill()
        self.note()

    def note(self) -> None:
        """The state from now on; what held for no time is forgotten."""
        waiting = [request for request in self.requests if request.waits]
        state = State(
            self.now_ns,
            len(waiting),
            sum(engine.running for engine in self.engines),
            sum(engine.held_blocks for engine in self.engines),
            tuple(any(request.tenant == tenant for request in waiting) for tenant in range(len(self.names))),
        )
        if self.states and self.states[-1].at_ns == self.now_ns:
            self.states.pop()
        self.states.append(state)

    @property
    def all_wait(self) -> bool:
        active = {request.tenant for request in self.requests if request.here}
        return len(active) >= 2 and active == {request.tenant for request in self.requests if request.waits}

    def changed(self) -> None:
        self.changes.append((self.now_ns, self.all_wait))

    def submit(self, request: Request) -> None:
        request.submitted_ns = self.now_ns
        request.reason = STILL_HERE
        verdict = self.scheduler.submit(
            request.name,
            prompt_tokens=request.prompt_tokens,
            max_tokens=request.max_tokens,
            bid=request.bid,
            now=self.now,
            deadline_at=None if request.deadline_ns is None else (self.now_ns + request.deadline_ns) / 1e9,
        )
        if verdict.status != "admitted":
            self.end(request, REASONS.index(verdict.reason))
            return
        self.handles[verdict.id] = request
        request.bid = verdict.bid
        self.changed()

    def end(self, request: Request, reason: int) -> None:
        request.finished_ns = self.now_ns
        request.reason = reason
        for other in self.requests:
            if other.after == request.number:
                self.arrivals.append((self.now_ns + other.at_ns, other.number))
        self.changed()

    def fill(self) -> None:
        for device in range(len(self.engines)):
            if self.ends[device] == NEVER_NS:
                self.batch(device)
                end_ns = self.engines[device].begin_step(self.now_ns)
                if end_ns >= 0:
                    self.ends[device] = end_ns
                    snapshot = self.scheduler.snapshot(now=self.now)
                    free = self.engines[device].slots - self.engines[device].running
                    self.idle[device] = free if snapshot.contending or snapshot.returning else 0
        wakeup = self.scheduler.next_wakeup(now=self.now)
        self.wake_ns = NEVER_NS if wakeup == inf else round(wakeup * 1e9)
        if self.wake_ns <= self.now_ns:
            self.wake_ns = self.now_ns + round(MISSED_S * 1e9)
        for handle, reason in self.scheduler.ended():
            self.end(self.handles[handle], REASONS.index(reason))

    # Devices

    def batch(self, device: int) -> None:
        engine = self.engines[device]
        batch = self.scheduler.next_batch(device, now=self.now)
        for handle in batch.preempted:
            self.preempt(device, handle)
        if batch.started:
            self.batches.append((engine.running + len(batch.started), batch.released))
        for handle in batch.started:
            request = self.handles[handle]
            left = self.scheduler.explain(handle, now=self.now)
            if request.order < 0:
                request.order = next(self.orders)
                request.batch_size = self.batches[-1][0]
            request.device = device
            request.computed = 0
            request.skipped = request.prompt_tokens + left.generated - left.prefill
            request.stay = {"request": request.number, "device": device, "began_ns": self.now_ns, "ended_ns": -1}
            request.stay |= {"prefilled_ns": -1 if left.prefill else self.now_ns, "end": -1}
            self.stays.append(request.stay)
            output = min(request.output_tokens, request.max_tokens)
            engine.start(
                handle,  # type: ignore[arg-type]
                request.prompt_tokens,
                output,
                request.bid,
                generated=left.generated,
                prefill=left.prefill,
                account=request.tenant,
            )
        self.changed()

    def preempt(self, device: int, handle: Any) -> None:
        request = self.handles[handle]
        self.engines[device].abort(handle, keep=self.scheduler.policy.preemption == "swap")
        request.preemptions += 1
        assert request.stay is not None
        request.stay |= {"ended_ns": self.now_ns, "end": 1}

    def news(self, device: int) -> None:
        engine = self.engines[device]
        began_ns = engine.began_ns
        self.idle_slot_ns[device] += self.idle[device] * (self.now_ns - began_ns)
        self.ends[device] = NEVER_NS
        self.steps += 1
        n = engine.end_step()
        shared = self.all_wait
        columns = (engine.request_ids, engine.computed, engine.generated, engine.flags)
        for handle, computed, generated, flags in zip(*(column[:n].tolist() for column in columns), strict=True):
            request = self.handles[handle]
            prefill, output = computed - request.computed, generated - request.generated
            self.tokens.append((self.now_ns, request.tenant, prefill, output, shared))
            before = request.skipped + request.computed
            request.recomputed_tokens += max(0, min(before + prefill, request.ever_cached) - before)
            request.ever_cached = max(request.ever_cached, before + prefill)
            request.computed, request.generated = computed, generated
            whole = request.prompt_tokens + generated
            assert request.stay is not None
            if output:
                request.ever_cached = whole
            if output and request.stay["prefilled_ns"] < 0:
                request.stay["prefilled_ns"] = self.now_ns
            if flags & FIRST_STEP and request.started_ns < 0:
                request.started_ns = began_ns
            if flags & FIRST_TOKEN:
                request.first_token_ns = self.now_ns
            if flags & FINISHED:
                request.stay |= {"ended_ns": self.now_ns, "end": 0}
                self.scheduler.settle(handle, generated, now=self.now)
                self.end(request, 0)
            else:
                self.scheduler.progress(handle, computed, generated, now=self.now)

    # Figures

    def read(self) -> dict[str, Any]:
        snapshot: Snapshot = self.scheduler.snapshot(now=self.scheduler.now)
        found: dict[str, Any] = {name: [getattr(request, name) for request in self.requests] for name in COLUMNS}
        sizes = [size for size, _ in self.batches]
        found["batch_sizes"] = [sizes.count(size) for size in range(max(engine.slots for engine in self.engines) + 1)]
        found["released"] = [sum(why == name for _, why in self.batches) for name in RELEASES]
        found["all_wait_ns"] = sum(
            until - at for (at, holds), (until, _) in pairwise([*self.changes, (self.now_ns, False)]) if holds
        )
        found["all_wait_tokens"] = [
            [sum(t[kind] for t in self.tokens if t[1] == tenant and t[4]) for tenant in range(len(self.names))]
            for kind in (2, 3)
        ]
        found["idle_slot_ns"] = list(self.idle_slot_ns)
        for device, engine in enumerate(self.engines):
            if self.ends[device] != NEVER_NS:
                found["idle_slot_ns"][device] += self.idle[device] * (self.now_ns - engine.began_ns)
        found["widest_gap"] = snapshot.widest_gap
        return found

    def series(self) -> dict[str, Any]:
        width = FIRST_WIDTH_NS
        while self.points * width < self.now_ns:
            width *= 2
        edges = [*range(0, self.now_ns, width), self.now_ns] if self.now_ns else [0, 0]
        ends = [state.at_ns for state in self.states[1:]] + [self.now_ns]
        lasting = list(zip(self.states, ends, strict=True))
        found: dict[str, Any] = {"edges_ns": edges}
        for name in ("waiting", "running", "held_blocks"):
            found[name] = [self.level(name, lasting, *bin) for bin in pairwise(edges)]
        found["served"] = [self.served(*bin) for bin in pairwise(edges)]
        found["backlog"] = [self.backlog(lasting, *bin) for bin in pairwise(edges)]
        return found

    def level(self, name: str, lasting: list[tuple[State, int]], start: int, stop: int) -> list[float]:
        parts = [(getattr(state, name), min(until, stop) - max(state.at_ns, start)) for state, until in lasting]
        parts = [(value, duration) for value, duration in parts if duration > 0]
        if not parts:
            return [0.0, 0.0, 0.0]
        integral = sum(value * duration for value, duration in parts)
        values = [value for value, _ in parts]
        return [min(values), (integral // 10**9 * 1e9 + integral % 10**9) / (stop - start), max(values)]

    def served(self, start: int, stop: int) -> list[list[int]]:
        within = [t for t in self.tokens if start < t[0] <= stop or t[0] == start == 0]
        return [[sum(t[kind] for t in within if t[1] == i) for i in range(len(self.names))] for kind in (2, 3)]

    def backlog(self, lasting: list[tuple[State, int]], start: int, stop: int) -> list[float]:
        parts = [(state.with_waiting, max(0, min(until, stop) - max(state.at_ns, start))) for state, until in lasting]
        ns = [sum(duration for waits, duration in parts if waits[i]) for i in range(len(self.names))]
        return [part / (stop - start) if stop > start else 0.0 for part in ns]


def as_arrays(found: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
    return {name: np.asarray(values) for name, values in found.items()}

"""The compiled scheduler and its slow twin side by side: every call goes to both, every answer is compared.

Handles are each scheduler's own, so a map turns one into the other; callers of `Pair` hold the twin's.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.twins.scheduler import Scheduler as Twin

Refusal = (ValueError, KeyError, IndexError, TypeError)


def scheduler_under_test() -> Any:
    """The compiled class; the twin itself when APS_TEST_CORE=twin (which checks the tests, not the core)."""
    if os.environ.get("APS_TEST_CORE") == "twin":
        return Twin
    from aps_core.scheduler import Scheduler

    return Scheduler


def scale(count: int) -> int:
    """A test size, multiplied by APS_TEST_SCALE."""
    return max(1, round(count * float(os.environ.get("APS_TEST_SCALE", "1"))))


def plain(column: Any) -> list[Any]:
    return list(np.asarray(column).tolist())


@dataclass
class Running:
    """A request as the engine sees it."""

    handle: int
    prompt_tokens: int
    max_tokens: int
    output: int  # what it will generate
    device: int = -1  # -1: preempted
    target: int = 0
    computed: int = 0
    generated: int = 0
    order: tuple[int, int] = (0, 0)


class Pair:
    """Both schedulers, built alike, and what is alive in them."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.build()
        self.now = float(config.get("epoch", 0.0))
        self.core_handle: dict[int, int] = {}
        self.twin_handle: dict[int, int] = {}
        self.waiting: dict[int, Running] = {}
        self.started: dict[int, Running] = {}  # running and preempted
        self.limits: dict[int, dict[str, Any]] = {}  # keywords by slot, of all that have ever been

    def build(self) -> None:
        self.core: Any = scheduler_under_test()(**self.config)
        self.twin: Any = Twin(**self.config)

    # -- calling both

    def both(self, call: Callable[[Any, Callable[[int], int]], Any]) -> tuple[Any, Any]:
        """call(scheduler, handle translation) on each; the answers, or the twin's exception when both refuse alike."""
        answers, refusals = [], []
        translations: tuple[Callable[[int], int], ...] = (lambda h: h, lambda h: self.core_handle.get(h, h))
        for scheduler, translate in zip((self.twin, self.core), translations, strict=True):
            try:
                answers.append(call(scheduler, translate))
            except Refusal as refusal:
                refusals.append(refusal)
                answers.append(f"{type(refusal).__name__}: {refusal}")
        if refusals:
            assert len(refusals) == 2, f"only one refuses: twin {answers[0]!r}, core {answers[1]!r}"
            assert type(refusals[0]) is type(refusals[1]), f"twin {refusals[0]!r}, core {refusals[1]!r}"
            raise refusals[0]
        return answers[0], answers[1]

    def same(self, call: Callable[[Any, Callable[[int], int]], Any]) -> Any:
        """The answer, which both give (floats to the last bit)."""
        twin, core = self.both(call)
        assert twin == core, f"twin {twin!r}, core {core!r}"
        return twin

    def translated(self, core_handles: Any) -> list[int]:
        return [self.twin_handle[int(h)] for h in core_handles]

    # -- the calls

    def add_tenant(self, **keywords: Any) -> int:
        slot = self.same(lambda s, _: s.add_tenant(now=self.now, **keywords))
        self.limits[slot] = keywords
        return int(slot)

    def set_tenant(self, slot: int, **keywords: Any) -> None:
        self.same(lambda s, _: s.set_tenant(slot, now=self.now, **keywords))
        self.limits[slot] = keywords
        self.collect()

    def readmit_tenant(self, slot: int, **keywords: Any) -> None:
        self.same(lambda s, _: s.readmit_tenant(slot, now=self.now, **keywords))
        self.limits[slot] = keywords
        self.collect()

    def remove_tenant(self, slot: int) -> bool:
        freed = self.same(lambda s, _: s.remove_tenant(slot, self.now))
        self.collect()
        return bool(freed)

    def states(self) -> dict[int, int]:
        slots = sorted(self.limits)
        return dict(zip(slots, self.same(lambda s, _: [int(s.tenant_state(slot)) for slot in slots]), strict=True))

    def set_aging_horizon(self, seconds: float) -> None:
        self.same(lambda s, _: s.set_aging_horizon(seconds, self.now))
        self.collect()

    def set_fairness_window(self, cost: float) -> None:
        self.same(lambda s, _: s.set_fairness_window(cost, self.now))
        self.collect()

    def submit(self, tenant: int, prompt: int, most: int, bid: int, output: int, **keywords: Any) -> int:
        """`output`: the tokens the engine will generate. Returns the twin's handle or -Reason."""

        def call(s: Any, _: Any) -> tuple[int, float, int]:
            answer = s.submit(tenant, prompt, most, bid, self.now, **keywords)
            return answer, s.retry_after, s.largest

        twin, core = self.both(call)
        assert (twin[0] > 0) == (core[0] > 0), f"twin {twin}, core {core}"
        if twin[0] > 0:
            self._admit(twin[0], core[0], prompt, most, output)
        else:
            assert twin == core, f"(verdict, retry_after, largest): twin {twin}, core {core}"
        self.collect()
        return int(twin[0])

    def _admit(self, twin: int, core: int, prompt: int, most: int, output: int) -> None:
        self.core_handle[twin], self.twin_handle[core] = core, twin
        self.waiting[twin] = Running(twin, prompt, most, output)

    def submit_many(self, rows: list[tuple[int, int, int, int]], outputs: list[int]) -> None:
        columns = [np.array(column, np.int64) for column in zip(*rows, strict=True)]
        twin, core = self.both(lambda s, _: plain(s.submit_many(*columns, self.now)))
        for t, c, row, output in zip(twin, core, rows, outputs, strict=True):
            assert t == c or (t > 0 and c > 0), f"twin {twin}, core {core}"
            if t > 0:
                self._admit(t, c, row[1], row[2], output)
        self.collect()

    def next_batch(self, device: int) -> list[int]:
        def call(s: Any, _: Any) -> tuple[list[int], list[int], int]:
            n = s.next_batch(device, self.now)
            return plain(s.started[:n]), plain(s.preempted[: s.preempted_count]), int(s.release_reason)

        twin, core = self.both(call)
        mapped = (self.translated(core[0]), self.translated(core[1]), core[2])
        assert twin == mapped, f"(started, preempted, release): twin {twin}, core {mapped}"
        for handle in twin[1]:
            self._preempted(handle)
        for handle in twin[0]:
            self._start(handle, device)
        self.collect()
        return list(twin[0])

    def _start(self, handle: int, device: int) -> None:
        running = self.waiting.pop(handle, None)
        if running is None:
            running = self.started[handle]
            assert running.device == -1
        else:
            self.started[handle] = running
            running.target = running.prompt_tokens
        running.device, running.computed = device, 0
        bid = self.same(lambda s, h: s.bid_of(h(handle)))
        running.order = (-bid, 1 + max((r.order[1] for r in self.started.values()), default=0))

    def _preempted(self, handle: int) -> None:
        running = self.started[handle]
        left = running.target - running.computed
        running.target = left if self.config.get("preemption") == 2 else running.prompt_tokens + running.generated
        running.device = -1

    def progress(self, handle: int, computed: int, generated: int) -> None:
        self.same(lambda s, h: s.progress(h(handle), computed, generated, self.now))
        running = self.started[handle]
        running.computed, running.generated = computed, generated
        self.collect()

    def progress_many(self, handles: list[int], computed: list[int], generated: list[int]) -> None:
        def call(s: Any, h: Callable[[int], int]) -> None:
            columns = [[h(handle) for handle in handles], computed, generated]
            s.progress_many(*(np.array(column, np.int64) for column in columns), self.now)

        self.same(call)
        for handle, c, g in zip(handles, computed, generated, strict=True):
            self.started[handle].computed, self.started[handle].generated = c, g
        self.collect()

    def settle(self, handle: int, output: int) -> float:
        charge = self.same(lambda s, h: s.settle(h(handle), output, self.now))
        del self.started[handle]
        self.collect()
        return float(charge)

    def settle_many(self, handles: list[int], outputs: list[int]) -> None:
        self.same(
            lambda s, h: plain(
                s.settle_many(
                    np.array([h(handle) for handle in handles], np.int64), np.array(outputs, np.int64), self.now
                )
            )
        )
        for handle in handles:
            del self.started[handle]
        self.collect()

    def cancel(self, handle: int) -> float:
        charge = self.same(lambda s, h: s.cancel(h(handle), self.now))
        self.waiting.pop(handle, None)
        self.started.pop(handle, None)
        self.collect()
        return float(charge)

    def preempt(self, handle: int) -> None:
        self.same(lambda s, h: s.preempt(h(handle), self.now))
        self._preempted(handle)
        self.collect()

    def restart(self, handle: int) -> None:
        self.same(lambda s, h: s.restart(h(handle), self.now))
        running = self.started[handle]
        running.device, running.generated, running.target = -1, 0, running.prompt_tokens
        self.collect()

    def rebid(self, handle: int, bid: int) -> int:
        answer = self.same(lambda s, h: (s.rebid(h(handle), bid, self.now), s.retry_after))
        self.collect()
        return int(answer[0])

    def state(self) -> dict[str, Any]:
        """What both would leave behind now."""
        twin, core = self.both(lambda s, _: s.state(self.now))
        assert set(twin) == set(core)
        assert set(twin["tenants"]) == set(core["tenants"])
        for name, column in twin["tenants"].items():
            assert column.dtype == core["tenants"][name].dtype, name
            assert plain(column) == plain(core["tenants"][name]), f"{name}: twin {column}, core {core['tenants'][name]}"
        for name in set(twin) - {"tenants"}:
            assert twin[name] == core[name], f"{name}: twin {twin[name]!r}, core {core[name]!r}"
        return dict(core)

    def kill(self, tenants: list[tuple[int, dict[str, Any]]], passed_s: float, **config: Any) -> None:
        """Both end as they are, and new ones go on from their state.

        tenants: keywords of each, with the slot that it had, 0: none. config: what is another now.
        """
        self.collect()
        state = self.state()
        self.config = self.config | config
        self.build()
        self.now = float(self.config.get("epoch", 0.0)) + 1.0
        self.waiting, self.started, self.limits = {}, {}, {}
        self.core_handle, self.twin_handle = {}, {}
        before = plain(state["tenants"]["slot"])
        slots = [0] * len(before)
        for slot, keywords in tenants:
            now = self.add_tenant(**keywords)
            if slot:
                slots[before.index(slot)] = now
        self.same(lambda s, _: s.restore(state, slots, passed_s, self.now))

    def next_wakeup(self, without: Sequence[int] = ()) -> float:
        twin, core = self.both(lambda s, _: s.next_wakeup(self.now, without))
        assert core <= twin, f"wakes late: twin {twin!r}, core {core!r}"
        assert core > self.now or core == twin, f"wakes for nothing: now {self.now!r}, twin {twin!r}, core {core!r}"
        self.collect()
        return float(core)

    def collect(self) -> None:
        """What ended by itself in the last call."""
        twin, core = self.both(lambda s, _: [(int(h), int(reason)) for h, reason in s.ended()])
        mapped = [(self.twin_handle[h], reason) for h, reason in core]
        assert twin == mapped, f"ended: twin {twin}, core {mapped}"
        for handle, _ in twin:
            del self.waiting[handle]

    # -- looking at both

    def compare_explain(self, handle: int) -> None:
        twin, core = self.both(lambda s, h: dict(s.explain(h(handle), self.now)))
        estimates = (twin.pop("start_in_s"), core.pop("start_in_s"))
        assert twin == core, f"explain: twin {twin}, core {core}"
        assert all(estimate is None or estimate >= 0.0 for estimate in estimates), estimates
        self.collect()

    def compare_snapshot(self) -> dict[str, Any]:
        twin, core = self.both(lambda s, _: s.snapshot(self.now))
        assert set(twin) == set(core)
        for group in ("tenants", "devices"):
            assert set(twin[group]) == set(core[group]), group
            for name in twin[group]:
                ours, theirs = plain(twin[group][name]), plain(core[group][name])
                if name == "reserved":  # request handles
                    theirs = [h and self.twin_handle[h] for h in theirs]
                assert ours == theirs, f"{group}.{name}: twin {ours}, core {theirs}"
        for name in set(twin) - {"tenants", "devices"}:
            assert twin[name] == core[name], f"{name}: twin {twin[name]!r}, core {core[name]!r}"
        self.collect()
        assert self.same(lambda s, _: s.waiting) == len(self.waiting)
        return dict(twin)

    # -- an engine

    def running(self, device: int) -> list[Running]:
        """On a device, in prefill order."""
        return sorted((r for r in self.started.values() if r.device == device), key=lambda r: r.order)

    def engine_step(self, device: int, *, many: bool = False) -> None:
        """One step as the KV rule expects it: decodes first, the rest of the token budget for prefill, in order."""
        running = self.running(device)
        budget = self.config["token_budgets"][device]
        slots = self.config["slots"][device]
        left = max(1, budget - slots) if budget else math.inf
        reports: list[tuple[int, int, int]] = []
        for r in running:
            computed, generated = r.computed, r.generated
            if computed < r.target:
                chunk = int(min(left, r.target - computed))
                left -= chunk
                computed += chunk
            elif generated < r.output:
                generated += 1
            reports.append((r.handle, computed, generated))
        if many and reports:
            self.progress_many(*(list(column) for column in zip(*reports, strict=True)))
        else:
            for report in reports:
                self.progress(*report)
        done = [r for r in running if r.computed == r.target and r.generated >= r.output]
        if many and done:
            self.settle_many([r.handle for r in done], [r.generated for r in done])
        else:
            for r in done:
                self.settle(r.handle, r.generated)

    def cycle(self, pause: float) -> list[int]:
        """A step of every device, `pause` seconds, then work for every device; what started."""
        for device in range(len(self.config["slots"])):
            self.engine_step(device)
        self.now += pause
        return [h for device in range(len(self.config["slots"])) for h in self.next_batch(device)]


class Solo(Pair):
    """The same calls on the compiled scheduler alone."""

    def build(self) -> None:
        self.core = self.twin = scheduler_under_test()(**self.config)

    def both(self, call: Callable[[Any, Callable[[int], int]], Any]) -> tuple[Any, Any]:
        answer = call(self.core, lambda handle: handle)
        return answer, copy.copy(answer)

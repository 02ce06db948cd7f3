"""A scheduler that went on beside one that was made from its state: all that follows must be the same."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from tests.scheduler_pair import Pair, Solo, plain, scheduler_under_test
from tests.twins.scheduler_model import Reason


def grid(seconds: float) -> float:
    return math.ceil(seconds * 2**20) / 2**20


class Tracked(Solo):
    """Remembers where its knobs stand."""

    def build(self) -> None:
        super().build()
        self.knobs: dict[str, float] = {}

    def set_aging_horizon(self, seconds: float) -> None:
        super().set_aging_horizon(seconds)
        self.knobs["aging_horizon_s"] = seconds

    def set_fairness_window(self, cost: float) -> None:
        super().set_fairness_window(cost)
        self.knobs["fairness_window"] = cost


def drain(pair: Pair) -> None:
    """Everything runs to its end, or is cancelled when it cannot."""
    for _ in range(300):
        if not (pair.waiting or pair.started):
            return
        pair.cycle(0.05)
    for handle in [*pair.waiting, *pair.started]:
        try:
            pair.cancel(handle)
        except KeyError:
            continue


class Mirrored(Pair):
    """`twin` is a compiled scheduler that went on, `core` one that was made from its state, `shift` seconds ahead.

    Instants are multiples of 2**-20 s, so that both convert them to the same nanoseconds after their epochs.
    """

    SAME = (
        "slot", "state", "weight", "service", "credit", "threshold", "contending", "in_window", "level",
        "request_level", "waiting", "waiting_tokens", "in_flight", "held_blocks",
    )  # fmt: skip

    def __init__(self, before: Tracked, passed_s: float, shift: float) -> None:
        self.shift = 0.0
        self.before, self.passed_s = before, passed_s
        self.shift_to_come = shift
        super().__init__(before.config)
        self.shift = shift
        self.limits = dict(before.limits)
        self.compare_snapshot()

    def build(self) -> None:
        before, live = self.before, {slot for slot, state in self.before.states().items() if state}
        before.now = grid(before.now)
        state = before.core.state(before.now)
        knobs = {name: before.knobs[name] for name in ("aging_horizon_s", "fairness_window") if name in before.knobs}
        epoch = before.config.get("epoch", 0.0) + self.shift_to_come
        self.twin = before.core
        self.core = scheduler_under_test()(**(before.config | knobs | {"epoch": epoch}))
        for slot in range(1, max(live, default=0) + 1):
            assert self.core.add_tenant(now=epoch, **before.limits[slot]) == slot
        for slot in set(range(1, max(live, default=0) + 1)) - live:
            self.core.remove_tenant(slot, epoch)
        self._now = grid(before.now + self.passed_s)
        self.core.restore(state, state["tenants"]["slot"], self._now - before.now, self._now + self.shift_to_come)

    @property
    def now(self) -> float:
        return self._now

    @now.setter
    def now(self, seconds: float) -> None:
        self._now = max(self._now, grid(seconds))

    def both(self, call: Callable[[Any, Callable[[int], int]], Any]) -> tuple[Any, Any]:
        went_on = self.call(lambda: call(self.twin, lambda h: h))
        self._now += self.shift
        try:
            restored = self.call(lambda: call(self.core, lambda h: self.core_handle.get(h, h)))
        finally:
            self._now -= self.shift
        if isinstance(went_on, Exception):
            assert type(went_on) is type(restored), f"went on {went_on!r}, restored {restored!r}"
            raise went_on
        return went_on, restored

    @staticmethod
    def call(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except (ValueError, KeyError, IndexError, TypeError) as refusal:
            return refusal

    def submit(self, tenant: int, prompt: int, most: int, bid: int, output: int, **keywords: Any) -> int:
        due = keywords.pop("deadline_at", None)
        wait = None if due is None else grid(due) - self.now

        def call(s: Any, _: Any) -> tuple[int, float, int]:
            later = {} if wait is None else {"deadline_at": self.now + wait}
            return s.submit(tenant, prompt, most, bid, self.now, **keywords, **later), s.retry_after, s.largest

        went_on, restored = self.both(call)
        if went_on[0] > 0:
            assert restored[0] > 0
            self._admit(went_on[0], restored[0], prompt, most, output)
        else:
            self.same_refusal(went_on, restored)
        self.collect()
        return int(went_on[0])

    def rebid(self, handle: int, bid: int) -> int:
        went_on, restored = self.both(lambda s, h: (s.rebid(h(handle), bid, self.now), s.retry_after, 0))
        self.same_refusal(went_on, restored)
        self.collect()
        return int(went_on[0])

    def same_refusal(self, went_on: tuple[int, float, int], restored: tuple[int, float, int]) -> None:
        """But for the waits: those for a place follow from starts, which are counted anew, and another clock rounds."""
        assert (went_on[0], went_on[2]) == (restored[0], restored[2])
        if went_on[0] in (-Reason.OVER_RATE, -Reason.OVER_REQUEST_RATE):
            assert went_on[1] == (restored[1] if self.shift == 0.0 else pytest.approx(restored[1], abs=1e-6))

    def next_wakeup(self, without: Any = ()) -> float:
        went_on, restored = self.both(lambda s, _: s.next_wakeup(self.now, without) - self.now)
        self.collect()
        return float(self.now + min(went_on, restored))

    def compare_snapshot(self) -> dict[str, Any]:
        went_on, restored = self.both(lambda s, _: s.snapshot(self.now))
        for name in self.SAME:
            assert plain(went_on["tenants"][name]) == plain(restored["tenants"][name]), name
        for name in ("running", "held_blocks", "max_blocks"):
            assert plain(went_on["devices"][name]) == plain(restored["devices"][name]), name
        for name in ("virtual_time", "waiting", "waiting_tokens", "contending", "returning"):
            assert went_on[name] == restored[name], name
        self.collect()
        return dict(went_on)

"""A slow scheduler with the compiled core's API, written from docs/rules.md alone: scan everything, every time.

It is the oracle of the tests. It shares no code with `aps_core`; a loop is its first choice.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from tests.twins.scheduler_checks import MAX_SECONDS, MAX_TOKENS, real, tenant_keywords, whole
from tests.twins.scheduler_model import NEVER, Bucket, Device, Interval, Limits, Reason, Release, Request, Tenant
from tests.twins.scheduler_requests import Requests
from tests.twins.scheduler_state import check_restore, restore, state
from tests.twins.scheduler_views import explain, snapshot

ACTIVE, DRAINING = 1, 2


class Scheduler(Requests):
    """See the page; the keywords are the compiled scheduler's."""

    def __init__(
        self,
        slots: Sequence[int],
        kv_blocks: Sequence[int],
        token_budgets: Sequence[int],
        *,
        block_tokens: int = 16,
        aging_horizon_s: float = 30.0,
        fairness_window: float = 2048.0,
        input_weight: float = 1.0,
        output_weight: float = 1.0,
        expected_output: int = -1,
        bid_premium: float = 0.0,
        max_passes: int = 64,
        backfill_depth: int = 32,
        preemption: int = 0,
        preempt_margin: int = 3,
        max_preemptions: int = 2,
        micro: bool = False,
        batch_window_s: float = 0.01,
        batch_fill_target: float = 0.8,
        kv_high_watermark: float = 1.0,
        max_queued: int = 2**31 - 1,
        max_queued_tokens: int = 2**62,
        max_context: int = 2**31 - 1,
        epoch: float = 0.0,
    ) -> None:
        if not len(slots) == len(kv_blocks) == len(token_budgets) > 0:
            raise ValueError(
                "slots, kv_blocks and token_budgets must have one entry for each device, "
                f"not {len(slots)}, {len(kv_blocks)} and {len(token_budgets)}"
            )
        self._block_tokens = whole("block_tokens", block_tokens, 1, MAX_TOKENS)
        self._horizon = self._horizon_ns(aging_horizon_s)
        self._window = real("fairness_window", fairness_window, 0.0)
        self._input_weight = real("input_weight", input_weight, 0.0, finite=True)
        self._output_weight = real("output_weight", output_weight, 0.0, finite=True)
        self._expected_output = whole("expected_output", expected_output, -1, MAX_TOKENS)
        self._bid_premium = real("bid_premium", bid_premium, 0.0, finite=True)
        self._max_passes = whole("max_passes", max_passes, 0, 2**31 - 1)
        self._backfill_depth = whole("backfill_depth", backfill_depth, 0, 2**31 - 1)
        self._preemption = whole("preemption", preemption, 0, 2)
        self._preempt_margin = whole("preempt_margin", preempt_margin, 1, 9)
        self._max_preemptions = whole("max_preemptions", max_preemptions, 0, 2**31 - 1)
        self._micro = bool(micro)
        self._batch_window = round(real("batch_window_s", batch_window_s, 0.0, MAX_SECONDS) * 1e9)
        self._fill_target = real("batch_fill_target", batch_fill_target, 0.0, 1.0)
        watermark = real("kv_high_watermark", kv_high_watermark, 0.0, 1.0, above=True)
        self._max_queued = whole("max_queued", max_queued, 0, 2**31 - 1)
        self._max_queued_tokens = whole("max_queued_tokens", max_queued_tokens, 0, 2**62)
        self._max_context = whole("max_context", max_context, 1, 2**31 - 1)
        self._epoch = real("epoch", epoch, -math.inf, finite=True)

        self._devices = []
        for index, (count, blocks, budget) in enumerate(zip(slots, kv_blocks, token_budgets, strict=True)):
            count = whole("slots", count, 1, 2**31 - 1)
            blocks = whole("kv_blocks", blocks, 1, 2**31 - 1)
            budget = whole("token_budgets", budget, 0, 2**31 - 1)
            self._devices.append(Device(index, count, blocks, budget, math.floor(watermark * blocks)))
        self._all_blocks = sum(device.kv_blocks for device in self._devices)

        self._now_ns = 0
        self._now = self._epoch
        self._tenants: dict[int, Tenant] = {}
        self._requests: dict[int, Request] = {}
        self._handles = 0
        self._arrivals = 0
        self._virtual_time = 0.0
        self._widest_gap = 0.0
        self._last_to_stop: Tenant | None = None
        self._something_ready = False
        self._ready_since = 0
        self._changes = 0
        self._restored = False
        self._interval = Interval()
        self._ended: list[tuple[int, int]] = []

        self.retry_after = 0.0
        self.largest = 0
        self.started = np.empty(0, np.int64)
        self.preempted = np.empty(0, np.int64)
        self.preempted_count = 0
        self.release_reason = int(Release.NOT_RELEASED)

    @staticmethod
    def _horizon_ns(seconds: float) -> int | None:
        """None: infinite."""
        seconds = real("aging_horizon_s", seconds, 0.0)
        if seconds > MAX_SECONDS and not math.isinf(seconds):
            raise ValueError(f"aging_horizon_s must be at most {MAX_SECONDS:g} or infinite, not {seconds}")
        return None if math.isinf(seconds) else round(seconds * 1e9)

    # -- tenants

    def add_tenant(self, *, now: float, **keywords: Any) -> int:
        limits = Limits(**tenant_keywords(**keywords))
        at = self._play(now)
        slot = next(s for s in range(1, len(self._tenants) + 2) if s not in self._tenants)
        requests = Bucket(limits.request_rate, limits.request_burst, at)
        tenant = Tenant(slot, limits, Bucket(limits.rate, limits.burst, at), requests)
        self._tenants[slot] = tenant
        self._set_threshold(tenant)
        return slot

    def set_tenant(self, slot: int, *, now: float, **keywords: Any) -> None:
        tenant = self._check_slot(slot, now)
        limits = Limits(**tenant_keywords(**keywords))
        self._configure(tenant, limits, self._play(now))

    def readmit_tenant(self, slot: int, *, now: float, **keywords: Any) -> None:
        tenant = self._check_slot(slot, now)
        limits = Limits(**tenant_keywords(**keywords))
        if not tenant.draining:
            raise ValueError(f"slot must be of a draining tenant, and {slot} is active")
        at = self._play(now)
        tenant.draining = False
        self._configure(tenant, limits, at)

    def _configure(self, tenant: Tenant, limits: Limits, at: int) -> None:
        weight, tenant.limits = tenant.limits.weight, limits
        if weight != limits.weight:
            ahead = max(0.0, tenant.service - self._virtual_time)
            tenant.service = self._virtual_time + ahead * weight / limits.weight
            self._set_threshold(tenant)
        tenant.bucket.configure(limits.rate, limits.burst, at)
        tenant.request_bucket.configure(limits.request_rate, limits.request_burst, at)
        for request in sorted(self._waiting(tenant), key=lambda r: r.number):
            if request.tokens > limits.max_request_tokens:
                self._end_waiting(request, Reason.EXCEEDS_MAX_REQUEST, at)
            elif request.max_blocks > self._share(tenant):
                self._end_waiting(request, Reason.EXCEEDS_KV_SHARE, at)
            elif not request.paid and self._bucket_cost(request) > tenant.bucket.burst:
                self._end_waiting(request, Reason.EXCEEDS_BURST, at)
        self._after(tenant, at)

    def remove_tenant(self, slot: int, now: float) -> bool:
        tenant = self._check_slot(slot, now)
        at = self._play(now)
        tenant.draining = True
        self._after(tenant, at)
        return tenant.slot not in self._tenants

    def tenant_state(self, slot: int) -> int:
        tenant = self._tenants.get(slot)
        return 0 if tenant is None else DRAINING if tenant.draining else ACTIVE

    def set_aging_horizon(self, seconds: float, now: float) -> None:
        horizon = self._horizon_ns(seconds)
        at = self._play(now)
        self._horizon = horizon
        for slot in sorted(self._tenants):
            self._evaluate(self._tenants[slot], at)
        self._end_step(at)

    def set_fairness_window(self, cost: float, now: float) -> None:
        cost = real("fairness_window", cost, 0.0)
        at = self._play(now)
        narrower = cost < self._window
        self._window = cost
        for tenant in self._tenants.values():
            if narrower:
                tenant.service = min(tenant.service, self._virtual_time + cost / tenant.limits.weight)
            self._set_threshold(tenant)
        self._end_step(at)

    # -- many at once: each in turn, or none at all

    def _all_or_nothing(self, calls: Iterable[tuple[str, tuple[Any, ...]]]) -> list[Any]:
        trial = copy.deepcopy(self)
        answers = [getattr(trial, name)(*arguments) for name, arguments in calls]
        self.__dict__ = trial.__dict__
        return answers

    @staticmethod
    def _must_differ(handles: Sequence[int]) -> None:
        if len(set(handles)) < len(handles):
            raise ValueError("handles must differ, one is there twice")

    def submit_many(
        self,
        tenants: Sequence[int],
        prompts: Sequence[int],
        max_tokens: Sequence[int],
        bids: Sequence[int],
        now: float,
    ) -> np.ndarray[Any, np.dtype[np.int64]]:
        rows = zip(tenants, prompts, max_tokens, bids, strict=True)
        return np.array(self._all_or_nothing(("submit", (*row, now)) for row in rows), np.int64)

    def settle_many(
        self, handles: Sequence[int], outputs: Sequence[int], now: float
    ) -> np.ndarray[Any, np.dtype[np.float64]]:
        self._must_differ(handles)
        charges = self._all_or_nothing(("settle", (*row, now)) for row in zip(handles, outputs, strict=True))
        return np.array(charges, np.float64)

    def progress_many(
        self, handles: Sequence[int], computed: Sequence[int], generated: Sequence[int], now: float
    ) -> None:
        self._must_differ(handles)
        self._all_or_nothing(("progress", (*row, now)) for row in zip(handles, computed, generated, strict=True))

    # -- looking

    def next_wakeup(self, now: float, without: Iterable[int] = ()) -> float:
        at = self._play(now)
        away = set(without)
        instants = [t.event for t in self._tenants.values()] + [r.deadline for r in self._waiting()]
        if self._micro and self._ready():
            instants += [
                at if self._filled(device) else max(at, self._window_end(device))
                for device in self._devices
                if not self._running(device) and device.vain != self._changes and device.index not in away
            ]
        instant = min(instants, default=NEVER)
        return float(now) if instant == at else self._instant_s(instant)

    def ended(self) -> list[tuple[int, int]]:
        ended, self._ended = self._ended, []
        return ended

    def explain(self, handle: int, now: float) -> dict[str, Any]:
        request = self._check_handle(handle, now)
        return explain(self, request, self._play(now))

    def snapshot(self, now: float) -> dict[str, Any]:
        return snapshot(self, self._play(now))

    # -- across restarts

    def state(self, now: float) -> dict[str, Any]:
        return state(self, self._play(now))

    def restore(self, saved: dict[str, Any], slots: Sequence[int], passed_s: float, now: float) -> None:
        self._check_now(now)
        tenants = check_restore(self, saved, slots, passed_s)
        restore(self, saved, tenants, round(min(float(passed_s), MAX_SECONDS) * 1e9), self._play(now))

    @property
    def waiting(self) -> int:
        return len(self._waiting())

    @property
    def now(self) -> float:
        return self._now

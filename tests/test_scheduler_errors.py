"""Bad calls: the right exception, a message that names the field and the value, and nothing changed, time included."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aps_core.scheduler import Scheduler
from tests.scheduler_pair import scheduler_under_test

NAN, INF = math.nan, math.inf
NOW = 5.0


class Setting:
    """A scheduler with one request waiting, one running, one preempted, and a draining tenant (slot 2)."""

    def __init__(self) -> None:
        self.scheduler = scheduler_under_test()([2], [40], [16], block_tokens=4, max_context=100)
        self.tenant = self.scheduler.add_tenant(now=0.0, rate=100.0, burst=500.0)
        self.drained = self.scheduler.add_tenant(now=0.0)
        self.returning, self.running, self.waiting = (self.submit(self.tenant) for _ in range(3))
        self.left = self.submit(self.drained)
        self.scheduler.remove_tenant(self.drained, 1.0)
        assert self.scheduler.next_batch(0, 1.0) == 2
        self.scheduler.preempt(self.returning, 1.0)
        self.scheduler.progress(self.running, 10, 3, NOW)
        self.gone = self.submit(self.tenant)
        self.scheduler.cancel(self.gone, NOW)

    def submit(self, tenant: int) -> int:
        handle = int(self.scheduler.submit(tenant, 10, 20, 5, self.scheduler.now))
        assert handle > 0
        return handle

    def state(self) -> str:
        s = self.scheduler
        alive = (self.returning, self.running, self.waiting, self.left)
        explained = [s.explain(handle, NOW) for handle in alive]
        return str((s.now, s.waiting, s.snapshot(NOW), explained, [s.bid_of(handle) for handle in alive]))


def submit(**changes: Any) -> Callable[[Setting], object]:
    def call(setting: Setting) -> object:
        keywords: dict[str, Any] = {"tenant": setting.tenant, "prompt_tokens": 5, "max_tokens": 5, "bid": 5, "now": NOW}
        keywords.update(changes)
        return setting.scheduler.submit(**keywords)

    return call


def add(**keywords: Any) -> Callable[[Setting], object]:
    return lambda setting: setting.scheduler.add_tenant(now=NOW, **keywords)


VALUE_ERRORS: dict[str, tuple[Callable[[Setting], object], str, str]] = {
    # name: (call, the field, the value)
    "bid 0": (submit(bid=0), "bid", "0"),
    "bid 11": (submit(bid=11), "bid", "11"),
    "no prompt": (submit(prompt_tokens=0), "prompt_tokens", "0"),
    "negative prompt": (submit(prompt_tokens=-3), "prompt_tokens", "-3"),
    "huge prompt": (submit(prompt_tokens=2**31), "prompt_tokens", str(2**31)),
    "no output": (submit(max_tokens=0), "max_tokens", "0"),
    "huge output": (submit(max_tokens=2**31 + 7), "max_tokens", str(2**31 + 7)),
    "beyond 64 bits": (submit(max_tokens=2**70), "max_tokens", str(2**70)),
    "forecast": (submit(expected_output=-2), "expected_output", "-2"),
    "deadline": (submit(deadline_at=NAN), "deadline_at", "nan"),
    "now in the past": (submit(now=4.0), "now", "4.0"),
    "now not a number": (submit(now=NAN), "now", "nan"),
    "now infinite": (submit(now=INF), "now", "inf"),
    "now far away": (submit(now=4.1e8), "now", "410000000.0"),
    "now before the epoch": (lambda s: s.scheduler.snapshot(-1.0), "now", "-1.0"),
    "next_batch in the past": (lambda s: s.scheduler.next_batch(0, 4.5), "now", "4.5"),
    "next_wakeup never": (lambda s: s.scheduler.next_wakeup(NAN), "now", "nan"),
    "weight 0": (add(weight=0.0), "weight", "0.0"),
    "weight negative": (add(weight=-1.0), "weight", "-1.0"),
    "weight infinite": (add(weight=INF), "weight", "inf"),
    "weight too small": (add(weight=0.99e-9), "weight", "9.9e-10"),
    "weight too large": (add(weight=1.01e9), "weight", "1010000000.0"),
    "weight beyond floats": (add(weight=10**400), "weight", str(10**400)),
    "rate too small": (add(rate=0.99e-6, burst=5.0), "rate", "9.9e-07"),
    "rate beyond floats": (add(rate=10**400, burst=5.0), "rate", str(10**400)),
    "window beyond floats": (
        lambda s: s.scheduler.set_fairness_window(10**400, NOW),
        "fairness_window",
        str(10**400),
    ),
    "rate 0": (add(rate=0.0, burst=5.0), "rate", "0.0"),
    "burst negative": (add(rate=1.0, burst=-5.0), "burst", "-5.0"),
    "rate without burst": (add(rate=77.0), "burst", "inf"),
    "burst without rate": (add(burst=77.0), "rate", "inf"),
    "request_rate too small": (add(request_rate=0.99e-6, request_burst=5.0), "request_rate", "9.9e-07"),
    "request_rate not a number": (add(request_rate=NAN, request_burst=5.0), "request_rate", "nan"),
    "request_burst below 1": (add(request_rate=1.0, request_burst=0.5), "request_burst", "0.5"),
    "request_rate without request_burst": (add(request_rate=77.0), "request_burst", "inf"),
    "request_burst without request_rate": (add(request_burst=77.0), "request_rate", "inf"),
    "max_request_tokens": (add(max_request_tokens=1), "max_request_tokens", "1"),
    "max_bid": (add(max_bid=11), "max_bid", "11"),
    "kv_share": (add(kv_share=1.5), "kv_share", "1.5"),
    "kv_share 0": (add(kv_share=0.0), "kv_share", "0.0"),
    "horizon": (lambda s: s.scheduler.set_aging_horizon(-1.0, NOW), "aging_horizon_s", "-1.0"),
    "window": (lambda s: s.scheduler.set_fairness_window(NAN, NOW), "fairness_window", "nan"),
    "rebid": (lambda s: s.scheduler.rebid(s.waiting, 12, NOW), "bid", "12"),
    "computed falls": (lambda s: s.scheduler.progress(s.running, 9, 3, NOW), "computed", "9"),
    "computed too much": (lambda s: s.scheduler.progress(s.running, 11, 3, NOW), "computed", "11"),
    "generated falls": (lambda s: s.scheduler.progress(s.running, 10, 2, NOW), "generated", "2"),
    "negative settlement": (lambda s: s.scheduler.settle(s.running, -1, NOW), "output_tokens", "-1"),
}

WRONG_STATE: dict[str, Callable[[Setting], object]] = {
    "settle waiting": lambda s: s.scheduler.settle(s.waiting, 5, NOW),
    "settle preempted": lambda s: s.scheduler.settle(s.returning, 5, NOW),
    "progress waiting": lambda s: s.scheduler.progress(s.waiting, 5, 0, NOW),
    "preempt waiting": lambda s: s.scheduler.preempt(s.waiting, NOW),
    "preempt preempted": lambda s: s.scheduler.preempt(s.returning, NOW),
    "restart waiting": lambda s: s.scheduler.restart(s.waiting, NOW),
    "restart preempted": lambda s: s.scheduler.restart(s.returning, NOW),
    "submit to a draining tenant": lambda s: s.scheduler.submit(s.drained, 5, 5, 5, NOW),
    "readmit an active tenant": lambda s: s.scheduler.readmit_tenant(s.tenant, now=NOW),
    "many of unequal length": lambda s: s.scheduler.submit_many([s.tenant], [5, 5], [5], [5], NOW),
    "many, a bad one": lambda s: s.scheduler.submit_many([s.tenant] * 2, [5, 0], [5, 5], [5, 5], NOW),
    "many settled, one waiting": lambda s: s.scheduler.settle_many([s.running, s.waiting], [5, 5], NOW),
    "much progress, one falls": lambda s: s.scheduler.progress_many([s.running], [10], [2], NOW),
    "progress twice": lambda s: s.scheduler.progress_many([s.running] * 2, [10, 10], [5, 6], NOW),
    "settled twice": lambda s: s.scheduler.settle_many([s.running, s.running], [5, 5], NOW),
}

KEY_ERRORS: dict[str, Callable[[Setting], object]] = {
    "unknown tenant": submit(tenant=99),
    "tenant 0": submit(tenant=0),
    "negative tenant": submit(tenant=-1),
    "huge tenant": submit(tenant=2**40),
    "set unknown tenant": lambda s: s.scheduler.set_tenant(99, now=NOW),
    "remove unknown tenant": lambda s: s.scheduler.remove_tenant(99, NOW),
    "stale handle": lambda s: s.scheduler.cancel(s.gone, NOW),
    "settle stale": lambda s: s.scheduler.settle(s.gone, 5, NOW),
    "restart stale": lambda s: s.scheduler.restart(s.gone, NOW),
    "foreign handle": lambda s: s.scheduler.explain(987654321, NOW),
    "handle 0": lambda s: s.scheduler.rebid(0, 5, NOW),
    "negative handle": lambda s: s.scheduler.bid_of(-7),
    "many, a huge tenant": lambda s: s.scheduler.submit_many(
        np.array([s.tenant + 2**32]), np.array([5]), np.array([5]), np.array([5]), NOW
    ),
    "many, an unknown tenant": lambda s: s.scheduler.submit_many([s.tenant, 99], [5, 5], [5, 5], [5, 5], NOW),
}

SUBMITTED = ("tenants", "prompts", "max_tokens", "bids")
SETTLED = ("handles", "outputs")
PROGRESSED = ("handles", "computed", "generated")


def many(method: str, field: str, value: object) -> Callable[[Setting], object]:
    """A call of one element a column, all good but the one of `field`."""

    def call(setting: Setting) -> object:
        good = {
            "submit_many": {"tenants": setting.tenant, "prompts": 5, "max_tokens": 5, "bids": 5},
            "settle_many": {"handles": setting.running, "outputs": 5},
            "progress_many": {"handles": setting.running, "computed": 10, "generated": 5},
        }
        columns = {name: np.array([number]) for name, number in (good[method] | {field: value}).items()}
        return getattr(setting.scheduler, method)(**columns, now=NOW)

    return call


OTHERS: dict[str, tuple[Callable[[Setting], object], type[Exception]]] = {
    "device": (lambda s: s.scheduler.next_batch(1, NOW), IndexError),
    "device -1": (lambda s: s.scheduler.next_batch(-1, NOW), IndexError),
    "bid 5.5": (submit(bid=5.5), TypeError),
    "bid as text": (submit(bid="5"), TypeError),
    "rebid 5.5": (lambda s: s.scheduler.rebid(s.waiting, 5.5, NOW), TypeError),
    "tokens as float": (submit(prompt_tokens=5.0), TypeError),
    **{f"many submitted, {name} as floats": (many("submit_many", name, 5.9), TypeError) for name in SUBMITTED},
    **{f"many submitted, {name} as bools": (many("submit_many", name, True), TypeError) for name in SUBMITTED},
    **{
        f"many submitted, {name} beyond 32 bits": (many("submit_many", name, 2**32 + 5), ValueError)
        for name in SUBMITTED[1:]
    },
    **{f"many settled, {name} as floats": (many("settle_many", name, 5.0), TypeError) for name in SETTLED},
    **{f"much progress, {name} as floats": (many("progress_many", name, 10.0), TypeError) for name in PROGRESSED},
    "many settled, beyond 32 bits": (many("settle_many", "outputs", 2**32 + 5), ValueError),
    "many settled, unsigned 64 bits": (many("settle_many", "handles", 2**64 - 1), ValueError),
}


@pytest.mark.parametrize("name", sorted(VALUE_ERRORS))
def test_value_errors_name_the_field_and_the_value(name: str) -> None:
    setting = Setting()
    call, field, value = VALUE_ERRORS[name]
    before = setting.state()
    with pytest.raises(ValueError) as raised:
        call(setting)
    message = str(raised.value)
    assert field in message
    assert value in message
    assert setting.state() == before


@pytest.mark.parametrize("name", sorted(WRONG_STATE))
def test_calls_that_the_state_forbids(name: str) -> None:
    setting = Setting()
    before = setting.state()
    with pytest.raises(ValueError):
        WRONG_STATE[name](setting)
    assert setting.state() == before


@pytest.mark.parametrize("name", sorted(KEY_ERRORS))
def test_unknown_tenants_and_handles(name: str) -> None:
    setting = Setting()
    before = setting.state()
    with pytest.raises(KeyError):
        KEY_ERRORS[name](setting)
    assert setting.state() == before


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_other_errors(name: str) -> None:
    setting = Setting()
    call, error = OTHERS[name]
    before = setting.state()
    with pytest.raises(error):
        call(setting)
    assert setting.state() == before


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.set_tenant(1, now=5.0),
        lambda s: s.remove_tenant(1, 5.0),
        lambda s: s.readmit_tenant(1, now=5.0),
        lambda s: s.submit(1, 10, 20, 5, 5.0),
        lambda s: s.submit_many([1], [10], [20], [5], 5.0),
    ],
)
def test_a_tenant_that_will_have_drained_by_now_is_unknown(call: Callable[[Any], object]) -> None:
    """The refusal plays no time: the request that is due has not ended."""
    scheduler = scheduler_under_test()([2], [40], [16], block_tokens=4)
    slot = scheduler.add_tenant(now=0.0)
    for deadline in (1.0, 2.0):
        scheduler.submit(slot, 10, 20, 5, 0.0, deadline)
    assert not scheduler.remove_tenant(slot, 0.5)
    with pytest.raises(KeyError):
        call(scheduler)
    assert (scheduler.now, scheduler.waiting, scheduler.tenant_state(slot)) == (0.5, 2, 2)
    scheduler.readmit_tenant(slot, now=1.5)
    assert (scheduler.waiting, scheduler.tenant_state(slot)) == (1, 1)


@pytest.mark.parametrize(("tokens", "seconds"), [(100, 1e8), (10_000, 4e8), (2**30, 4e8)])
def test_the_wait_for_the_slowest_bucket_is_finite(tokens: int, seconds: float) -> None:
    scheduler = scheduler_under_test()([2], [2**31 - 1], [0])
    slot = scheduler.add_tenant(rate=1e-6, burst=float(tokens), now=0.0)
    assert scheduler.submit(slot, tokens - 1, 1, 5, 0.0) > 0
    assert scheduler.submit(slot, tokens - 1, 1, 5, 0.0) < 0
    assert scheduler.retry_after == pytest.approx(seconds)


def test_a_night_without_requests_makes_no_waits_longer() -> None:
    """The wait of a full queue is the pace of dispatches while requests waited, not the time in which none did."""
    scheduler = scheduler_under_test()([1], [2**20], [0])
    slot = scheduler.add_tenant(max_queued=2, now=0.0)
    now = 0.0
    for _ in range(3):
        now += 30_000.0
        asked = [scheduler.submit(slot, 10, 1, 5, now) for _ in range(2)]
        for handle in asked:
            assert scheduler.next_batch(0, now) == 1
            now += 2.0
            scheduler.settle(handle, 1, now)
    asked = [scheduler.submit(slot, 10, 1, 5, now) for _ in range(3)]
    assert [handle > 0 for handle in asked] == [True, True, False]
    assert scheduler.retry_after == pytest.approx(2.0)
    assert 2.0 <= scheduler.explain(asked[1], now)["start_in_s"] <= 6.0


def test_requests_that_start_together_do_not_make_waits_shorter() -> None:
    """Eight start every 4 s: a place in a full queue is free after half a second, whatever the batch just did."""
    scheduler = scheduler_under_test()([8], [2**20], [0])
    slot = scheduler.add_tenant(max_queued=16, now=0.0)
    now, running = 0.0, list[int]()
    for _ in range(30):
        while scheduler.submit(slot, 10, 1, 5, now) > 0:
            pass
        for handle in running:
            scheduler.settle(handle, 1, now)
        assert scheduler.next_batch(0, now) == 8
        running = scheduler.started[:8].tolist()
        now += 4.0
    while scheduler.submit(slot, 10, 1, 5, now) > 0:
        pass
    assert scheduler.retry_after == pytest.approx(0.5)


def test_starts_without_a_wait_say_nothing_of_the_pace() -> None:
    scheduler = scheduler_under_test()([4], [2**20], [0])
    slot = scheduler.add_tenant(max_queued=2, now=0.0)
    for _ in range(2):
        scheduler.submit(slot, 10, 1, 5, 1.0)
        scheduler.submit(slot, 10, 1, 5, 1.0)
        assert scheduler.next_batch(0, 1.0) == 2
    asked = [scheduler.submit(slot, 10, 1, 5, 2.0) for _ in range(3)]
    assert asked[2] < 0 and scheduler.retry_after == 1.0
    assert scheduler.explain(asked[0], 2.0)["start_in_s"] is None


def test_a_request_settles_once() -> None:
    setting = Setting()
    setting.scheduler.settle(setting.running, 5, NOW)
    before = setting.scheduler.snapshot(NOW)
    for call in (setting.scheduler.settle, setting.scheduler.rebid):
        with pytest.raises(KeyError):
            call(setting.running, 5, NOW)
    with pytest.raises(KeyError):
        setting.scheduler.cancel(setting.running, NOW)
    assert str(setting.scheduler.snapshot(NOW)) == str(before)


def test_a_handle_is_never_another_request() -> None:
    """However often a place is used again."""
    setting = Setting()
    seen = {setting.gone}
    for _ in range(300):
        handle = setting.submit(setting.tenant)
        assert handle not in seen
        seen.add(handle)
        setting.scheduler.cancel(handle, NOW)
    for stale in seen:
        with pytest.raises(KeyError):
            setting.scheduler.explain(stale, NOW)


@pytest.mark.parametrize(
    "changes",
    [
        {"slots": []},
        {"slots": [0]},
        {"slots": [1, 2]},
        {"kv_blocks": [0]},
        {"token_budgets": [-1]},
        {"block_tokens": 0},
        {"aging_horizon_s": -1.0},
        {"aging_horizon_s": NAN},
        {"fairness_window": -0.5},
        {"input_weight": INF},
        {"output_weight": -1.0},
        {"expected_output": -2},
        {"bid_premium": -0.1},
        {"max_passes": -1},
        {"backfill_depth": -1},
        {"preemption": 3},
        {"preempt_margin": -1},
        {"max_preemptions": -1},
        {"batch_window_s": -0.01},
        {"batch_fill_target": -0.1},
        {"batch_fill_target": 1.1},
        {"kv_high_watermark": 0.0},
        {"kv_high_watermark": 1.01},
        {"max_context": 0},
        {"epoch": INF},
    ],
    ids=str,
)
def test_schedulers_that_cannot_be(changes: dict[str, Any]) -> None:
    keywords: dict[str, Any] = {"slots": [2], "kv_blocks": [40], "token_budgets": [16], **changes}
    with pytest.raises(ValueError, match=next(iter(changes))):
        scheduler_under_test()(**keywords)


class OutOfMemory:
    """NumPy's allocations fail from the n-th on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n: int) -> None:
        self.left = n
        for name in ("zeros", "empty", "ones", "full", "arange", "concatenate"):
            monkeypatch.setattr(np, name, self.failing(getattr(np, name)))

    def failing(self, allocate: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self.left -= 1
            if self.left < 0:
                raise MemoryError
            return allocate(*arguments, **keywords)

        return call


def test_without_memory_for_a_tenant_no_slot_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever allocation fails, the next tenant needs them all again."""
    for n in range(100):
        scheduler = Scheduler([1], [40], [0], block_tokens=4)
        for _ in range(15):  # those there is room for at first
            scheduler.add_tenant(now=0.0)
        with monkeypatch.context() as patch:
            memory = OutOfMemory(patch, n)
            try:
                scheduler.add_tenant(now=0.0)
                break
            except MemoryError:
                memory.left = 0
            with pytest.raises(MemoryError):
                scheduler.add_tenant(now=0.0)
        slot = scheduler.add_tenant(now=0.0, rate=10.0, burst=50.0)
        assert slot == 16
        handle = scheduler.submit(slot, 10, 20, 5, 0.0)
        assert scheduler.next_batch(0, 0.0) == 1
        assert scheduler.settle(handle, 20, 1.0) == 30.0
    assert n > 10


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_columns_of_any_integers_mean_the_same(dtype: type[np.integer[Any]]) -> None:
    s = Setting()
    column = np.full((2, 2), 5, dtype)[:, 0]  # not contiguous
    tenants = np.full(2, s.tenant, dtype)
    assert (s.scheduler.submit_many(tenants, column, column, column, NOW) > 0).all()
    assert (s.scheduler.submit_many([s.tenant], [5], [dtype(5)], [5], NOW) > 0).all()
    assert s.scheduler.submit_many([], [], [], [], NOW).size == 0
    assert s.scheduler.waiting == 5


def test_numpy_integers_are_integers() -> None:
    setting = Setting()
    tokens = np.int64(5)
    assert setting.scheduler.submit(np.int32(setting.tenant), tokens, tokens, tokens, NOW) > 0

"""The micro mode's promise: a batch starts when its window closes, or at once when it is full enough."""

from __future__ import annotations

from typing import Any

import pytest

from tests.scheduler_pair import plain, scheduler_under_test

CONTINUOUS, WINDOW, FILL = 1, 2, 3


def build(slots: int = 10, blocks: int = 100, devices: int = 1, **keywords: Any) -> tuple[Any, int]:
    scheduler = scheduler_under_test()([slots] * devices, [blocks] * devices, [0] * devices, **keywords)
    return scheduler, scheduler.add_tenant(now=0.0)


def test_a_lone_request_starts_when_the_window_closes_and_not_before() -> None:
    scheduler, tenant = build(micro=True)
    handle = scheduler.submit(tenant, 10, 10, 5, 1.0)
    assert scheduler.explain(handle, 1.0)["waits_for"] == "batch_window"
    assert scheduler.next_wakeup(1.0) == pytest.approx(1.010, abs=1e-12)
    for now in (1.0, 1.005, 1.009_999_998):
        assert scheduler.next_batch(0, now) == 0
        assert scheduler.release_reason == 0
    wake = scheduler.next_wakeup(1.009_999_998)
    assert scheduler.next_batch(0, wake) == 1
    assert wake == pytest.approx(1.010, abs=1e-12)
    assert plain(scheduler.started[:1]) == [handle]
    assert scheduler.release_reason == WINDOW


def test_a_lone_request_of_a_continuous_batch_waits_for_nothing() -> None:
    scheduler, tenant = build()
    scheduler.submit(tenant, 10, 10, 5, 1.0)
    assert scheduler.next_batch(0, 1.0) == 1
    assert scheduler.release_reason == CONTINUOUS


def test_a_batch_that_fills_its_slots_starts_at_once() -> None:
    scheduler, tenant = build(micro=True)
    for count in range(1, 9):
        assert scheduler.next_batch(0, 1.0) == 0, f"{count - 1} of 10 slots"
        scheduler.submit(tenant, 10, 10, 5, 1.0)
    assert scheduler.next_wakeup(1.0) == 1.0
    assert scheduler.next_batch(0, 1.0) == 8
    assert scheduler.release_reason == FILL


def test_a_batch_that_fills_the_kv_cache_starts_at_once() -> None:
    scheduler, tenant = build(micro=True)
    scheduler.submit(tenant, 16 * 60, 16 * 19, 5, 1.0)  # 79 of 100 blocks
    assert scheduler.next_batch(0, 1.0) == 0
    scheduler.submit(tenant, 8, 8, 5, 1.0)
    assert scheduler.next_batch(0, 1.0) == 2
    assert scheduler.release_reason == FILL


def test_nothing_joins_a_running_batch() -> None:
    scheduler, tenant = build(micro=True)
    first = scheduler.submit(tenant, 10, 10, 5, 1.0)
    assert scheduler.next_batch(0, 1.5) == 1
    for _ in range(10):
        scheduler.submit(tenant, 10, 10, 5, 1.5)
    assert scheduler.next_batch(0, 2.0) == 0
    assert scheduler.next_wakeup(2.0) == float("inf")
    scheduler.settle(first, 10, 2.0)
    assert scheduler.next_batch(0, 2.0) == 10
    assert scheduler.release_reason == FILL


def test_the_window_opens_when_the_device_becomes_idle() -> None:
    scheduler, tenant = build(micro=True)
    first = scheduler.submit(tenant, 10, 10, 5, 1.0)
    assert scheduler.next_batch(0, 1.5) == 1
    scheduler.submit(tenant, 10, 10, 5, 1.6)
    scheduler.settle(first, 10, 2.0)
    assert scheduler.next_batch(0, 2.009) == 0
    assert scheduler.next_batch(0, 2.01) == 1
    assert scheduler.release_reason == WINDOW


def test_the_window_opens_when_a_shaped_tenant_may_go() -> None:
    scheduler, _ = build(micro=True)
    shaped = scheduler.add_tenant(rate=100.0, burst=100.0, queue_over_rate=True, now=0.0)
    scheduler.submit(shaped, 50, 50, 5, 1.0)
    assert scheduler.next_batch(0, 1.01) == 1
    waiting = scheduler.submit(shaped, 10, 10, 5, 1.01)
    assert scheduler.explain(waiting, 1.01)["waits_for"] == "rate"
    affordable = scheduler.next_wakeup(1.01)
    assert affordable == pytest.approx(1.21)
    scheduler.settle(int(scheduler.started[0]), 50, 1.1)  # used what it reserved: gives nothing back
    assert scheduler.next_batch(0, 1.215) == 0
    assert scheduler.next_wakeup(1.215) == pytest.approx(1.22)
    assert scheduler.next_batch(0, 1.2201) == 1


def test_each_idle_device_has_its_window() -> None:
    scheduler, tenant = build(micro=True, devices=2, slots=2, blocks=20)
    for _ in range(2):
        scheduler.submit(tenant, 10, 10, 5, 1.0)
    assert scheduler.next_batch(1, 1.0) == 2
    assert scheduler.release_reason == FILL
    scheduler.submit(tenant, 10, 10, 5, 1.1)
    assert scheduler.next_batch(0, 1.105) == 0
    assert scheduler.next_batch(1, 1.2) == 0
    assert scheduler.next_batch(0, 1.2) == 1
    assert scheduler.release_reason == WINDOW


def test_a_device_that_assembled_in_vain_is_not_due_until_something_changes() -> None:
    """A batch fills the small device and fits the large one alone, which is busy: nobody asks the small one again."""
    scheduler = scheduler_under_test()([4, 4], [10, 100], [0, 0], micro=True)
    tenant = scheduler.add_tenant(now=0.0)
    first = scheduler.submit(tenant, 16 * 80, 16 * 4, 5, 0.0)
    assert scheduler.next_batch(1, 0.0) == 1
    for _ in range(4):
        scheduler.submit(tenant, 16 * 15, 16, 5, 1.0)
    assert scheduler.next_wakeup(1.0) == 1.0
    assert scheduler.next_batch(0, 1.0) == 0
    assert scheduler.next_wakeup(1.0) == float("inf")
    assert scheduler.next_wakeup(5.0) == float("inf")
    scheduler.progress(first, 100, 0, 5.0)  # charges nothing: no news for the small device
    assert scheduler.next_wakeup(5.0) == float("inf")
    scheduler.submit(tenant, 10, 10, 5, 6.0)
    assert scheduler.next_wakeup(6.0) == 6.0
    assert scheduler.next_batch(0, 6.0) == 1
    assert scheduler.next_wakeup(6.0) == float("inf")
    scheduler.settle(first, 0, 7.0)
    assert scheduler.next_wakeup(7.0) == 7.0
    assert scheduler.next_wakeup(7.0, [1]) == float("inf")  # the engine of the other cannot be asked
    with pytest.raises(IndexError):
        scheduler.next_wakeup(7.0, [2])
    assert scheduler.next_batch(1, 7.0) == 4

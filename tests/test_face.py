"""The Python face of the scheduler: what it was made with, a request's life, batches, tenants, knobs, views."""

import re
import runpy
from math import inf, nan
from pathlib import Path
from typing import Any

import pytest

from aps import Batch, Device, Ended, Limits, Policy, Scheduler, Tenant
from tests.small_scheduler import ROOMY, A, B, Call, admitted, make

ROOT = Path(__file__).parents[1]


# Construction


def test_attributes_are_what_it_was_made_with() -> None:
    devices = (Device(), Device(name="gpu1"))
    limits, policy = Limits(max_queued=7), Policy.fair()
    scheduler = make(A, devices=list(devices), limits=limits, policy=policy, block_tokens=32, epoch=5.0)
    assert (scheduler.devices, scheduler.limits, scheduler.policy) == (devices, limits, policy)
    assert (scheduler.block_tokens, scheduler.epoch, scheduler.now, scheduler.waiting) == (32, 5.0, 5.0, 0)
    assert dict(scheduler.tenants) == {"a": A}
    with pytest.raises(TypeError):
        scheduler.tenants["b"] = B  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epoch": 1e11}, "Scheduler.epoch must be seconds in -1e10..1e10, got 100000000000.0"),
        ({"devices": ()}, "Scheduler.devices must name at least one device, got ()"),
        ({"devices": (Device(), Device())}, "Scheduler.devices must have different names, got 'gpu0' twice"),
        ({"block_tokens": 0}, "Scheduler.block_tokens must be an int in 1..2147483647, got 0"),
        ({"epoch": nan}, "Scheduler.epoch must be seconds in -1e10..1e10, got nan"),
        ({"tenants": (A, A)}, "Tenant.name must be new, got 'a' again: set_tenant changes a tenant"),
    ],
)
def test_bad_construction_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Scheduler(**{"tenants": (), **options})


def test_block_tokens_and_epoch_reach_the_core() -> None:
    scheduler = make(A, devices=(Device(kv_blocks=10),), block_tokens=10, epoch=100.0)
    verdict = scheduler.submit("a", prompt_tokens=90, max_tokens=20, now=100.0)
    assert (verdict.reason, verdict.largest) == ("exceeds_kv_cache", 10)
    with pytest.raises(ValueError, match="now"):
        scheduler.submit("a", prompt_tokens=1, now=99.0)


# The life of a request


def test_settle_returns_what_was_used_at_the_bid_of_dispatch() -> None:
    scheduler = make(Tenant("a", rate=1, burst=1000), policy=Policy(bid_premium=0.5))
    scheduler.submit("a", **ROOMY, bid=3, id="x")
    assert scheduler.snapshot(now=0.0).tenants["a"].level == 800.0
    scheduler.next_batch(now=0.0)
    scheduler.rebid("x", 10, now=0.0)
    assert scheduler.settle("x", 20, now=0.0) == 160.0
    assert scheduler.snapshot(now=0.0).tenants["a"].level == 840.0


def test_cancel_settles_what_runs_and_gives_back_what_waits() -> None:
    scheduler = make(Tenant("a", rate=1, burst=1000))
    scheduler.submit("a", **ROOMY, id="runs")
    scheduler.next_batch(now=0.0)
    scheduler.submit("a", **ROOMY, id="waits")
    scheduler.progress("runs", 60, 3, now=0.0)
    assert scheduler.cancel("waits", now=0.0) == 0.0
    assert scheduler.cancel("runs", now=0.0) == 63.0
    assert scheduler.cancel("runs", now=0.0) is None
    assert scheduler.snapshot(now=0.0).tenants["a"].level == 937.0


def test_cancel_after_the_deadline_finds_it_ended() -> None:
    scheduler = make()
    scheduler.submit("a", **ROOMY, id="x", deadline_at=1.0)
    assert scheduler.cancel("x", now=1.0) is None
    scheduler.next_wakeup(now=1.0)
    assert scheduler.ended() == [Ended("x", "deadline_expired")]
    assert scheduler.ended() == []


def test_settling_a_waiting_request_is_an_error_that_changes_nothing() -> None:
    scheduler = make()
    for id in ("x", None):
        request = admitted(scheduler.submit("a", **ROOMY, id=id))
        with pytest.raises(ValueError, match="waiting"):
            scheduler.settle(request, 1, now=0.0)
        with pytest.raises(ValueError, match="waiting"):
            scheduler.preempt(request, now=0.0)
        assert scheduler.explain(request, now=0.0).state == "waiting"


def test_ended_reports_limits_that_became_too_small() -> None:
    scheduler = make(devices=(Device(kv_blocks=100),))
    scheduler.submit("a", prompt_tokens=600, max_tokens=200, now=0.0, id="big")
    default = scheduler.submit("a", prompt_tokens=700, max_tokens=200, now=0.0).id
    scheduler.submit("a", prompt_tokens=10, max_tokens=10, now=0.0, id="small")
    scheduler.set_tenant(Tenant("a", kv_share=0.25), now=1.0)
    assert scheduler.ended() == [("big", "exceeds_kv_share"), (default, "exceeds_kv_share")]
    assert scheduler.waiting == 1


def test_next_wakeup() -> None:
    scheduler = make()
    assert scheduler.next_wakeup(now=0.0) == inf
    scheduler.submit("a", **ROOMY, deadline_at=3.0)
    assert 0.0 < scheduler.next_wakeup(now=0.0) <= 3.0
    assert scheduler.now == 0.0


# Bids


def test_rebid_reorders_and_clamps() -> None:
    scheduler = make(Tenant("a", max_bid=8), devices=(Device(slots=1),))
    scheduler.submit("a", **ROOMY, bid=5, id="x")
    scheduler.submit("a", **ROOMY, bid=5, id="y")
    assert scheduler.rebid("y", 7, now=0.0) == ("admitted", "admitted", "y", 7, False, 0.0, None)
    assert scheduler.rebid("x", 10, now=0.0) == ("admitted", "admitted", "x", 8, True, 0.0, None)
    assert scheduler.next_batch(now=0.0).started == ("x",)
    assert scheduler.rebid("x", 2, now=0.0).bid == 2


def test_rebid_that_the_bucket_cannot_pay_is_refused() -> None:
    scheduler = make(Tenant("a", rate=10, burst=300), policy=Policy(bid_premium=0.5))
    scheduler.submit("a", **ROOMY, bid=1, id="x")  # 100 of 300
    scheduler.submit("a", **ROOMY, bid=2, id="y")  # 150 more
    assert scheduler.rebid("x", 3, now=0.0) == ("throttled", "over_rate", "x", 1, False, 5.0, None)
    assert scheduler.rebid("x", 10, now=0.0) == ("rejected", "exceeds_burst", "x", 1, False, 0.0, None)
    assert scheduler.rebid("x", 3, now=5.0) == ("admitted", "admitted", "x", 3, False, 0.0, None)


# Batches


def test_a_batch_names_what_started_and_why() -> None:
    scheduler = make()
    assert scheduler.next_batch(now=0.0) == ((), (), None)
    request = admitted(scheduler.submit("a", **ROOMY))
    batch = scheduler.next_batch(0, now=0.0)
    assert isinstance(batch, Batch)
    assert batch == ((request,), (), "continuous")


@pytest.mark.parametrize("own", [False, True])
def test_a_batch_names_what_was_displaced(own: bool) -> None:
    scheduler = make(devices=(Device(slots=1),), policy=Policy(preemption="recompute"))
    low = admitted(scheduler.submit("a", **ROOMY, bid=1, id="low" if own else None))
    scheduler.next_batch(now=0.0)
    high = admitted(scheduler.submit("b", **ROOMY, bid=9, id="high" if own else None))
    assert scheduler.next_batch(now=0.0) == ((high,), (low,), "continuous")
    scheduler.settle(high, 1, now=1.0)
    assert scheduler.next_batch(now=1.0) == ((low,), (), "continuous")
    assert scheduler.explain(low, now=1.0).preemptions == 1


def test_micro_batches_are_released_by_window_or_fill() -> None:
    policy = Policy(batching="micro", batch_window_s=0.5, batch_fill_target=0.5)
    scheduler = make(policy=policy, devices=(Device(slots=4),))
    first = admitted(scheduler.submit("a", **ROOMY))
    assert scheduler.next_batch(now=0.0) == ((), (), None)
    assert scheduler.next_wakeup(now=0.0) == 0.5
    assert scheduler.next_batch(now=0.5) == ((first,), (), "window")
    scheduler.settle(first, 1, now=1.0)
    pair = tuple(admitted(scheduler.submit("a", **ROOMY | {"now": 1.0})) for _ in range(2))
    assert scheduler.next_batch(now=1.0) == (pair, (), "fill")


def test_devices_pull_by_index() -> None:
    scheduler = make(devices=(Device(slots=1), Device(slots=1, name="gpu1")))
    first, second = (admitted(scheduler.submit("a", **ROOMY)) for _ in range(2))
    assert scheduler.next_batch(1, now=0.0).started == (first,)
    assert scheduler.next_batch(0, now=0.0).started == (second,)
    assert scheduler.explain(first, now=0.0).device == 1
    for device in (2, -1):
        with pytest.raises(IndexError, match="device"):
            scheduler.next_batch(device, now=0.0)


# Tenants that come, change and go


def test_set_tenant_changes_defaults_at_once() -> None:
    scheduler = make()
    changed = Tenant("a", max_bid=4, default_max_tokens=8)
    scheduler.set_tenant(changed, now=0.0)
    assert scheduler.tenants["a"] == changed
    scheduler.submit("a", prompt_tokens=2, now=0.0)
    assert scheduler.snapshot(now=0.0).waiting_tokens == 10
    assert scheduler.submit("a", prompt_tokens=2, now=0.0).bid == 4
    with pytest.raises(KeyError, match="unknown tenant 'c'"):
        scheduler.set_tenant(Tenant("c"), now=0.0)


def test_an_idle_tenant_is_removed_at_once() -> None:
    scheduler = make()
    scheduler.remove_tenant("a", now=0.0)
    assert list(scheduler.tenants) == list(scheduler.snapshot(now=0.0).tenants) == ["b"]
    calls: list[Call] = [
        lambda: scheduler.submit("a", **ROOMY),
        lambda: scheduler.remove_tenant("a", now=0.0),
        lambda: scheduler.set_tenant(A, now=0.0),
    ]
    for call in calls:
        with pytest.raises(KeyError, match="unknown tenant 'a'; known: 'b'"):
            call()
    scheduler.add_tenant(A, now=0.0)
    admitted(scheduler.submit("a", **ROOMY))


def test_a_busy_tenant_drains() -> None:
    scheduler = make()
    request = admitted(scheduler.submit("a", **ROOMY))
    scheduler.remove_tenant("a", now=0.0)
    assert list(scheduler.tenants) == ["b"]
    assert {name: row.state for name, row in scheduler.snapshot(now=0.0).tenants.items()} == {
        "a": "draining",
        "b": "active",
    }
    calls: list[Call] = [lambda: scheduler.submit("a", **ROOMY), lambda: scheduler.set_tenant(A, now=0.0)]
    for call in calls:
        with pytest.raises(KeyError, match="tenant 'a' was removed; add_tenant brings it back"):
            call()
    assert scheduler.explain(request, now=0.0).tenant == "a"
    assert scheduler.next_batch(now=0.0).started == (request,)
    scheduler.settle(request, 1, now=0.0)
    assert list(scheduler.snapshot(now=0.0).tenants) == ["b"]


def test_a_draining_tenant_comes_back_with_its_service_and_debt() -> None:
    scheduler = make(Tenant("a", rate=1, burst=150))
    scheduler.submit("a", **ROOMY, id="x")
    scheduler.next_batch(now=0.0)
    scheduler.remove_tenant("a", now=0.0)
    back = Tenant("a", rate=1, burst=150, default_bid=2)
    scheduler.add_tenant(back, now=0.0)
    row = scheduler.snapshot(now=0.0).tenants["a"]
    assert (row.state, row.service, row.level, row.in_flight) == ("active", 100.0, 50.0, 1)
    assert scheduler.tenants["a"] == back
    verdict = scheduler.submit("a", **ROOMY)
    assert (verdict.reason, verdict.bid) == ("over_rate", 2)


def test_a_drained_tenant_comes_back_new() -> None:
    scheduler = make(Tenant("a", rate=1, burst=150))
    scheduler.submit("a", **ROOMY, id="x")
    scheduler.next_batch(now=0.0)
    scheduler.remove_tenant("a", now=0.0)
    scheduler.settle("x", 40, now=0.0)
    scheduler.add_tenant(Tenant("a", rate=1, burst=150), now=0.0)
    row = scheduler.snapshot(now=0.0).tenants["a"]
    assert (row.state, row.service, row.level, row.finished) == ("active", 0.0, 150.0, 0)


def test_a_tenant_whose_last_request_expires_on_the_way_comes_back_new() -> None:
    scheduler = make(A)
    scheduler.submit("a", **ROOMY, deadline_at=1.0)
    scheduler.remove_tenant("a", now=0.0)
    scheduler.add_tenant(A, now=5.0)
    assert scheduler.snapshot(now=5.0).tenants["a"].admitted == 0
    admitted(scheduler.submit("a", **ROOMY | {"now": 5.0}))


def test_a_slot_that_drains_on_the_way_is_another_s_name() -> None:
    scheduler = make(A)
    scheduler.submit("a", **ROOMY, deadline_at=1.0)
    scheduler.remove_tenant("a", now=0.0)
    scheduler.add_tenant(B, now=5.0)
    admitted(scheduler.submit("b", **ROOMY | {"now": 5.0}))
    assert list(scheduler.snapshot(now=5.0).tenants) == ["b"]
    scheduler.add_tenant(A, now=5.0)
    admitted(scheduler.submit("a", **ROOMY | {"now": 5.0}))
    rows = scheduler.snapshot(now=5.0).tenants
    assert {name: row.waiting for name, row in rows.items()} == {"a": 1, "b": 1}


def test_a_refused_change_of_tenants_changes_nothing() -> None:
    scheduler = make(A)
    scheduler.next_wakeup(now=3.0)
    calls: list[Call] = [
        lambda: scheduler.add_tenant(B, now=2.0),
        lambda: scheduler.set_tenant(Tenant("a", weight=9), now=2.0),
        lambda: scheduler.remove_tenant("a", now=2.0),
        lambda: scheduler.set_policy(1.0, 1.0, now=2.0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="now"):
            call()
    assert dict(scheduler.tenants) == {"a": A}
    assert scheduler.policy == Policy()


# The knobs


def test_set_policy_turns_the_two_knobs() -> None:
    scheduler = make(policy=Policy(max_passes=3))
    scheduler.set_policy(now=0.0)
    assert scheduler.policy == Policy(max_passes=3)
    scheduler.set_policy(fairness_window=0, now=0.0)
    scheduler.set_policy(aging_horizon_s=inf, now=0.0)
    assert scheduler.policy == Policy.fair(max_passes=3)
    scheduler.set_policy(10.0, 512.0, now=0.0)
    assert scheduler.policy.knobs == "H = 10 s, D = 512"
    assert scheduler.snapshot(now=0.0).tenants["a"].threshold == -512.0
    with pytest.raises(ValueError, match=r"Policy.fairness_window must be .*, got -1"):
        scheduler.set_policy(5.0, -1, now=0.0)
    assert scheduler.policy.knobs == "H = 10 s, D = 512"


def test_the_aging_horizon_orders_at_once() -> None:
    scheduler = make(devices=(Device(slots=1),), policy=Policy.bids(aging_horizon_s=inf))
    scheduler.submit("a", **ROOMY, bid=1, id="old")
    scheduler.submit("a", **ROOMY | {"now": 9.0}, bid=10, id="new")
    assert scheduler.explain("old", now=9.0).position == 1
    assert scheduler.explain("old", now=9.0).effective_bid == 1.0
    scheduler.set_policy(aging_horizon_s=4.5, now=9.0)
    assert scheduler.explain("old", now=9.0).effective_bid == pytest.approx(19.0)
    assert scheduler.next_batch(now=9.0).started == ("old",)


# Looking


def test_explain_follows_a_request() -> None:
    scheduler = make(devices=(Device(slots=1),))
    scheduler.submit("a", **ROOMY, id="x")
    scheduler.submit("a", **ROOMY, id="y")
    assert scheduler.next_batch(now=0.0).started == ("x",)
    scheduler.progress("x", 40, 0, now=1.0)
    running, waiting = scheduler.explain("x", now=1.0), scheduler.explain("y", now=1.0)
    assert running._replace(effective_bid=0.0) == (
        *("x", "a", "running", 5, 0.0, 0, "", None),
        *(40, 0, 20, 0, 0, 0),
    )
    assert (waiting.state, waiting.waits_for, waiting.device, waiting.position) == ("waiting", "slot", None, 0)
    assert waiting.effective_bid == pytest.approx(5.3)


def test_snapshot_is_by_name_in_python_s_own_types() -> None:
    scheduler = make(A, Tenant("b", weight=2), devices=(Device(slots=1), Device(name="gpu1", kv_blocks=20)))
    scheduler.submit("b", **ROOMY, id="x")
    scheduler.next_batch(1, now=0.0)
    scheduler.submit("a", **ROOMY)
    snapshot = scheduler.snapshot(now=0.0)
    assert snapshot[1:6] == (0.0, 1, 100, 1, 0)
    assert list(snapshot.tenants) == ["a", "b"]
    a, b = snapshot.tenants["a"], snapshot.tenants["b"]
    assert a[:4] == ("a", "active", 1.0, 50.0)  # lifted to where b stopped
    assert (a.contending, a.in_window, a.waiting, a.waiting_tokens, a.level) == (True, True, 1, 100, inf)
    assert (b.service, b.threshold, b.in_flight, b.held_blocks, b.started) == (50.0, -974.0, 1, 7, 1)
    assert b.contending is False
    assert snapshot.devices["gpu0"] == ("gpu0", 1, 0, 0, 0, 4096, None)
    assert snapshot.devices["gpu1"] == ("gpu1", 16, 1, 4, 7, 20, None)
    plain = (str, int, float, bool, type(None))
    rows = [*snapshot.tenants.values(), *snapshot.devices.values()]
    assert all(type(value) in plain for row in rows for value in row)
    with pytest.raises(TypeError):
        snapshot.tenants["a"] = a  # type: ignore[index]


def test_snapshot_names_the_request_that_holds_a_reservation() -> None:
    scheduler = make(A, devices=(Device(kv_blocks=10),))
    for number in range(2):
        scheduler.submit("a", **ROOMY, id=f"r{number}")
    assert scheduler.next_batch(now=0.0).started == ("r0",)
    assert scheduler.snapshot(now=0.0).devices["gpu0"].reserved == "r1"
    assert scheduler.explain("r1", now=0.0).waits_for == "kv"


# The quickstart


def test_the_quickstart_prints_shares_near_the_weights(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "shares.py"))
    lines = re.findall(r"^(\w+) +weight (\d+) .* share +([\d.]+)%$", capsys.readouterr().out, re.MULTILINE)
    assert [name for name, _, _ in lines] == ["gold", "silver", "bronze"]
    for _, weight, share in lines:
        assert float(share) == pytest.approx(10 * int(weight), abs=0.5)

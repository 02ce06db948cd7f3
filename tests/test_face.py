"""The Python face of the scheduler: names, ids, verdicts, and that it decides nothing itself."""

import re
import runpy
from collections.abc import Hashable
from math import inf, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aps import Batch, Device, Ended, Limits, Policy, Scheduler, Tenant, Verdict
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).parents[1]
A, B = Tenant("a"), Tenant("b")


def make(*tenants: Tenant, **options: Any) -> Scheduler:
    return Scheduler(tenants or (A, B), **options)


def admitted(verdict: Verdict) -> Hashable:
    assert verdict.admitted, verdict
    return verdict.id


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
        ({"devices": ()}, "Scheduler.devices must name at least one device, got ()"),
        ({"devices": (Device(), Device())}, "Scheduler.devices must have different names, got 'gpu0' twice"),
        ({"block_tokens": 0}, "Scheduler.block_tokens must be an int in 1..2147483647, got 0"),
        ({"epoch": nan}, "Scheduler.epoch must be finite seconds, got nan"),
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


# Verdicts


def test_an_admitted_request() -> None:
    scheduler = make(Tenant("a", default_bid=4, default_max_tokens=64))
    verdict = scheduler.submit("a", prompt_tokens=100, now=0.0)
    assert verdict == ("admitted", "admitted", verdict.id, 4, False, 0.0, None)
    assert isinstance(verdict, Verdict)
    assert verdict.admitted
    assert isinstance(verdict.id, int)
    assert scheduler.snapshot(now=0.0).waiting_tokens == 164


def test_bids_are_clamped_to_the_tenant_s() -> None:
    scheduler = make(Tenant("a", max_bid=3))
    for bid, counts, clamped in ((None, 3, False), (2, 2, False), (3, 3, False), (4, 3, True), (10, 3, True)):
        verdict = scheduler.submit("a", prompt_tokens=1, bid=bid, now=0.0)
        assert (verdict.bid, verdict.clamped) == (counts, clamped)
        assert scheduler.explain(verdict.id, now=0.0).bid == counts


@pytest.mark.parametrize("bid", [0, 11, -5])
def test_a_bid_out_of_range_is_an_error(bid: int) -> None:
    scheduler = make()
    with pytest.raises(ValueError, match=f"bid.*{bid}"):
        scheduler.submit("a", prompt_tokens=1, bid=bid, now=0.0)
    assert scheduler.waiting == 0


@pytest.mark.parametrize("bid", [True, False, 5.0, "5", nan])
def test_a_bid_is_an_int(bid: Any) -> None:
    scheduler = make()
    request = scheduler.submit("a", prompt_tokens=1, now=0.0).id
    with pytest.raises(TypeError, match=f"bid must be an int in 1..10, got {bid!r}"):
        scheduler.submit("a", prompt_tokens=1, bid=bid, now=0.0)
    with pytest.raises(TypeError, match=f"bid must be an int in 1..10, got {bid!r}"):
        scheduler.rebid(request, bid, now=0.0)


def test_integers_of_any_type_will_do() -> None:
    scheduler = make()
    verdict = scheduler.submit("a", prompt_tokens=np.int64(9), max_tokens=np.int32(3), bid=np.int8(7), now=0.0)  # type: ignore[arg-type]
    assert type(verdict.bid) is int
    assert scheduler.cancel(np.int64(admitted(verdict)), now=0.0) == 0.0  # type: ignore[call-overload]


ROOMY = {"prompt_tokens": 60, "max_tokens": 40, "now": 0.0}


@pytest.mark.parametrize(
    ("tenant", "options", "reason", "largest"),
    [
        (A, {"limits": Limits(max_context=90)}, "exceeds_context", 30),
        (A, {"limits": Limits(max_context=60)}, "exceeds_context", 0),
        (A, {"devices": (Device(kv_blocks=5),)}, "exceeds_kv_cache", 20),
        (Tenant("a", kv_share=0.5), {"devices": (Device(kv_blocks=10),)}, "exceeds_kv_share", 20),
        (Tenant("a", rate=1, burst=90), {}, "exceeds_burst", 30),
        (Tenant("a", rate=1, burst=150), {"policy": Policy(bid_premium=0.25)}, "exceeds_burst", 15),
    ],
)
def test_rejected_for_good(tenant: Tenant, options: dict[str, Any], reason: str, largest: int) -> None:
    scheduler = make(tenant, **options)
    verdict = scheduler.submit("a", **ROOMY, id="mine")
    assert verdict == ("rejected", reason, "mine", 5, False, 0.0, largest)
    assert not verdict.admitted
    if largest:
        assert scheduler.submit("a", **ROOMY | {"max_tokens": largest}).admitted
        assert not scheduler.submit("a", **ROOMY | {"max_tokens": largest + 1}).admitted


@pytest.mark.parametrize(
    ("tenant", "options", "reason", "retry_after_s"),
    [
        (A, {"limits": Limits(max_queued=1)}, "queue_full", 1.0),
        (A, {"limits": Limits(max_queued_tokens=199)}, "queue_tokens_full", 1.0),
        (Tenant("a", max_queued=1), {}, "tenant_queue_full", 1.0),
        (Tenant("a", max_queued_tokens=199), {}, "tenant_queue_tokens_full", 1.0),
        (Tenant("a", rate=10, burst=150), {}, "over_rate", 5.0),
    ],
)
def test_throttled_for_now(tenant: Tenant, options: dict[str, Any], reason: str, retry_after_s: float) -> None:
    scheduler = make(tenant, **options)
    admitted(scheduler.submit("a", **ROOMY))
    verdict = scheduler.submit("a", **ROOMY)
    assert verdict == ("throttled", reason, None, 5, False, retry_after_s, None)
    assert scheduler.waiting == 1


def test_throttled_for_a_deadline_that_has_passed() -> None:
    verdict = make().submit("a", prompt_tokens=1, bid=3, now=2.0, deadline_at=2.0)
    assert (verdict.status, verdict.reason, verdict.bid, verdict.largest) == ("throttled", "deadline_expired", 3, None)


def test_over_rate_may_wait_instead() -> None:
    scheduler = make(Tenant("a", rate=10, burst=100, over_rate="queue"))
    first, second = (admitted(scheduler.submit("a", **ROOMY)) for _ in range(2))
    assert scheduler.next_batch(now=0.0).started == (first,)
    assert scheduler.explain(second, now=0.0).waits_for == "rate"
    assert scheduler.next_wakeup(now=0.0) == pytest.approx(10.0)
    assert scheduler.next_batch(now=10.0).started == (second,)


def test_a_submission_s_own_forecast_and_deadline() -> None:
    scheduler = make(policy=Policy(fairness_window=0.0))
    admitted(scheduler.submit("a", prompt_tokens=100, max_tokens=500, expected_output=7, now=0.0))
    late = admitted(scheduler.submit("b", prompt_tokens=100, max_tokens=500, deadline_at=1.0, now=0.0))
    scheduler.next_batch(now=0.0)
    services = {name: row.service for name, row in scheduler.snapshot(now=0.0).tenants.items()}
    assert services == {"a": 107.0, "b": 600.0}
    assert scheduler.explain(late, now=2.0).state == "running"


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"prompt_tokens": 0}, ValueError, "prompt_tokens.*0"),
        ({"prompt_tokens": 1.5}, TypeError, "."),
        ({"max_tokens": 0}, ValueError, "max_tokens.*0"),
        ({"now": nan}, ValueError, "now.*nan"),
        ({"now": -1.0}, ValueError, "now.*-1"),
        ({"deadline_at": nan}, ValueError, "deadline_at.*nan"),
        ({"expected_output": -1}, ValueError, "expected_output must be an int in 0..2147483647 or None, got -1"),
        ({"expected_output": True}, TypeError, "expected_output must be an int in 0..2147483647 or None, got True"),
        ({"id": []}, TypeError, "unhashable"),
        ({"id": 2**53}, ValueError, "id must not be an int in 2\\*\\*53..2\\*\\*63-1 .*, got 9007199254740992"),
        ({"id": 2**63 - 1}, ValueError, "id must not be an int"),
    ],
)
def test_mistakes_are_errors_and_change_nothing(change: dict[str, Any], error: type[Exception], words: str) -> None:
    scheduler = make()
    with pytest.raises(error, match=words):
        scheduler.submit("a", **ROOMY | change)
    assert scheduler.waiting == 0
    assert scheduler.snapshot(now=0.0).tenants["a"].admitted == 0


def test_an_unknown_tenant_is_named_with_the_known() -> None:
    for name in ("c", "", None):
        with pytest.raises(KeyError) as error:
            make().submit(name, **ROOMY)  # type: ignore[arg-type]
        assert error.value.args[0] == f"unknown tenant {name!r}; known: 'a', 'b'"


# Ids


@pytest.mark.parametrize("id", ["req-1", 7, 0, -3, 2**63, ("a", 1), frozenset({1}), 1.5, b"x", False, ""])
def test_a_request_is_known_by_its_caller_s_id(id: Hashable) -> None:
    scheduler = make()
    assert scheduler.submit("a", **ROOMY, id=id).id == id
    assert scheduler.explain(id, now=0.0).id == id
    assert scheduler.rebid(id, 9, now=0.0).id == id
    assert scheduler.next_batch(now=0.0).started == (id,)
    scheduler.progress(id, 60, 5, now=1.0)
    scheduler.preempt(id, now=1.0)
    assert scheduler.explain(id, now=1.0)[2] == "returning"
    assert scheduler.next_batch(now=1.0).started == (id,)
    assert scheduler.settle(id, 10, now=2.0) == 70.0
    with pytest.raises(KeyError):
        scheduler.settle(id, 10, now=2.0)


def test_default_ids_are_the_core_s_own_numbers() -> None:
    scheduler = make()
    ids = [scheduler.submit("a", **ROOMY).id for _ in range(20)]
    assert len(set(ids)) == 20
    assert all(type(id) is int and 2**53 <= id < 2**63 for id in ids)
    assert scheduler.next_batch(now=0.0).started == tuple(ids[:16])


def test_ids_are_unique_among_live_requests() -> None:
    scheduler = make()
    scheduler.submit("a", **ROOMY, id="x")
    with pytest.raises(ValueError, match="id must be unique among live requests, got 'x' again"):
        scheduler.submit("b", **ROOMY, id="x")
    assert scheduler.waiting == 1
    scheduler.cancel("x", now=0.0)
    admitted(scheduler.submit("b", **ROOMY, id="x"))
    scheduler.next_batch(now=0.0)
    with pytest.raises(ValueError, match="'x' again"):
        scheduler.submit("b", **ROOMY, id="x")
    scheduler.settle("x", 1, now=0.0)
    admitted(scheduler.submit("b", **ROOMY, id="x"))


def test_a_refused_request_does_not_take_its_id() -> None:
    scheduler = make(limits=Limits(max_context=50))
    assert not scheduler.submit("a", **ROOMY, id="x").admitted
    admitted(scheduler.submit("a", prompt_tokens=1, max_tokens=1, id="x", now=0.0))


def test_an_expired_request_s_id_may_be_used_again_and_its_end_is_still_reported() -> None:
    scheduler = make()
    scheduler.submit("a", **ROOMY, id="x", deadline_at=1.0)
    scheduler.next_wakeup(now=2.0)
    admitted(scheduler.submit("a", **ROOMY | {"now": 2.0}, id="x"))
    assert scheduler.ended() == [Ended("x", "deadline_expired")]
    assert scheduler.next_batch(now=2.0).started == ("x",)


def test_own_and_default_ids_live_together() -> None:
    scheduler = make(policy=Policy.fifo())
    ids = [admitted(scheduler.submit("a", **ROOMY, id=own)) for own in ("x", None, 5, None)]
    assert scheduler.next_batch(now=0.0).started == tuple(ids)
    for id in ids:
        assert scheduler.settle(id, 1, now=0.0) == 61.0


@pytest.mark.parametrize("id", ["x", 5, 2**62, None, -1, 1.5, 2**70])
@pytest.mark.parametrize("others", [(), ("y",)])
def test_an_unknown_id_is_a_key_error(id: Hashable, others: tuple[str, ...]) -> None:
    scheduler = make()
    for other in others:
        scheduler.submit("a", **ROOMY, id=other)
    for call in (
        lambda: scheduler.settle(id, 1, now=0.0),
        lambda: scheduler.progress(id, 1, 1, now=0.0),
        lambda: scheduler.preempt(id, now=0.0),
        lambda: scheduler.rebid(id, 5, now=0.0),
        lambda: scheduler.explain(id, now=0.0),
    ):
        with pytest.raises(KeyError):
            call()
    assert scheduler.cancel(id, now=0.0) is None


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
    changed = Tenant("a", default_bid=9, max_bid=4, default_max_tokens=8)
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
    for call in (
        lambda: scheduler.submit("a", **ROOMY),
        lambda: scheduler.remove_tenant("a", now=0.0),
        lambda: scheduler.set_tenant(A, now=0.0),
    ):
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
    for call in (lambda: scheduler.submit("a", **ROOMY), lambda: scheduler.set_tenant(A, now=0.0)):
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
    for call in (
        lambda: scheduler.add_tenant(B, now=2.0),
        lambda: scheduler.set_tenant(Tenant("a", weight=9), now=2.0),
        lambda: scheduler.remove_tenant("a", now=2.0),
        lambda: scheduler.set_policy(1.0, 1.0, now=2.0),
    ):
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
        *(40, 0, 0, 0, 0),
    )
    assert (waiting.state, waiting.waits_for, waiting.device, waiting.position) == ("waiting", "slot", None, 0)
    assert waiting.effective_bid == pytest.approx(5.3)


def test_snapshot_is_by_name_in_python_s_own_types() -> None:
    scheduler = make(A, Tenant("b", weight=2), devices=(Device(slots=1), Device(name="gpu1", kv_blocks=20)))
    scheduler.submit("b", **ROOMY, id="x")
    scheduler.next_batch(1, now=0.0)
    scheduler.submit("a", **ROOMY)
    snapshot = scheduler.snapshot(now=0.0)
    assert snapshot[1:5] == (1, 100, 1, 0)
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


# Own ids change nothing, and leave nothing behind

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "submit", "submit", "batch", "batch", "settle", "cancel", "rebid", "wait"]),
        st.integers(0, 400),
        st.integers(1, 10),
    ),
    max_size=60,
)


def answers(operations: list[tuple[str, int, int]], own: bool) -> tuple[list[object], Scheduler]:
    """What a scheduler answers, with requests called by their submission number."""
    tenants = Tenant("a", weight=2, max_bid=7), Tenant("b", rate=200, burst=900)
    policy = Policy(aging_horizon_s=2.0, fairness_window=300.0, preemption="swap", bid_premium=0.1)
    scheduler = make(*tenants, devices=(Device(slots=3, kv_blocks=40),), policy=policy)
    log: list[object] = []
    live: dict[Hashable, int] = {}
    now = 0.0
    for number, (operation, size, bid) in enumerate(operations):
        some = list(live)[size % len(live)] if live else "nobody"
        if operation == "submit":
            verdict = scheduler.submit(
                "ab"[size % 2],
                prompt_tokens=size + 1,
                max_tokens=10 * bid,
                bid=bid,
                now=now,
                deadline_at=now + bid if size % 5 == 0 else None,
                id=f"own-{number}" if own else None,
            )
            log.append(verdict._replace(id=None))
            if verdict.admitted:
                live[verdict.id] = number
        elif operation == "batch":
            batch = scheduler.next_batch(now=now)
            log.append([[live[id] for id in ids] for ids in batch[:2]])
        elif operation == "settle" and live and scheduler.explain(some, now=now).state == "running":
            log.append((live.pop(some), scheduler.settle(some, bid, now=now)))
        elif operation == "cancel":
            log.append((live.pop(some, None), scheduler.cancel(some, now=now)))
        elif operation == "rebid" and live:
            log.append(scheduler.rebid(some, bid, now=now)._replace(id=None))
        elif operation == "wait":
            now += bid / 4
            log.append(scheduler.next_wakeup(now=now))
        ends = [(live.pop(id), reason) for id, reason in scheduler.ended()]
        log.append(ends)
    for id in live:
        assert scheduler.cancel(id, now=now) is not None
    return log, scheduler


@settings(max_examples=60, deadline=None, derandomize=True)
@given(OPERATIONS)
def test_own_ids_change_no_answer_and_leave_nothing_behind(operations: list[tuple[str, int, int]]) -> None:
    default, _ = answers(operations, own=False)
    own, scheduler = answers(operations, own=True)
    assert own == default
    assert scheduler._ids == {}
    assert scheduler._handles == {}


# The quickstart


def test_the_quickstart_prints_shares_near_the_weights(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "shares.py"))
    lines = re.findall(r"^(\w+) +weight (\d+) .* share +([\d.]+)%$", capsys.readouterr().out, re.MULTILINE)
    assert [name for name, _, _ in lines] == ["gold", "silver", "bronze"]
    for _, weight, share in lines:
        assert float(share) == pytest.approx(10 * int(weight), abs=1.5)

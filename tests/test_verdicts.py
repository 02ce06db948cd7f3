"""Verdicts: each reason, what goes with it, and mistakes that are errors instead."""

from dataclasses import replace
from math import inf, nan
from typing import Any

import numpy as np
import pytest

from aps import Device, Limits, Policy, Tenant, Verdict
from tests.small_scheduler import ROOMY, A, admitted, make


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
    assert isinstance(verdict.id, int)
    assert scheduler.cancel(np.int64(verdict.id), now=0.0) == 0.0


@pytest.mark.parametrize(
    ("tenant", "options", "reason", "largest"),
    [
        (A, {"limits": Limits(max_context=90)}, "exceeds_context", 30),
        (A, {"limits": Limits(max_context=60)}, "exceeds_context", 0),
        (A, {"devices": (Device(kv_blocks=5),)}, "exceeds_kv_cache", 20),
        (Tenant("a", max_request_tokens=90), {}, "exceeds_max_request", 30),
        (Tenant("a", max_request_tokens=60), {}, "exceeds_max_request", 0),
        (Tenant("a", max_request_tokens=90, rate=1, burst=95), {}, "exceeds_max_request", 30),
        (Tenant("a", kv_share=0.5), {"devices": (Device(kv_blocks=10),)}, "exceeds_kv_share", 20),
        (Tenant("a", rate=1, burst=90), {}, "exceeds_burst", 30),
        (Tenant("a", rate=1, burst=150), {"policy": Policy(bid_premium=0.25)}, "exceeds_burst", 15),
        (A, {"limits": Limits(max_queued_tokens=90)}, "exceeds_queue", 30),
        (A, {"limits": Limits(max_queued_tokens=60)}, "exceeds_queue", 0),
        (A, {"limits": Limits(max_queued=0)}, "exceeds_queue", 0),
        (Tenant("a", max_queued_tokens=90), {}, "exceeds_tenant_queue", 30),
        (Tenant("a", max_queued_tokens=0), {}, "exceeds_tenant_queue", 0),
        (Tenant("a", max_queued=0), {}, "exceeds_tenant_queue", 0),
    ],
)
def test_rejected_for_good(tenant: Tenant, options: dict[str, Any], reason: str, largest: int) -> None:
    scheduler = make(tenant, **options)
    verdict = scheduler.submit("a", **ROOMY, id="mine")
    assert not verdict.admitted
    assert verdict == ("rejected", reason, "mine", 5, False, 0.0, largest)
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
        (Tenant("a", request_rate=0.25, request_burst=1), {}, "over_request_rate", 4.0),
        (Tenant("a", request_rate=0.25, request_burst=1.5, over_rate="queue"), {}, "over_request_rate", 2.0),
        (Tenant("a", request_rate=0.25, request_burst=1, rate=10, burst=150), {}, "over_request_rate", 4.0),
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


def test_what_arrived_is_never_given_back() -> None:
    scheduler = make(Tenant("a", request_rate=0.125, request_burst=3))
    waiting = admitted(scheduler.submit("a", **ROOMY))
    scheduler.cancel(waiting, now=0.0)
    running = admitted(scheduler.submit("a", **ROOMY))
    scheduler.next_batch(now=0.0)
    scheduler.settle(running, 0, now=0.0)
    assert scheduler.request_level("a") == 1.0
    assert scheduler.snapshot(now=4.0).tenants["a"].request_level == 1.5
    scheduler.next_wakeup(now=1e3)
    assert scheduler.request_level("a") == 3.0
    assert make().request_level("a") == inf
    with pytest.raises(KeyError, match="unknown tenant 'c'"):
        scheduler.request_level("c")


def test_a_request_that_is_refused_takes_nothing_from_either_bucket() -> None:
    scheduler = make(Tenant("a", rate=10, burst=200, request_rate=1, request_burst=5, max_queued=1))
    admitted(scheduler.submit("a", prompt_tokens=50, max_tokens=50, now=0.0))
    refused = {
        "exceeds_burst": {"max_tokens": 151},
        "tenant_queue_full": {"max_tokens": 50},
        "deadline_expired": {"max_tokens": 50, "deadline_at": 0.0},
    }
    for reason, asked in refused.items():
        assert scheduler.submit("a", prompt_tokens=50, now=0.0, **asked).reason == reason  # type: ignore[arg-type]
    scheduler.set_tenant(replace(scheduler.tenants["a"], max_queued=None), now=0.0)
    assert scheduler.submit("a", prompt_tokens=50, max_tokens=60, now=0.0).reason == "over_rate"
    assert (scheduler.level("a"), scheduler.request_level("a")) == (100.0, 4.0)


def test_a_changed_request_rate_keeps_the_level_and_none_gives_none() -> None:
    scheduler = make(Tenant("a", request_rate=1, request_burst=4))
    for _ in range(3):
        admitted(scheduler.submit("a", **ROOMY))
    scheduler.set_tenant(Tenant("a", request_rate=2, request_burst=8), now=0.5)
    assert scheduler.request_level("a") == 1.5
    scheduler.set_tenant(Tenant("a"), now=1.0)
    assert scheduler.request_level("a") == inf
    scheduler.set_tenant(Tenant("a", request_rate=2, request_burst=8), now=1.0)
    assert scheduler.request_level("a") == 8.0


def test_a_smaller_largest_request_ends_what_waits() -> None:
    scheduler = make(Tenant("a", rate=1, burst=500))
    for most in (10, 50, 100):
        scheduler.submit("a", prompt_tokens=50, max_tokens=most, id=most, now=0.0)
    scheduler.set_tenant(Tenant("a", rate=1, burst=500, max_request_tokens=99), now=0.0)
    assert scheduler.ended() == [(50, "exceeds_max_request"), (100, "exceeds_max_request")]
    assert scheduler.level("a") == 440.0  # they had paid, and got it back


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
        ({"id": 2**53}, ValueError, "id must not equal an int in 2\\*\\*53..2\\*\\*63-1 .*, got 9007199254740992"),
        ({"id": 2**63 - 1}, ValueError, "id must not equal an int"),
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

"""Requests are known by their caller's id or by the core's number; an id lives as long as its request."""

from collections.abc import Hashable
from decimal import Decimal
from fractions import Fraction
from math import inf, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aps import Device, Ended, Limits, Policy, Scheduler, Tenant
from tests.small_scheduler import ROOMY, Call, admitted, make

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


@pytest.mark.parametrize("called", [None, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("cancelled", [False, True])
def test_an_id_is_free_again_however_often_anybody_called(called: float | None, cancelled: bool) -> None:
    scheduler = make()
    scheduler.submit("a", **ROOMY, id="x", deadline_at=1.0)
    if called is not None:
        scheduler.next_wakeup(now=called)
    if cancelled:
        assert scheduler.cancel("x", now=2.0) is None  # it has ended by then
    admitted(scheduler.submit("b", **ROOMY | {"now": 2.0}, id="x"))
    assert scheduler.ended() == [Ended("x", "deadline_expired")]
    assert scheduler.explain("x", now=2.0).tenant == "b"
    assert scheduler.waiting == 1


def test_a_refused_id_plays_no_time() -> None:
    scheduler = make()
    scheduler.submit("a", **ROOMY, id="x", deadline_at=1.0)
    scheduler.submit("a", **ROOMY, id="y")
    for id, error in (("y", "unique"), ("x", "prompt_tokens")):
        with pytest.raises(ValueError, match=error):
            scheduler.submit("a", prompt_tokens=0, now=2.0, id=id)
    assert (scheduler.now, scheduler.waiting, scheduler.ended()) == (0.0, 2, [])


HANDLE = 2**60  # some int that the core may give


@pytest.mark.parametrize(
    "id",
    [HANDLE, float(HANDLE), complex(HANDLE), Decimal(HANDLE), Fraction(HANDLE), np.int64(HANDLE), np.uint64(HANDLE)],
    ids=repr,
)
def test_an_id_that_equals_one_of_the_core_s_is_refused(id: Hashable) -> None:
    with pytest.raises(ValueError, match=r"id must not equal an int in 2\*\*53..2\*\*63-1"):
        make().submit("a", **ROOMY, id=id)


@pytest.mark.parametrize(
    "id",
    [
        nan,
        inf,
        0.5,
        2.0**63,
        Decimal("NaN"),
        Decimal("-Infinity"),
        complex(HANDLE, 1),
        Fraction(HANDLE + 1, 2),
        np.int8(5),
    ],
    ids=repr,
)
def test_other_numbers_are_ids(id: Hashable) -> None:
    scheduler = make()
    other = scheduler.submit("a", **ROOMY).id
    assert scheduler.submit("a", **ROOMY, id=id).id is id
    assert scheduler.cancel(id, now=0.0) == 0.0
    assert scheduler.explain(other, now=0.0).state == "waiting"


def test_own_and_default_ids_live_together() -> None:
    scheduler = make(policy=Policy.fifo())
    ids = [admitted(scheduler.submit("a", **ROOMY, id=own)) for own in ("x", None, 5, None)]
    assert scheduler.next_batch(now=0.0).started == tuple(ids)
    for id in ids:
        assert scheduler.settle(id, 1, now=0.0) == 61.0


# 2**62 + 999 has the form of the scheduler's own numbers, and names a row that a table of few requests has not used.
@pytest.mark.parametrize("id", ["x", 5, 2**62 + 999, None, -1, 1.5, 2**70])
@pytest.mark.parametrize("others", [(), ("y",)])
def test_an_unknown_id_is_a_key_error(id: Hashable, others: tuple[str, ...]) -> None:
    scheduler = make()
    for other in others:
        scheduler.submit("a", **ROOMY, id=other)
    calls: list[Call] = [
        lambda: scheduler.settle(id, 1, now=0.0),
        lambda: scheduler.progress(id, 1, 1, now=0.0),
        lambda: scheduler.preempt(id, now=0.0),
        lambda: scheduler.rebid(id, 5, now=0.0),
        lambda: scheduler.explain(id, now=0.0),
    ]
    for call in calls:
        with pytest.raises(KeyError):
            call()
    assert scheduler.cancel(id, now=0.0) is None


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

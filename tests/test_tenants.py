"""Tenants: every rule of every field, and names for slots."""

import re
from dataclasses import FrozenInstanceError
from math import inf, isfinite, nan
from typing import Any

import pytest

from aps import Device, Policy, Scheduler
from aps.tenants import MAX_WEIGHT, MIN_WEIGHT, Roster, Tenant, core_options

NAME = 'Tenant.name must be a str of 1 to 256 printable characters without "/", got '
RATE = "Tenant.rate must be tokens/s, at least 1e-6 (inf: unlimited), got "
REQUEST_RATE = "Tenant.request_rate must be requests/s, at least 1e-6 (inf: unlimited), got "
REQUEST_BURST = (
    "Tenant.request_burst must be a number of requests >= 1, finite exactly when Tenant.request_rate is, got "
)
BURST = "Tenant.burst must be a number of tokens > 0, finite exactly when Tenant.rate is, got "
LESS = "Tenant.default_max_tokens must be less than Tenant.{}, {} tokens, by a prompt of 1 or more, got "


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "", NAME + "''"),
        ("name", "a/b", NAME + "'a/b'"),
        ("name", "a\n", NAME + "'a\\n'"),
        ("name", "a\u2028b", NAME + "'a\\u2028b'"),
        ("name", "\x85", NAME + "'\\x85'"),
        ("name", "\udc80", NAME + "'\\udc80'"),
        ("name", "n" * 257, NAME + repr("n" * 257)),
        ("weight", -1, "Tenant.weight must be a number in 1e-9..1e9, got -1"),
        ("weight", 0, "Tenant.weight must be a number in 1e-9..1e9, got 0"),
        ("weight", 0.99e-9, "Tenant.weight must be a number in 1e-9..1e9, got 9.9e-10"),
        ("weight", 1.01e9, "Tenant.weight must be a number in 1e-9..1e9, got 1010000000.0"),
        ("weight", inf, "Tenant.weight must be a number in 1e-9..1e9, got inf"),
        ("weight", nan, "Tenant.weight must be a number in 1e-9..1e9, got nan"),
        ("weight", 10**400, f"Tenant.weight must be a number in 1e-9..1e9, got {10**400}"),
        ("rate", 0, RATE + "0"),
        ("rate", 0.99e-6, RATE + "9.9e-07"),
        ("rate", -5.0, RATE + "-5.0"),
        ("rate", nan, RATE + "nan"),
        ("rate", 10.0, BURST + "inf"),
        ("burst", 10.0, BURST + "10.0"),
        ("burst", -1, BURST + "-1"),
        ("burst", nan, BURST + "nan"),
        ("over_rate", "drop", "Tenant.over_rate must be 'refuse' or 'queue', got 'drop'"),
        ("default_bid", 0, "Tenant.default_bid must be an int in 1..10, got 0"),
        ("default_bid", 11, "Tenant.default_bid must be an int in 1..10, got 11"),
        ("max_bid", 0, "Tenant.max_bid must be an int in 1..10, got 0"),
        ("max_bid", 11, "Tenant.max_bid must be an int in 1..10, got 11"),
        ("default_max_tokens", 0, "Tenant.default_max_tokens must be an int in 1..2147483647, got 0"),
        ("default_max_tokens", 2**31, "Tenant.default_max_tokens must be an int in 1..2147483647, got 2147483648"),
        ("max_in_flight", 0, "Tenant.max_in_flight must be an int in 1..2147483647 or None, got 0"),
        ("max_queued", -1, "Tenant.max_queued must be an int in 0..2147483647 or None, got -1"),
        ("max_queued_tokens", -1, f"Tenant.max_queued_tokens must be an int in 0..{2**62} or None, got -1"),
        ("max_queued_tokens", 2**63, f"Tenant.max_queued_tokens must be an int in 0..{2**62} or None, got {2**63}"),
        ("kv_share", 0, "Tenant.kv_share must be a number in (0, 1], got 0"),
        ("kv_share", 1.01, "Tenant.kv_share must be a number in (0, 1], got 1.01"),
        ("kv_share", nan, "Tenant.kv_share must be a number in (0, 1], got nan"),
        ("request_rate", 0, REQUEST_RATE + "0"),
        ("request_rate", nan, REQUEST_RATE + "nan"),
        ("request_rate", 10.0, REQUEST_BURST + "inf"),
        ("request_burst", 10.0, REQUEST_BURST + "10.0"),
        ("request_burst", 0.5, REQUEST_BURST + "0.5"),
        ("max_request_tokens", 1, f"Tenant.max_request_tokens must be an int in 2..{2**62} or None, got 1"),
    ],
)
def test_a_value_out_of_range_is_named(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:
        Tenant(**{"name": "acme", field: value})
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", None),
        ("name", 7),
        ("weight", "1"),
        ("weight", True),
        ("weight", []),
        ("rate", None),
        ("burst", "1"),
        ("default_bid", 5.0),
        ("default_bid", True),
        ("max_bid", "3"),
        ("default_max_tokens", None),
        ("max_in_flight", 2.5),
        ("max_queued", False),
        ("max_queued_tokens", "9"),
        ("kv_share", None),
        ("request_rate", None),
        ("request_burst", "1"),
        ("max_request_tokens", 9.5),
    ],
)
def test_a_wrong_type_is_named(field: str, value: Any) -> None:
    with pytest.raises(TypeError, match=f"^Tenant.{field} must be .*, got {re.escape(repr(value))}$") as error:
        Tenant(**{"name": "acme", field: value})
    assert error.value.__context__ is None


def test_what_was_seen_to_be_right_is_right_for_its_type_alone() -> None:
    for field, right, wrong in (("weight", 1, True), ("default_bid", 1, 1.0)):
        Tenant(**{"name": "acme", field: right})  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            Tenant(**{"name": "acme", field: wrong})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"rate": 1, "burst": 99.5, "max_request_tokens": 100},
            "Tenant.max_request_tokens must be at most Tenant.burst, 99.5 tokens (no larger request is ever admitted), "
            "got 100",
        ),
        ({"rate": 1, "burst": 100, "default_max_tokens": 100}, LESS.format("burst", 100) + "100"),
        ({"rate": 1, "burst": 100.5, "default_max_tokens": 100}, LESS.format("burst", 100.5) + "100"),
        ({"max_request_tokens": 512, "default_max_tokens": 600}, LESS.format("max_request_tokens", 512) + "600"),
        ({"max_queued_tokens": 64, "default_max_tokens": 64}, LESS.format("max_queued_tokens", 64) + "64"),
        ({"default_bid": 6, "max_bid": 5}, "Tenant.default_bid must be at most Tenant.max_bid, 5, got 6"),
        ({"default_bid": 4, "max_bid": 3}, "Tenant.default_bid must be at most Tenant.max_bid, 3, got 4"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        Tenant("acme", **settings)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "settings",
    [
        {"rate": 1, "burst": 100},  # requests that say max_tokens are served
        {"max_request_tokens": 100},
        {"rate": 1, "burst": 100, "default_max_tokens": 99},
        {"rate": 1, "burst": 100, "max_request_tokens": 100},
        {"max_queued_tokens": 0, "default_max_tokens": 64},  # takes nothing for now
        {"max_bid": 3},  # 5 is there by itself, and lowered
        {"default_bid": 3, "max_bid": 3},
    ],
)
def test_settings_that_are_unusual_and_possible(settings: dict[str, Any]) -> None:
    assert Tenant("acme", **settings)


@pytest.mark.parametrize("name", ["n" * 256, "Zoë & söhne, 東京 #1", "0", ".", "a b"])
def test_names_that_people_use(name: str) -> None:
    assert Tenant(name).name == name


def test_a_tenant_is_a_frozen_value() -> None:
    tenant = Tenant("acme", weight=2, rate=10, burst=100)
    assert tenant == Tenant("acme", 2.0, 10.0, 100.0)
    assert len({tenant, Tenant("acme", weight=2, rate=10, burst=100)}) == 1
    with pytest.raises(FrozenInstanceError):
        tenant.weight = 3  # type: ignore[misc]


def test_with_extreme_weights_nothing_overflows_and_nobody_is_lost() -> None:
    """The largest requests at the highest prices: V stays a number, and all are served."""
    tenants = [Tenant("light", weight=MIN_WEIGHT), Tenant("plain"), Tenant("heavy", weight=MAX_WEIGHT)]
    policy = Policy(input_weight=1e6, output_weight=1e6, bid_premium=1e6)
    device = Device(slots=1, kv_blocks=2**31 - 1, token_budget=None)
    scheduler = Scheduler(tenants, policy=policy, devices=(device,))
    for _ in range(3):
        for tenant in tenants:
            assert scheduler.submit(tenant.name, prompt_tokens=2**30, max_tokens=2**30 - 1, bid=10, now=0.0).admitted
    for _ in range(9):
        [id] = scheduler.next_batch(now=0.0).started
        scheduler.settle(id, 2**30 - 1, now=0.0)
    snapshot = scheduler.snapshot(now=0.0)
    assert isfinite(snapshot.virtual_time)
    assert all(isfinite(row.service) and row.finished == 3 for row in snapshot.tenants.values())


def test_core_options_leave_out_what_has_no_bound() -> None:
    assert core_options(Tenant("acme")) == {
        "weight": 1.0,
        "rate": inf,
        "burst": inf,
        "queue_over_rate": False,
        "max_bid": 10,
        "kv_share": 1.0,
        "request_rate": inf,
        "request_burst": inf,
    }
    bounds = {"max_in_flight": 1, "max_queued": 2, "max_queued_tokens": 3, "max_bid": 4, "max_request_tokens": 5}
    options = core_options(Tenant("acme", over_rate="queue", **bounds))
    assert options["queue_over_rate"] is True
    assert bounds.items() <= options.items()


def test_roster_default_bid_is_lowered_to_max_bid() -> None:
    roster = Roster()
    roster.enter(1, Tenant("low", max_bid=3, default_max_tokens=64))
    assert roster.accounts["low"] == (1, 3, 64, 3)


def test_roster_a_drained_slot_forgets_its_name() -> None:
    roster = Roster()
    roster.enter(1, Tenant("a"))
    roster.leave("a", drained=False)
    assert (roster.draining, roster.names) == ({"a": 1}, {1: "a"})
    roster.enter(1, Tenant("b"))  # the core gave the slot away: a has drained
    assert (roster.draining, roster.names) == ({}, {1: "b"})


def test_roster_a_returning_name_leaves_its_former_slot() -> None:
    roster = Roster()
    roster.enter(1, Tenant("a"))
    roster.leave("a", drained=False)
    roster.enter(2, Tenant("a"))  # it had drained, and slot 2 was found for it
    roster.leave("a", drained=False)
    roster.enter(1, Tenant("b"))  # somebody else in the former slot does not end the draining of slot 2
    assert roster.draining == {"a": 2}
    assert roster.names == {1: "b", 2: "a"}


def test_roster_a_changed_tenant_keeps_its_slot() -> None:
    roster = Roster()
    roster.enter(3, Tenant("a"))
    roster.enter(3, Tenant("a", weight=2))
    assert roster.slot("a") == 3
    assert roster.active["a"].weight == 2
    roster.leave("a", drained=True)
    assert not (roster.active or roster.accounts or roster.draining or roster.names)


def test_roster_unknown_names_a_few_known_ones() -> None:
    roster = Roster()
    assert roster.unknown("x").args[0] == "unknown tenant 'x'; known: none"
    for slot in range(1, 9):
        roster.enter(slot, Tenant(f"t{slot}"))
    with pytest.raises(KeyError) as error:
        roster.slot("x")
    assert error.value.args[0] == "unknown tenant 'x'; known: 't1', 't2', 't3', 't4', 't5', ... (8 in all)"
    roster.leave("t2", drained=False)
    assert roster.unknown("t2").args[0] == "tenant 't2' was removed; add_tenant brings it back"

"""Fair shares: agreement with the twin to the last bit, the bound on the service gap, refused arguments."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from aps_core.fair_share import FairShare
from tests.twins.fair_share import FairShare as Twin

INF = math.inf
PICK = st.sampled_from([0, 1, 2, 0, 1, 2, 3, 50])  # a tenant, modulo those there are: few, so that they meet often
COSTS = st.one_of(st.sampled_from([0.0, 1.0, 100.0, 700.0, 1 / 3]), st.floats(0.0, 1000.0))
WEIGHTS = st.one_of(st.sampled_from([1.0, 2.0, 0.5, 3.0, 10.0]), st.floats(0.1, 10.0))
WINDOWS = st.one_of(st.sampled_from([0.0, INF, 1.0, 500.0, 2048.0]), st.floats(0.0, 1000.0))


def bits(account: tuple[float, ...]) -> list[str]:
    return [float(value).hex() for value in account]


class Shares(RuleBasedStateMachine):
    """A wild run reaches the bounds; in a tame one all sums are of one size, so that each of them matters."""

    @initialize(
        tenants=st.integers(1, 4), window=WINDOWS, contending=st.integers(0, 4), wild=st.sampled_from([0, 0, 1])
    )
    def start(self, tenants: int, window: float, contending: int, wild: int) -> None:
        self.shares, self.twin = FairShare(tenants, window), Twin(tenants, window)
        self.wild = wild
        for tenant in range(contending):
            self.both("set_contending", tenant, True)

    def cost(self, amount: float) -> float:
        return amount * 1e15 if self.wild else amount

    def both(self, method: str, pick: int, *arguments: Any) -> None:
        tenant = pick % self.shares.tenants
        getattr(self.shares, method)(tenant, *arguments)
        getattr(self.twin, method)(tenant, *arguments)

    @rule(pick=PICK, contends=st.booleans())
    def set_contending(self, pick: int, contends: bool) -> None:
        self.both("set_contending", pick, contends)

    @rule(charges=st.lists(st.tuples(PICK, COSTS), min_size=1, max_size=10))
    def charge_cost(self, charges: list[tuple[int, float]]) -> None:
        for pick, cost in charges:
            self.both("charge_cost", pick, self.cost(cost))

    @rule(pick=PICK, unused=COSTS)
    def give_credit(self, pick: int, unused: float) -> None:
        self.both("give_credit", pick, self.cost(unused))

    @rule(pick=PICK, weight=WEIGHTS)
    def set_weight(self, pick: int, weight: float) -> None:
        self.both("set_weight", pick, weight**9 if self.wild else weight)

    @rule(window=WINDOWS)
    def set_fairness_window(self, window: float) -> None:
        self.shares.set_fairness_window(window)
        self.twin.set_fairness_window(window)

    @rule(more=st.integers(0, 2))
    def reserve(self, more: int) -> None:
        self.shares.reserve(self.shares.tenants + more)
        self.twin.reserve(len(self.twin.accounts) + more)

    @rule(pick=PICK)
    def forget(self, pick: int) -> None:
        if self.twin.accounts[pick % self.shares.tenants].contends:
            with pytest.raises(ValueError, match="must not contend"):
                self.shares.forget(pick % self.shares.tenants)
        else:
            self.both("forget", pick)

    @rule(costs=st.lists(COSTS, min_size=1, max_size=5))
    def charge_the_least(self, costs: list[float]) -> None:
        """V follows from one tenant to the next only when the least-served pays."""
        for cost in costs if self.shares.contending else []:
            contending = [slot for slot, it in enumerate(self.twin.accounts) if it.contends]
            self.both(
                "charge_cost", min(contending, key=lambda slot: self.twin.accounts[slot].service), self.cost(cost)
            )

    @invariant()
    def agree(self) -> None:
        if not hasattr(self, "shares"):
            return
        assert self.shares.tenants == len(self.twin.accounts)
        assert self.shares.virtual_time.hex() == self.twin.virtual_time.hex()
        assert self.shares.widest_gap.hex() == self.twin.widest_gap.hex()
        assert self.shares.window == self.twin.window
        assert (self.shares.contending, self.shares.outside) == (self.twin.contending, self.twin.outside)
        for tenant in range(self.shares.tenants):
            assert bits(self.shares.account(tenant)) == bits(self.twin.account(tenant))
            assert self.shares.is_in_window(tenant) is self.twin.is_in_window(tenant)


TestShares = Shares.TestCase

# Powers of two and small integers: every sum below is exact, so the bound is tested without a tolerance.
ROUND = st.sampled_from([2.0**power for power in range(-2, 4)])
WHOLE = st.integers(0, 1024).map(float)
STEPS = st.one_of(
    st.tuples(st.just("charge"), st.integers(0, 12), WHOLE),
    st.tuples(st.just("charge"), st.integers(0, 12), WHOLE),
    st.tuples(st.just("charge"), st.integers(0, 12), WHOLE),
    st.tuples(st.just("credit"), st.integers(0, 12), WHOLE),
    st.tuples(st.just("weight"), st.integers(0, 12), ROUND),
    st.tuples(st.just("window"), st.integers(0, 12), WHOLE),
    st.tuples(st.just("stop"), st.integers(0, 12), st.just(0.0)),
    st.tuples(st.just("begin"), st.integers(0, 12), st.just(0.0)),
)


def gap_excess(shares: FairShare, dearest: float) -> Fraction:
    """The largest of S_i - S_j - (D + dearest) / w_i over contending pairs, exactly; not positive: the bound holds."""
    accounts = [it for it in map(shares.account, range(shares.tenants)) if it[4]]
    room = Fraction(shares.window) + Fraction(dearest)
    ahead = [Fraction(service) - room / Fraction(weight) for service, _, weight, _, _ in accounts]
    return max(ahead) - min(Fraction(service) for service, *_ in accounts)


@settings(max_examples=300)
@given(window=WHOLE, weights=st.lists(ROUND, min_size=2, max_size=4), steps=st.lists(STEPS, max_size=60))
def test_contending_tenants_stay_within_the_window_and_one_charge(
    window: float, weights: list[float], steps: list[tuple[str, int, float]]
) -> None:
    """S_i - S_j <= (D + c_max) / w_i, when only tenants in the window are charged: whatever weights and D become."""
    shares = FairShare(len(weights), window)
    for tenant, weight in enumerate(weights):
        shares.set_weight(tenant, weight)
        shares.set_contending(tenant, True)
    dearest = 0.0
    for kind, pick, amount in steps:
        tenant = pick % len(weights)
        if kind == "charge":
            inside = [slot for slot in range(len(weights)) if shares.is_in_window(slot)]
            if inside:
                dearest = max(dearest, amount)
                shares.charge_cost(inside[pick % len(inside)], amount)
        elif kind == "credit":
            shares.give_credit(tenant, amount)
        elif kind == "weight":
            shares.set_weight(tenant, amount)
        elif kind == "window":
            shares.set_fairness_window(amount)
        else:
            shares.set_contending(tenant, kind == "begin")
        if shares.contending:
            assert gap_excess(shares, dearest) <= 0


@pytest.mark.parametrize("window", [0.0, 100.0])
def test_the_bound_is_reached(window: float) -> None:
    """So it is no looser than it must be: the window and one charge, taken at its very edge."""
    shares = FairShare(2, window)
    for tenant in range(2):
        shares.set_contending(tenant, True)
    shares.charge_cost(0, window)
    assert shares.is_in_window(0)
    shares.charge_cost(0, 50.0)
    assert not shares.is_in_window(0) and shares.outside == 1
    assert gap_excess(shares, 50.0) == 0


def test_service_follows_the_weights() -> None:
    """Always charging the first in the window: shares by weight, but for the window and one charge."""
    weights = [1.0, 2.0, 4.0]
    shares = FairShare(3, 64.0)
    for tenant, weight in enumerate(weights):
        shares.set_weight(tenant, weight)
        shares.set_contending(tenant, True)
    paid = [0.0, 0.0, 0.0]
    for _ in range(7000):
        tenant = next(slot for slot in range(3) if shares.is_in_window(slot))
        shares.charge_cost(tenant, 8.0)
        paid[tenant] += 8.0
    for mine, weight in zip(paid, weights, strict=True):
        assert abs(mine - 56_000 * weight / 7) <= 64.0 + 8.0 * 7


def test_idling_banks_nothing() -> None:
    shares = FairShare(2, 10.0)
    shares.set_contending(0, True)
    shares.charge_cost(0, 5000.0)
    assert shares.virtual_time == 5000.0
    shares.set_contending(1, True)
    assert shares.account(1)[0] == 5000.0


def test_credit_comes_off_the_next_charges_and_never_below_v() -> None:
    shares = FairShare(2, 10.0)
    shares.set_weight(0, 2.0)
    shares.set_contending(0, True)
    shares.charge_cost(0, 100.0)
    shares.give_credit(0, 60.0)
    assert shares.account(0)[:2] == (50.0, 60.0)  # S never falls while it contends
    shares.charge_cost(0, 40.0)
    assert shares.account(0)[:2] == (50.0, 20.0)
    shares.charge_cost(0, 40.0)
    assert shares.account(0)[:2] == (60.0, 0.0)
    shares.give_credit(0, 1000.0)
    shares.set_contending(0, False)
    shares.set_contending(0, True)
    assert shares.account(0)[:2] == (60.0, 0.0)  # V is there


def test_v_takes_the_last_to_stop_along() -> None:
    """Who comes to an idle system does not find a past in which it was owed everything."""
    shares = FairShare(3, 0.0)
    shares.set_contending(0, True)
    shares.set_contending(1, True)
    shares.charge_cost(0, 300.0)
    shares.set_contending(1, False)
    assert shares.virtual_time == 300.0
    shares.charge_cost(0, 100.0)
    shares.set_contending(0, False)
    shares.charge_cost(0, 50.0)  # what still ran
    shares.give_credit(0, 20.0)
    shares.set_contending(2, True)
    assert shares.virtual_time == 430.0 == shares.account(2)[0]


def test_a_forgotten_tenant_starts_anew_and_leaves_v_where_it_was() -> None:
    shares = FairShare(2, 8.0)
    shares.set_weight(0, 4.0)
    shares.set_contending(0, True)
    shares.set_contending(0, False)
    shares.charge_cost(0, 400.0)
    shares.forget(0)
    assert shares.account(0) == (0.0, 0.0, 1.0, -8.0, False)
    assert shares.virtual_time == 100.0


def test_a_smaller_window_pulls_in_and_a_larger_one_waits() -> None:
    shares = FairShare(2, INF)
    shares.set_contending(0, True)
    shares.set_contending(1, True)
    shares.charge_cost(0, 1e6)
    assert shares.is_in_window(0) and shares.account(0)[3] == -INF
    shares.set_fairness_window(100.0)
    assert shares.account(0)[0] == 100.0 and shares.is_in_window(0)
    shares.set_fairness_window(0.0)
    assert shares.account(0)[0] == 0.0
    shares.charge_cost(0, 10.0)
    assert not shares.is_in_window(0) and shares.outside == 1
    shares.charge_cost(1, 10.0)
    assert shares.is_in_window(0) and shares.outside == 0


# Refused arguments


def fixture() -> FairShare:
    shares = FairShare(3, 100.0)
    shares.set_contending(1, True)
    shares.charge_cost(1, 7.0)
    shares.give_credit(1, 2.0)
    return shares


def state(shares: FairShare) -> list[object]:
    accounts = [shares.account(tenant) for tenant in range(shares.tenants)]
    return [*accounts, shares.virtual_time, shares.window, shares.contending, shares.outside]


BAD: list[tuple[type[Exception], str, Callable[[Any], object]]] = [
    *((ValueError, "cost", lambda s, x=x: s.charge_cost(1, x)) for x in (math.nan, INF, -INF, -1.0, -5e-324, 1.1e18)),
    *((ValueError, "unused", lambda s, x=x: s.give_credit(1, x)) for x in (math.nan, INF, -1.0, 1.1e18)),
    *((ValueError, "weight", lambda s, x=x: s.set_weight(1, x)) for x in (math.nan, INF, 0.0, -1.0, 9e-10, 1.1e9)),
    *((ValueError, "fairness_window", lambda s, x=x: s.set_fairness_window(x)) for x in (math.nan, -1.0, -INF)),
    (TypeError, "cost", lambda s: s.charge_cost(1, "1")),
    (TypeError, "unused", lambda s: s.give_credit(1, None)),
    (TypeError, "weight", lambda s: s.set_weight(1, "heavy")),
    (TypeError, "fairness_window", lambda s: s.set_fairness_window([1.0])),
    (ValueError, "tenants", lambda s: s.reserve(0)),
    (ValueError, "tenants", lambda s: s.reserve(2**24 + 1)),
    (OverflowError, "int32", lambda s: s.reserve(2**31)),
    (ValueError, "must not contend", lambda s: s.forget(1)),
]


@pytest.mark.parametrize(("error", "field", "call"), BAD)
def test_bad_arguments_change_nothing(error: type[Exception], field: str, call: Callable[[Any], object]) -> None:
    shares = fixture()
    with pytest.raises(error, match=field):
        call(shares)
    assert state(shares) == state(fixture())


@pytest.mark.parametrize("tenant", [-1, 3, 2**31, 2**32, 2**32 + 1, 2**63, -(2**63), 2**80, 1.0, "1", None, True])
def test_bad_tenants_change_nothing(tenant: Any) -> None:
    shares = fixture()
    error = ValueError if type(tenant) is int else TypeError
    calls: list[Callable[[], object]] = [
        lambda: shares.set_weight(tenant, 2.0),
        lambda: shares.set_contending(tenant, True),
        lambda: shares.charge_cost(tenant, 2.0),
        lambda: shares.give_credit(tenant, 2.0),
        lambda: shares.forget(tenant),
        lambda: shares.is_in_window(tenant),
        lambda: shares.account(tenant),
    ]
    for call in calls:
        with pytest.raises(error, match="tenant must be an integer"):
            call()
    assert state(shares) == state(fixture())


def test_bad_constructor_arguments() -> None:
    for tenants in (0, -1, 2**24 + 1, 2**40):
        with pytest.raises(ValueError, match="tenants"):
            FairShare(tenants)
    with pytest.raises(TypeError, match="tenants"):
        FairShare(2.5)  # type: ignore[arg-type]
    for window in (math.nan, -1.0):
        with pytest.raises(ValueError, match="fairness_window"):
            FairShare(2, window)


def test_a_tenant_may_be_any_integer_type() -> None:
    shares = FairShare(3)
    shares.charge_cost(np.int32(2), np.float64(5.0))
    assert shares.account(np.uint8(2))[0] == 5.0


def test_accounts_stay_finite_at_the_bounds() -> None:
    shares = FairShare(2, 0.0)
    shares.set_weight(0, 1e-9)
    for tenant in range(2):
        shares.set_contending(tenant, True)
    for _ in range(1000):
        shares.charge_cost(0, 1e18)
        shares.charge_cost(1, 1e18)
    shares.set_weight(0, 1e9)
    shares.set_weight(0, 1e-9)
    shares.set_contending(1, False)
    assert math.isfinite(shares.virtual_time) and math.isfinite(shares.account(0)[0])

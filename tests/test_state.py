"""State across restarts: the twin's, to the last bit; after a clean stop as if there had been none; never generous."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.drive import CONFIGS, Driver, drive, random_config
from tests.mirrored import Mirrored, Tracked, drain
from tests.scheduler_pair import Pair, Solo, plain, scale, scheduler_under_test
from tests.test_promises import Gap

INF = math.inf
seeds = st.integers(0, 2**32)
quick = settings(max_examples=scale(25), deadline=None)


def configured(name: str, rng: random.Random) -> dict[str, Any]:
    return CONFIGS.get(name) or random_config(rng)


names = st.sampled_from(["random", *CONFIGS])


# -- against the twin


@quick
@given(seed=seeds, name=names)
def test_killed_at_any_instant_both_go_on_alike(seed: int, name: str) -> None:
    rng = random.Random(seed)
    driver = Driver(rng, configured(name, rng))
    for _ in range(3):
        drive(driver, rng.randint(0, 80), every=20)
        driver.kill()
    drive(driver, 40, every=5)


# -- a clean stop


@quick
@given(
    seed=seeds,
    name=names,
    passed_s=st.sampled_from([0.0, 0.0, 2.5, 1e5]),
    shift=st.sampled_from([0.0, 0.0, 4096.0, -0.75]),
)
def test_after_a_clean_stop_nothing_tells_that_there_was_one(
    seed: int, name: str, passed_s: float, shift: float
) -> None:
    rng = random.Random(seed)
    driver = Driver(rng, configured(name, rng), Tracked)
    drive(driver, rng.randint(0, 200), every=1000)
    drain(driver.pair)
    assert isinstance(driver.pair, Tracked)
    driver.pair = Mirrored(driver.pair, passed_s, shift)
    for operation in (driver.nonsense, driver.kill):
        driver.operations[operation] = 0.0
    drive(driver, 150, every=10)


# -- never generous


@quick
@given(
    seed=seeds,
    name=names,
    passed_s=st.sampled_from([0.0, 1e-9, 0.25, 3.0, 1e4, 1e300]),
    kind=st.sampled_from(["", "request_"]),
)
def test_no_bucket_is_fuller_than_it_was_and_what_it_got_since(
    seed: int, name: str, passed_s: float, kind: str
) -> None:
    rng = random.Random(seed)
    driver = Driver(rng, configured(name, rng), Solo)
    pair = driver.pair
    drive(driver, rng.randint(0, 150), every=1000)
    before = pair.compare_snapshot()
    level = dict(zip(plain(before["tenants"]["slot"]), plain(before["tenants"][f"{kind}level"]), strict=True))
    rates = {slot: pair.limits[slot].get(f"{kind}rate", INF) for slot in level}
    tenants = [(slot, pair.limits[slot] if rng.random() < 0.5 else limited(rng, kind)) for slot in level]
    pair.kill(tenants, passed_s)
    after = pair.compare_snapshot()
    assert after["virtual_time"] >= before["virtual_time"]
    for slot, (was, keywords), now in zip(
        plain(after["tenants"]["slot"]), tenants, plain(after["tenants"][f"{kind}level"]), strict=True
    ):
        rate, burst = keywords.get(f"{kind}rate", INF), keywords.get(f"{kind}burst", INF)
        assert pair.limits[slot] == keywords
        if rate == INF:
            assert now == INF
        elif rates[was] == INF:
            assert now == burst  # it had no limit
        else:
            most = min(burst, level[was] + rate * min(passed_s, 4e8))
            assert now <= most + 1e-9 * abs(most) + 1e-9
            assert now >= min(most, level[was]) - 1e-9 * abs(level[was]) - 1e-9  # and debts and tokens are kept


def limited(rng: random.Random, kind: str) -> dict[str, Any]:
    return rng.choice(({}, {f"{kind}rate": rng.choice((1.0, 50.0)), f"{kind}burst": rng.choice((30.0, 500.0))}))


class GapAcrossRestarts(Gap):
    """Every second change is a kill: what was outstanding is gone, weights and D may be others."""

    virtual_time = 0.0

    def change(self) -> None:
        rng, pair = self.rng, self.pair
        if rng.random() < 0.5:
            return super().change()
        window = self.window if rng.random() < 0.5 else rng.choice((0.0, 50.0, 200.0, 700.0))
        self.bound += window - self.window
        self.window = window
        order = rng.sample(self.tenants, len(self.tenants))
        kept = [(slot, pair.limits[slot] if rng.random() < 0.7 else self.limits()) for slot in order]
        greedy = order.index(self.tenants[0]) + 1
        pair.kill(kept, 1.0, fairness_window=window)
        self.tenants = [greedy, *(slot for slot in range(1, len(order) + 1) if slot != greedy)]
        self.measure()

    def measure(self) -> None:
        super().measure()
        virtual_time = self.pair.compare_snapshot()["virtual_time"]
        assert virtual_time >= self.virtual_time
        self.virtual_time = virtual_time


def test_the_service_gap_is_bounded_across_restarts() -> None:
    worst = 0.0
    for seed in range(scale(25)):
        found = GapAcrossRestarts(seed).play()
        assert found <= 1.0 + 1e-9, f"seed {seed}: {found} of the bound"
        worst = max(worst, found)
    assert worst > 0.8, "the workloads do not try hard enough"


# -- rules by example


def small(*weights: float, **config: Any) -> Any:
    core = scheduler_under_test()(slots=[1], kv_blocks=[100], token_budgets=[0], **config)
    for weight in weights:
        core.add_tenant(weight=weight, now=0.0)
    return core


def served(core: Any, slot: int, tokens: int) -> None:
    handle = core.submit(slot, tokens - 1, 1, 5, 0.0)
    assert core.next_batch(0, 0.0) == 1
    core.settle(handle, 1, 0.0)


def accounts(core: Any) -> tuple[float, list[float]]:
    snapshot = core.snapshot(core.now)
    return snapshot["virtual_time"], plain(snapshot["tenants"]["service"])


def test_v_is_handed_over_when_the_last_contender_is_gone() -> None:
    old = small(1.0, 1.0)
    served(old, 1, 30)
    served(old, 2, 500)
    state = old.state(0.0)
    assert (state["last"], state["virtual_time"]) == (1, 30.0)
    new = small(1.0)
    new.restore(state, [1, 0], 0.0, 0.0)
    assert accounts(new) == (530.0, [30.0])
    kept = small(1.0, 1.0)
    kept.restore(state, [1, 2], 0.0, 0.0)
    assert accounts(kept) == (30.0, [30.0, 530.0])
    kept.submit(1, 5, 5, 5, 0.0)  # as the scheduler that went on does
    old.submit(1, 5, 5, 5, 0.0)
    assert accounts(kept) == accounts(old) == (530.0, [530.0, 530.0])


def test_while_somebody_contends_nobody_was_the_last() -> None:
    """Else a tenant far ahead that stopped would take the others' lead over it away."""
    old = small(1.0, 1.0, fairness_window=INF)
    first = old.submit(1, 10, 10, 1, 0.0)
    served(old, 2, 400)
    state = old.state(0.0)
    assert (state["last"], state["virtual_time"]) == (-1, 0.0)
    assert old.is_live(first, 0.0)
    new = small(1.0, 1.0, fairness_window=INF)
    new.restore(state, [1, 2], 0.0, 0.0)
    new.submit(1, 10, 10, 1, 0.0)
    assert accounts(new) == (0.0, [0.0, 400.0])


def test_weights_and_windows_of_now() -> None:
    old = small(1.0, 4.0, fairness_window=INF)
    served(old, 1, 100)
    old.submit(1, 10, 10, 1, 0.0)
    served(old, 2, 1600)
    assert accounts(old) == (100.0, [100.0, 500.0])
    state = old.state(0.0)
    for window, service in ((INF, 900.0), (1000.0, 600.0), (300.0, 250.0)):
        new = small(1.0, 2.0, fairness_window=window)
        new.restore(state, [1, 2], 0.0, 0.0)
        assert accounts(new) == (100.0, [100.0, service])


def test_a_tenant_to_whom_nothing_happens_has_the_same_row() -> None:
    core = scheduler_under_test()([1], [100], [0])
    for _ in range(2):
        core.add_tenant(rate=10.0, burst=500.0, now=0.0)
    core.submit(2, 100, 100, 5, 1.0)
    before = core.state(1.5)
    core.submit(1, 10, 10, 5, 2.0)
    after = core.state(30.0)
    same = [all(a == b for a, b in zip(*rows, strict=True)) for rows in zip(table(before), table(after), strict=True)]
    assert same == [False, True]
    assert plain(core.snapshot(30.0)["tenants"]["level"])[1] == 500.0


def table(state: dict[str, Any]) -> list[tuple[Any, ...]]:
    return list(zip(*(plain(column) for column in state["tenants"].values()), strict=True))


def changed(column: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        if column in state["tenants"]:
            state["tenants"][column] = np.array([value, *state["tenants"][column][1:]])
        else:
            state[column] = value

    return change


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("at_ns", -1), ("at_ns", 4 * 10**17 + 1), ("virtual_time", -1.0), ("virtual_time", INF),
        ("virtual_time", math.nan), ("fairness_window", -1.0), ("fairness_window", math.nan), ("last", -2), ("last", 2),
        ("weight", 0.0), ("weight", INF), ("service", -1.0), ("service", INF), ("service", math.nan), ("credit", -1.0),
        ("credit", 1e101), ("rate", 0.0), ("rate", INF), ("burst", 0.0), ("burst", INF), ("base", 500.1),
        ("base", -INF), ("base", math.nan), ("base_at_ns", 2 * 10**9), ("base_at_ns", -(2**61) - 1),
        ("request_rate", 0.0), ("request_burst", INF), ("request_base", 5.1), ("request_base_at_ns", 2 * 10**9),
    ],
)  # fmt: skip
def test_a_state_that_cannot_be_is_refused_and_nothing_changed(column: str, value: Any) -> None:
    pair = Pair({"slots": [1], "kv_blocks": [100], "token_budgets": [0]})
    for _ in range(2):
        pair.add_tenant(rate=10.0, burst=500.0, request_rate=1.0, request_burst=5.0)
    pair.now = 1.0
    state = pair.state()
    changed(column, value)(state)
    pair.build()
    for _ in range(2):
        pair.add_tenant(rate=10.0, burst=500.0, request_rate=1.0, request_burst=5.0)
    before = pair.compare_snapshot()
    with pytest.raises(ValueError, match="at_ns" if column == "at_ns" else "must"):
        pair.same(lambda s, _: s.restore(state, [1, 2], 0.0, 1.0))
    assert str(pair.compare_snapshot()) == str(before)


@pytest.mark.parametrize("passed_s", [-1e-9, INF, math.nan])
def test_the_time_that_passed_is_finite_and_not_negative(passed_s: float) -> None:
    pair = Pair({"slots": [1], "kv_blocks": [100], "token_budgets": [0]})
    with pytest.raises(ValueError, match="passed_s"):
        pair.same(lambda s, _: s.restore(pair.core.state(0.0), [], passed_s, 0.0))


def restored(state: dict[str, Any], slots: list[int], scheduler: Any, _: Any) -> None:
    scheduler.restore(state, slots, 0.0, 0.0)


def test_who_is_who_must_be_right() -> None:
    pair = Pair({"slots": [1], "kv_blocks": [100], "token_budgets": [0]})
    for _ in range(2):
        pair.add_tenant()
    state = pair.state()
    for slots, error in (([1, 1], ValueError), ([1, 3], KeyError), ([1, -1], KeyError), ([1], ValueError)):
        with pytest.raises(error):
            pair.same(partial(restored, state, slots))
    pair.same(lambda s, _: s.restore(state, [2, 1], 0.0, 0.0))
    with pytest.raises(ValueError, match="as it was made"):  # once
        pair.same(lambda s, _: s.restore(state, [2, 1], 0.0, 0.0))
    pair.build()
    pair.add_tenant()
    pair.submit(1, 5, 5, 5, 1)
    with pytest.raises(ValueError, match="as it was made"):
        pair.same(lambda s, _: s.restore(state, [1, 0], 0.0, 0.0))


def test_many_restarts_of_long_pauses_overflow_nothing() -> None:
    pair = Pair({"slots": [1], "kv_blocks": [100], "token_budgets": [0]})
    keywords = {"rate": 1e-6, "burst": 1e9}
    pair.add_tenant(**keywords)
    pair.submit(1, 1000, 500, 5, 1)
    for count in range(1, 31):
        pair.kill([(1, keywords)], 1e300)
        level = pair.compare_snapshot()["tenants"]["level"][0]
        assert level == pytest.approx(min(1e9, 1e9 - 1500 + 400 * count))

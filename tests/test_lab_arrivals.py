"""Arrival processes: their rates, their burstiness, their distributions, at fixed seeds."""

from collections.abc import Callable
from math import gamma as gamma_function
from math import inf, nan, pi
from typing import Any

import numpy as np
import pytest
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import stats

from aps.lab import arrivals

Instants = NDArray[np.float64]


def rng(seed: int = 1) -> Generator:
    return np.random.default_rng(seed)


def cv(gaps: Instants) -> float:
    return float(gaps.std() / gaps.mean())


PROCESSES: dict[str, Callable[[float, Generator], Instants]] = {
    "poisson": lambda duration_s, rng: arrivals.poisson(5.0, duration_s, rng),
    "gamma": lambda duration_s, rng: arrivals.gamma(5.0, 3.0, duration_s, rng),
    "weibull": lambda duration_s, rng: arrivals.weibull(5.0, 0.5, duration_s, rng),
    "on_off": lambda duration_s, rng: arrivals.on_off(15.0, 4.0, 8.0, duration_s, rng),
    "on_off fixed": lambda duration_s, rng: arrivals.on_off(15.0, 4.0, 8.0, duration_s, rng, random=False),
    "diurnal": lambda duration_s, rng: arrivals.diurnal(5.0, duration_s, rng, period_s=48.0),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_instants_rise_within_the_duration(name: str) -> None:
    at_s = PROCESSES[name](300.0, rng())
    assert at_s.dtype == np.float64
    assert (np.diff(at_s) >= 0).all()
    assert at_s[0] >= 0 and at_s[-1] < 300.0


@pytest.mark.parametrize("name", PROCESSES)
def test_the_same_seed_gives_the_same_and_a_longer_duration_more(name: str) -> None:
    at_s = PROCESSES[name](300.0, rng())
    assert (at_s == PROCESSES[name](300.0, rng())).all()
    assert len(at_s) != len(PROCESSES[name](300.0, rng(2))) or (at_s != PROCESSES[name](300.0, rng(2))).any()
    longer = PROCESSES[name](900.0, rng())
    assert (longer[longer < 300.0] == at_s).all()


@pytest.mark.parametrize("name", PROCESSES)
def test_the_mean_rate_is_the_given_one(name: str) -> None:
    """Over many short runs: a process that clusters at 0 would show here."""
    counts = [len(PROCESSES[name](96.0, rng(seed))) for seed in range(400)]
    error = float(np.std(counts)) / 20
    assert np.mean(counts) == pytest.approx(480, abs=4 * error)


def test_poisson_gaps_are_exponential() -> None:
    at_s = arrivals.poisson(2.0, 20_000.0, rng())
    gaps = np.diff(at_s)
    assert cv(gaps) == pytest.approx(1.0, abs=0.02)
    assert stats.kstest(gaps, stats.expon(scale=0.5).cdf).pvalue > 0.01
    counts = np.bincount(at_s.astype(int))
    assert counts.var() / counts.mean() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("wanted", [0.5, 1.0, 3.0])
def test_gamma_gaps_have_their_cv(wanted: float) -> None:
    gaps = np.diff(arrivals.gamma(2.0, wanted, 50_000.0, rng()))
    assert cv(gaps) == pytest.approx(wanted, rel=0.05)
    shape = wanted**-2
    law = stats.gamma(shape, scale=0.5 / shape)
    least = 1e-6  # shorter gaps drown in the rounding of the instants
    assert np.mean(gaps > least) == pytest.approx(law.sf(least), abs=0.01)
    assert stats.kstest(gaps[gaps > least], lambda x: (law.cdf(x) - law.cdf(least)) / law.sf(least)).pvalue > 0.01


@pytest.mark.parametrize("shape", [0.42, 1.0, 2.0])
def test_weibull_gaps_have_their_shape(shape: float) -> None:
    gaps = np.diff(arrivals.weibull(2.0, shape, 50_000.0, rng()))
    scale = 0.5 / gamma_function(1 + 1 / shape)
    assert stats.kstest(gaps[1:], stats.weibull_min(shape, scale=scale).cdf).pvalue > 0.01


@pytest.mark.parametrize("name", ["gamma", "weibull"])
def test_a_renewal_process_begins_as_if_it_had_always_run(name: str) -> None:
    """As many arrivals in the first second as in any other: no burst of all tenants at 0."""
    runs = [PROCESSES[name](20.0, rng(seed)) for seed in range(1000)]
    first, later = ([np.count_nonzero((at_s >= begin) & (at_s < begin + 1)) for at_s in runs] for begin in (0.0, 15.0))
    assert np.mean(first) == pytest.approx(5.0, abs=4 * np.std(first) / 1000**0.5)
    assert np.mean(later) == pytest.approx(5.0, abs=4 * np.std(later) / 1000**0.5)


def test_constant_arrivals_are_evenly_spaced() -> None:
    assert arrivals.constant(2.0, 2.0).tolist() == [0.0, 0.5, 1.0, 1.5]
    assert arrivals.constant(2.0, 2.0, 0.25).tolist() == [0.25, 0.75, 1.25, 1.75]
    assert arrivals.constant(2.0, 2.0, 3.0).tolist() == []
    assert len(arrivals.constant(0.1, 30.0)) == 3
    assert len(arrivals.constant(3.0, 7.0)) == 21


def test_a_burst_is_one_instant() -> None:
    assert arrivals.burst(3, 1.5).tolist() == [1.5, 1.5, 1.5]
    assert arrivals.burst(0).tolist() == []


def test_fixed_phases_are_silent_when_off() -> None:
    at_s = arrivals.on_off(10.0, 3.0, 5.0, 800.0, rng(), random=False)
    assert (at_s % 8.0 < 3.0).all()
    assert len(at_s) == pytest.approx(10.0 * 300, rel=0.06)
    assert stats.kstest(at_s % 8.0, stats.uniform(0, 3).cdf).pvalue > 0.01


def test_random_phases_are_exponential_and_silent_when_off() -> None:
    ends, on = arrivals.switches(3.0, 5.0, 40_000.0, rng())
    lengths = np.diff(ends, prepend=0.0)
    assert ends[-1] == 40_000.0
    assert (on[1:] != on[:-1]).all()
    for state, mean_s in ((True, 3.0), (False, 5.0)):
        assert stats.kstest(lengths[:-1][on[:-1] == state], stats.expon(scale=mean_s).cdf).pvalue > 0.01
    first = [bool(arrivals.switches(3.0, 5.0, 1.0, rng(seed))[1][0]) for seed in range(1000)]
    assert np.mean(first) == pytest.approx(3 / 8, abs=0.06)
    gaps = np.diff(arrivals.on_off(20.0, 3.0, 5.0, 10_000.0, rng()))
    assert cv(gaps) > 2.0
    assert gaps.max() > 15.0


def test_a_day_follows_its_sinusoid() -> None:
    at_s = arrivals.diurnal(20.0, 10_000.0, rng(), period_s=1000.0, depth=0.8)
    phase = at_s % 1000.0

    def cdf(t: Any) -> Any:
        return (t - 0.8 * 1000.0 / (2 * pi) * np.sin(2 * pi * t / 1000.0)) / 1000.0  # peak in the middle

    assert stats.kstest(phase, cdf).pvalue > 0.01
    by_hour = np.histogram(phase, 10, (0.0, 1000.0))[0]
    assert by_hour[4:6].mean() / by_hour[[0, 9]].mean() == pytest.approx(
        1.748 / 0.252, rel=0.1
    )  # means over the two fifths
    dawn = arrivals.diurnal(20.0, 1000.0, rng(), period_s=1000.0, depth=1.0, peak_s=0.0)
    assert np.count_nonzero((dawn > 450) & (dawn < 550)) < 60 < 1500 < np.count_nonzero(dawn < 50)


def test_a_ramp_rises_along_its_line() -> None:
    at_s = arrivals.ramp(1.0, 9.0, 2000.0, rng())
    assert len(at_s) == pytest.approx(10_000, rel=0.05)
    assert stats.kstest(at_s / 2000.0, lambda t: (t + 4 * t**2) / 5).pvalue > 0.01


def test_thinning_refuses_a_rate_above_its_bound() -> None:
    with pytest.raises(ValueError, match=r"rate must be from 0 to most_per_s \(2\), got 3 at "):
        arrivals.thinned(lambda at_s: np.full(len(at_s), 3.0), 2.0, 100.0, rng())


def test_a_closed_loop_lasts_to_the_horizon_on_every_device() -> None:
    draw = rng()
    least_s, think_s = draw.uniform(0.1, 0.4, (80, 3)), draw.exponential(0.05, (80, 3))
    picks, after = arrivals.closed_loop(5.0, least_s, think_s)
    rounds, clients = np.divmod(picks, 3)
    heads = after == -1
    assert (rounds[heads] == 0).all() and clients[heads].tolist() == [0, 1, 2]
    assert (clients[after[~heads]] == clients[~heads]).all()
    assert (rounds[after[~heads]] == rounds[~heads] - 1).all()
    for client in range(3):
        taken = int(np.count_nonzero(clients == client))
        spent = (think_s + least_s)[:taken, client].sum()
        assert spent + think_s[taken, client] >= 5.0 - 1e-9  # the next could not begin in time
        assert spent - least_s[taken - 1, client] < 5.0  # the last could


def test_a_closed_loop_says_when_rounds_are_missing() -> None:
    with pytest.raises(ValueError, match="rounds must fill 5 s for every client, got 3 s"):
        arrivals.closed_loop(5.0, np.ones((3, 2)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match=r"must be \(rounds, clients\), got \(3, 2\) and \(2, 2\)"):
        arrivals.closed_loop(5.0, np.ones((3, 2)), np.zeros((2, 2)))


@pytest.mark.parametrize("bad", [0.0, -1.0, inf, nan])
def test_wrong_numbers_are_named(bad: float) -> None:
    calls: dict[str, Callable[[], object]] = {
        "rate_per_s": lambda: arrivals.poisson(bad, 1.0, rng()),
        "duration_s": lambda: arrivals.gamma(1.0, 1.0, bad, rng()),
        "on_s": lambda: arrivals.on_off(1.0, bad, 1.0, 1.0, rng()),
        "off_s": lambda: arrivals.on_off(1.0, 1.0, bad, 1.0, rng()),
        "period_s": lambda: arrivals.diurnal(1.0, 1.0, rng(), period_s=bad),
        "shape": lambda: arrivals.weibull(1.0, bad, 1.0, rng()),
        "cv": lambda: arrivals.gamma(1.0, bad, 1.0, rng()),
    }
    for name, call in calls.items():
        with pytest.raises(ValueError, match=rf"^{name} must be .*got {bad!r}"):
            call()


def test_a_wrong_unit_is_an_error_and_not_a_full_memory() -> None:
    with pytest.raises(ValueError, match=r"at most 50,000,000 arrivals, got 1e\+06 \* 1e\+06"):
        arrivals.poisson(1e6, 1e6, rng())
    with pytest.raises(ValueError, match=r"depth must be from 0 to 1, got 1\.5"):
        arrivals.diurnal(1.0, 1.0, rng(), depth=1.5)
    with pytest.raises(ValueError, match="n must be"):
        arrivals.burst(-1)
    with pytest.raises(ValueError, match="on_s"):
        arrivals.on_off(1.0, 1e-9, 1e-9, 1e6, rng())


def test_little_time_may_hold_no_arrival() -> None:
    for name, process in PROCESSES.items():
        assert len(process(1e-9, rng())) == 0, name

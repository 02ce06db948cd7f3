"""Distributions, tenants' counters, and service while all wait."""

import time
import timeit
from math import nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aps.metrics import Histogram, Metrics, Tally, jain

seconds = st.floats(0, 4e8, allow_nan=False)


def histogram(values: list[float]) -> Histogram:
    made = Histogram()
    made.extend(np.array(values, dtype=np.float64))
    return made


@given(st.lists(seconds, min_size=1, max_size=200), st.floats(0, 1))
def test_quantiles_are_within_one_per_cent(values: list[float], q: float) -> None:
    exact = sorted(values)[max(1, int(np.ceil(q * len(values)))) - 1]
    assert histogram(values).quantile(q) == pytest.approx(exact, rel=0.01, abs=1e-6)


@given(st.lists(seconds, max_size=50), st.lists(seconds, max_size=50))
def test_two_merged_are_one(left: list[float], right: list[float]) -> None:
    merged, both = histogram(left), histogram(left + right)
    merged.merge(histogram(right))
    assert merged.count == both.count
    assert merged.total == pytest.approx(both.total)
    assert [merged.quantile(q) for q in (0.0, 0.5, 0.99, 1.0)] == [both.quantile(q) for q in (0.0, 0.5, 0.99, 1.0)]


def test_counts_between_edges() -> None:
    made = histogram([0.0, 0.004, 0.04, 0.04, 3.0, 900.0])
    assert made.counts([0.005, 0.05, 1.0]) == [2, 2, 0, 2]
    assert (made.smallest, made.largest, made.count) == (0.0, 900.0, 6)
    assert made.mean == pytest.approx(903.084 / 6)


@given(st.lists(seconds, max_size=100), st.lists(st.floats(2e-6, 5e8), min_size=1, max_size=20, unique=True))
def test_counts_are_within_one_per_cent_of_the_edges(values: list[float], edges: list[float]) -> None:
    edges.sort()
    counts = histogram(values).counts(edges)
    assert len(counts) == len(edges) + 1
    assert sum(counts) == len(values) and min(counts) >= 0
    for at, edge in enumerate(edges):
        up_to = sum(counts[: at + 1])
        assert sum(x < edge / 1.0101 for x in values) <= up_to <= sum(x <= edge * 1.0101 for x in values)


def test_a_value_beyond_the_largest_counts_as_it() -> None:
    made = histogram([1.0, 1e200, 1e300])
    assert made.counts([1e9, 1e250]) == [3, 0, 0]
    assert made.quantile(0.5) == pytest.approx(4e8, rel=0.02)
    assert made.largest == 1e300


def test_counting_a_full_histogram_takes_no_time() -> None:
    made = histogram(np.geomspace(1e-6, 4e8, 20_000).tolist())
    edges = tuple(np.geomspace(1e-3, 500, 18).tolist())
    took = min(timeit.repeat(lambda: made.counts(edges), number=20, repeat=5, timer=time.thread_time)) / 20
    assert took < 200e-6  # 10 us here; one look-up a bucket took milliseconds


def test_an_empty_histogram() -> None:
    made = Histogram()
    assert (made.quantile(0.5), made.mean, made.counts([1.0])) == (None, None, [0, 0])
    with pytest.raises(ValueError, match=r"q must be 0 to 1, got 1\.5"):
        made.quantile(1.5)


def test_memory_is_bounded() -> None:
    longest = 4e8  # what the scheduler's clock can hold
    made = histogram(np.minimum(np.random.default_rng(0).lognormal(0, 9, 200_000), longest).tolist())
    assert made.count == 200_000
    assert 2800 < made.buckets_held < 3200


def test_times_that_there_are_not_are_left_out() -> None:
    tenant = Tally("a", 0)
    for i in range(1000):
        tenant.times(0.5, nan if i % 2 else 1.0, nan, float(i))
        if i == 100:
            assert tenant.e2e.count == 101
    assert (tenant.queue_wait.count, tenant.ttft.count, tenant.tpot.count, tenant.e2e.count) == (1000, 500, 0, 1000)
    assert tenant.e2e.largest == 999.0


def test_service_counts_only_while_all_wait() -> None:
    served = np.zeros((2, 3), dtype=np.int64)
    metrics = Metrics(lambda accounts: served[:, :accounts].copy())
    a, b, c = (metrics.tenant(name) for name in "abc")
    metrics.arrived(a, 0.0)
    metrics.arrived(a, 0.0)
    metrics.started(a, 0.0)
    served[:, 0] += (100, 1)  # alone: does not count
    metrics.arrived(b, 1.0)  # a and b wait
    served[:, 0] += (10, 2)
    served[:, 1] += (0, 3)
    assert metrics.while_all_wait(2.0) == (1.0, {"a": 12, "b": 3, "c": 0})
    served[1, 1] += 4
    metrics.arrived(b, 2.5)
    metrics.started(b, 2.5)
    served[1, 1] += 5
    metrics.started(b, 3.0)  # b runs and has nothing waiting: the time ends
    served[1, 0] += 1000
    assert metrics.while_all_wait(9.0) == (2.0, {"a": 12, "b": 12, "c": 0})
    metrics.ended(b, False, 9.0)
    metrics.ended(b, False, 9.0)  # b has nothing at all; a alone does not count
    metrics.arrived(c, 10.0)  # a and c wait
    served[0, 2] += 50
    metrics.ended(c, True, 11.0)
    served[0, 2] += 50
    shared = metrics.while_all_wait(12.0)
    assert shared == (3.0, {"a": 12, "b": 12, "c": 50})
    assert (a.outstanding, a.waiting, b.outstanding, c.outstanding) == (2, 1, 0, 0)


def test_jain() -> None:
    assert jain([5.0, 5.0, 5.0]) == 1.0
    assert jain([1.0, 0.0]) == 0.5
    assert jain([85.0, 15.0]) == pytest.approx(0.671, abs=5e-4)
    assert jain([]) is None
    assert jain([0.0, 0.0]) is None

"""Fairness over time, against loops that look at one instant, one window, one tenant at a time."""

from itertools import pairwise
from math import isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aps.lab import fairness
from tests.lab_runs import series

INSTANT = st.integers(0, 12).map(float)


def slow_jain(shares: list[float]) -> float | None:
    squares = sum(x * x for x in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else None


def slow_starvation(requests: list[tuple[float, float | None, float]]) -> float:
    """requests: (arrived, started or None, ended). Looks at the middle of each stretch between two instants."""
    instants = sorted({instant for request in requests for instant in request if instant is not None})
    longest = lasted = 0.0
    for begin, end in pairwise(instants):
        middle = (begin + end) / 2
        waits = any(a < middle < (e if s is None else s) for a, s, e in requests)
        runs = any(s is not None and s < middle < e for _, s, e in requests)
        lasted = lasted + end - begin if waits and not runs else 0.0
        longest = max(longest, lasted)
    return longest


@st.composite
def requests(draw: st.DrawFn) -> list[tuple[float, float | None, float]]:
    found = []
    for _ in range(draw(st.integers(0, 6))):
        arrived, started, ended = sorted(draw(st.tuples(INSTANT, INSTANT, INSTANT)))
        found.append((arrived, draw(st.sampled_from((started, None))), ended))
    return found


@given(requests())
def test_longest_starvation_is_what_a_look_at_every_instant_finds(
    found: list[tuple[float, float | None, float]],
) -> None:
    arrived, started, ended = (
        np.array([np.nan if one is None else one for one in column], dtype=np.float64)
        for column in (zip(*found, strict=True) if found else ((), (), ()))
    )
    assert fairness.longest_starvation(arrived, started, ended) == slow_starvation(found)


def test_starvation_ends_when_any_request_runs() -> None:
    arrived, started, ended = np.array([0.0, 1.0, 2.0]), np.array([4.0, 9.0, np.nan]), np.array([5.0, 10.0, 30.0])
    # waits 0..4, runs 4..5, waits 5..9, runs 9..10, the third waits on until it expires at 30
    assert fairness.longest_starvation(arrived, started, ended) == 20.0


@pytest.mark.parametrize(
    ("shares", "index"), [([1, 1, 1, 1], 1.0), ([5, 0, 0, 0], 0.25), ([85, 15], 0.6711), ([0, 0], None)]
)
def test_jain_of_known_shares(shares: list[float], index: float | None) -> None:
    found = fairness.jain(np.array([shares], dtype=np.float64), np.ones((1, len(shares)), dtype=bool))[0]
    assert isnan(found) if index is None else found == pytest.approx(index, abs=1e-4)


@given(st.data())
def test_windows_are_what_loops_find(data: st.DataObject) -> None:
    tenants, bins = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    share = st.sampled_from((0.0, 0.5, 1.0, 1.0, 1.0))
    served = data.draw(
        st.lists(st.lists(st.integers(0, 5), min_size=tenants, max_size=tenants), min_size=bins, max_size=bins)
    )
    backlog = data.draw(st.lists(st.lists(share, min_size=tenants, max_size=tenants), min_size=bins, max_size=bins))
    weights = data.draw(st.lists(st.sampled_from((1.0, 2.0, 85.0)), min_size=tenants, max_size=tenants))
    each = data.draw(st.integers(1, 12))
    width_s = 0.25
    edges_s = [width_s * at for at in range(bins + 1)]
    found = fairness.windows(series(edges_s, served, backlog), np.array(weights), each * width_s)
    each = min(each, bins)
    expected = []
    for first in range(0, bins - each + 1, each):
        inside = range(first, first + each)
        wait = [t for t in range(tenants) if all(backlog[at][t] == 1.0 for at in inside)]
        tokens = [float(sum(served[at][t] for at in inside)) for t in wait]
        if len(wait) >= 2 and any(tokens):
            fair = slow_jain([x / weights[t] for x, t in zip(tokens, wait, strict=True)])
            expected.append(((first + each / 2) * width_s, slow_jain(tokens), fair))
    assert found.window_s == each * width_s
    rows = list(zip(found.middles_s.tolist(), found.jain.tolist(), found.weighted_jain.tolist(), strict=True))
    assert rows == [pytest.approx(row) for row in expected]


def test_the_summary_tells_worst_and_fifth_percentile() -> None:
    served = [[1, 1], [3, 1], [1, 0]]
    found = fairness.windows(series([0, 1, 2, 3], served, np.ones((3, 2))), np.array([3.0, 1.0]), 1.0)
    assert found.jain.tolist() == pytest.approx([1.0, 0.8, 0.5])
    assert found.weighted_jain.tolist() == pytest.approx([0.8, 1.0, 0.5])
    summary = fairness.summary(found)
    assert summary["number"] == 3
    assert summary["jain"] == pytest.approx({"mean": 2.3 / 3, "worst": 0.5, "p5": 0.53})


def test_without_windows_there_is_no_index() -> None:
    nobody = fairness.summary(fairness.windows(series([0, 1, 2]), np.ones(1)))
    assert nobody == {"window_s": 1.0, "number": 0, "jain": None, "weighted_jain": None}
    for edges_s in ([0.0], [0.0, 0.0]):
        empty = fairness.summary(fairness.windows(series(edges_s), np.ones(1), 1.0))
        assert empty == {"window_s": 0.0, "number": 0, "jain": None, "weighted_jain": None}


def test_a_run_has_at_most_64_windows_by_default() -> None:
    bins = 1000
    found = fairness.windows(series(range(bins + 1), np.ones((bins, 2)), np.ones((bins, 2))), np.ones(2))
    assert (found.window_s, len(found.jain)) == (16.0, 62)

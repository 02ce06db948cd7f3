"""Figures over seeds: against scipy's own intervals, and on trees that differ in shape."""

import numpy as np
import pytest
from scipy import stats

from aps.lab.seeds import differences, interval, over_seeds

NAN = float("nan")


def test_the_interval_is_students() -> None:
    values = np.random.default_rng(0).lognormal(size=(7, 3))
    for column, found in zip(values.T, interval(values), strict=True):
        assert found is not None
        low, high = stats.t.interval(0.95, 6, loc=column.mean(), scale=stats.sem(column))
        assert found["ci95"] == pytest.approx([low, high])
        assert (found["mean"], found["n"]) == (pytest.approx(column.mean()), 7)
        assert (found["low"], found["high"]) == (column.min(), column.max())


def test_what_a_seed_lacks_is_left_out_of_the_mean() -> None:
    found = interval(np.array([[1.0, NAN, NAN], [3.0, 5.0, NAN]]))
    assert found[0] is not None and found[0]["n"] == 2
    assert found[1:] == [{"mean": 5.0, "low": 5.0, "high": 5.0, "ci95": None, "n": 1}, None]


def test_trees_become_one_of_the_same_shape() -> None:
    trees = [
        {"level": "low", "digest": "x", "wait": None, "refused": {}, "rows": [{"n": 1}, {"n": 3}], "none": None},
        {
            "level": "low",
            "digest": "y",
            "wait": {"p50": 2},
            "refused": {"full": 4},
            "rows": [{"n": 2}, {"n": 3}],
            "none": None,
        },
    ]
    found = over_seeds(trees)
    assert found["level"] == "low"
    assert "digest" not in found
    assert found["none"] is None
    assert (found["wait"]["p50"]["mean"], found["wait"]["p50"]["n"]) == (2.0, 1)
    assert (found["refused"]["full"]["mean"], found["refused"]["full"]["n"]) == (2.0, 2)
    assert [row["n"]["mean"] for row in found["rows"]] == [1.5, 3.0]


def test_differences_are_taken_pair_by_pair() -> None:
    base = [{"a": {"wait": 10.0}, "idle": 0.0, "own": 1.0}, {"a": {"wait": 20.0}, "idle": 1.0, "own": None}]
    other = [{"a": {"wait": 5.0}, "idle": 1.0, "own": None}, {"a": {"wait": 12.0}, "idle": 1.0, "own": 2.0}]
    found = {tuple(row["keys"]): row for row in differences(other, base)}
    assert set(found) == {("a", "wait"), ("idle",)}  # never in one pair: own
    wait = found["a", "wait"]
    assert (wait["figure"], wait["baseline"], wait["mean"]) == ("a.wait", 15.0, 8.5)
    assert (wait["difference"]["mean"], wait["difference"]["low"], wait["difference"]["high"]) == (-6.5, -8.0, -5.0)
    assert wait["relative"]["mean"] == pytest.approx((0.5 * 0.6) ** 0.5 - 1)
    assert (wait["relative"]["low"], wait["relative"]["high"]) == pytest.approx((-0.5, -0.4))
    low, high = stats.t.interval(0.95, 1, loc=np.log([0.5, 0.6]).mean(), scale=stats.sem(np.log([0.5, 0.6])))
    assert wait["relative"]["ci95"] == pytest.approx(np.expm1([low, high]).tolist())
    assert wait["difference"]["ci95"] == pytest.approx(stats.t.interval(0.95, 1, loc=-6.5, scale=1.5))
    assert found["idle",]["relative"] is None  # the baseline was 0 once

"""Labels: few characters, and right at the edges of the units."""

from math import inf, nan

import pytest

from aps.lab import labels


@pytest.mark.parametrize(
    ("seconds", "says"),
    [
        (None, "-"),
        (nan, "-"),
        (0, "0"),
        (0.00081, "0.81 ms"),
        (0.037, "37 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.0 s"),
        (99.96, "100 s"),
        (1200, "20 min"),
        (11160, "3.1 h"),
    ],
)
def test_durations(seconds: float | None, says: str) -> None:
    assert labels.duration(seconds) == says


@pytest.mark.parametrize(("seconds", "says"), [(0, "0"), (30, "30 s"), (100, "100 s"), (300, "5 min"), (inf, "inf")])
def test_horizons(seconds: float, says: str) -> None:
    assert labels.horizon(seconds) == says


@pytest.mark.parametrize(("cost", "says"), [(0, "0"), (512, "512"), (2048, "2k"), (3000, "3000"), (inf, "inf")])
def test_windows(cost: float, says: str) -> None:
    assert labels.window(cost) == says

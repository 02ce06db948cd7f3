"""Distributions of token counts: their moments, their ends, what is clipped, and how they are written."""

import numpy as np
import pytest
from scipy import stats

from aps.lab.lengths import MOST, Lengths, around, constant, empirical, gamma, histogram, lognormal, parse, uniform

N = 40_000


def draw(lengths: Lengths, n: int = N, seed: int = 1) -> "np.ndarray[tuple[int, ...], np.dtype[np.int32]]":
    values, clipped = lengths.draw(n, np.random.default_rng(seed))
    assert values.dtype == np.int32 and values.shape == (n,)
    assert clipped == 0
    assert values.min() >= lengths.least
    return values


def test_constant_and_uniform_hold_their_ends() -> None:
    assert set(draw(constant(7)).tolist()) == {7}
    values = draw(uniform(3, 6))
    counts = np.bincount(values)[3:]
    assert len(counts) == 4
    assert stats.chisquare(counts).pvalue > 0.01


def test_around_is_uniform_between_its_ends() -> None:
    assert (draw(around(100)).min(), draw(around(100)).max()) == (75, 125)
    values = draw(around(590))
    assert values.mean() == pytest.approx(590, rel=0.005)
    assert stats.kstest(values, stats.uniform(442.5, 295).cdf).statistic < 0.01
    assert set(draw(around(100, 0.0)).tolist()) == {100}


def test_lognormal_and_gamma_have_their_shapes() -> None:
    values = draw(lognormal(1200, 0.7))
    assert np.median(values) == pytest.approx(1200, rel=0.02)
    assert np.log(values).std() == pytest.approx(0.7, rel=0.02)
    assert stats.kstest(values, stats.lognorm(0.7, scale=1200).cdf).statistic < 0.01
    values = draw(gamma(512, 0.5))
    assert values.mean() == pytest.approx(512, rel=0.01)
    assert values.std() / values.mean() == pytest.approx(0.5, rel=0.02)
    assert stats.kstest(values, stats.gamma(4, scale=128).cdf).statistic < 0.01


def test_what_was_seen_is_drawn_as_often() -> None:
    values = draw(empirical([10, 20, 40], [1, 0, 3]))
    assert set(values.tolist()) == {10, 40}
    assert np.mean(values == 40) == pytest.approx(0.75, abs=0.01)
    values = draw(empirical([5, 5, 9]))
    assert np.mean(values == 5) == pytest.approx(2 / 3, abs=0.01)


def test_a_histogram_is_flat_inside_its_bins() -> None:
    values = draw(histogram([1, 3, 103], [1, 4]))
    assert np.mean(values < 3) == pytest.approx(0.2, abs=0.01)
    assert (values.min(), values.max()) == (1, 102)
    upper = values[values >= 3]
    assert stats.chisquare(np.bincount(upper)[3:]).pvalue > 0.01
    assert set(draw(histogram([0.5, 1.5, 2.5], [1, 1])).tolist()) == {1, 2}


def test_what_is_clipped_is_counted() -> None:
    values, clipped = lognormal(1000, 1.0).at_most(1500).draw(N, np.random.default_rng(2))
    free = draw(lognormal(1000, 1.0), seed=2)
    assert clipped == np.count_nonzero(free > 1500) == np.count_nonzero(values == 1500) - np.count_nonzero(free == 1500)
    assert values.max() == 1500
    assert (values[free <= 1500] == free[free <= 1500]).all()
    values, clipped = lognormal(1, 1.0).draw(N, np.random.default_rng(2))
    assert values.min() == 1
    assert clipped > 0.2 * N  # half lie below 1, of these a part rounds to 0
    assert histogram([0, 1, 2], [1, 1]).draw(N, np.random.default_rng(2))[1] == pytest.approx(N / 2, rel=0.05)


def test_clipping_twice_keeps_the_lower_end() -> None:
    assert uniform(10, 20).at_most(15).at_most(18).most == 15
    assert uniform(10, 20).at_most(5).least == 5


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("512", constant(512)),
        ("256-768", uniform(256, 768)),
        ("256 - 768", uniform(256, 768)),
        ("590+-25%", around(590)),
        ("lognormal:300:0.8", lognormal(300, 0.8)),
        ("gamma:512:1.5", gamma(512, 1.5)),
        ("lognormal:300:0.8<=2048", lognormal(300, 0.8).at_most(2048)),
        ("64-192<=100", uniform(64, 192).at_most(100)),
    ],
)
def test_what_is_written_is_read(text: str, written: Lengths) -> None:
    read = parse(text)
    assert (read.text, read.most, read.least) == (written.text, written.most, written.least)
    assert parse(read.text).text == read.text
    ours, theirs = (lengths.draw(100, np.random.default_rng(3)) for lengths in (read, written))
    assert ours[0].tolist() == theirs[0].tolist() and ours[1] == theirs[1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got ''"),
        ("many", "got 'many'"),
        ("-5", "got '-5'"),
        ("1.5", "got '1.5'"),
        ("0", "tokens must be an integer from 1 to 2147483647, got 0"),
        ("99999999999", "got 99999999999"),
        ("768-256", r"low must be an integer from 1 to high \(256\), got 768"),
        ("0-5", "low must be"),
        ("1-99999999999", "high must be an integer up to 2147483647"),
        ("590+-120%", r"spread must be a number in \[0, 1\), got 1.2"),
        ("lognormal:300", "got 'lognormal:300'"),
        ("lognormal:300:9", "sigma must be a number in 0..5, got 9"),
        ("gamma:512:0", r"cv must be a number in \(0, 10\], got 0"),
        ("64-192<=", "got '64-192<='"),
        ("64-192<=0", "most must be an integer from 1"),
        ("64-192<=x", "got '64-192<=x'"),
    ],
)
def test_what_is_written_wrong_is_named(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        parse(text)
    assert "LOW-HIGH" in str(raised.value)


def test_arrays_that_are_no_distribution_are_refused() -> None:
    for values in ([], [[1, 2]], [1, np.nan]):
        with pytest.raises(ValueError, match="values must be finite numbers"):
            empirical(values)
    for weights in ([1], [1, -1], [0, 0], [1, np.inf]):
        with pytest.raises(ValueError, match="weights must be 2 finite numbers >= 0, not all 0"):
            empirical([1, 2], weights)
    for edges in ([1], [1, 1], [3, 2], [1.2, 1.8], [1, np.inf]):
        with pytest.raises(ValueError, match="edges must be two or more"):
            histogram(edges, [1])
    with pytest.raises(ValueError, match="counts must be 1 finite"):
        histogram([1, 2], [1, 2])


@pytest.mark.parametrize(
    "lengths",
    [uniform(1, 9), around(50), lognormal(50, 1), gamma(50, 2), empirical([1, 5, 9]), histogram([1, 5, 9], [1, 2])],
)
def test_drawing_in_pieces_is_drawing_at_once(lengths: Lengths) -> None:
    rng = np.random.default_rng(4)
    pieces = [lengths.draw(n, rng)[0] for n in (10, 1, 89)]
    assert np.concatenate(pieces).tolist() == lengths.draw(100, np.random.default_rng(4))[0].tolist()


def test_the_largest_counts_are_still_integers() -> None:
    assert draw(constant(MOST), 3).tolist() == [MOST] * 3
    values, clipped = lognormal(MOST, 5).draw(1000, np.random.default_rng(5))
    assert values.max() == MOST and 400 < clipped < 600

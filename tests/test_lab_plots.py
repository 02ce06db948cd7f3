"""Plots: images of the right size that hold what was given, the same bytes each time, whatever the data."""

import struct
import zlib
from math import inf, nan

import matplotlib
import numpy as np
import pytest

from aps.lab.report import Plot
from aps.lab.report.plots import bars, errors, knobs, png, style, timeline, waits

RNG = np.random.default_rng(0)
EDGES = np.linspace(0.0, 600.0, 1025)
NONE = np.zeros(0)


def size(image: bytes) -> tuple[int, int]:
    assert image[:8] == png.SIGNATURE
    width, height = struct.unpack(">II", image[16:24])
    return width, height


def pixels(image: bytes) -> np.ndarray:
    """(height, width, 3) of an indexed PNG."""
    at, chunks = 8, {}
    while at < len(image):
        length, kind = struct.unpack(">I4s", image[at : at + 8])
        body = image[at + 8 : at + 8 + length]
        assert struct.unpack(">I", image[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height = size(image)
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), dtype=np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return np.frombuffer(chunks[b"PLTE"], dtype=np.uint8).reshape(-1, 3)[rows[:, 1:]]


def has(plot: Plot, colour: str) -> bool:
    """Whether anything is drawn in the colour."""
    wanted = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)])
    return bool((np.abs(pixels(plot.png).astype(int) - wanted).max(axis=2) <= 2).any())


def level() -> np.ndarray:
    mean = RNG.uniform(5, 10, 1024)
    return np.stack([mean - 1, mean, mean + 1], axis=1)


ESTIMATES = [bars.Estimate(0.02, 0.01, 0.05), bars.Estimate(3.0, 2.0, 4.0), bars.Estimate(None)]
PROMISE = bars.Promise("occupancy", "", 0.95, 0.0, True, 0.98, 0.97, 0.99, True)
WAITS = {"a": RNG.exponential(1.0, 2000), "b": RNG.exponential(9.0, 50)}
PLOTS = {
    "tails": lambda: waits.tails("p", "Why?", {"vip": WAITS, "free": {"a": NONE, "b": [nan, 0.0]}}, "queue wait", 2.0),
    "tails of nobody": lambda: waits.tails("p", "Why?", {"vip": {"a": NONE, "b": NONE}}, "queue wait"),
    "percentiles": lambda: waits.percentiles(
        "p", "Why?", [("vip", "a", {"p50": 0.0, "p95": 1.0, "p99": 20.0}), ("vip", "b", {})], "TTFT"
    ),
    "levels": lambda: timeline.levels(
        "p", "Why?", EDGES, [timeline.Level("waiting", level()), timeline.Level("slots", level(), 16)]
    ),
    "levels of no time": lambda: timeline.levels(
        "p", "Why?", np.zeros(1), [timeline.Level("waiting", np.zeros((0, 3)))]
    ),
    "rates": lambda: timeline.rates(
        "p", "Why?", {"aps": (EDGES, {"a": RNG.poisson(900, 1024).astype(float), "b": np.zeros(1024)})}, "tokens/s"
    ),
    "rates of no time": lambda: timeline.rates("p", "Why?", {"aps": (np.zeros(1), {"a": NONE, "b": NONE})}, "tokens/s"),
    "index": lambda: timeline.index_in_windows(
        "p", "Why?", EDGES[:8], {"raw": np.linspace(0.5, 1, 8), "weighted": np.full(8, nan)}, "Jain", 600.0
    ),
    "bars": lambda: bars.side_by_side(
        "p",
        "Why?",
        ["a", "b", "c"],
        [bars.Panel("wait", ESTIMATES, time=True), bars.Panel("rate", ESTIMATES, better="higher")],
        "intervals",
    ),
    "plane": lambda: bars.plane(
        "p", "Why?", [bars.Point(name, e, e) for name, e in zip("abc", ESTIMATES, strict=True)], "x", "y", "intervals"
    ),
    "promises": lambda: bars.promises("p", "Why?", [PROMISE, PROMISE._replace(measured=None, low=None, at_least=None)]),
    "knobs": lambda: knobs.heat_maps(
        "p",
        "Why?",
        [0.0, 30.0, inf],
        [0.0, 2048.0, inf],
        [knobs.Map("VIP", RNG.exponential(1, (3, 3))), knobs.Map("others", np.full((3, 3), nan))],
        (1, 1),
        (2, 0),
    ),
    "agreement": lambda: errors.agreement("p", "Why?", {"7B": (np.array([1.0, 90.0]), np.array([1.1, 80.0]))}, "tok/s"),
    "agreement of nothing": lambda: errors.agreement("p", "Why?", {"7B": (NONE, NONE)}, "tok/s"),
    "errors by load": lambda: errors.by_load("p", "Why?", {"7B": (np.array([1.0, 16]), np.array([0.1, -0.2]))}, "b"),
}


@pytest.mark.parametrize("draw", PLOTS.values(), ids=list(PLOTS))
def test_a_plot_is_an_image_of_its_width_and_the_same_each_time(draw) -> None:  # type: ignore[no-untyped-def]
    state = RNG.bit_generator.state
    first = draw()
    RNG.bit_generator.state = state
    matplotlib.rcParams["font.size"] = 30  # what the user has set does not matter
    try:
        second = draw()
        assert matplotlib.rcParams["font.size"] == 30
    finally:
        matplotlib.rcdefaults()
    assert first.png == second.png
    width, height = size(first.png)
    assert width == style.WIDTH_IN * style.DPI
    assert 200 <= height <= 1600
    assert len(np.unique(pixels(first.png)[..., 1])) > 2  # something is drawn
    assert len(first.png) < 100_000


def test_a_long_question_is_written_small_enough() -> None:
    image = pixels(errors.by_load("p", "W" * 100, {"7B": (np.array([1.0]), np.array([0.1]))}, "b").png)
    rows = image[: int(style.TITLE_IN * style.DPI)]
    assert (rows < 128).any()
    assert (rows[:, -int(0.01 * style.WIDTH_IN * style.DPI) :] == 255).all()


def test_every_curve_is_drawn_in_its_own_colour() -> None:
    plot = waits.tails("p", "Why?", {"vip": WAITS}, "queue wait")
    assert [has(plot, colour) for colour in style.COLOURS[:3]] == [True, True, False]


def test_the_frames_of_the_two_cells_are_drawn_when_there_are_such() -> None:
    one = [knobs.Map("VIP", np.ones((2, 2)))]
    with_frames = knobs.heat_maps("p", "Why?", [0.0, 1.0], [0.0, 1.0], one, (0, 0), (1, 1))
    without = knobs.heat_maps("p", "Why?", [0.0, 1.0], [0.0, 1.0], one, None, None)
    assert has(with_frames, style.VERMILLION)
    assert not has(without, style.VERMILLION)


def test_more_things_than_can_be_told_apart_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 7 things can be told apart in a plot, got 8"):
        style.looks([str(at) for at in range(8)])


def test_joined_bins_keep_extremes_and_means() -> None:
    bins = level()
    edges, low, mean, high = timeline.merged_levels(EDGES, bins, 100)
    assert len(edges) - 1 == len(mean) <= 100
    assert (edges[0], edges[-1]) == (EDGES[0], EDGES[-1])
    assert (low.min(), high.max()) == (bins[:, 0].min(), bins[:, 2].max())
    assert np.dot(mean, np.diff(edges)) == pytest.approx(np.dot(bins[:, 1], np.diff(EDGES)))


def test_joined_rates_keep_the_total() -> None:
    tokens = RNG.poisson(9, 1024).astype(float)
    edges, rate = timeline.merged_rates(EDGES, tokens, 60)
    assert len(rate) <= 60
    assert np.dot(rate, np.diff(edges)) == pytest.approx(tokens.sum())


def test_an_image_reads_back() -> None:
    image = RNG.integers(0, 4, (5, 7, 3), dtype=np.uint8) * 80
    assert np.array_equal(pixels(png.encode(image)), image)


def test_rare_colours_become_the_nearest_frequent_one() -> None:
    image = np.zeros((300, 300, 3), dtype=np.uint8)
    image[:256, :, 0] = np.arange(256)[:, None]  # 256 colours of 300 pixels or more
    image[299, 0] = (100, 3, 0)
    assert tuple(pixels(png.encode(image))[299, 0]) == (100, 0, 0)


@pytest.mark.parametrize(
    ("seconds", "says"), [(0, "0"), (0.02, "20 ms"), (1, "1 s"), (60, "60 s"), (600, "10 min"), (36000, "10 h")]
)
def test_durations_to_read(seconds: float, says: str) -> None:
    assert style.as_time(seconds) == says


@pytest.mark.parametrize("low", [1e-4, 3e-3, 0.7, 40.0])
@pytest.mark.parametrize("span", [style.NARROWEST, 10.0, 1e3, 1e7])
def test_a_logarithmic_axis_has_some_ticks_and_not_too_many(low: float, span: float) -> None:
    ticks = style.time_ticks(low, low * span, 8)
    assert 1 <= len(ticks) <= 8
    assert ticks == sorted(set(ticks))
    assert low * 0.999 <= ticks[0] and ticks[-1] <= low * span * 1.001

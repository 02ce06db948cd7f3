"""How every plot looks: size, palette, axes, and PNG bytes that depend on nothing but the data."""

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from aps.lab.report.html import Plot
from aps.lab.report.plots.png import encode

WIDTH_IN = 8.0  # shown 800 px wide: a point is 1.39 px there
DPI = 150
TITLE_IN = 0.32
TITLE = 44  # characters of a panel's title
# Okabe and Ito's colour-blind-safe palette, without its yellow, which is too light for lines on white.
BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
GREY = "#767676"
COLOURS = (BLUE, VERMILLION, GREEN, ORANGE, PURPLE, SKY, BLACK)
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
SHORTEST_S = 1e-3  # shorter durations are drawn as this on a logarithmic axis
NARROWEST = 4.0  # a logarithmic axis spans this factor at least
# Candidates for ticks of durations, the finest first: steps in a decade below a minute, and seconds from there on.
TICKS = (
    ((1, 1.5, 2, 3, 4, 5, 7), (60, 90, 120, 180, 240, 300, 420, 600, 900, 1200, 1800, 2700, 3600, 5400, 7200, 10800)),
    ((1, 2, 5), (60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 36000, 86400)),
    ((1,), (60, 600, 3600, 36000, 360000, 3600000)),
)
OWN = "aps"
MOST = len(COLOURS)  # things told apart in one plot

SETTINGS: dict[str, Any] = {
    "font.family": "DejaVu Sans",  # comes with Matplotlib
    "font.size": 9.5,
    "text.parse_math": False,  # names may hold a $
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.labelsize": 9.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.use": True,
    "figure.dpi": DPI,
}


class Look(NamedTuple):
    """How one thing is drawn everywhere in a report: told apart by colour, by line and by marker."""

    colour: str
    line: Any
    marker: str


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each name, in order, our own policy first. ValueError when they are more than can be told apart."""
    if len(names) > MOST:
        raise ValueError(f"at most {MOST} things can be told apart in a plot, got {len(names)}")
    ordered = sorted(names, key=lambda name: name != OWN)
    return {name: Look(*look) for name, look in zip(ordered, zip(COLOURS, LINES, MARKERS, strict=True), strict=False)}


@contextmanager
def settings() -> Iterator[None]:
    """Matplotlib's defaults and ours, whatever the user's configuration says; undone afterwards."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # names may hold any letter; it is a box then
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(SETTINGS)  # type: ignore[arg-type]
        yield


def new(title: str, height_in: float) -> Figure:
    """An empty figure under its question."""
    figure = Figure(figsize=(WIDTH_IN, height_in))
    FigureCanvasAgg(figure)
    said = figure.text(0.01, 1 - 0.08 / height_in, short(title, 90), va="top", size=11.5, weight="bold")
    room = 0.98 * figure.bbox.width / max(1.0, said.get_window_extent().width)
    said.set_fontsize(11.5 * min(1.0, room))  # a long question is written smaller
    _reserve(figure, TITLE_IN)
    return figure


def finish(figure: Figure, name: str, title: str, caption: str = "") -> Plot:
    """The figure as PNG."""
    canvas = figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    canvas.draw()  # type: ignore[no-untyped-call]
    pixels = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    return Plot(name, title, encode(pixels[..., :3]), caption)


def legend_above(figure: Figure, handles: Sequence[Artist]) -> None:
    """One legend for all panels, between title and panels, in as many rows as it needs."""
    height = figure.get_figheight()
    length = 2.8 if any(isinstance(handle, Line2D) and handle.get_linestyle() != "None" for handle in handles) else 1.2
    for columns in range(len(handles), 0, -1):
        corner = (0, 1 - TITLE_IN / height)
        legend = figure.legend(
            handles=handles, ncols=columns, loc="upper left", bbox_to_anchor=corner, handlelength=length
        )
        extent = legend.get_window_extent()
        if extent.width <= 0.99 * figure.bbox.width or columns == 1:
            _reserve(figure, TITLE_IN + extent.height / figure.dpi)
            return
        legend.remove()


def line(name: str, look: Look, marker: bool = False) -> Artist:
    """A legend's entry."""
    mark = look.marker if marker else ""
    return Line2D([], [], color=look.colour, linestyle=look.line, marker=mark, label=short(name))


def mark(name: str, look: Look) -> Artist:
    """A legend's entry without a line."""
    return Line2D([], [], linestyle="none", color=look.colour, marker=look.marker, markersize=7, label=short(name))


def short(name: str, most: int = 24) -> str:
    """A name that may be as long as anything, for a label."""
    return name if len(name) <= most else f"{name[: most - 3]}..."


def _reserve(figure: Figure, top_in: float) -> None:
    """Keep the panels below so many inches from the top."""
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0, 0, 1, 1 - top_in / figure.get_figheight()))


def shown(seconds: float) -> float:
    """Where a duration is drawn on a logarithmic axis: none is shorter than 1 ms."""
    return max(SHORTEST_S, seconds)


def _as_time_or_less(seconds: float, _: object = None) -> str:
    at_most = "≤" if math.isclose(seconds, SHORTEST_S) else ""
    return at_most + as_time(seconds)


def as_time(seconds: float, _: object = None) -> str:
    """A tick's label: 20 ms, 1.5 s, 10 min, 3 h."""
    size = abs(seconds)
    for least, unit, name in ((7200.0, 3600.0, "h"), (300.0, 60.0, "min"), (1.0, 1.0, "s"), (1e-3, 1e-3, "ms")):
        if size >= least * (1 - 1e-9):
            return f"{seconds / unit:.4g} {name}"
    return "0" if not size else f"{seconds * 1e6:.4g} us"


def log_time(axes: Axes, which: str, low: float, high: float, most: int = 8) -> None:
    """A logarithmic axis ("x" or "y") of durations whose labels carry their unit. low, high: seconds, above 0."""
    apart = max(1.0, (NARROWEST * low / high) ** 0.5)
    low, high = low / apart, high * apart
    axis = axes.xaxis if which == "x" else axes.yaxis
    (axes.set_xscale if which == "x" else axes.set_yscale)("log")
    (axes.set_xlim if which == "x" else axes.set_ylim)(low, high)
    axis.set_major_locator(FixedLocator(time_ticks(low, high, most)))
    axis.set_major_formatter(FuncFormatter(as_time if low > SHORTEST_S else _as_time_or_less))
    axis.set_minor_locator(NullLocator())


def time_ticks(low: float, high: float, most: int) -> list[float]:
    """Round durations between the two: as fine as `most` allows; whole minutes and hours above a minute."""
    decades = range(math.floor(math.log10(low)), 2)
    for steps, longer in TICKS:
        short = [step * 10.0**decade for decade in decades for step in steps if step * 10.0**decade < 60]
        inside = [tick for tick in (*short, *longer) if low * (1 - 1e-9) <= tick <= high * (1 + 1e-9)]
        if len(inside) <= 1.5 * most:
            break
    kept: list[float] = []
    for tick in inside:
        if not kept or math.log(tick / kept[-1]) >= 0.9 * math.log(high / low) / most:
            kept.append(tick)
    return kept


def time_axis(axes: Axes, span_s: float, what: str = "time since the start") -> float:
    """Label the x axis in the unit that suits the span; returns its seconds."""
    units = ((7200, 3600.0, "h"), (300, 60.0, "min"), (0, 1.0, "s"))
    unit, name = next((unit, name) for least, unit, name in units if span_s >= least)
    axes.set_xlabel(f"{what}, {name}")
    return unit


def nothing(axes: Axes, text: str) -> None:
    """Say inside empty axes why they are empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)


def finite(values: Any) -> NDArray[np.float64]:
    """The values that are numbers, sorted."""
    array = np.asarray(values, dtype=np.float64).ravel()
    return np.sort(array[np.isfinite(array)])

"""The plane of the two knobs as heat maps."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from aps.lab.report.html import Plot
from aps.lab.report.plots import style

Cell = tuple[int, int]  # row (aging horizon), column (fairness window)


class Map(NamedTuple):
    """One quantity over the plane. seconds: (horizons, windows), NaN where undefined."""

    title: str
    seconds: NDArray[np.float64]


def heat_maps(
    name: str,
    title: str,
    horizons_s: Sequence[float],
    windows: Sequence[float],
    maps: Sequence[Map],
    default: Cell | None,
    suggested: Cell | None,
) -> Plot:
    """A heat map for each quantity: D to the right, H upwards, each cell with its value; logarithmic colours.

    The default's cell has a dashed frame, the suggested one's a solid one."""
    rows, columns = (len(maps), 1) if len(windows) > 8 else (1, len(maps))
    with style.settings():
        figure = style.new(title, 0.6 + rows * (1.0 + 0.42 * len(horizons_s)))
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, quantity in zip(grid, maps, strict=True):
            _heat(figure, axes, quantity)
            axes.set_xticks(np.arange(len(windows)) + 0.5, [as_window(d) for d in windows], rotation=0)
            axes.set_yticks(np.arange(len(horizons_s)) + 0.5, [as_horizon(h) for h in horizons_s])
            axes.set_title(quantity.title)
            for cell, line, width in ((default, "--", 2.0), (suggested, "-", 2.8)):
                if cell is not None:
                    _frame(axes, cell, line, width)
        for axes in grid[-columns:]:
            axes.set_xlabel("fairness window D, cost units (k: 1,024)")
        for axes in grid[::columns]:
            axes.set_ylabel("aging horizon H")
        entries = [(default, (0, (4, 2)), 2.0, "the policy given"), (suggested, (0, ()), 2.8, "suggested")]
        style.legend_above(
            figure,
            [
                Line2D([], [], color=style.VERMILLION, linestyle=line, linewidth=width, label=label)
                for cell, line, width, label in entries
                if cell is not None
            ],
        )
        return style.finish(figure, name, title, f"{title} Darker is longer; the colours are logarithmic.")


def as_window(cost: float) -> str:
    """D to read: 0, 512, 2k, 32k, inf (units of 1,024)."""
    if cost == float("inf"):
        return "inf"
    return f"{cost / 1024:g}k" if cost >= 1024 and cost % 1024 == 0 else f"{cost:g}"


def as_horizon(seconds: float) -> str:
    """H to read."""
    return "inf" if seconds == float("inf") else style.as_time(seconds)


def as_value(seconds: float) -> str:
    """A cell's number, in few characters: 0, .8ms, 37ms, 1.9s, 240s, 35m, 3.1h."""
    if np.isnan(seconds):
        return "-"
    if seconds < 5e-5:
        return "0"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.2g}ms" if seconds < 9.95e-3 else f"{seconds * 1e3:.0f}ms"
    if seconds < 999.5:
        return f"{seconds:.1f}s" if seconds < 99.95 else f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}min" if seconds < 5997 else f"{seconds / 3600:.3g}h"


def _heat(figure: Figure, axes: Axes, quantity: Map) -> None:
    shown = np.where(np.isnan(quantity.seconds), np.nan, np.maximum(quantity.seconds, 1e-3))
    known = shown[~np.isnan(shown)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (1e-3, 1.0)
    norm = LogNorm(low, max(high, low * 1.05))
    colours = colormaps["cividis_r"]
    axes.pcolormesh(np.ma.masked_invalid(shown), norm=norm, cmap=colours, edgecolors="white", linewidth=0.8)
    axes.set_aspect("auto")
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    for (row, column), value in np.ndenumerate(quantity.seconds):
        dark = not np.isnan(value) and float(norm(max(value, 1e-3))) > 0.5
        axes.text(
            column + 0.5,
            row + 0.5,
            as_value(float(value)),
            ha="center",
            va="center",
            color="white" if dark else "black",
            size=8 if quantity.seconds.shape[1] <= 8 else 7,
        )


def _frame(axes: Axes, cell: Cell, line: str, width: float) -> None:
    row, column = cell
    axes.add_patch(
        Rectangle(
            (column + 0.04, row + 0.04), 0.92, 0.92, fill=False, color=style.VERMILLION, linestyle=line, linewidth=width
        )
    )

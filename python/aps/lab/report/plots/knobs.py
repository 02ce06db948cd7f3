"""The plane of the two knobs as heat maps."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from aps.lab import labels
from aps.lab.report.html import Plot
from aps.lab.report.plots import style

SPAN = 10.0  # from the lightest colour to the darkest, at least: what hardly differs looks so
Line = tuple[float, tuple[float, ...]]
SOLID: Line = (0, ())
DASHED: Line = (0, (4, 2))
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
            _heat(axes, quantity)
            axes.set_xticks(np.arange(len(windows)) + 0.5, [labels.window(d) for d in windows])
            axes.set_yticks(np.arange(len(horizons_s)) + 0.5, [labels.horizon(h) for h in horizons_s])
            axes.set_title(style.short(quantity.title, style.TITLE))
            for cell, line, width in ((default, DASHED, 2.0), (suggested, SOLID, 2.8)):
                if cell is not None:
                    _frame(axes, cell, line, width)
        for axes in grid[-columns:]:
            axes.set_xlabel("fairness window D, cost units (k: 1,024)")
        for axes in grid[::columns]:
            axes.set_ylabel("aging horizon H")
        marks = [(default, DASHED, 2.0, "the policy given"), (suggested, SOLID, 2.8, "suggested")]
        if default == suggested:
            marks = [(suggested, SOLID, 2.8, "suggested: the policy given")]
        entries = [
            Line2D([], [], color=style.VERMILLION, linestyle=line, linewidth=width, label=label)
            for cell, line, width, label in marks
            if cell is not None
        ]
        style.legend_above(figure, entries)
        return style.finish(figure, name, title, "Darker is longer; the colours are logarithmic.")


def _heat(axes: Axes, quantity: Map) -> None:
    shown = np.where(np.isnan(quantity.seconds), np.nan, np.maximum(quantity.seconds, 1e-3))
    known = shown[~np.isnan(shown)]
    low, high = (float(known.min()), float(known.max())) if len(known) else (1e-3, 1.0)
    norm = LogNorm(low, max(high, low * SPAN))
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
            labels.duration(float(value)).replace(" ", ""),
            ha="center",
            va="center",
            color="white" if dark else "black",
            size=8 if quantity.seconds.shape[1] <= 8 else 7,
        )


def _frame(axes: Axes, cell: Cell, line: Line, width: float) -> None:
    row, column = cell
    axes.add_patch(
        Rectangle(
            (column + 0.04, row + 0.04), 0.92, 0.92, fill=False, color=style.VERMILLION, linestyle=line, linewidth=width
        )
    )

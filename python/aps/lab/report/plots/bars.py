"""Figures side by side, with what is known of their spread."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from aps.lab.report.html import Plot
from aps.lab.report.plots import style

Numbers = NDArray[np.float64]
TICKS = {1: 8, 2: 6, 3: 4}  # of an axis, at most, by panels side by side


class Estimate(NamedTuple):
    """A mean and an interval around it; the same three when nothing is known of its spread. None: undefined."""

    mean: float | None
    low: float | None = None
    high: float | None = None


class Panel(NamedTuple):
    """One figure of several things. time: seconds, drawn on a logarithmic axis.

    better: "lower" or "higher". bounds: what the figure can be; intervals end there."""

    title: str
    estimates: Sequence[Estimate]
    time: bool = False
    better: str = ""
    bounds: tuple[float, float] = (0.0, math.inf)


def side_by_side(
    name: str,
    title: str,
    names: Sequence[str],
    panels: Sequence[Panel],
    interval: str,
    kinds: Mapping[str, str] | None = None,
) -> Plot:
    """A panel for each figure, a row for each of `names`: the mean as a marker, its interval as a bar.

    kinds: name -> what decides its look; None: each has its own."""
    kinds = kinds or {key: key for key in names}
    own = style.looks(list(dict.fromkeys(kinds[key] for key in names)))
    look = {key: own[kinds[key]] for key in names}
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with style.settings():
        figure = style.new(title, 0.7 + rows * (0.85 + 0.22 * len(names)))
        grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            axes.set_title(style.short(panel.title, style.TITLE))
            axes.set_xlabel(f"{panel.better} is better" if panel.better else "", fontsize=8.5, color=style.GREY)
            _scale(axes, panel, TICKS[columns])
            for at, (key, estimate) in enumerate(zip(names, panel.estimates, strict=True)):
                _estimate(axes, at, estimate, look[key], panel)
            axes.set_yticks(range(len(names)), [style.short(key) for key in names])
            axes.tick_params(axis="y", length=0)
            axes.grid(False, axis="y")
            axes.set_ylim(len(names) - 0.5, -0.5)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        return style.finish(figure, name, title, f"Markers are means; bars are {interval}.")


def sizes(name: str, title: str, panels: Mapping[str, Mapping[str, Numbers]], what: str) -> Plot:
    """The share of each size 0, 1, 2, ... as bars: a panel for each key, bars side by side for each key within.

    panels: key -> key -> (sizes,) how many."""
    names = list(dict.fromkeys(key for counts in panels.values() for key in counts))
    look = style.looks(names)
    width = 0.8 / len(names)
    with style.settings():
        figure = style.new(title, 2.9)
        grid = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False).ravel()
        for axes, (panel, counts) in zip(grid, panels.items(), strict=True):
            axes.set_title(style.short(panel, style.TITLE))
            for at, (key, number) in enumerate(counts.items()):
                middles = np.arange(len(number)) + (at - (len(names) - 1) / 2) * width
                share = number / max(1.0, float(number.sum()))
                axes.bar(middles, 100 * share, width, color=look[key].colour, linewidth=0)
            axes.grid(False, axis="x")
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        grid[0].set_ylabel("share of batches, %")
        grid[len(grid) // 2].set_xlabel(what)
        style.legend_above(figure, [Patch(color=look[key].colour, label=style.short(key)) for key in names])
        return style.finish(figure, name, title)


class Point(NamedTuple):
    """One thing in a plane of two figures."""

    name: str
    x: Estimate
    y: Estimate


def plane(name: str, title: str, points: Sequence[Point], x_label: str, y_label: str, interval: str) -> Plot:
    """A marker for each thing at (x, y), y being seconds on a logarithmic axis; bars are the intervals of both."""
    look = style.looks([point.name for point in points])
    known = [point for point in points if point.x.mean is not None and point.y.mean is not None]
    with style.settings():
        figure = style.new(title, 3.6)
        axes = figure.subplots()
        ends = [end for point in known for end in _ends(point.y, Panel("", (), time=True))] or [1e-3, 1.0]
        style.log_time(axes, "y", min(ends) / 2, max(ends) * 2)
        for point in known:
            own = look[point.name]
            x, y = point.x.mean or 0.0, style.shown(point.y.mean or 0.0)
            if point.x.low is not None and point.x.high is not None:
                axes.plot([point.x.low, point.x.high], [y, y], color=own.colour, linewidth=1.2)
            if point.y.low is not None and point.y.high is not None:
                axes.plot(
                    [x, x], [style.shown(point.y.low), style.shown(point.y.high)], color=own.colour, linewidth=1.2
                )
            axes.plot([x], [y], own.marker, color=own.colour, markersize=9, fillstyle="none", markeredgewidth=2)
        if not known:
            style.nothing(axes, "nothing to compare")
        _linear(axes, [value for point in known for value in point.x if value is not None], 6)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        style.legend_above(figure, [style.mark(point.name, look[point.name]) for point in points])
        return style.finish(figure, name, title, f"Bars are {interval}.")


class Promise(NamedTuple):
    """One promised figure. at_least: whether more is better; None: it shall be near the target.

    tolerance: how far on the wrong side of the target it still meets it (rounding; nearness)."""

    name: str
    unit: str
    target: float
    tolerance: float
    at_least: bool | None
    measured: float | None
    low: float | None
    high: float | None
    met: bool


def promises(name: str, title: str, rows: Sequence[Promise]) -> Plot:
    """A strip for each promised figure: what is allowed (shaded), the target, and what was measured."""
    with style.settings():
        figure = style.new(title, 0.7 + 0.78 * len(rows))
        grid = figure.subplots(len(rows), 1, squeeze=False).ravel()
        for axes, row in zip(grid, rows, strict=True):
            known = [v for v in (row.measured, row.low, row.high) if v is not None]
            ends = [*known, row.target - row.tolerance, row.target + row.tolerance]
            pad = 0.25 * (max(ends) - min(ends)) or 0.1 * abs(row.target) or 1.0
            left, right = min(ends) - pad, max(ends) + pad
            allowed = {
                True: (row.target - row.tolerance, right),
                False: (left, row.target + row.tolerance),
                None: (row.target - row.tolerance, row.target + row.tolerance),
            }[row.at_least]
            axes.axvspan(*allowed, color=style.GREEN, alpha=0.18, linewidth=0)
            axes.axvline(row.target, color=style.GREEN, linestyle="--", linewidth=1.4)
            if row.low is not None and row.high is not None:
                axes.plot([row.low, row.high], [0, 0], color=style.BLUE, linewidth=2.2)
            if row.measured is not None:
                axes.plot([row.measured], [0], color=style.BLUE, marker="o", markersize=7)
            axes.set_xlim(left, right)
            axes.set_ylim(-1, 1)
            axes.grid(False, axis="y")
            axes.set_yticks([0], [f"{row.name}, {row.unit}" if row.unit else row.name])
            axes.tick_params(axis="y", length=0)
            axes.xaxis.set_major_locator(MaxNLocator(6))
            axes.text(1.01, 0.5, "met" if row.met else "NOT MET", transform=axes.transAxes, va="center", weight="bold")
        style.legend_above(
            figure,
            [
                Line2D([], [], color=style.BLUE, marker="o", label="measured: mean, lowest to highest"),
                Line2D([], [], color=style.GREEN, linestyle="--", label="promised (shaded: meets it)"),
            ],
        )
        return style.finish(figure, name, title)


def _scale(axes: Axes, panel: Panel, ticks: int) -> None:
    ends = [end for estimate in panel.estimates for end in _ends(estimate, panel)]
    if panel.time:
        style.log_time(axes, "x", min(ends, default=1e-3) / 1.6, max(ends, default=1.0) * 1.6, ticks)
    else:
        _linear(axes, ends, ticks)
        left, right = axes.get_xlim()
        pad = 0.05 * (right - left)
        axes.set_xlim(max(left, panel.bounds[0] - pad), min(right, panel.bounds[1] + pad))


def _ends(estimate: Estimate, panel: Panel) -> list[float]:
    """What an axis must hold of an estimate. Towards 0 a logarithmic one has no end: a tenth of the mean will do."""
    if estimate.mean is None:
        return []
    low, high = (estimate.mean if end is None else end for end in (estimate.low, estimate.high))
    if panel.time:
        mean = style.shown(estimate.mean)
        return [max(mean / 10, style.shown(low)), style.shown(high)]
    return [max(panel.bounds[0], low), min(panel.bounds[1], high)]


def _linear(axes: Axes, values: Sequence[float], ticks: int) -> None:
    """An axis at least 10 % of its values wide, so that what hardly differs looks so."""
    low, high = min(values, default=0.0), max(values, default=1.0)
    pad = max(0.1 * (high - low), 0.05 * abs(high + low) / 2, 1e-9)
    axes.set_xlim(low - pad, high + pad)
    axes.xaxis.set_major_locator(MaxNLocator(ticks))


def _estimate(axes: Axes, at: int, estimate: Estimate, look: style.Look, panel: Panel) -> None:
    shown = style.shown if panel.time else float
    if estimate.mean is None:
        axes.text(0.02, at, "undefined", transform=axes.get_yaxis_transform(), va="center", color=style.GREY, size=8.5)
        return
    if estimate.low is not None and estimate.high is not None:
        low, high = max(panel.bounds[0], estimate.low), min(panel.bounds[1], estimate.high)
        axes.plot([shown(low), shown(high)], [at, at], color=look.colour, linewidth=2.2)
    axes.plot([shown(estimate.mean)], [at], color=look.colour, marker=look.marker, markersize=6)

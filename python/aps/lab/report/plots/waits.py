"""Distributions of durations: whose requests waited how long."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from aps.lab.report.html import Plot
from aps.lab.report.plots import style

POINTS = 400  # of a curve
THINNEST, WIDER = 1.4, 0.4  # of the last curve, and of each one before it, points


def tails(
    name: str, title: str, panels: Mapping[str, Mapping[str, Any]], what: str, slo_s: float | None = None
) -> Plot:
    """The share of requests that took longer than x, both axes logarithmic: a panel for each key, a curve for each
    key within, of durations in seconds (NaN: none). At most 4 panels and 7 curves."""
    names = list(dict.fromkeys(curve for curves in panels.values() for curve in curves))
    look = style.looks(names)
    values = {panel: {curve: style.finite(v) for curve, v in curves.items()} for panel, curves in panels.items()}
    every = np.concatenate([v for curves in values.values() for v in curves.values()] or [np.empty(0)])
    low, high = _range(every)
    least = 0.5 / max([1, *(len(v) for curves in values.values() for v in curves.values())])
    rows = -(-len(panels) // 2)
    with style.settings():
        figure = style.new(title, 0.9 + 2.6 * rows)
        grid = figure.subplots(rows, min(2, len(panels)), sharex=True, sharey=True, squeeze=False).ravel()
        for at, (panel, curves) in enumerate(values.items()):
            axes = grid[at]
            axes.set_title(style.short(panel, style.TITLE))
            # Curves that are the same stay visible: the first are the widest.
            for after, (curve, sample) in zip(range(len(curves))[::-1], curves.items(), strict=True):
                _curve(axes, sample, curve, look[curve], THINNEST + WIDER * after)
            if slo_s:
                axes.axvline(slo_s, color=style.GREY, linewidth=1)
                axes.text(slo_s, 1.0, " SLO", color=style.GREY, va="top")
            style.log_time(axes, "x", low, high)
            axes.set_yscale("log")
            axes.set_ylim(max(least, 1e-5), 1.15)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g} %"))
            axes.tick_params(labelbottom=at >= len(panels) - 2)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        for axes in grid[max(0, len(panels) - 2) : len(panels)]:
            axes.set_xlabel(what)
        for axes in grid[::2]:
            axes.set_ylabel("share of requests above x")
        if len(names) > 1:
            style.legend_above(figure, [style.line(curve, look[curve]) for curve in names])
        caption = f"A curve's height at x is the share of requests whose {what} is longer than x."
        return style.finish(figure, name, title, caption)


def percentiles(
    name: str, title: str, records: Sequence[tuple[str, str, Mapping[str, float | None]]], what: str
) -> Plot:
    """A line from p50 to p99 with a mark at p95 for each (group, name, {"p50", "p95", "p99"} in seconds)."""
    names = list(dict.fromkeys(record[1] for record in records))
    look = style.looks(names)
    known = style.finite([v for record in records for v in record[2].values() if v is not None])
    low, high = _range(known)
    with style.settings():
        groups = list(dict.fromkeys(record[0] for record in records)) if len(names) > 1 else []
        headers: set[int] = set()
        figure = style.new(title, 1.1 + 0.21 * (len(records) + len(groups)))
        axes = figure.subplots()
        at = 0.0
        ticks: list[tuple[float, str]] = []
        for group, key, values in records:
            if groups[:1] == [group]:
                headers.add(len(ticks))
                ticks.append((at, style.short(groups.pop(0))))
                at += 1.0
            drawn = [style.shown(v) for v in (values.get(p) for p in ("p50", "p95", "p99")) if v is not None]
            if len(drawn) == 3:
                axes.plot(drawn[::2], [at, at], color=look[key].colour, linestyle=look[key].line, zorder=2)
                axes.plot(drawn, [at] * 3, color=look[key].colour, marker="|", linestyle="none", markersize=9)
                axes.plot(drawn[2:], [at], color=look[key].colour, marker=look[key].marker, markersize=6)
            else:
                axes.text(low, at, " none started", va="center", color=style.GREY, fontsize=8.5)
            ticks.append((at, style.short(key if len(names) > 1 else group)))
            at += 1.0
        axes.set_yticks([tick for tick, _ in ticks], [label for _, label in ticks])
        for number, label in enumerate(axes.get_yticklabels()):
            label.set_fontweight("bold" if number in headers else "normal")
        axes.tick_params(axis="y", length=0)
        axes.set_ylim(at - 0.3, -0.7)
        axes.grid(False, axis="y")
        style.log_time(axes, "x", low, high)
        axes.set_xlabel(f"{what}: p50, p95 (bars) and p99 (marker)")
        return style.finish(figure, name, title, "Each line runs from the median to the 99th percentile.")


def _curve(axes: Axes, sample: NDArray[np.float64], name: str, look: style.Look, width: float) -> None:
    n = len(sample)
    if not n:
        axes.plot([], [], color=look.colour, linestyle=look.line, label=name)
        return
    left = np.unique(np.geomspace(1, n, min(n, POINTS)).round().astype(np.int64))[::-1]  # how many are longer or equal
    x = np.maximum(sample[n - left], style.SHORTEST_S)
    axes.plot(
        np.concatenate([[style.SHORTEST_S / 10], x, x[-1:]]),
        np.concatenate([[1.0], left / n, [1e-9]]),
        drawstyle="steps-pre",
        linewidth=width,
        color=look.colour,
        linestyle=look.line,
        label=name,
    )


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    """Limits of a logarithmic axis of durations."""
    if not len(values):
        return style.SHORTEST_S, 1.0
    low, high = max(style.SHORTEST_S, float(values.min())), max(10 * style.SHORTEST_S, float(values.max()))
    return max(style.SHORTEST_S, low / 1.5), high * 1.3

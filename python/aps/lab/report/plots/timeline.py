"""What happened when: queue, slots and cache; service by tenant."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from aps.lab.report.html import Plot
from aps.lab.report.plots import style

BINS = 240  # drawn, at most; more are merged
RATE_BINS = 60
Numbers = NDArray[np.float64]


class Level(NamedTuple):
    """A quantity over time. bins: (b, 3) least, time-weighted mean, most; capacity: its bound, None without one."""

    label: str
    bins: NDArray[np.generic]
    capacity: float | None = None


def levels(name: str, title: str, edges_s: Numbers, quantities: Sequence[Level]) -> Plot:
    """A panel for each quantity over time: its mean in each bin as a line, from least to most as a band.

    edges_s: (b + 1,) seconds."""
    with style.settings():
        figure = style.new(title, 0.9 + 1.35 * len(quantities))
        grid = figure.subplots(len(quantities), 1, sharex=True, squeeze=False).ravel()
        unit = style.time_axis(grid[-1], float(edges_s[-1] - edges_s[0]) if len(edges_s) > 1 else 0.0)
        for axes, quantity in zip(grid, quantities, strict=True):
            edges, low, mean, high = merged_levels(edges_s, np.asarray(quantity.bins, dtype=np.float64), BINS)
            if len(mean):
                axes.stairs(high, edges / unit, baseline=low, fill=True, color=style.SKY, alpha=0.45, linewidth=0)
                axes.stairs(mean, edges / unit, baseline=None, color=style.BLUE, linewidth=1.4)
                axes.set_xlim(edges[0] / unit, edges[-1] / unit)
            else:
                style.nothing(axes, "no time passed")
            if quantity.capacity is not None:
                axes.axhline(quantity.capacity, color=style.VERMILLION, linestyle="--", linewidth=1.2)
            most = max([quantity.capacity or 0.0, *high.tolist(), 1e-9])
            axes.set_ylim(0, 1.08 * most)
            axes.set_ylabel(quantity.label)
        figure.align_ylabels()
        entries = [
            Line2D([], [], color=style.BLUE, linewidth=1.4, label="mean of the bin"),
            Patch(color=style.SKY, alpha=0.45, linewidth=0, label="least to most in the bin"),
        ]
        if any(quantity.capacity is not None for quantity in quantities):
            entries.append(Line2D([], [], color=style.VERMILLION, linestyle="--", linewidth=1.2, label="all there is"))
        style.legend_above(figure, entries)
        return style.finish(figure, name, title, "Lines are time-weighted means, bands least to most.")


def rates(
    name: str, title: str, panels: Mapping[str, tuple[Numbers, Mapping[str, NDArray[np.generic]]]], what: str
) -> Plot:
    """Tokens per second over time, the tenants on top of each other: a panel for each key (a policy), one time axis.

    panels: key -> (b + 1,) edges in seconds, and for each tenant (b,) tokens of the bins. At most 7 tenants."""
    names = list(dict.fromkeys(tenant for _, tenants in panels.values() for tenant in tenants))
    look = style.looks(names)
    with style.settings():
        figure = style.new(title, 1.0 + (2.2 if len(panels) == 1 else 1.3 * len(panels)))
        grid = figure.subplots(len(panels), 1, sharex=True, sharey=True, squeeze=False).ravel()
        longest_s = max(float(edges[-1]) for edges, _ in panels.values())
        unit = style.time_axis(grid[-1], longest_s)
        most = 1e-9
        for axes, (panel, (edges_s, tenants)) in zip(grid, panels.items(), strict=True):
            if len(panels) > 1:
                axes.set_title(style.short(panel, style.TITLE))
            if len(edges_s) < 2:
                style.nothing(axes, "no time passed")
                continue
            below: Numbers | float = 0.0
            for tenant, tokens in tenants.items():
                edges, rate = merged_rates(edges_s, np.asarray(tokens, dtype=np.float64), RATE_BINS)
                top = below + rate
                axes.stairs(top, edges / unit, baseline=below, fill=True, color=look[tenant].colour, linewidth=0)
                axes.stairs(top, edges / unit, baseline=None, color="white", linewidth=0.6)
                below, most = top, max([most, *top.tolist()])
        grid[0].set_xlim(0, max(longest_s, 1e-9) / unit)
        grid[0].set_ylim(0, 1.05 * most)
        figure.supylabel(what, fontsize=9.5)
        style.legend_above(figure, [Patch(color=look[tenant].colour, label=style.short(tenant)) for tenant in names])
        return style.finish(figure, name, title, "The first tenant is the lowest layer.")


def index_in_windows(
    name: str, title: str, middles_s: Numbers, indices: Mapping[str, Numbers], what: str, until_s: float
) -> Plot:
    """An index of 0..1 in windows of time (NaN: undefined), a marker a window."""
    look = style.looks(list(indices))
    with style.settings():
        figure = style.new(title, 2.9)
        axes = figure.subplots()
        unit = style.time_axis(axes, until_s)
        for key, values in indices.items():
            axes.plot(middles_s / unit, values, look[key].marker, color=look[key].colour, markersize=5, alpha=0.85)
        axes.set_xlim(0, max(until_s, 1e-9) / unit)
        axes.set_ylim(0, 1.05)
        axes.set_ylabel(what)
        style.legend_above(figure, [style.mark(key, look[key]) for key in indices])
        return style.finish(figure, name, title, "1: equal. Windows in which fewer than two wait are left out.")


def merged_levels(edges: Numbers, bins: Numbers, most: int) -> tuple[Numbers, Numbers, Numbers, Numbers]:
    """Edges, least, time-weighted mean and most of (b, 3) bins, joined so that at most `most` are left."""
    if len(edges) < 2:
        return np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0)
    starts, joined = _starts(edges, most)
    widths = np.diff(edges)
    sums = np.add.reduceat(bins[:, 1] * widths, starts)
    mean = sums / np.add.reduceat(widths, starts)
    return joined, np.minimum.reduceat(bins[:, 0], starts), mean, np.maximum.reduceat(bins[:, 2], starts)


def merged_rates(edges: Numbers, amounts: Numbers, most: int) -> tuple[Numbers, Numbers]:
    """Edges, and amounts a second, of bins joined so that at most `most` are left."""
    if len(edges) < 2:
        return np.zeros(1), np.zeros(0)
    starts, joined = _starts(edges, most)
    return joined, np.add.reduceat(amounts, starts) / np.diff(joined)


def _starts(edges: Numbers, most: int) -> tuple[NDArray[np.int64], Numbers]:
    """The first of every run of bins to be joined, and the edges that are left. Bins without a width are not left."""
    n = len(edges) - 1
    starts = np.arange(0, n, max(1, -(-n // most)))
    joined = np.append(edges[starts], edges[-1])
    return starts, joined

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
        return style.finish(figure, name, title, f"{title} Lines are time-weighted means, bands least to most.")


def rates(
    name: str, title: str, panels: Mapping[str, tuple[Numbers, Mapping[str, Numbers]]], what: str, common: bool = True
) -> Plot:
    """Tokens per second of every tenant over time: a panel for each key (a policy), a line a tenant.

    panels: key -> (b + 1,) edges in seconds, and for each tenant (b,) tokens of the bins. At most 7 tenants. common:
    all panels have one time axis."""
    names = list(dict.fromkeys(tenant for _, tenants in panels.values() for tenant in tenants))
    look = style.looks(names)
    with style.settings():
        figure = style.new(title, 1.0 + (2.2 if len(panels) == 1 else 1.3 * len(panels)))
        grid = figure.subplots(len(panels), 1, sharex=common, sharey=common, squeeze=False).ravel()
        longest_s = max(float(edges[-1]) for edges, _ in panels.values())
        unit = style.time_axis(grid[-1], longest_s)
        for axes, (panel, (edges_s, tenants)) in zip(grid, panels.items(), strict=True):
            if len(panels) > 1:
                axes.set_title(panel)
            for tenant, tokens in tenants.items():
                edges, rate = merged_rates(edges_s, np.asarray(tokens, dtype=np.float64), RATE_BINS)
                own = look[tenant]
                axes.stairs(rate, edges / unit, baseline=None, color=own.colour, linestyle=own.line, linewidth=1.5)
            axes.set_xlim(0, max(longest_s if common else float(edges_s[-1]), 1e-9) / unit)
        top = [max(1e-9, float(axes.dataLim.y1)) for axes in grid]
        for axes, own_top in zip(grid, top, strict=True):
            axes.set_ylim(0, 1.05 * (max(top) if common else own_top))
        figure.supylabel(what, fontsize=9.5)
        style.legend_above(figure, [style.line(tenant, look[tenant]) for tenant in names])
        return style.finish(figure, name, title)


def index_in_windows(
    name: str, title: str, middles_s: Numbers, indices: Mapping[str, Numbers], what: str, least: float
) -> Plot:
    """An index of 0..1 in windows of time (NaN: undefined), a marker a window; least: the lowest it can be."""
    look = style.looks(list(indices))
    with style.settings():
        figure = style.new(title, 2.9)
        axes = figure.subplots()
        unit = style.time_axis(axes, float(middles_s[-1]) if len(middles_s) else 0.0)
        for key, values in indices.items():
            own = look[key]
            axes.plot(middles_s / unit, values, color=own.colour, linestyle=own.line, marker=own.marker, markersize=4)
        axes.axhline(least, color=style.GREY, linewidth=1, linestyle="--")
        axes.text(0.995, least, "one tenant gets all ", transform=axes.get_yaxis_transform(), ha="right", va="bottom")
        axes.set_xlim(left=0)
        axes.set_ylim(0, 1.05)
        axes.set_ylabel(what)
        style.legend_above(figure, [style.line(key, look[key], marker=True) for key in indices])
        return style.finish(figure, name, title)


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

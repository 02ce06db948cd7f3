"""Model against measurement."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from aps.lab.report.html import Plot
from aps.lab.report.plots import style

HOLLOW: dict[str, Any] = {"markersize": 6.5, "fillstyle": "none", "markeredgewidth": 1.6}
APART = 1.07  # factor between the markers of two groups at one load
Numbers = NDArray[np.float64]


def agreement(
    name: str, title: str, groups: Mapping[str, tuple[Numbers, Numbers]], what: str, band: float = 0.1
) -> Plot:
    """Predicted against measured, both axes logarithmic: a marker a row; on the line they agree, the band is +-`band`.

    groups: name -> (measured, predicted), all above 0. what: the quantity with its unit."""
    look = style.looks(list(groups))
    every = style.finite(np.concatenate([np.concatenate(pair) for pair in groups.values()] or [np.empty(0)]))
    ends = np.array([every[0] / 1.4, every[-1] * 1.4]) if len(every) else np.array([0.1, 1.0])
    with style.settings():
        figure = style.new(title, 5.4)
        axes = figure.subplots()
        axes.fill_between(ends, ends * (1 - band), ends * (1 + band), color="#dddddd", linewidth=0, zorder=0)
        axes.plot(ends, ends, color=style.GREY, linewidth=1, zorder=1)
        for key, (measured, predicted) in groups.items():
            own = look[key]
            axes.plot(measured, predicted, own.marker, color=own.colour, **HOLLOW)
        for scale, limit, axis in (
            (axes.set_xscale, axes.set_xlim, axes.xaxis),
            (axes.set_yscale, axes.set_ylim, axes.yaxis),
        ):
            scale("log")
            limit(*ends)
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        axes.set_aspect("equal")
        axes.text(0.98, 0.03, f"grey: within {100 * band:g} %", transform=axes.transAxes, ha="right", color=style.GREY)
        axes.set_xlabel(f"measured {what}")
        axes.set_ylabel(f"predicted {what}")
        style.legend_above(figure, [style.mark(key, own) for key, own in look.items()])
        return style.finish(figure, name, title)


def by_load(name: str, title: str, groups: Mapping[str, tuple[Numbers, Numbers]], load: str) -> Plot:
    """Relative error, %, over the load (logarithmic): a marker a row, groups side by side, the zero line marked.

    groups: name -> (load above 0, relative error; 0.05 is 5 %)."""
    look = style.looks(list(groups))
    with style.settings():
        figure = style.new(title, 3.4)
        axes = figure.subplots()
        axes.axhline(0, color=style.GREY, linewidth=1)
        for at, (key, (loads, errors)) in enumerate(groups.items()):
            own = look[key]
            aside = APART ** (at - (len(groups) - 1) / 2)
            axes.plot(loads * aside, 100 * errors, own.marker, color=own.colour, **HOLLOW)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_major_locator(MaxNLocator(7))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:+.0f} %" if value else "0"))
        axes.set_xlabel(load)
        axes.set_ylabel("(predicted - measured) / measured")
        style.legend_above(figure, [style.mark(key, own) for key, own in look.items()])
        return style.finish(figure, name, title)

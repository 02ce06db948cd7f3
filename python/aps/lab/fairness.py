"""Fairness over time: shares while tenants wait, window by window, and how long a tenant got nothing at all."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aps.lab.run import Series

Floats = NDArray[np.float64]

WINDOWS = 64  # of a run, at most, when no length is given
ALL = 1.0 - 1e-9  # of a bin: bins are sums of rounded parts


def jain(shares: Floats, among: NDArray[np.bool_]) -> Floats:
    """Jain's index (sum x)^2 / (n sum x^2) of each row of `shares`, over the columns that `among` marks.

    (rows, columns) both. 1: all equal; 1/n: one has everything; NaN: nobody marked has anything.
    """
    kept = np.where(among, shares, 0.0)
    squares = among.sum(axis=1) * (kept**2).sum(axis=1)
    found = np.full(len(kept), np.nan)
    np.divide(kept.sum(axis=1) ** 2, squares, out=found, where=squares > 0)
    return found


class Windows(NamedTuple):
    """Jain's index in each window in which it is defined.

    window_s: their length. middles_s: their middles. jain, weighted_jain: over the tenants that have a request waiting
    throughout the window, two or more of them; weighted: each one's tokens are divided by its weight.
    """

    window_s: float
    middles_s: Floats
    jain: Floats
    weighted_jain: Floats


def windows(series: Series, weights: Floats, window_s: float | None = None) -> Windows:
    """The windows of a run, in order.

    weights: (tenants,). window_s: seconds, rounded to whole bins of the series; None: a 64th of the run. Left out are
    windows in which fewer than two tenants wait throughout, or none of them gets anything, and a last one that is not
    full. Tokens are those computed in the window, prompt (again after a preemption by recompute) and output.
    """
    bins = len(series.edges_s) - 1
    width_s = float(series.edges_s[1] - series.edges_s[0]) if bins else 0.0
    if not width_s:
        return Windows(0.0, *(np.zeros(0) for _ in range(3)))
    each = -(-bins // WINDOWS) if window_s is None else round(window_s / width_s)
    each = max(1, min(each, bins))
    firsts = np.arange(0, bins - each + 1, each)
    full = firsts[-1] + each
    given = np.add.reduceat(series.served[:full].sum(axis=1, dtype=np.float64), firsts, axis=0)
    waits = np.minimum.reduceat(series.backlog[:full], firsts, axis=0) >= ALL
    raw, fair = jain(given, waits), jain(given / weights, waits)
    shown = (waits.sum(axis=1) >= 2) & ~np.isnan(raw)
    middles_s = (series.edges_s[firsts] + series.edges_s[firsts + each]) / 2
    return Windows(each * width_s, middles_s[shown], raw[shown], fair[shown])


def summary(found: Windows) -> dict[str, Any]:
    """{"window_s", "number", "jain": {"mean", "worst", "p5"} | None, "weighted_jain": likewise}."""
    return {
        "window_s": found.window_s,
        "number": len(found.jain),
        "jain": _worst(found.jain),
        "weighted_jain": _worst(found.weighted_jain),
    }


def _worst(index: Floats) -> dict[str, float] | None:
    if not len(index):
        return None
    return {"mean": float(index.mean()), "worst": float(index.min()), "p5": float(np.percentile(index, 5))}


def longest_starvation(arrived: Floats, started: Floats, ended: Floats) -> float:
    """The longest time, in seconds, in which one tenant had a request waiting while none of its requests ran.

    (n,) instants of its requests. started: NaN for one that never did. A request waits from arrived to started (to
    ended when it never started) and runs from started to ended; at one instant all changes count before a look.
    """
    ran = ~np.isnan(started)
    waits = _union(arrived, np.where(ran, started, ended))
    runs = _union(started[ran], ended[ran])
    instants = np.unique(np.concatenate((*waits, *runs)))
    middles = (instants[1:] + instants[:-1]) / 2
    starved = _inside(waits, middles) & ~_inside(runs, middles)
    turns = np.flatnonzero(np.diff(starved, prepend=False, append=False))  # begins and ends, in turn
    lasted = instants[turns[1::2]] - instants[turns[::2]]
    return float(lasted.max(initial=0.0))


def _union(begins: Floats, ends: Floats) -> tuple[Floats, Floats]:
    """Intervals as disjoint ones in order; those that touch are one, those without length are dropped."""
    order = np.argsort(begins, kind="stable")
    begins, ends = begins[order], np.maximum.accumulate(ends[order])
    apart = begins[1:] > ends[:-1]
    begins, ends = begins[np.append(True, apart)[: len(begins)]], ends[np.append(apart, True)[: len(ends)]]
    longer = ends > begins
    return begins[longer], ends[longer]


def _inside(intervals: tuple[Floats, Floats], instants: Floats) -> NDArray[np.bool_]:
    begins, ends = intervals
    return np.searchsorted(begins, instants, side="right") > np.searchsorted(ends, instants, side="right")

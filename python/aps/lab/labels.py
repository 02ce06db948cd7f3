"""Numbers in few characters: durations and the two knobs."""

from math import inf, isnan


def duration(seconds: float | None) -> str:
    """-, 0, 0.8 ms, 37 ms, 1.9 s, 240 s, 35 min, 3.1 h."""
    if seconds is None or isnan(seconds):
        return "-"
    if seconds < 5e-5:
        return "0"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.2g} ms" if seconds < 9.95e-3 else f"{seconds * 1e3:.0f} ms"
    if seconds < 999.5:
        return f"{seconds:.1f} s" if seconds < 99.95 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.3g} h"


def horizon(seconds: float) -> str:
    """The aging horizon: 0, 30 s, 5 min, inf."""
    if seconds in (0, inf):
        return f"{seconds:g}"
    return f"{seconds / 60:g} min" if seconds >= 300 and seconds % 60 == 0 else f"{seconds:g} s"


def window(cost: float) -> str:
    """The fairness window: 0, 512, 2k, 32k, inf, k being 1,024."""
    if cost == inf:
        return "inf"
    return f"{cost / 1024:g}k" if cost >= 1024 and cost % 1024 == 0 else f"{cost:g}"

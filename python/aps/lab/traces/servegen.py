"""Requests drawn from ServeGen's client parameters: one client is one tenant."""

from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from aps.lab.arrivals import MOST
from aps.lab.traces.options import Purpose, TraceOptions
from aps.lab.traces.recorded import Recorded
from aps.lab.traces.servegen_files import Client, Histogram, Windows
from aps.lab.traces.source import TraceError
from aps.tenants import Tenant

NAME = "ServeGen client parameters"
NAMED = 10  # clients named in a note


@dataclass(slots=True)
class _Load:
    """One client in the part chosen. windows, k of them in which it asks for something: their index, begin and end in
    the part, expected requests at the rates recorded, and the window of its lengths (-1: none)."""

    client: Client
    windows: NDArray[np.intp]
    begin_s: NDArray[np.float64]
    end_s: NDArray[np.float64]
    expected: NDArray[np.float64]
    lengths: NDArray[np.int64]
    histograms: dict[int, tuple[Histogram, Histogram]]


def generate(clients: list[Client], name: str, options: TraceOptions) -> Recorded:
    """Arrivals and lengths of every client that has both.

    In a window of a client the number of requests is its expected number, rounded so that over any stretch of time the
    sum is off by less than 1. Its gaps are drawn from its own distribution and stretched to fill the window, from a
    random start: so the rate is kept even where a few long gaps make up most of the time. Prompt and output lengths are
    drawn independently. Rates are those of a whole cluster: `arrivals_per_s` or `rate_scale` must scale them.
    Raises TraceError.
    """
    if options.arrivals_per_s is None and options.rate_scale is None:
        raise TraceError(name, "has the rates of a whole cluster; arrivals_per_s (or rate_scale) must be given")
    last_s = max(float(one.windows.end_s[-1]) for one in clients if one.windows is not None)
    end_s = min(options.start_s + options.duration_s, last_s)
    loads = [_load(client, options.start_s, end_s) for client in clients]
    offered = sum(float(load.expected.sum()) for load in loads)
    notes = [f"clients that are silent in this part: {sum(not len(load.windows) for load in loads)} of {len(loads)}"]
    notes += _drop_without_lengths(loads, offered)
    usable = sum(float(load.expected.sum()) for load in loads)
    if not usable > 0:
        raise TraceError(
            name, "; ".join([f"no client asks for anything from {options.start_s:g} s to {end_s:g} s", *notes])
        )
    scale = options.rate_scale or 1.0
    if options.arrivals_per_s is not None:
        scale = options.arrivals_per_s * (end_s - options.start_s) / usable
    if usable * scale > MOST:
        raise TraceError(name, f"would make {usable * scale:.3g} requests; expected at most {MOST:,}")
    mean = usable * scale / (end_s - options.start_s)
    notes.append(f"synthetic arrivals and lengths: drawn, at {scale:.4g} of the recorded rates, {mean:.4g} requests/s")
    parts = [_requests(load, scale, options) for load in loads]
    present = [(load, part) for load, part in zip(loads, parts, strict=True) if len(part[0])]
    if not present:
        raise TraceError(name, f"no request is drawn at {mean:.3g} requests/s over {end_s - options.start_s:g} s")
    if rare := sum(len(load.windows) > 0 for load in loads) - len(present):
        notes.append(f"clients so rare that no request is drawn: {rare}")
    at_s, prompt, output = (np.concatenate([part[column] for _, part in present]) for column in range(3))
    tenant = np.repeat(np.arange(len(present), dtype=np.int32), [len(part[0]) for _, part in present])
    order = np.argsort(at_s, kind="stable")
    return Recorded(
        name=name,
        format=NAME,
        at_s=at_s[order],
        prompt_tokens=prompt[order],
        output_tokens=output[order],
        lines=np.zeros(len(order), dtype=np.int64),
        tenants=tuple(Tenant(f"client-{load.client.number}") for load, _ in present),
        tenant=tenant[order],
        own=True,
        generated=True,
        notes=tuple(notes),
    )


def _load(client: Client, start_s: float, end_s: float) -> _Load:
    windows = client.windows
    assert windows is not None
    begin = np.maximum(windows.start_s, start_s)
    end = np.minimum(windows.end_s, end_s)
    which = np.flatnonzero((end > begin) & (windows.rate > 0))
    load = _Load(
        client=client,
        windows=which,
        begin_s=begin[which],
        end_s=end[which],
        expected=windows.rate[which] * (end - begin)[which],
        lengths=np.full(len(which), -1, dtype=np.int64),
        histograms={},
    )
    starts = np.array(list(client.lengths), dtype=np.int64)
    if len(starts):
        of = np.searchsorted(starts, windows.start_s[which], side="right") - 1
        load.lengths = np.where(of >= 0, starts[of], -1)
        for start in np.unique(load.lengths[load.lengths >= 0]).tolist():
            found = client.histograms(start)
            if found is None:
                load.lengths[load.lengths == start] = -1
            else:
                load.histograms[start] = found
    return load


def _drop_without_lengths(loads: list[_Load], offered: float) -> list[str]:
    """Leave out what has arrivals and no lengths; the notes about it."""
    whole: list[str] = []
    in_part: list[str] = []
    lost = [0.0, 0.0]
    for load in loads:
        missing = load.lengths < 0
        if not missing.any():
            continue
        none = not load.client.has_lengths
        (whole if none else in_part).append(f"client-{load.client.number}")
        lost[0 if none else 1] += float(load.expected[missing].sum())
        kept = ~missing
        load.windows, load.begin_s, load.end_s = load.windows[kept], load.begin_s[kept], load.end_s[kept]
        load.expected, load.lengths = load.expected[kept], load.lengths[kept]
    said = (
        (whole, lost[0], "clients with arrivals and no lengths,"),
        (in_part, lost[1], "windows with arrivals and no lengths, of clients:"),
    )
    return [
        f"left out: {says} {len(names)} with {part / offered:.1%} of the arrivals: {_listed(names)}"
        for names, part, says in said
        if names
    ]


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _requests(
    load: _Load, scale: float, options: TraceOptions
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Instants, prompts and outputs of one client, in order of time."""
    windows = load.client.windows
    assert windows is not None
    gaps, lengths = (options.rng(purpose, load.client.number) for purpose in (Purpose.ARRIVALS, Purpose.LENGTHS))
    sums = np.floor(np.append(0.0, load.expected.cumsum() * scale) + gaps.random()).astype(np.int64)
    counts = np.diff(sums)
    if not counts.sum():
        return np.zeros(0), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    at_s = np.concatenate([_instants(windows, load, which, int(counts[which]), gaps) for which in range(len(counts))])
    of = np.repeat(load.lengths, counts)
    drawn = lengths.random((2, len(at_s)))
    tokens = np.zeros((2, len(at_s)), dtype=np.int64)
    for start, histograms in load.histograms.items():
        rows = of == start
        for column, histogram in enumerate(histograms):
            tokens[column, rows] = _lengths(histogram, drawn[column, rows])
    return at_s, tokens[0], tokens[1]


def _instants(windows: Windows, load: _Load, which: int, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
    if not count:
        return np.zeros(0)
    window = load.windows[which]
    shape = float(windows.shape[window])
    gaps = rng.weibull(shape, count) if windows.weibull[window] else rng.standard_gamma(shape, count)
    total = float(gaps.sum())
    places = gaps.cumsum() / total if 0 < total < inf else rng.random(count)
    length_s = load.end_s[which] - load.begin_s[which]
    found: NDArray[np.float64] = np.sort(load.begin_s[which] + (places + rng.random()) % 1.0 * length_s)
    return found


def _lengths(histogram: Histogram, drawn: NDArray[np.float64]) -> NDArray[np.int64]:
    places = np.searchsorted(histogram.shares, drawn * histogram.shares[-1], side="right")
    found: NDArray[np.int64] = histogram.values[np.minimum(places, len(histogram.values) - 1)]
    return found

"""When requests arrive: instants in [0, duration_s), as arrays.

Every function draws from the generator that it is given (or from its children), one event after the other: with the
same seed a longer duration gives the same instants and more of them.
Renewal processes (`gamma`, `weibull`) are drawn as if they had run for ever before 0: else every tenant would begin
with the burst that clusters at the start of such a process.
"""

from collections.abc import Callable
from math import ceil, inf, pi, sqrt
from math import gamma as gamma_function

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Instants = NDArray[np.float64]
MOST = 50_000_000  # arrivals of one call: a wrong unit ends in an error, not in swap


def constant(rate_per_s: float, duration_s: float, first_s: float = 0.0) -> Instants:
    """Evenly spaced: first_s, then every 1/rate seconds."""
    _check(rate_per_s, duration_s)
    _positive("first_s", first_s, zero=True)
    n = max(0, ceil((duration_s - first_s) * rate_per_s) + 1)
    at_s = first_s + np.arange(n) / rate_per_s
    return at_s[at_s < duration_s]


def burst(n: int, at_s: float = 0.0) -> Instants:
    """All at once."""
    _positive("n", n, zero=True)
    _positive("at_s", at_s, zero=True)
    return np.full(n, float(at_s))


def poisson(rate_per_s: float, duration_s: float, rng: Generator) -> Instants:
    """Independent arrivals at a constant rate: exponential gaps, CV 1."""
    _check(rate_per_s, duration_s)
    return _renewal(lambda n: rng.standard_exponential(n) / rate_per_s, 0.0, rate_per_s, duration_s)


def gamma(rate_per_s: float, cv: float, duration_s: float, rng: Generator) -> Instants:
    """Renewal process with gamma gaps of a coefficient of variation: 1 is Poisson, above it bursts."""
    _check(rate_per_s, duration_s)
    _between("cv", cv, 0.01, 100)
    shape = cv**-2
    scale = 1 / (rate_per_s * shape)
    # the gap that covers instant 0 is drawn by its length; a uniform part of it is still to come
    left = rng.gamma(shape + 1, scale) * rng.random()
    return _renewal(lambda n: rng.gamma(shape, scale, n), left, rate_per_s, duration_s)


def weibull(rate_per_s: float, shape: float, duration_s: float, rng: Generator) -> Instants:
    """Renewal process with Weibull gaps: shape 1 is Poisson, below it bursts (0.42 fits the Azure code trace)."""
    _check(rate_per_s, duration_s)
    _between("shape", shape, 0.1, 100)
    scale = 1 / (rate_per_s * gamma_function(1 + 1 / shape))
    left = scale * rng.gamma(1 + 1 / shape) ** (1 / shape) * rng.random()
    return _renewal(lambda n: scale * rng.weibull(shape, n), left, rate_per_s, duration_s)


def on_off(
    rate_per_s: float, on_s: float, off_s: float, duration_s: float, rng: Generator, *, random: bool = True
) -> Instants:
    """Poisson at `rate_per_s` while on, nothing while off. The mean rate is rate * on / (on + off).

    random: sojourns are exponential with means on_s and off_s (a Markov-modulated Poisson process), and the first
    state is drawn as in the long run; else they are exactly so long, beginning with on.
    """
    _check(rate_per_s, duration_s)
    _positive("on_s", on_s)
    _positive("off_s", off_s)
    sojourns, arrivals = rng.spawn(2)
    ends, on = switches(on_s, off_s, duration_s, sojourns if random else None)
    starts = np.concatenate([[0.0], ends[:-1]])
    mass = np.concatenate([[0.0], np.cumsum(np.where(on, ends - starts, 0.0))])
    active = poisson(rate_per_s, mass[-1], arrivals) if mass[-1] > 0 else np.zeros(0)
    # an instant of active time lies in the sojourn whose mass covers it
    at = np.searchsorted(mass, active, side="right") - 1
    at_s: Instants = starts[at] + (active - mass[at])
    return at_s[at_s < duration_s]


def switches(
    on_s: float, off_s: float, duration_s: float, rng: Generator | None = None
) -> tuple[Instants, NDArray[np.bool_]]:
    """The ends of the sojourns up to `duration_s`, and whether each is on. rng None: fixed lengths, on first."""
    if duration_s / (on_s + off_s) > MOST:
        raise ValueError(f"on_s + off_s must be longer: {on_s + off_s:g} s would change {duration_s:g} s too often")
    first_on = True if rng is None else bool(rng.random() < on_s / (on_s + off_s))
    lengths: list[Instants] = []
    total = 0.0
    while total < duration_s:
        n = max(8, ceil(2 * (duration_s - total) / (on_s + off_s)))
        n += n % 2  # a whole number of on-off pairs
        means = np.tile([on_s, off_s] if first_on else [off_s, on_s], n // 2)
        lengths.append(means if rng is None else means * rng.standard_exponential(n))
        total += float(lengths[-1].sum())
    ends = np.minimum(np.cumsum(np.concatenate(lengths)), duration_s)
    ends = ends[: int(np.searchsorted(ends, duration_s)) + 1]
    on = (np.arange(len(ends)) % 2 == 0) == first_on
    return ends, on


def thinned(rate: Callable[[Instants], Instants], most_per_s: float, duration_s: float, rng: Generator) -> Instants:
    """Inhomogeneous Poisson process by thinning (Lewis and Shedler, 1979): rate(t) at most `most_per_s`."""
    candidates, coins = rng.spawn(2)
    at_s = poisson(most_per_s, duration_s, candidates)
    rates = rate(at_s)
    bad = np.flatnonzero(~((rates >= 0) & (rates <= most_per_s * (1 + 1e-9))))
    if len(bad):
        raise ValueError(
            f"rate must be from 0 to most_per_s ({most_per_s:g}), got {rates[bad[0]]:g} at {at_s[bad[0]]:g} s"
        )
    return at_s[coins.random(len(at_s)) * most_per_s < rates]


def diurnal(
    rate_per_s: float,
    duration_s: float,
    rng: Generator,
    *,
    period_s: float = 86_400.0,
    depth: float = 0.8,
    peak_s: float | None = None,
) -> Instants:
    """Poisson at rate * (1 + depth * cos(2 pi (t - peak_s) / period_s)).

    rate_per_s: the mean over a period. depth: 0 (constant) to 1 (nothing at night). peak_s: None: half a period.
    """
    _check(rate_per_s, duration_s)
    _positive("period_s", period_s)
    _between("depth", depth, 0, 1)
    peak = period_s / 2 if peak_s is None else peak_s
    return thinned(
        lambda at_s: rate_per_s * (1 + depth * np.cos(2 * pi * (at_s - peak) / period_s)),
        rate_per_s * (1 + depth),
        duration_s,
        rng,
    )


def ramp(start_per_s: float, end_per_s: float, duration_s: float, rng: Generator) -> Instants:
    """Poisson whose rate goes from one value to another along a line."""
    _check(max(start_per_s, end_per_s), duration_s)
    _positive("start_per_s", start_per_s, zero=True)
    _positive("end_per_s", end_per_s, zero=True)
    return thinned(
        lambda at_s: start_per_s + (end_per_s - start_per_s) * at_s / duration_s,
        max(start_per_s, end_per_s),
        duration_s,
        rng,
    )


def closed_loop(
    duration_s: float, least_s: NDArray[np.float64], think_s: NDArray[np.float64]
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Clients that each send a request, wait for its end, think, and send the next.

    least_s, think_s: (rounds, clients): the least time request k of a client can take, and the pause before it (of
    round 0: the instant of its first). A client's chain ends before the first request that cannot begin before
    `duration_s`: on no device does it run dry earlier.

    Returns the n requests, round by round: their places in the raveled inputs, and `after` as a `Workload` takes it.
    ValueError when there are too few rounds for a client.
    """
    if least_s.shape != think_s.shape or least_s.ndim != 2:
        raise ValueError(f"least_s and think_s must be (rounds, clients), got {least_s.shape} and {think_s.shape}")
    ends = np.cumsum(think_s + least_s, axis=0)
    if not (ends[-1] >= duration_s).all():
        raise ValueError(f"rounds must fill {duration_s:g} s for every client, got {float(ends[-1].min()):g} s")
    keep = ends - least_s < duration_s
    keep[1:] &= ends[:-1] < duration_s  # a chain has no holes, whatever the rounding
    places = np.full(keep.shape, -1, dtype=np.int64)
    places[keep] = np.arange(np.count_nonzero(keep))
    after = np.full(keep.shape, -1, dtype=np.int64)
    after[1:] = places[:-1]
    return np.flatnonzero(keep), after[keep]


def _renewal(gaps: Callable[[int], Instants], first_s: float, rate_per_s: float, duration_s: float) -> Instants:
    """Instants whose first gap is `first_s` (0: drawn like the others), up to the duration."""
    expected = rate_per_s * duration_s
    blocks: list[Instants] = []
    total, drawn = first_s, 0
    if first_s > 0:
        blocks.append(np.array([first_s]))
    while total < duration_s:
        n = int(expected + 6 * sqrt(expected) + 16) if not drawn else 16 + int(expected / 8)
        drawn += n
        if drawn > MOST + 6 * sqrt(MOST) + 16:
            raise ValueError(f"arrivals must be at most {MOST:,}, got more than {drawn:,}")
        blocks.append(gaps(n))
        total += float(blocks[-1].sum())
    at_s = np.cumsum(np.concatenate(blocks)) if blocks else np.zeros(0)
    return at_s[: int(np.searchsorted(at_s, duration_s))]


def _check(rate_per_s: float, duration_s: float) -> None:
    _positive("rate_per_s", rate_per_s)
    _positive("duration_s", duration_s)
    if rate_per_s * duration_s > MOST:
        raise ValueError(
            f"rate_per_s * duration_s must be at most {MOST:,} arrivals, got {rate_per_s:g} * {duration_s:g}"
        )


def _positive(name: str, value: float, *, zero: bool = False) -> None:
    if not (0 <= value < inf and (zero or value > 0)):
        raise ValueError(f"{name} must be a finite number {'>= 0' if zero else '> 0'}, got {value!r}")


def _between(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} must be from {low:g} to {high:g}, got {value!r}")

"""How many tokens: distributions of prompt and output lengths."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import log

import numpy as np
from numpy.random import Generator
from numpy.typing import ArrayLike, NDArray

MOST = 2**31 - 1
FORMS = (
    "N, LOW-HIGH (uniform), MEAN+-PERCENT% (uniform), lognormal:MEDIAN:SIGMA or gamma:MEAN:CV, "
    "each with <=MOST behind it to clip"
)
_NUMBER = r"(\d+(?:\.\d+)?)"


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution of token counts: integers from 1 to `most`.

    text: how it is written (see `parse`). sample: n real numbers by a generator. least: the smallest count it gives.
    Draws are rounded to the nearest integer (ties to even), then clipped.
    """

    text: str
    sample: Callable[[Generator, int], NDArray[np.float64]]
    most: int = MOST
    least: int = 1

    def draw(self, n: int, rng: Generator) -> tuple[NDArray[np.int32], int]:
        """n counts, and how many of them were clipped (below 1 or above `most`)."""
        drawn = np.rint(self.sample(rng, n))
        clipped = int(np.count_nonzero((drawn < 1) | (drawn > self.most)))
        return np.clip(drawn, 1, self.most).astype(np.int32), clipped

    def at_most(self, most: int) -> "Lengths":
        """The same, clipped at `most`."""
        _check("most", most, 1 <= most <= MOST, f"an integer from 1 to {MOST}")
        return Lengths(f"{self.text}<={most}", self.sample, min(most, self.most), min(most, self.least))


def constant(tokens: int) -> Lengths:
    """Always the same."""
    _check("tokens", tokens, 1 <= tokens <= MOST, f"an integer from 1 to {MOST}")
    return Lengths(f"{tokens}", lambda _, n: np.full(n, float(tokens)), least=tokens)


def uniform(low: int, high: int) -> Lengths:
    """Each integer from `low` to `high`, both included, as likely as another."""
    _check("low", low, 1 <= low <= high, f"an integer from 1 to high ({high})")
    _check("high", high, high <= MOST, f"an integer up to {MOST}")
    return Lengths(f"{low}-{high}", lambda rng, n: rng.integers(low, high + 1, n).astype(np.float64), least=low)


def around(mean: float, spread: float = 0.25) -> Lengths:
    """Uniform between mean * (1 - spread) and mean * (1 + spread), rounded."""
    _check("mean", mean, 1 <= mean <= MOST, f"a number from 1 to {MOST}")
    _check("spread", spread, 0 <= spread < 1, "a number in [0, 1)")
    low, high = mean * (1 - spread), mean * (1 + spread)
    text = f"{mean:g}+-{100 * spread:g}%"
    return Lengths(text, lambda rng, n: rng.uniform(low, high, n), least=max(1, round(low)))


def lognormal(median: float, sigma: float) -> Lengths:
    """exp(N(ln median, sigma)): long right tail; its mean is median * exp(sigma^2 / 2)."""
    _check("median", median, 1 <= median <= MOST, f"a number from 1 to {MOST}")
    _check("sigma", sigma, 0 <= sigma <= 5, "a number in 0..5")
    return Lengths(f"lognormal:{median:g}:{sigma:g}", lambda rng, n: rng.lognormal(log(median), sigma, n))


def gamma(mean: float, cv: float) -> Lengths:
    """Gamma by its mean and its coefficient of variation (standard deviation over mean)."""
    _check("mean", mean, 1 <= mean <= MOST, f"a number from 1 to {MOST}")
    _check("cv", cv, 0 < cv <= 10, "a number in (0, 10]")
    shape = 1 / cv**2
    return Lengths(f"gamma:{mean:g}:{cv:g}", lambda rng, n: rng.gamma(shape, mean / shape, n))


def empirical(values: ArrayLike, weights: ArrayLike | None = None) -> Lengths:
    """Drawn from values that were seen, with replacement; `weights`: how often each was, else once."""
    seen = np.asarray(values, dtype=np.float64)
    if seen.ndim != 1 or not len(seen) or not np.isfinite(seen).all():
        raise ValueError(f"values must be finite numbers, one or more, got an array of shape {seen.shape}")
    parts = _cumulative("weights", np.ones(len(seen)) if weights is None else weights, len(seen))

    def sample(rng: Generator, n: int) -> NDArray[np.float64]:
        drawn: NDArray[np.float64] = seen[np.searchsorted(parts, rng.random(n), side="right")]
        return drawn

    return Lengths(
        f"empirical of {len(seen)}",
        sample,
        least=max(1, round(float(seen.min()))),
    )


def histogram(edges: ArrayLike, counts: ArrayLike) -> Lengths:
    """Drawn from a histogram: bin k holds the integers from edges[k] up to and without edges[k + 1], alike inside."""
    ends = np.asarray(edges, dtype=np.float64)
    if ends.ndim != 1 or len(ends) < 2 or not np.isfinite(ends).all() or np.any(np.diff(np.ceil(ends)) < 1):
        raise ValueError("edges must be two or more finite numbers that rise, with an integer in each bin")
    low, high = np.ceil(ends[:-1]), np.ceil(ends[1:])
    parts = _cumulative("counts", counts, len(low))

    def sample(rng: Generator, n: int) -> NDArray[np.float64]:
        level = rng.random(n)
        bins = np.searchsorted(parts, level, side="right")
        below = np.concatenate([[0.0], parts])
        inside = (level - below[bins]) / (below[bins + 1] - below[bins])  # again uniform in [0, 1)
        drawn: NDArray[np.float64] = np.floor(low[bins] + inside * (high[bins] - low[bins]))
        drawn = np.minimum(drawn, high[bins] - 1)
        return drawn

    return Lengths(f"histogram of {len(low)} bins", sample, least=max(1, int(low[0])))


def parse(text: str) -> Lengths:
    """A distribution as it is written: 512, 256-768, 590+-25%, lognormal:300:0.8, gamma:512:1.5, each with <=MOST.

    ValueError names the text and the forms.
    """
    spec, clip, most = text.replace(" ", "").partition("<=")
    for pattern, make in _FORMS:
        found = re.fullmatch(pattern, spec)
        if found:
            try:
                lengths = make([float(part) for part in found.groups()])
                return lengths.at_most(int(most)) if clip else lengths
            except ValueError as error:
                raise ValueError(f"lengths must be {FORMS}, got {text!r}: {error}") from None
    raise ValueError(f"lengths must be {FORMS}, got {text!r}")


_FORMS: tuple[tuple[str, Callable[[Sequence[float]], Lengths]], ...] = (
    (r"(\d+)", lambda part: constant(int(part[0]))),
    (r"(\d+)-(\d+)", lambda part: uniform(int(part[0]), int(part[1]))),
    (rf"{_NUMBER}\+-{_NUMBER}%", lambda part: around(part[0], part[1] / 100)),
    (rf"lognormal:{_NUMBER}:{_NUMBER}", lambda part: lognormal(part[0], part[1])),
    (rf"gamma:{_NUMBER}:{_NUMBER}", lambda part: gamma(part[0], part[1])),
)


def _cumulative(name: str, weights: ArrayLike, n: int) -> NDArray[np.float64]:
    """Weights added up to 1, for a search."""
    given = np.asarray(weights, dtype=np.float64)
    if given.shape != (n,) or not (np.isfinite(given).all() and (given >= 0).all() and given.sum() > 0):
        raise ValueError(f"{name} must be {n} finite numbers >= 0, not all 0, got {weights!r}")
    parts: NDArray[np.float64] = np.cumsum(given) / given.sum()
    parts[np.flatnonzero(given)[-1] :] = 1.0  # rounding must not lead beyond the last value that has weight
    return parts


def _check(name: str, value: float, good: bool, allowed: str) -> None:
    if not good:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")

"""Scenarios of one mixture of tenants at a given load, which differ in how its requests arrive."""

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from aps.lab import arrivals, lengths
from aps.lab.parameters import Parameter, Scenario, count, number, tokens, yes_or_no
from aps.lab.streams import Asker, bounded
from aps.lab.workload import Workload, merge
from aps.tenants import Tenant

# Requests/s that one device of the profile a100-llama2-7b (16 slots, token budget 512) completes when it is saturated.
CAPACITY_512_128 = 7.65  # prompts 256-768, outputs 64-192
CAPACITY_256_256 = 4.85  # prompts and outputs 256
CAPACITY_MIX = 5.35  # the mixture below


class Member(NamedTuple):
    """One tenant of the mixture. part: of all requests."""

    name: str
    weight: float
    bid: int
    part: float
    prompt: str
    output: str


MIX = (
    Member("chat", 2.0, 7, 0.4, "lognormal:300:0.8<=2048", "lognormal:150:0.7<=1024"),
    Member("code", 2.0, 9, 0.3, "lognormal:1200:0.7<=3072", "lognormal:24:0.9<=512"),
    Member("summary", 1.0, 5, 0.2, "1000-3000", "64-192"),
    Member("batch", 1.0, 1, 0.1, "256-768", "128-512"),
)
TENANTS = f"Tenants of different lengths, weights and bids ({', '.join(member.name for member in MIX)})"

# Of one tenant: requests/s, seconds, generator, the scenario's parameters.
Process = Callable[[float, float, Generator, Mapping[str, Any]], NDArray[np.float64]]


def _askers(given: Mapping[str, Any]) -> list[tuple[Asker, float]]:
    """The mixture's tenants, each with its part of the requests."""
    return [
        (
            Asker(
                Tenant(member.name, weight=member.weight),
                place,
                5 if given["equal_bids"] else member.bid,
                lengths.parse(member.prompt),
                lengths.parse(member.output),
            ),
            member.part,
        )
        for place, member in enumerate(MIX)
    ]


def _duration(seconds: float = 600.0) -> Parameter:
    return Parameter("duration_s", seconds, "seconds in which requests arrive", number(0, 1e7, above=True))


def _load(capacity: float) -> tuple[Parameter, ...]:
    says = "requests/s of this mixture that the device completes when saturated"
    return (
        Parameter("load", 0.7, "offered load, part of the capacity", number(0, 1000, above=True)),
        Parameter("capacity_per_s", capacity, says, number(0, 1e6, above=True)),
    )


_DRAIN = Parameter("drain", True, "run until all have ended; no: stop at duration_s", yes_or_no())
_BIDS = Parameter("equal_bids", False, "every request bids 5; no: chat 7, code 9, summary 5, batch 1", yes_or_no())
_SLACK = Parameter("slack", 1.0, "max_tokens over the output drawn: what a client asks for beyond it", number(1, 1000))


def _open(
    name: str, says: str, how: str, own: tuple[Parameter, ...], process: Process, seconds: float = 600.0
) -> Scenario:
    """A scenario of open arrivals. how: the process in words, with the parameters in braces."""

    def make(seed: int, given: Mapping[str, Any]) -> Workload:
        duration_s = given["duration_s"]
        rate = bounded(given["load"] * given["capacity_per_s"], duration_s)
        until_s = inf if given["drain"] else duration_s

        def one(asker: Asker, part: float) -> Workload:
            return asker.open(
                seed, lambda rng: process(rate * part, duration_s, rng, given), until_s, slack=given["slack"]
            )

        return merge(
            [one(asker, part) for asker, part in _askers(given)],
            name,
            f"{TENANTS} at {rate:.3g} requests/s, {given['load']:g} of the capacity, {how.format(**given)}, for "
            f"{duration_s:g} s.",
        )

    return Scenario(name, says, (*_load(CAPACITY_MIX), *own, _duration(seconds), _BIDS, _SLACK, _DRAIN), make)


POISSON = _open(
    "poisson",
    "Four tenants of different lengths, weights and bids; independent arrivals.",
    "Poisson",
    (),
    lambda rate, duration_s, rng, _: arrivals.poisson(rate, duration_s, rng),
)

GAMMA = _open(
    "gamma",
    "The same four tenants, arrivals clustered: gamma gaps.",
    "gamma gaps of CV {cv:g}",
    (Parameter("cv", 3.0, "coefficient of variation of a tenant's gaps; 1: Poisson", number(0.01, 100)),),
    lambda rate, duration_s, rng, given: arrivals.gamma(rate, given["cv"], duration_s, rng),
)

WEIBULL = _open(
    "weibull",
    "The same four tenants, long silences and bursts: Weibull gaps as they fit the Azure code trace.",
    "Weibull gaps of shape {shape:g}",
    (Parameter("shape", 0.42, "shape of a tenant's gaps; 1: Poisson, lower: burstier", number(0.1, 100)),),
    lambda rate, duration_s, rng, given: arrivals.weibull(rate, given["shape"], duration_s, rng),
)

ON_OFF = _open(
    "on-off",
    "The same four tenants, each silent in between: Poisson while on, nothing while off.",
    "on for {on_s:g} s and off for {off_s:g} s on average",
    (
        Parameter("on_s", 20.0, "mean seconds on", number(0, 1e6, above=True)),
        Parameter("off_s", 40.0, "mean seconds off", number(0, 1e6, above=True)),
        Parameter("random", True, "exponential sojourns; no: exactly so long, on first", yes_or_no()),
    ),
    lambda rate, duration_s, rng, given: arrivals.on_off(
        rate * (given["on_s"] + given["off_s"]) / given["on_s"],
        given["on_s"],
        given["off_s"],
        duration_s,
        rng,
        random=given["random"],
    ),
)

DIURNAL = _open(
    "diurnal",
    "The same four tenants over a day that is compressed into an hour: a sinusoid with its peak at noon.",
    "a sinusoid of depth {depth:g} whose day is duration_s / {days:g}",
    (
        Parameter("days", 1.0, "days in duration_s", number(0, 1e4, above=True)),
        Parameter("depth", 0.8, "swing over the mean: 0 constant, 1 nothing at midnight", number(0, 1)),
    ),
    lambda rate, duration_s, rng, given: arrivals.diurnal(
        rate, duration_s, rng, period_s=duration_s / given["days"], depth=given["depth"]
    ),
    3600.0,
)


def _saturated(seed: int, given: Mapping[str, Any]) -> Workload:
    loops = [
        asker.closed(
            seed, given["clients"], given["duration_s"], think_s=given["think_s"], stagger_s=given["stagger_s"]
        )
        for asker, _ in _askers(given)
    ]
    return merge(
        loops,
        "saturated",
        f"{TENANTS}, each with {given['clients']} clients that send the next request when the last has ended, for "
        f"{given['duration_s']:g} s.",
    )


SATURATED = Scenario(
    "saturated",
    "Closed loops of all four tenants: everybody always waits, so shares show the policy alone.",
    (
        Parameter("clients", 16, "clients of each tenant, each with one request at a time", count(1, 10_000)),
        Parameter("think_s", 0.0, "mean pause of a client, seconds (exponential)", number(0, 1e6)),
        Parameter("stagger_s", 0.0, "seconds over which the clients begin", number(0, 1e6)),
        Parameter("duration_s", 300.0, "horizon, seconds", number(0, 1e7, above=True)),
        _BIDS,
    ),
    _saturated,
)


def _skewed(seed: int, given: Mapping[str, Any]) -> Workload:
    duration_s = given["duration_s"]
    rate = bounded(given["load"] * given["capacity_per_s"], duration_s)
    parts = np.arange(1, given["tenants"] + 1, dtype=np.float64) ** -given["exponent"]
    parts /= parts.sum()
    prompt, output = lengths.parse(given["prompt"]), lengths.parse(given["output"])
    until_s = inf if given["drain"] else duration_s

    def one(place: int, part: float) -> Workload:
        asker = Asker(Tenant(f"tenant_{place + 1}"), place, 5, prompt, output)
        return asker.open(seed, lambda rng: arrivals.poisson(rate * part, duration_s, rng), until_s)

    return merge(
        [one(place, part) for place, part in enumerate(parts.tolist())],
        "skewed",
        f"{given['tenants']} tenants whose parts of {rate:.3g} requests/s follow Zipf's law with exponent "
        f"{given['exponent']:g} (the first has {parts[0]:.0%}); Poisson, equal weights and bids, prompts "
        f"{given['prompt']}, outputs {given['output']}, for {duration_s:g} s.",
    )


SKEWED = Scenario(
    "skewed",
    "Many tenants, few of them heavy (Zipf): as in the tenants of public traces.",
    (
        Parameter("tenants", 20, "tenants", count(1, 10_000)),
        Parameter("exponent", 1.0, "Zipf exponent: tenant k asks for 1/k^exponent; 0: all alike", number(0, 10)),
        Parameter("load", 0.9, "offered load, part of the capacity", number(0, 1000, above=True)),
        Parameter(
            "capacity_per_s",
            CAPACITY_512_128,
            "requests/s of these lengths that the device completes when saturated",
            number(0, 1e6, above=True),
        ),
        Parameter("prompt", "256-768", "prompt tokens", tokens()),
        Parameter("output", "64-192", "output tokens", tokens()),
        _duration(),
        _DRAIN,
    ),
    _skewed,
)

SCENARIOS = (POISSON, GAMMA, WEIBULL, ON_OFF, DIURNAL, SATURATED, SKEWED)

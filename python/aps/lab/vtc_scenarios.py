"""The synthetic workloads on which VTC was published.

Source: Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024, section 5.2, and the configurations of its
artifact (github.com/Ying1123/VTC-artifact, `fair_bench/exp_suite.py`). Requests are 256 prompt and 256 output tokens
unless said; evenly spaced ones begin at a random part of their gap. Clients that go on and off are silent in every
second minute.

Scaled: their device, an A10G with Llama-2-7B, completed 1.74 requests of 256/256 a second (`PUBLISHED_PER_S`). Rates
are theirs times capacity_per_s / 1.74, so that the load of the device is theirs; minutes stay minutes. With
capacity_per_s = 1.74 the rates are as published. Prices of tokens (1 and 2 in the paper) are the policy's.
"""

from collections.abc import Callable, Mapping, Sequence
from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from aps.lab import arrivals
from aps.lab.lengths import Lengths, constant, uniform
from aps.lab.mixture import CAPACITY_256_256
from aps.lab.parameters import Parameter, Scenario, choice, number, yes_or_no
from aps.lab.streams import Asker, bounded
from aps.lab.workload import Workload, merge
from aps.tenants import Tenant

PUBLISHED_PER_S = 1.74  # 1,620 requests of 256/256 in 929 s (VTC/all_results_overload.jsonl)
MOST_PUBLISHED_PER_S = 9.5  # of all clients of one workload
PHASE_S = 60.0
WEIGHTS = (1.0, 2.0, 3.0, 4.0)  # of the artifact's runs of weighted VTC

Arrive = Callable[[float, Generator], NDArray[np.float64]]  # scale of rates, generator


class Client(NamedTuple):
    """One tenant of a published workload."""

    arrive: Arrive
    prompt: Lengths = constant(256)
    output: Lengths = constant(256)
    weight: float = 1.0


def even(per_s: float, duration_s: float, *, on_off: bool = False, begin_s: float = 0.0) -> Arrive:
    """Evenly spaced in [begin_s, begin_s + duration_s); on_off: not in every second minute since the beginning."""

    def arrive(scale: float, rng: Generator) -> NDArray[np.float64]:
        rate = per_s * scale
        at_s = arrivals.constant(rate, duration_s, float(rng.random()) / rate)
        if on_off:
            at_s = at_s[(at_s // PHASE_S) % 2 == 0]
        return begin_s + at_s

    return arrive


def poisson(per_s: float, duration_s: float, *, on_off: bool = False) -> Arrive:
    """Poisson; on_off: not in every second minute."""

    def arrive(scale: float, rng: Generator) -> NDArray[np.float64]:
        at_s = arrivals.poisson(per_s * scale, duration_s, rng)
        return at_s[(at_s // PHASE_S) % 2 == 0] if on_off else at_s

    return arrive


def rising(start_per_s: float, end_per_s: float, duration_s: float) -> Arrive:
    """A rate that rises along a line, without chance: the k-th request comes when the rate's integral reaches k."""

    def arrive(scale: float, rng: Generator) -> NDArray[np.float64]:
        slope = (end_per_s - start_per_s) / duration_s * scale
        n = int((start_per_s + end_per_s) / 2 * duration_s * scale)
        mass = np.arange(n) + rng.random()
        start = start_per_s * scale
        at_s: NDArray[np.float64] = (np.sqrt(start**2 + 2 * slope * mass) - start) / slope
        return at_s[at_s < duration_s]

    return arrive


def then(*phases: Arrive) -> Arrive:
    """One after the other."""
    return lambda scale, rng: np.concatenate([arrive(scale, rng) for arrive in phases])


def _build(
    name: str, description: str, clients: Sequence[Client], duration_s: float, seed: int, given: Mapping[str, Any]
) -> Workload:
    scale = given["capacity_per_s"] / PUBLISHED_PER_S
    bounded(MOST_PUBLISHED_PER_S * scale, duration_s)
    until_s = inf if given["drain"] else duration_s

    def one(place: int, client: Client) -> Workload:
        asker = Asker(Tenant(f"client_{place + 1}", weight=client.weight), place, 5, client.prompt, client.output)
        return asker.open(seed, lambda rng: client.arrive(scale, rng), until_s)

    note = f"rates are {scale:.3g} times the published ones: capacity_per_s over {PUBLISHED_PER_S}"
    workloads = [one(place, client) for place, client in enumerate(clients)]
    return merge(workloads, name, description, () if scale == 1 else (note,))


def _common() -> tuple[Parameter, ...]:
    return (
        Parameter(
            "capacity_per_s",
            CAPACITY_256_256,
            f"requests/s of 256/256 tokens that the device completes when saturated; {PUBLISHED_PER_S}: as published",
            number(0, 1e6, above=True),
        ),
        Parameter("drain", False, "run until all have ended; no: stop when arrivals do", yes_or_no()),
    )


def _one(name: str, says: str, description: str, duration_s: float, clients: Sequence[Client]) -> Scenario:
    return Scenario(
        name, says, _common(), lambda seed, given: _build(name, description, clients, duration_s, seed, given)
    )


def _several(name: str, says: str, default: str, what: str, variants: Mapping[str, Any]) -> Scenario:
    """A scenario with a parameter `variant`: a name -> (description, seconds, clients)."""

    def make(seed: int, given: Mapping[str, Any]) -> Workload:
        description, duration_s, clients = variants[given["variant"]]
        return _build(name, description, clients, duration_s, seed, given)

    return Scenario(name, says, (Parameter("variant", default, what, choice(*variants)), *_common()), make)


OVERLOAD = _several(
    "vtc-overload",
    "Clients that all ask for more than their share, at different rates: each gets the same service (figure 3).",
    "two",
    "two clients at 90 and 180 requests/min, or eight: three at 24, five at 36",
    {
        "two": (
            "Two clients at 90 and 180 requests/min, both above their share.",
            360.0,
            (Client(even(1.5, 360)), Client(even(3, 360))),
        ),
        "eight": (
            "Eight clients, three at 24 and five at 36 requests/min, all above their share.",
            360.0,
            tuple(Client(even(rate, 360)) for rate in (0.4,) * 3 + (0.6,) * 5),
        ),
    },
)

PROPORTIONAL = _one(
    "vtc-proportional",
    "Two clients below their share and one above it: the first two are served at once (figure 4).",
    "Three clients at 15, 30 and 90 requests/min: only the third asks for more than its share.",
    600.0,
    (Client(even(0.25, 600)), Client(even(0.5, 600)), Client(even(1.5, 600))),
)

ON_OFF = _several(
    "vtc-on-off",
    "A client that is on and off beside one that never stops (figures 5 and 6).",
    "overload",
    "overload: 120 requests/min while on beside 180; less: 30 while on beside 120; poisson: 30 and 120, lengths 16-511",
    {
        "overload": (
            "A client at 120 requests/min in every other minute, above its share, and one at 180.",
            600.0,
            (Client(even(2, 600, on_off=True)), Client(even(3, 600))),
        ),
        "less": (
            "A client at 30 requests/min in every other minute, below its share, and one at 120.",
            600.0,
            (Client(even(0.5, 600, on_off=True)), Client(even(2, 600))),
        ),
        "poisson": (
            "A client at 30 requests/min in every other minute and one at 120; Poisson, prompts and outputs 16-511.",
            600.0,
            (
                Client(poisson(0.5, 600, on_off=True), uniform(16, 511), uniform(16, 511)),
                Client(poisson(2, 600), uniform(16, 511), uniform(16, 511)),
            ),
        ),
    },
)

POISSON = _several(
    "vtc-poisson",
    "Clients of different lengths, Poisson: short and long, or long prompts and long outputs (figures 7 and 8).",
    "short-long",
    "short-long: 480 requests/min of 64/64 and 90 of 256/256; input-output: 480 of 512/32 and 90 of 32/512",
    {
        "short-long": (
            "A client with many short requests (480/min of 64/64) and one with few long ones (90/min of 256/256).",
            600.0,
            (Client(poisson(8, 600), constant(64), constant(64)), Client(poisson(1.5, 600))),
        ),
        "input-output": (
            "A client with long prompts (480/min of 512/32) and one with long outputs (90/min of 32/512).",
            600.0,
            (
                Client(poisson(8, 600), constant(512), constant(32)),
                Client(poisson(1.5, 600), constant(32), constant(512)),
            ),
        ),
    },
)

RISING = _one(
    "vtc-rising",
    "A steady client beside one that asks for more and more: the steady one does not feel it (figure 9).",
    "A client at 30 requests/min and one that rises from 12 to 120 within ten minutes.",
    600.0,
    (Client(even(0.5, 600)), Client(rising(0.2, 2, 600))),
)

SHIFT = _one(
    "vtc-shift",
    "The pattern shifts twice: on and off, overload, one client below its share (figure 10).",
    "Two clients, three phases of five minutes: 30 requests/min in every other minute and 120; 60 and 60; 30 and 90.",
    900.0,
    (
        Client(then(even(0.5, 300, on_off=True), even(1, 300, begin_s=300), even(0.5, 300, begin_s=600))),
        Client(then(even(2, 300), even(1, 300, begin_s=300), even(1.5, 300, begin_s=600))),
    ),
)

WEIGHTED = _several(
    "vtc-weighted",
    "Four overloaded clients of weights 1, 2, 3 and 4: service in these proportions under weighted VTC.",
    "apart",
    "apart: 48, 48, 72 and 96 requests/min; alike: 24, 48, 72 and 96, in proportion to the weights",
    {
        "apart": (
            "Four clients of weights 1 to 4 at 48, 48, 72 and 96 requests/min, all above their share.",
            360.0,
            tuple(
                Client(even(rate, 360), weight=weight)
                for rate, weight in zip((0.8, 0.8, 1.2, 1.6), WEIGHTS, strict=True)
            ),
        ),
        "alike": (
            "Four clients of weights 1 to 4 at 24, 48, 72 and 96 requests/min, all above their share.",
            360.0,
            tuple(
                Client(even(rate, 360), weight=weight)
                for rate, weight in zip((0.4, 0.8, 1.2, 1.6), WEIGHTS, strict=True)
            ),
        ),
    },
)

SCENARIOS = (OVERLOAD, PROPORTIONAL, ON_OFF, POISSON, RISING, SHIFT, WEIGHTED)

"""One tenant's requests from its own random numbers: what scenarios are composed of.

Random numbers are keyed by seed, tenant and purpose (`SeedSequence` with a spawn key): a parameter of one tenant leaves
the numbers of every other as they are, and its arrivals leave its lengths as they are. Policies and parameters are so
compared on common random numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from math import inf

import numpy as np
from numpy.random import Generator, SeedSequence
from numpy.typing import NDArray

from aps.lab import arrivals
from aps.lab.lengths import Lengths
from aps.lab.workload import Workload
from aps.tenants import Tenant

FASTEST_STEP_S = 0.002  # a closed loop's chain lasts to the horizon as long as no step is shorter
ROUNDS = 64  # requests a client that are drawn at once


class Purpose(IntEnum):
    """What random numbers are for."""

    ARRIVALS = 0
    PROMPTS = 1
    OUTPUTS = 2
    THINKING = 3


def random(seed: int, tenant: int, purpose: Purpose) -> Generator:
    """The generator of one tenant for one purpose."""
    return np.random.default_rng(SeedSequence(seed, spawn_key=(tenant, int(purpose))))


def bounded(rate_per_s: float, duration_s: float) -> float:
    """The rate of all tenants together, if so many requests can be held, else ValueError."""
    if rate_per_s * duration_s > arrivals.MOST:
        raise ValueError(
            f"a workload must be at most {arrivals.MOST:,} requests, got about {rate_per_s * duration_s:,.0f}: "
            f"{rate_per_s:g}/s for {duration_s:g} s"
        )
    return rate_per_s


@dataclass(frozen=True, slots=True)
class Asker:
    """A tenant and what it asks for. place: its number, which keys its random numbers."""

    tenant: Tenant
    place: int
    bid: int
    prompt: Lengths
    output: Lengths

    def open(
        self, seed: int, arrive: Callable[[Generator], NDArray[np.float64]], until_s: float = inf, *, slack: float = 1.0
    ) -> Workload:
        """Arrivals at given instants. `slack`: max_tokens is the output drawn times this, rounded up."""
        at_s = arrive(random(seed, self.place, Purpose.ARRIVALS))
        n = len(at_s)
        prompts, prompts_clipped = self.prompt.draw(n, random(seed, self.place, Purpose.PROMPTS))
        outputs, outputs_clipped = self.output.draw(n, random(seed, self.place, Purpose.OUTPUTS))
        return self._workload(at_s, prompts, outputs, until_s, None, (prompts_clipped, outputs_clipped), n, slack)

    def closed(
        self, seed: int, clients: int, until_s: float, *, think_s: float = 0.0, stagger_s: float = 0.0
    ) -> Workload:
        """Clients that each keep one request going up to the horizon, with exponential pauses of mean `think_s`.

        Their first requests come evenly spaced in `stagger_s`. max_tokens is the output drawn.
        """
        prompting, outputting, thinking = (
            random(seed, self.place, purpose) for purpose in (Purpose.PROMPTS, Purpose.OUTPUTS, Purpose.THINKING)
        )
        prompts: list[NDArray[np.int32]] = []
        outputs: list[NDArray[np.int32]] = []
        pauses: list[NDArray[np.float64]] = []
        prompts_clipped = outputs_clipped = 0
        filled_s = np.zeros(clients)
        while (filled_s < until_s * (1 + 1e-9)).any():  # rounding of sums
            if (len(pauses) + 1) * ROUNDS * clients > arrivals.MOST:
                raise ValueError(
                    f"a closed loop must be at most {arrivals.MOST:,} requests, got {clients} clients for {until_s:g} s"
                )
            pauses.append(thinking.standard_exponential((ROUNDS, clients)) * think_s)
            if len(pauses) == 1:
                pauses[0][0] = np.arange(clients) * (stagger_s / clients)
            drawn, clipped = self.prompt.draw(ROUNDS * clients, prompting)
            prompts.append(drawn)
            prompts_clipped += clipped
            drawn, clipped = self.output.draw(ROUNDS * clients, outputting)
            outputs.append(drawn.reshape(ROUNDS, clients))
            outputs_clipped += clipped
            filled_s += pauses[-1].sum(axis=0) + outputs[-1].sum(axis=0) * FASTEST_STEP_S
        think = np.concatenate(pauses)
        output = np.concatenate(outputs)
        least_s: NDArray[np.float64] = output * np.float64(FASTEST_STEP_S)
        picks, after = arrivals.closed_loop(until_s, least_s, think)
        return self._workload(
            think.ravel()[picks],
            np.concatenate(prompts)[picks],
            output.ravel()[picks],
            until_s,
            after,
            (prompts_clipped, outputs_clipped),
            think.size,
        )

    def _workload(
        self,
        at_s: NDArray[np.float64],
        prompts: NDArray[np.int32],
        outputs: NDArray[np.int32],
        until_s: float,
        after: NDArray[np.int64] | None,
        clipped: tuple[int, int],
        drawn: int,
        slack: float = 1.0,
    ) -> Workload:
        n = len(at_s)
        loop = f"closed loops last to the horizon as long as no step is shorter than {FASTEST_STEP_S * 1e3:g} ms"
        notes = [] if after is None else [loop]
        notes += [
            f"{self.tenant.name}: {cut:,} of {drawn:,} {what} drawn were clipped to {lengths.text}"
            for what, lengths, cut in zip(("prompts", "outputs"), (self.prompt, self.output), clipped, strict=True)
            if cut
        ]
        return Workload(
            name=self.tenant.name,
            tenants=(self.tenant,),
            tenant=np.zeros(n, dtype=np.int32),
            at_s=at_s,
            prompt_tokens=prompts,
            output_tokens=outputs,
            max_tokens=outputs if slack == 1.0 else np.ceil(outputs * slack).astype(np.int32),
            bid=np.full(n, self.bid, dtype=np.int32),
            after=after,
            until_s=until_s,
            notes=tuple(notes),
        )

"""One tenant's requests from its own random numbers: what scenarios are composed of.

Random numbers are keyed by seed, tenant and purpose (`SeedSequence` with a spawn key): a parameter of one tenant leaves
the numbers of every other as they are, and its arrivals leave its lengths as they are. Policies and parameters are so
compared on common random numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
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
MOST = 20_000_000  # requests of a workload: a wrong unit ends in an error, not in a full memory


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
    if rate_per_s * duration_s > MOST:
        raise ValueError(
            f"a workload must be at most {MOST:,} requests, got about {rate_per_s * duration_s:,.0f}: "
            f"{rate_per_s:g}/s for {duration_s:g} s"
        )
    return rate_per_s


class _Tokens:
    """Draws lengths for one tenant and counts what was clipped."""

    def __init__(self, what: str, lengths: Lengths, rng: Generator) -> None:
        self._what, self._lengths, self._rng = what, lengths, rng
        self._drawn = self._clipped = 0

    def take(self, n: int) -> NDArray[np.int32]:
        values, clipped = self._lengths.draw(n, self._rng)
        self._drawn += n
        self._clipped += clipped
        return values

    def notes(self, tenant: str) -> list[str]:
        """What was clipped, in words; empty: nothing."""
        if not self._clipped:
            return []
        return [f"{tenant}: {self._clipped:,} of {self._drawn:,} {self._what} drawn clipped to {self._lengths.text}"]


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
        prompts, outputs = self._tokens(seed)
        workload = self._workload(at_s, prompts.take(len(at_s)), outputs.take(len(at_s)), until_s)
        return replace(
            workload,
            max_tokens=np.ceil(workload.output_tokens * slack),
            notes=(*prompts.notes(self.tenant.name), *outputs.notes(self.tenant.name)),
        )

    def closed(
        self, seed: int, clients: int, until_s: float, *, think_s: float = 0.0, stagger_s: float = 0.0
    ) -> Workload:
        """Clients that each keep one request going up to the horizon, with exponential pauses of mean `think_s`.

        Their first requests come evenly spaced in `stagger_s`. max_tokens is the output drawn.
        """
        prompts, outputs = self._tokens(seed)
        thinking = random(seed, self.place, Purpose.THINKING)
        shape = (ROUNDS, clients)
        blocks: list[tuple[NDArray[np.float64], NDArray[np.int32], NDArray[np.int32]]] = []  # pause, prompt, output
        filled_s = np.zeros(clients)
        while (filled_s < until_s * (1 + 1e-9)).any():  # rounding of sums
            pauses = thinking.standard_exponential(shape) * think_s
            if not blocks:
                pauses[0] = np.arange(clients) * (stagger_s / clients)
            drawn = prompts.take(ROUNDS * clients).reshape(shape), outputs.take(ROUNDS * clients).reshape(shape)
            blocks.append((pauses, *drawn))
            filled_s += pauses.sum(axis=0) + drawn[1].sum(axis=0) * FASTEST_STEP_S
            needed = until_s / filled_s.mean() * len(blocks) * ROUNDS * clients
            if needed > MOST:
                raise ValueError(
                    f"a closed loop must be at most {MOST:,} requests, got about {needed:,.0f}: {clients} "
                    f"clients for {until_s:g} s"
                )
        think, prompt, output = (np.concatenate(columns) for columns in zip(*blocks, strict=True))
        picks, after = arrivals.closed_loop(until_s, output * FASTEST_STEP_S, think)
        at_s, prompted, generated = (column.ravel()[picks] for column in (think, prompt, output))
        fastest = f"closed loops last to the horizon as long as no step is shorter than {FASTEST_STEP_S * 1e3:g} ms"
        return replace(
            self._workload(at_s, prompted, generated, until_s, after),
            notes=(fastest, *prompts.notes(self.tenant.name), *outputs.notes(self.tenant.name)),
        )

    def _tokens(self, seed: int) -> tuple[_Tokens, _Tokens]:
        return (
            _Tokens("prompts", self.prompt, random(seed, self.place, Purpose.PROMPTS)),
            _Tokens("outputs", self.output, random(seed, self.place, Purpose.OUTPUTS)),
        )

    def _workload(
        self,
        at_s: NDArray[np.float64],
        prompts: NDArray[np.int32],
        outputs: NDArray[np.int32],
        until_s: float,
        after: NDArray[np.int64] | None = None,
    ) -> Workload:
        return Workload(
            name=self.tenant.name,
            tenants=(self.tenant,),
            tenant=np.zeros(len(at_s), dtype=np.int32),
            at_s=at_s,
            prompt_tokens=prompts,
            output_tokens=outputs,
            max_tokens=outputs,
            bid=np.full(len(at_s), self.bid, dtype=np.int32),
            after=after,
            until_s=until_s,
        )

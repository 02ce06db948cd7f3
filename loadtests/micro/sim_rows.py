"""Simulation rows: `aps_core.replay` against a Python step loop of the same GPU, and against SimPy.

Ours has tenants, the fairness window, KV blocks and all its figures in force; the peers have none of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from aps.data import azure_code_trace
from aps.policy import Limits, Policy
from aps.profiles import PROFILES
from aps.scheduler import Scheduler
from aps.tenants import Tenant
from aps_core.gpu import Engine
from aps_core.physics import PhysicsModel
from aps_core.replay import Replay
from loadtests.micro.rows import BY_NAME, Row
from loadtests.micro.sim_peers import Request, StepLoop, in_simpy
from loadtests.micro.timing import Timed, measure

PROFILE = PROFILES["a100-llama2-7b"]
TENANTS = 4
OVERLOAD = 20.0  # requests a second: more than twice what the GPU does of these
EVENTS = 10_000  # a round of the rows with a backlog


@dataclass(frozen=True)
class Asked:
    """n requests of 4 tenants with random bids: seconds, tokens, and whose end each follows (-1: nobody's)."""

    at_s: NDArray[np.float64]
    prompts: NDArray[np.int32]
    outputs: NDArray[np.int32]
    bids: NDArray[np.int32]
    after: NDArray[np.int64] | None = None

    def requests(self) -> list[Request]:
        columns = (self.at_s, self.prompts, self.outputs, self.bids)
        return [Request(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    def loop(self) -> StepLoop:
        return StepLoop(self.requests(), model(), PROFILE.slots, PROFILE.token_budget or 0)

    def replay(self, policy: Policy | None = None) -> Replay:
        """On one GPU."""
        device = PROFILE.device("gpu0")
        scheduler = Scheduler(
            [Tenant(f"t{i}") for i in range(TENANTS)],
            policy=policy or Policy(),
            devices=[device],
            limits=Limits(max_queued=None),
        )
        engine = Engine(PROFILE.step_time, device.slots, device.kv_blocks, token_budget=device.token_budget or 0)
        return Replay(
            scheduler._core,
            [engine],
            tenants=(np.arange(len(self.at_s)) % TENANTS + 1).astype(np.int32),
            prompt_tokens=self.prompts,
            output_tokens=self.outputs,
            max_tokens=self.outputs,
            bids=self.bids,
            at_ns=np.rint(self.at_s * 1e9).astype(np.int64),
            after=self.after,
        )


def model() -> PhysicsModel:
    assert isinstance(PROFILE.step_time, PhysicsModel)
    return PROFILE.step_time


def code_trace(most: int) -> Asked:
    """The Azure code trace as it was: the GPU is busy for less than half of the hour."""
    arrivals = azure_code_trace()[:most]
    at_s, prompts, outputs = (np.array(column) for column in zip(*arrivals, strict=True))
    bids = np.random.default_rng(1).integers(1, 11, len(at_s), np.int32)
    return Asked(at_s, prompts.astype(np.int32), outputs.astype(np.int32), bids)


def poisson(n: int, rate: float) -> Asked:
    rng = np.random.default_rng(2)
    at_s = np.cumsum(rng.exponential(1 / rate, n))
    prompts, outputs = rng.integers(256, 769, n, np.int32), rng.integers(64, 193, n, np.int32)
    return Asked(at_s, prompts, outputs, rng.integers(1, 11, n, np.int32))


def backlog(waiting: int, n: int) -> Asked:
    """`waiting` from the start, and a new one for each that ends."""
    asked = poisson(waiting + n, 1.0)
    number = np.arange(waiting + n)
    after = np.where(number < waiting, -1, number - waiting)
    return Asked(np.zeros(waiting + n), asked.prompts, asked.outputs, asked.bids, after)


def light(quick: bool) -> Iterator[Row]:
    asked = code_trace(200 if quick else 10**6)
    yield against_the_loop("sim.light", asked, 1 if quick else 5)


def overload(quick: bool) -> Iterator[Row]:
    yield against_the_loop("sim.overload", poisson(300 if quick else 6_000, OVERLOAD), 1 if quick else 3)


def against_the_loop(name: str, asked: Asked, rounds: int) -> Row:
    steps = {}

    def ours() -> Timed:
        replay = asked.replay()

        def timed() -> int:
            replay.run()
            steps["ours"] = replay.steps
            return replay.steps

        return timed

    def theirs() -> Timed:
        loop = asked.loop()

        def timed() -> int:
            steps["theirs"] = loop.run(10**9)
            return steps["theirs"]

        return timed

    costs = measure({"ours": ours, "theirs": theirs}, rounds=rounds)
    rate, peer = 1e9 / costs["ours"], 1e9 / costs["theirs"]
    note = f"{len(asked.at_s):,} requests; {rate:,.0f} steps/s against {peer:,.0f}; {steps['ours']:,} and "
    note += f"{steps['theirs']:,} steps"
    return BY_NAME[name].judge(costs["ours"], costs["theirs"], note)


def growth(quick: bool) -> Iterator[Row]:
    """Steps with few and with many waiting, taking turns."""
    few, many = (100, 1_000) if quick else (1_000, 100_000)
    rounds = 3 if quick else 20
    replays = {}
    for waiting in (few, many):
        replay = backlog(waiting, rounds * EVENTS).replay()
        replay.run(0)
        replays[waiting] = replay

    def case(replay: Replay) -> Timed:
        def timed() -> int:
            before = replay.steps
            replay.run(events=EVENTS)
            return replay.steps - before

        return timed

    costs = measure({str(waiting): partial(case, replay) for waiting, replay in replays.items()}, rounds)
    note = f"{1e9 / costs[str(many)]:,.0f} steps/s with {many:,} waiting, {1e9 / costs[str(few)]:,.0f} with {few:,}"
    yield BY_NAME["sim.backlog"].judge(costs[str(many)], costs[str(few)], note)


def simpy(quick: bool) -> Iterator[Row]:
    asked = code_trace(200 if quick else 10**6)

    def ours() -> Timed:
        replay = asked.replay()

        def timed() -> int:
            replay.run()
            return replay.n

        return timed

    def theirs() -> Timed:
        requests = asked.requests()
        return lambda: len(in_simpy(requests, model(), PROFILE.slots, PROFILE.token_budget or 0).finished)

    costs = measure({"ours": ours, "theirs": theirs}, rounds=1 if quick else 5)
    note = f"{1e9 / costs['ours']:,.0f} requests/s against {1e9 / costs['theirs']:,.0f}"
    yield BY_NAME["sim.simpy"].judge(costs["ours"], costs["theirs"], note)

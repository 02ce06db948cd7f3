"""Peers of the simulation rows: the same GPU, queue and requests in plain Python, and in SimPy.

Both are written as such simulators are: a list that waits, `min` over it by effective bid, a list that runs, a loop
over what runs in every step. They have the same physics, chunked prefill and order, and no tenants, fairness or KV
blocks: on a workload where those do not matter their requests end when ours do.
"""

from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from aps_core.physics import PhysicsModel

HORIZON_S = 30.0


@dataclass(slots=True)
class Request:
    at: float
    prompt: int
    output: int
    bid: int
    computed: int = 0
    generated: int = 0
    chunk: int = 0
    first_token_at: float = -1.0
    finished_at: float = -1.0


class Physics:
    """The step time of `PhysicsModel`, evaluated from its constants."""

    def __init__(self, model: PhysicsModel) -> None:
        self.model = model
        units = model.layers * model.width / 4096
        self.reading = model.decoder_bytes / model.weight_bandwidth
        self.per_token = model.decoder_bytes / model.compute
        self.power = model.roofline_power
        self.token_s = model.linear_token_s * units
        self.fixed_s = model.host_s + model.linear_layer_s * units
        self.head_s = model.head_bytes / model.weight_bandwidth
        self.head_token_s = model.head_bytes / model.compute
        self.layer_s = model.layers * model.attention_layer_s
        self.cached_s = model.layers * model.kv_bytes_per_token_layer / model.kv_bandwidth
        self.sequence_s = model.layers * model.attention_sequence_s
        self.prefill = model.layers * 4 * model.width
        self.self_compute = 2 * model.self_attention_compute
        self.past_compute = model.past_attention_compute

    def step_s(self, decodes: int, cached: int, chunks: Sequence[tuple[int, int]], emits: int) -> float:
        """cached: tokens of the decodes; chunks: (tokens, tokens cached before) of each."""
        tokens = decodes + sum(chunk for chunk, _ in chunks)
        tiles = tokens if tokens <= 64 else 128 * ceil(tokens / 128)
        power = self.power
        seconds: float = (self.reading**power + (self.per_token * tiles) ** power) ** (1 / power)
        seconds += self.token_s * tokens + self.fixed_s
        seconds += max(self.head_s, self.head_token_s * emits)
        if decodes:
            seconds += self.layer_s + self.cached_s * cached + self.sequence_s * decodes
        for chunk, past in chunks:
            seconds += self.prefill * (chunk * chunk / self.self_compute + chunk * past / self.past_compute)
        return seconds


class StepLoop:
    """A GPU with a queue, step by step."""

    def __init__(self, requests: Sequence[Request], model: PhysicsModel, slots: int, token_budget: int) -> None:
        self.arriving = deque(requests)  # in order of arrival
        self.physics = Physics(model)
        self.slots = slots
        self.token_budget = token_budget
        self.now = 0.0
        self.steps = 0
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.finished: list[Request] = []

    def run(self, steps: int) -> int:
        """So many steps, or as many as there are; returns how many."""
        done = 0
        while done < steps and (self.arriving or self.waiting or self.running):
            if not self.waiting and not self.running:
                self.now = max(self.now, self.arriving[0].at)
            while self.arriving and self.arriving[0].at <= self.now:
                self.waiting.append(self.arriving.popleft())
            self.admit()
            self.now += self.begin()
            self.end()
            done += 1
        self.steps += done
        return done

    def admit(self) -> None:
        while self.waiting and len(self.running) < self.slots:
            best = min(self.waiting, key=lambda r: (-(r.bid + 9 * (self.now - r.at) / HORIZON_S), r.at))
            self.waiting.remove(best)
            self.running.append(best)

    def begin(self) -> float:
        """Compose a step: a token for all that decode, the rest of the budget for prompts; its seconds."""
        decoding = [r for r in self.running if r.computed == r.prompt]
        budget = self.token_budget - len(decoding)
        chunks = []
        emits = len(decoding)
        for request in sorted((r for r in self.running if r.computed < r.prompt), key=lambda r: -r.bid):
            request.chunk = max(0, min(budget, request.prompt - request.computed))
            budget -= request.chunk
            if request.chunk:
                chunks.append((request.chunk, request.computed))
                emits += request.computed + request.chunk == request.prompt
        cached = sum(r.prompt + r.generated for r in decoding)
        return self.physics.step_s(len(decoding), cached, chunks, emits)

    def end(self) -> None:
        for request in self.running:
            if request.computed < request.prompt:
                request.computed += request.chunk
                request.chunk = 0
                if request.computed < request.prompt:
                    continue
            request.generated += 1
            if request.generated == 1:
                request.first_token_at = self.now
            if request.generated == request.output:
                request.finished_at = self.now
                self.finished.append(request)
        self.running = [r for r in self.running if r.finished_at < 0]


def in_simpy(requests: Sequence[Request], model: PhysicsModel, slots: int, token_budget: int) -> StepLoop:
    """The same as SimPy processes: one that brings the requests, one that is the GPU. Runs to the end."""
    import simpy

    environment = simpy.Environment()
    gpu = StepLoop([], model, slots, token_budget)
    more = environment.event()
    left = len(requests)

    def source() -> Generator[Any, Any, None]:
        nonlocal more
        for request in requests:
            if request.at > environment.now:
                yield environment.timeout(request.at - environment.now)
            gpu.waiting.append(request)
            if not more.triggered:
                more.succeed()

    def device() -> Generator[Any, Any, None]:
        nonlocal more
        while len(gpu.finished) < left:
            if not gpu.waiting and not gpu.running:
                more = environment.event()
                yield more
            gpu.now = environment.now
            gpu.admit()
            yield environment.timeout(gpu.begin())
            gpu.now = environment.now
            gpu.end()
            gpu.steps += 1

    environment.process(source())
    environment.run(environment.process(device()))
    return gpu

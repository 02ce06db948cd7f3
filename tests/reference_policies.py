"""FIFO, strict priority and VTC as others describe them, for one device and in their own terms.

VTC is Algorithm 2 of Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024: a counter per client, lifted
when the client comes with nothing queued; input is charged when a request is admitted, output as it is generated.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(eq=False)
class Job:
    number: int
    client: int
    bid: int
    prompt_tokens: int
    max_tokens: int
    output: int
    generated: int = 0


class Policy(Protocol):
    def arrive(self, job: Job) -> None: ...

    def admit(self, has_room: Callable[[Job], bool], start: Callable[[Job], None]) -> None:
        """Start what may start now, one by one."""

    def generated(self, job: Job) -> None:
        """One output token."""

    def finished(self, job: Job) -> None: ...


@dataclass
class Fifo:
    queue: list[Job] = field(default_factory=list)

    def arrive(self, job: Job) -> None:
        self.queue.append(job)

    def first(self) -> Job:
        return self.queue[0]

    def admit(self, has_room: Callable[[Job], bool], start: Callable[[Job], None]) -> None:
        while self.queue and has_room(self.first()):
            job = self.first()
            self.queue.remove(job)
            start(job)

    def generated(self, job: Job) -> None:
        pass

    def finished(self, job: Job) -> None:
        pass


class StrictPriority(Fifo):
    def first(self) -> Job:
        return max(self.queue, key=lambda job: (job.bid, -job.number))


@dataclass
class Vtc:
    weights: dict[int, float]
    input_price: float = 1.0
    output_price: float = 2.0
    counters: dict[int, float] = field(default_factory=dict)
    queues: dict[int, list[Job]] = field(default_factory=dict)  # only clients with something queued
    last_left: int | None = None

    def arrive(self, job: Job) -> None:
        client = job.client
        counter = self.counters.setdefault(client, 0.0)
        if client not in self.queues:
            if self.queues:
                counter = max(counter, min(self.counters[c] for c in self.queues))
            elif self.last_left is not None:
                counter = max(counter, self.counters[self.last_left])
            self.counters[client] = counter
            self.queues[client] = []
        self.queues[client].append(job)

    def admit(self, has_room: Callable[[Job], bool], start: Callable[[Job], None]) -> None:
        while self.queues:
            client = min(self.queues, key=lambda c: (self.counters[c], self.queues[c][0].number))
            job = self.queues[client][0]
            if not has_room(job):
                return
            self.queues[client].pop(0)
            if not self.queues[client]:
                del self.queues[client]
                self.last_left = client
            self.counters[client] += self.input_price * job.prompt_tokens / self.weights[client]
            start(job)

    def generated(self, job: Job) -> None:
        self.counters[job.client] += self.output_price / self.weights[job.client]

    def finished(self, job: Job) -> None:
        pass

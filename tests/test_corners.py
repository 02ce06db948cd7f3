"""At its corners the scheduler is FIFO, strict priority and VTC: the same dispatches in the same steps."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.reference_policies import Fifo, Job, Policy, StrictPriority, Vtc
from tests.scheduler_pair import plain, scale, scheduler_under_test

SLOTS, BLOCKS, BLOCK_TOKENS = 4, 30, 4
STEP_S = 0.01
INF = math.inf


def blocks(job: Job) -> int:
    return -(-(job.prompt_tokens + job.max_tokens) // BLOCK_TOKENS)


def play(policy: Policy, arrivals: dict[int, list[Job]]) -> list[tuple[int, int]]:
    """(step, job number) of every start. Jobs are admitted by the sum of their largest block counts."""
    log: list[tuple[int, int]] = []
    running: list[Job] = []
    left = sum(len(jobs) for jobs in arrivals.values())
    step = 0

    def has_room(job: Job) -> bool:
        return len(running) < SLOTS and sum(map(blocks, running)) + blocks(job) <= BLOCKS

    def start(job: Job) -> None:
        running.append(job)
        log.append((step, job.number))

    while left:
        for job in arrivals.get(step, []):
            policy.arrive(job)
        policy.admit(has_room, start)
        for job in list(running):
            job.generated += 1
            policy.generated(job)
            if job.generated == job.output:
                policy.finished(job)
                running.remove(job)
                left -= 1
        step += 1
        assert step < 100_000
    return log


class Scheduled:
    """The scheduler under test as such a policy. Its token budget is so small that its KV rule is the sum of maxima."""

    def __init__(self, weights: dict[int, float], **keywords: Any) -> None:
        self.scheduler = scheduler_under_test()(
            [SLOTS], [BLOCKS], [SLOTS], block_tokens=BLOCK_TOKENS, max_passes=0, **keywords
        )
        self.slots = {c: self.scheduler.add_tenant(weight=weight, now=0.0) for c, weight in weights.items()}
        self.handles: dict[Job, int] = {}
        self.steps = 0

    @property
    def now(self) -> float:
        return self.steps * STEP_S

    def arrive(self, job: Job) -> None:
        slot = self.slots[job.client]
        self.handles[job] = self.scheduler.submit(slot, job.prompt_tokens, job.max_tokens, job.bid, self.now)
        assert self.handles[job] > 0

    def admit(self, has_room: Callable[[Job], bool], start: Callable[[Job], None]) -> None:
        jobs = {handle: job for job, handle in self.handles.items()}
        n = self.scheduler.next_batch(0, self.now)
        for handle in plain(self.scheduler.started[:n]):
            assert has_room(jobs[handle])
            start(jobs[handle])
        self.steps += 1

    def generated(self, job: Job) -> None:
        self.scheduler.progress(self.handles[job], job.prompt_tokens, job.generated, self.now)

    def finished(self, job: Job) -> None:
        self.scheduler.settle(self.handles.pop(job), job.output, self.now)


def load(seed: int) -> tuple[dict[int, float], dict[int, list[Job]]]:
    """Client weights and jobs by arrival step; light, heavy and bursty."""
    rng = random.Random(seed)
    weights = {client: rng.choice((1.0, 1.0, 2.0, 3.0)) for client in range(rng.randint(2, 5))}
    mean_gap = rng.choice((1, 3, 8, 30))
    burst = rng.choice((1, 1, 4, 10))
    arrivals: dict[int, list[Job]] = {}
    step = 0
    for number in range(60):
        if number % burst == 0:
            step += rng.randint(0, 2 * mean_gap * burst)
        most = rng.randint(1, 30)
        client = rng.choice(list(weights)) if rng.random() < 0.7 else 0
        job = Job(number, client, rng.randint(1, 10), rng.randint(1, 40), most, rng.randint(1, most))
        arrivals.setdefault(step, []).append(job)
    return weights, arrivals


def compare(seed: int, reference: Callable[[dict[int, float]], Policy], **corner: Any) -> None:
    weights, arrivals = load(seed)
    expected = play(reference(weights), arrivals)
    weights, arrivals = load(seed)
    assert play(Scheduled(weights, **corner), arrivals) == expected, f"seed {seed}"


@pytest.mark.parametrize("output_price", [1.0, 2.0])
def test_without_window_and_aging_it_is_vtc(output_price: float) -> None:
    for seed in range(scale(200)):
        compare(
            seed,
            lambda weights: Vtc(weights, output_price=output_price),
            fairness_window=0.0,
            aging_horizon_s=0.0,
            expected_output=0,
            output_weight=output_price,
        )


def test_with_an_infinite_window_and_no_horizon_it_is_fifo() -> None:
    for seed in range(scale(100)):
        compare(seed, lambda _: Fifo(), fairness_window=INF, aging_horizon_s=0.0)


def test_with_both_infinite_it_is_strict_priority() -> None:
    for seed in range(scale(100)):
        compare(seed, lambda _: StrictPriority(), fairness_window=INF, aging_horizon_s=INF)


def test_the_references_differ() -> None:
    """The loads tell the policies apart: else agreement would say nothing."""
    differing = 0
    for seed in range(50):
        weights, _ = load(seed)
        logs = [play(policy, load(seed)[1]) for policy in (Fifo(), StrictPriority(), Vtc(weights))]
        differing += logs[0] != logs[1] and logs[1] != logs[2] and logs[0] != logs[2]
    assert differing >= 25

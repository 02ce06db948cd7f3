"""A workload played on one device by a reference policy: a step loop in plain Python, apart from scheduler and replay.

At one instant the engine's news come first and are followed by admission; then everything that arrives at that instant,
and admission again. Nothing is admitted while a step runs. A request that follows another arrives its pause after the
other's end. KV is admitted by the sum of the largest block counts.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from aps.devices import Device
from aps.lab.workload import NOBODY, Workload
from aps.profiles import Profile
from aps_core.gpu import Engine
from tests.reference_policies import Job, Policy

BLOCK_TOKENS = 16


@dataclass
class Schedule:
    """By request: when its first step began and when it finished, in ns. dispatched: requests in order of dispatch.

    blocked: how often a request did not start although a slot was free.
    """

    dispatched: list[int] = field(default_factory=list)
    started_ns: dict[int, int] = field(default_factory=dict)
    finished_ns: dict[int, int] = field(default_factory=dict)
    blocked: int = 0


def nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def largest_blocks(job: Job) -> int:
    return -(-(job.prompt_tokens + job.max_tokens) // BLOCK_TOKENS)


class StepLoop:
    def __init__(self, workload: Workload, policy: Policy, profile: Profile, device: Device) -> None:
        self.policy = policy
        self.device = device
        self.engine = Engine(
            profile.step_time,
            device.slots,
            device.kv_blocks,
            block_tokens=BLOCK_TOKENS,
            token_budget=device.token_budget or 0,
        )
        columns = (workload.tenant, workload.bid, workload.prompt_tokens, workload.max_tokens, workload.output_tokens)
        self.jobs = [
            Job(number, client, bid, prompt, most, min(most, output))
            for number, (client, bid, prompt, most, output) in enumerate(
                zip(*(column.tolist() for column in columns), strict=True)
            )
        ]
        self.think_ns = [nanoseconds(at_s) for at_s in workload.at_s.tolist()]
        after = [NOBODY] * len(self.jobs) if workload.after is None else workload.after.tolist()
        self.followers: dict[int, list[int]] = {}
        for number, before in enumerate(after):
            if before != NOBODY:
                self.followers.setdefault(before, []).append(number)
        self.arrivals = [(self.think_ns[number], number) for number, before in enumerate(after) if before == NOBODY]
        heapq.heapify(self.arrivals)
        self.running: dict[int, Job] = {}
        self.arrived: list[int] = []  # a job's number is its place here: ties go by arrival
        self.schedule = Schedule()

    def play(self, until_ns: int = 2**62) -> Schedule:
        """Until everything has ended, or up to the horizon."""
        end_ns = -1
        while True:
            now_ns = min([end_ns] * (end_ns >= 0) + [at for at, _ in self.arrivals[:1]], default=-1)
            if now_ns < 0 or now_ns > until_ns:
                return self.schedule
            if now_ns == end_ns:
                self.news(now_ns)
                end_ns = self.next_step(now_ns)
            while self.arrivals and self.arrivals[0][0] == now_ns:
                self.arrive(heapq.heappop(self.arrivals)[1])
            if end_ns < 0:
                end_ns = self.next_step(now_ns)

    def arrive(self, number: int) -> None:
        job = self.jobs[number]
        job.number = len(self.arrived)
        self.arrived.append(number)
        self.policy.arrive(job)

    def has_room(self, job: Job) -> bool:
        slot = len(self.running) < self.device.slots
        held = sum(map(largest_blocks, self.running.values()))
        fits = held + largest_blocks(job) <= self.device.kv_blocks
        self.schedule.blocked += slot and not fits
        return slot and fits

    def next_step(self, now_ns: int) -> int:
        def start(job: Job) -> None:
            place = self.arrived[job.number]
            self.engine.start(place, job.prompt_tokens, job.output, job.bid)
            self.running[place] = job
            self.schedule.dispatched.append(place)

        self.policy.admit(self.has_room, start)
        return self.engine.begin_step(now_ns)

    def news(self, now_ns: int) -> None:
        began_ns = self.engine.began_ns
        n = self.engine.end_step()
        rows = zip(self.engine.request_ids[:n].tolist(), self.engine.generated[:n].tolist(), strict=True)
        for at, (place, generated) in enumerate(rows):
            job = self.running[place]
            self.schedule.started_ns.setdefault(place, began_ns)
            while job.generated < generated:
                job.generated += 1
                self.policy.generated(job)
            if at >= n - self.engine.ended:
                del self.running[place]
                self.policy.finished(job)
                self.schedule.finished_ns[place] = now_ns
                for follower in self.followers.get(place, []):
                    heapq.heappush(self.arrivals, (now_ns + self.think_ns[follower], follower))


def play(workload: Workload, policy: Policy, profile: Profile, device: Device) -> Schedule:
    """What the policy does with the workload on one device, up to the workload's horizon."""
    until_ns = 2**62 if workload.until_s > 1e9 else nanoseconds(workload.until_s)
    return StepLoop(workload, policy, profile, device).play(until_ns)

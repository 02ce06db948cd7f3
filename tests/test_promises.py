"""The two promises under random adversarial workloads.

`python -m tests.test_promises` prints the worst case seen beside each bound.

1. Service gap: for contending tenants i and j, S_i - S_j <= (D + c_max) / w_i at every instant.
2. Overtaking: whoever comes (10 - bid) * H / 9 later passes only as a backfill, which never delays the reserved start,
   and at most `max_passes` of which end after it; or as a preemptor.
"""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from tests.scheduler_pair import Running, Solo, plain, scale
from tests.twins import scheduler_kv as kv

INF = math.inf
PROMPT, MOST = 40, 30  # the largest sizes


# -- 1. the service gap


class Gap:
    """Tenants that try to get ahead of one another; `worst` is the largest gap as a part of its bound."""

    FLIGHTS = 5  # of a tenant

    def __init__(self, seed: int) -> None:
        rng = self.rng = random.Random(seed)
        self.fixed = rng.random() < 0.5  # everything at its largest: bounds are reached
        self.window = rng.choice((0.0, 70.0, 140.0, 333.3, 1000.0))
        devices = 1 if self.fixed else rng.choice((1, 1, 2))
        self.pair = Solo(
            {
                "slots": [2 if self.fixed else rng.randint(1, 4) for _ in range(devices)],
                "kv_blocks": [60 if self.fixed else rng.choice((24, 60)) for _ in range(devices)],
                "token_budgets": [0 if self.fixed else rng.choice((0, 16)) for _ in range(devices)],
                "block_tokens": 4,
                "aging_horizon_s": rng.choice((0.0, 1.0, INF)),
                "fairness_window": self.window,
                "output_weight": rng.choice((1.0, 2.0)),
                "expected_output": rng.choice((-1, -1, 0, 5)),
                "bid_premium": rng.choice((0.0, 0.2)),
                "preemption": rng.choice((0, 0, 1, 2)),
                "max_passes": rng.choice((0, 4, 64)),
            }
        )
        self.tenants = [self.pair.add_tenant(**self.limits()) for _ in range(rng.randint(2, 4))]
        self.bound = self.window + self.largest_charge() + self.surplus()
        self.worst = 0.0

    def limits(self) -> dict[str, Any]:
        return {"weight": self.rng.choice((1.0, 1.0, 0.3, 2.0, 7.0)), "max_in_flight": self.FLIGHTS}

    def premium(self) -> float:
        return float(1.0 + self.pair.config["bid_premium"] * 9)

    def expected(self) -> int:
        expected = self.pair.config["expected_output"]
        return MOST if expected < 0 else min(MOST, expected)

    def largest_charge(self) -> float:
        """A request at the highest premium, and what a preemptor of a whole device pays."""
        config = self.pair.config
        penalty = max(config["slots"]) * (PROMPT + MOST) if config["preemption"] else 0
        return float((PROMPT + config["output_weight"] * self.expected()) * self.premium() + penalty)

    def surplus(self) -> float:
        """Output beyond the expectation of all that a tenant can have in flight."""
        config = self.pair.config
        return float(self.FLIGHTS * config["output_weight"] * (MOST - self.expected()) * self.premium())

    def measure(self) -> None:
        tenants = self.pair.compare_snapshot()["tenants"]
        contending = [i for i, yes in enumerate(plain(tenants["contending"])) if yes]
        if len(contending) > 1:
            service, weight = plain(tenants["service"]), plain(tenants["weight"])
            least = min(service[i] for i in contending)
            gap = max((service[i] - least) * weight[i] for i in contending)
            self.worst = max(self.worst, gap / self.bound)

    def play(self, operations: int = 250) -> float:
        rng, pair = self.rng, self.pair
        for _ in range(operations):
            draw = rng.random()
            if draw < 0.35 and len(pair.waiting) < 40:
                self.submit()
            elif draw < 0.40:
                self.change()
            elif draw < 0.45:
                self.cancel_or_rebid()
            elif draw < 0.7:
                pair.next_batch(rng.randrange(len(pair.config["slots"])))
            else:
                pair.now += rng.choice((0.0, 0.01, 0.2))
                pair.engine_step(rng.randrange(len(pair.config["slots"])))
            self.measure()
        return self.worst

    def submit(self) -> None:
        rng = self.rng
        greedy = rng.random() < 0.5
        tenant = self.tenants[0] if greedy else rng.choice(self.tenants)
        bid = 10 if greedy else rng.randint(1, 10)
        if self.fixed:
            prompt, most, bid, output = PROMPT, MOST, 10 if tenant == self.tenants[0] else 1, MOST
        else:
            prompt, most = rng.choice((PROMPT, rng.randint(1, PROMPT))), rng.choice((MOST, rng.randint(1, MOST)))
            output = rng.choice((most, rng.randint(0, most)))
        self.pair.submit(tenant, prompt, most, bid, output)

    def change(self) -> None:
        rng = self.rng
        if rng.random() < 0.5:
            self.pair.set_tenant(rng.choice(self.tenants), **self.limits())
        elif not self.fixed:
            window = rng.choice((0.0, 50.0, 200.0, 700.0))
            self.pair.set_fairness_window(window)
            self.bound += window - self.window
            self.window = window

    def cancel_or_rebid(self) -> None:
        rng = self.rng
        alive = [*self.pair.waiting, *self.pair.started]
        running = [r.handle for r in self.pair.started.values() if r.device >= 0]
        if alive and rng.random() < 0.4:
            self.pair.cancel(rng.choice(alive))
        elif alive and rng.random() < 0.7:
            self.pair.rebid(rng.choice(alive), rng.randint(1, 10))
        elif running:
            self.pair.preempt(rng.choice(running))


def worst_gap(runs: int) -> float:
    worst = 0.0
    for seed in range(runs):
        found = Gap(seed).play()
        assert found <= 1.0 + 1e-9, f"seed {seed}: {found} of the bound"
        worst = max(worst, found)
    return worst


def test_the_service_gap_is_bounded() -> None:
    worst = worst_gap(scale(150))
    print(f"\nworst service gap: {worst:.4f} of (D + c_max) / w")
    assert worst > 0.9, "the workloads do not try hard enough"


def test_a_returning_request_that_preempts_costs_its_tenant_nothing() -> None:
    """It may go whatever its tenant's S is: charged, it could drive S past the bound, once for each return."""
    pair = Solo(
        {
            "slots": [1],
            "kv_blocks": [100],
            "token_budgets": [0],
            "fairness_window": 0.0,
            "preemption": 1,
            "max_preemptions": 100,
        }
    )
    ahead, behind = pair.add_tenant(), pair.add_tenant()
    first = pair.submit(ahead, PROMPT, MOST, 10, MOST)
    assert pair.next_batch(0) == [first]
    pair.submit(ahead, PROMPT, MOST, 1, MOST)  # both go on contending
    other, _ = (pair.submit(behind, PROMPT, MOST, 5, MOST) for _ in range(2))
    for _ in range(10):
        pair.preempt(first)
        pair.rebid(first, 1)
        assert pair.next_batch(0) == [other]
        pair.progress(other, PROMPT + pair.started[other].generated, 0)
        pair.rebid(first, 10)
        assert pair.next_batch(0) == [first]
        tenants = pair.compare_snapshot()["tenants"]
        assert all(plain(tenants["contending"]))
        service = plain(tenants["service"])
        assert service[0] - service[1] <= 2 * (PROMPT + MOST)


# -- 2. overtaking


class Race:
    """One device, no tenants' limits, everybody in the window; who passes whom is counted."""

    def __init__(self, seed: int, **keywords: Any) -> None:
        rng = self.rng = random.Random(seed)
        self.horizon = rng.choice((0.2, 1.0, 5.0))
        self.pair = Solo(
            {
                "slots": [rng.randint(1, 5)],
                "kv_blocks": [rng.choice((20, 30, 50))],
                "token_budgets": [rng.choice((0, 4, 16, 30))],
                "block_tokens": 4,
                "aging_horizon_s": self.horizon,
                "fairness_window": INF,
                **keywords,
            }
        )
        self.tenants = [self.pair.add_tenant() for _ in range(3)]
        self.arrival: dict[int, int] = {}
        self.bid: dict[int, int] = {}
        self.number: dict[int, int] = {}
        self.ahead: dict[int, set[int]] = {}  # of a waiting one: what ran when it came or started since
        self.late: dict[int, int] = {}  # overtakers that came too late to be better
        self.most_late = self.most_passes = 0
        self.worst_late = 0.0  # of the bound for preemptors
        self.promised: dict[int, int] = {}  # holder of the reservation -> the step by which it starts
        self.steps = 0

    def key(self, handle: int) -> tuple[int, int]:
        """Policy order, best first."""
        return 9 * self.arrival[handle] - self.bid[handle] * round(self.horizon * 1e9), self.number[handle]

    def play(self, cycles: int = 150) -> None:
        rng, pair = self.rng, self.pair
        for _ in range(cycles):
            if rng.random() < 0.7 and len(pair.waiting) < 30:
                for _ in range(rng.randint(1, 3)):
                    self.submit()
            before = set(pair.started)
            started = pair.cycle(rng.choice((0.005, 0.02)))
            self.steps += 1
            self.count([h for h in started if h not in before], started)
            self.check_reservation(started)
            for handle in pair.waiting:
                self.most_passes = max(self.most_passes, pair.core.explain(handle, pair.now)["passes"])

    def submit(self) -> None:
        rng, pair = self.rng, self.pair
        pair.now += rng.choice((0.0, 1e-3 * rng.random()))
        most = rng.choice((rng.randint(1, 40), rng.randint(1, 6)))
        bid = rng.choice((1, 10, rng.randint(1, 10)))
        output = rng.randint(0, most)
        handle = pair.submit(rng.choice(self.tenants), rng.choice((3, rng.randint(1, 40))), most, bid, output)
        if handle > 0:
            self.arrival[handle] = round(pair.now * 1e9)
            self.bid[handle], self.number[handle] = bid, len(self.number)
            self.ahead[handle], self.late[handle] = set(pair.started), 0

    def count(self, first_starts: list[int], starts: list[int]) -> None:
        horizon = round(self.horizon * 1e9)
        for place, q in enumerate(starts):
            for r in [*self.pair.waiting, *(h for h in starts[place + 1 :] if h in first_starts)]:
                self.ahead[r].add(q)
                after = self.number[q] > self.number[r]
                too_late = after and 9 * (self.arrival[q] - self.arrival[r]) >= (10 - self.bid[r]) * horizon
                if q in first_starts and too_late:
                    self.late[r] += 1
                    self.most_late = max(self.most_late, self.late[r])
                    self.worst_late = max(self.worst_late, self.late[r] / len(self.ahead[r]))

    def check_reservation(self, started: list[int]) -> None:
        """The reserved start never moves back, unless for somebody who outranks the holder."""
        pair = self.pair
        holder = plain(pair.compare_snapshot()["devices"]["reserved"])[0]
        if holder in pair.waiting and not pair.config.get("preemption"):
            running = pair.running(0)
            space = kv.Space(pair.config["slots"][0], self.limit(), pair.config["token_budgets"][0], 4)
            request = pair.waiting[holder]
            claim = kv.Claim(
                request.prompt_tokens, request.max_tokens, 0, request.prompt_tokens, (-self.bid[holder], INF)
            )
            step = self.steps + kv.earliest_step(claim, [self.claim(r) for r in running], space)
            if holder in self.promised and not any(self.key(h) < self.key(holder) for h in started):
                assert step <= self.promised[holder], f"from step {self.promised[holder]} to {step}"
            self.promised = {holder: step}
        else:
            self.promised = {}

    def limit(self) -> int:
        return int(self.pair.config["kv_blocks"][0])

    def claim(self, r: Running) -> kv.Claim:
        return kv.Claim(r.prompt_tokens, r.max_tokens, r.generated, r.target - r.computed, r.order)


def test_without_backfill_nobody_who_comes_too_late_passes() -> None:
    for seed in range(scale(60)):
        race = Race(seed, max_passes=0)
        race.play()
        assert race.most_late == 0, f"seed {seed}"


@pytest.mark.parametrize("max_passes", [1, 3, 64])
def test_backfills_pass_as_often_as_allowed_and_never_delay_the_reserved_start(max_passes: int) -> None:
    late = most = 0
    for seed in range(scale(40)):
        race = Race(seed, max_passes=max_passes)
        race.play()
        assert race.most_passes <= max_passes, f"seed {seed}"
        most, late = max(most, race.most_passes), max(late, race.most_late)
    print(f"\nbackfills that end after the reserved step: {most} of max_passes {max_passes}; late overtakers: {late}")
    assert late > 0
    assert most >= min(max_passes, 2)


@pytest.mark.parametrize("preemption", [1, 2])
def test_preemptors_pass_a_few_times_for_each_request_ahead(preemption: int) -> None:
    worst = 0.0
    for seed in range(scale(60)):
        race = Race(seed, max_passes=0, preemption=preemption, max_preemptions=2, preempt_margin=1)
        race.play()
        assert race.worst_late <= 2.0, f"seed {seed}"
        worst = max(worst, race.worst_late)
    print(f"\npreemptors that came too late: {worst:.2f} for each request ahead, of max_preemptions 2")
    assert worst > 0.0


def main() -> None:
    print(f"service gap: {worst_gap(500):.4f} of (D + c_max) / w")
    for max_passes in (1, 3, 64):
        races = [Race(seed, max_passes=max_passes) for seed in range(100)]
        for race in races:
            race.play()
        print(f"passes by backfills that end late: {max(race.most_passes for race in races)} of {max_passes}")
    races = [Race(seed, max_passes=0, preemption=1, preempt_margin=1) for seed in range(200)]
    for race in races:
        race.play()
    print(f"late preemptors for each request ahead: {max(race.worst_late for race in races):.2f} of 2")


if __name__ == "__main__":
    main()

"""Nobody starves: neither a low bid, nor a quiet tenant, nor the device."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from tests.scheduler_pair import Solo, scale

INF = math.inf


@pytest.mark.parametrize("keywords", [{}, {"preemption": 1}, {"max_passes": 2}, {"fairness_window": 200.0}], ids=str)
def test_a_low_bid_waits_for_the_horizon_and_what_is_ahead(keywords: dict[str, Any]) -> None:
    """Twenty bid-10 requests are always outstanding; a bid-1 request of the same tenant, large, comes now and then."""
    horizon, step, population = 1.0, 0.01, 20
    config = {"fairness_window": INF, **keywords}
    pair = Solo(
        {
            "slots": [3],
            "kv_blocks": [24],
            "token_budgets": [16],
            "block_tokens": 4,
            "aging_horizon_s": horizon,
            **config,
        }
    )
    tenant, other = pair.add_tenant(), pair.add_tenant()
    rng = random.Random(1)
    came: dict[int, float] = {}
    waits: list[float] = []
    for cycle in range(3000):
        while sum(h not in came for h in [*pair.waiting, *pair.started]) < population:
            most = rng.randint(1, 20)
            pair.submit(rng.choice((tenant, other)), rng.randint(1, 20), most, 10, most)
        if cycle % 100 == 0 and cycle < 2500:
            came[pair.submit(tenant, 40, 40, 1, 40)] = pair.now
        waits += [pair.now - came[h] for h in pair.cycle(step) if h in came and pair.started[h].computed == 0]
    # One at a time would take a request 2 + 20 steps at most, or the large one 4 + 40.
    bound = horizon + (population * 25 + 2 * 44) * step
    assert len(waits) >= 25
    assert max(waits) <= bound
    print(f"\nlongest wait of a bid-1 request among bid-10 ones: {max(waits):.2f} s of {bound:.2f} s")


def test_fairness_serves_a_low_bid_without_aging() -> None:
    """With no aging at all, a quiet tenant of low bids still gets its share from a tenant of high ones."""
    pair = Solo(
        {"slots": [3], "kv_blocks": [60], "token_budgets": [0], "aging_horizon_s": INF, "fairness_window": 100.0}
    )
    loud, quiet = pair.add_tenant(), pair.add_tenant()
    starts = {loud: 0, quiet: 0}
    owner: dict[int, int] = {}
    for _ in range(2000):
        for tenant, bid in ((loud, 10), (quiet, 1)):
            while sum(owner[h] == tenant for h in pair.waiting) < 5:
                owner[pair.submit(tenant, 10, 10, bid, 10)] = tenant
        for handle in pair.cycle(0.01):
            starts[owner[handle]] += 1
    assert abs(starts[loud] - starts[quiet]) <= 1 + 100 // 20


@pytest.mark.parametrize("preemption", [0, 1])
def test_no_slot_idles_while_somebody_may_go(preemption: int) -> None:
    """With KV to spare, a device has a free slot after a batch only when no tenant contends."""
    idle = 0
    for seed in range(scale(60)):
        rng = random.Random(seed)
        pair = Solo(
            {
                "slots": [rng.randint(1, 4), 3],
                "kv_blocks": [1000, 1000],
                "token_budgets": [rng.choice((0, 16)), 16],
                "fairness_window": rng.choice((0.0, 50.0, 500.0, INF)),
                "aging_horizon_s": rng.choice((0.0, 1.0, INF)),
                "max_passes": rng.choice((0, 64)),
                "backfill_depth": rng.choice((0, 32)),
                "expected_output": rng.choice((-1, 0)),
                "preemption": preemption,
            }
        )
        tenants = [
            pair.add_tenant(
                weight=rng.choice((1.0, 4.0)),
                **rng.choice(({}, {"rate": 50.0, "burst": 200.0, "queue_over_rate": True}, {"max_in_flight": 2})),
            )
            for _ in range(4)
        ]
        for _ in range(150):
            if rng.random() < 0.7:
                most = rng.randint(1, 30)
                pair.submit(rng.choice(tenants), rng.randint(1, 30), most, rng.randint(1, 10), rng.randint(0, most))
            pair.cycle(0.02 * rng.random())
            snapshot = pair.compare_snapshot()
            full = (snapshot["devices"]["running"] == snapshot["devices"]["slots"]).all()
            assert full or snapshot["contending"] == 0, f"seed {seed}"
            idle += not full and snapshot["waiting"] > 0
    assert idle > 0, "nobody was ever held back by its own limits"


@pytest.mark.parametrize(
    ("largest", "order", "window"), [(19, (0, 1), 10.0), (19, (1, 0), 10.0), (9, (0, 1), 40.0), (30, (1, 0), 0.0)]
)
def test_a_large_request_is_not_passed_for_ever_by_its_own_tenant_on_another_device(
    largest: int, order: tuple[int, int], window: float
) -> None:
    """It fits the first device alone. Small ones, started on the second, may not carry its tenant out of the window."""
    pair = Solo(
        {
            "slots": [4, 16],
            "kv_blocks": [40, 36],
            "token_budgets": [0, 0],
            "block_tokens": 1,
            "aging_horizon_s": 1.0,
            "fairness_window": window,
        }
    )
    mixed, other = pair.add_tenant(), pair.add_tenant()
    rng = random.Random(3)
    waiting: dict[int, set[int]] = {mixed: set(), other: set()}

    def refill() -> None:
        for tenant, count, most in ((mixed, 60, 1), (other, 8, largest)):
            waiting[tenant] &= pair.waiting.keys()
            for _ in range(count - len(waiting[tenant])):
                waiting[tenant].add(pair.submit(tenant, 1, most, 5, rng.randint(most // 2, most) or 1))

    large = 0
    for step in range(350):
        if step == 50:
            large = pair.submit(mixed, 37, 3, 5, 3)
        refill()
        for device in order:
            pair.engine_step(device)
        pair.now += 0.01
        for device in order:
            if large in pair.next_batch(device):
                return
            refill()
    raise AssertionError("the large request starves")

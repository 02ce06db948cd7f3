"""Nothing is lost and nothing is left: slots, blocks, flights and bucket tokens after the work has gone."""

from __future__ import annotations

import random
from typing import Any

import pytest

from tests.drive import CONFIGS, ONE, Driver, drive, random_config
from tests.scheduler_pair import Solo, plain, scale


def run_dry(pair: Any) -> None:
    """Dispatch and step until nothing is waiting or started; shaped tenants are waited for."""
    for _ in range(5000):
        if not (pair.waiting or pair.started):
            return
        started = pair.cycle(0.05)
        wake = pair.next_wakeup()
        if not started and not any(r.device >= 0 for r in pair.started.values()) and wake < 1e18:
            pair.now = max(pair.now, wake)
    raise AssertionError(f"stuck: {len(pair.waiting)} waiting, {len(pair.started)} started")


def nothing_is_left(pair: Any) -> None:
    snapshot = pair.compare_snapshot()
    for name in ("waiting", "waiting_tokens", "contending", "returning"):
        assert snapshot[name] == 0, name
    for name in ("waiting", "waiting_tokens", "in_flight", "held_blocks", "contending", "in_window"):
        assert not any(plain(snapshot["tenants"][name])), name
    for name in ("running", "held_blocks", "max_blocks", "reserved"):
        assert not any(plain(snapshot["devices"][name])), name
    tenants = {name: plain(column) for name, column in snapshot["tenants"].items()}
    for i in range(len(tenants["slot"])):
        assert tenants["state"][i] == 1, "a drained tenant's slot is free"
        assert tenants["started"][i] <= tenants["admitted"][i]
        ended = tenants["finished"][i] + tenants["cancelled"][i] + tenants["expired"][i]
        assert ended <= tenants["admitted"][i]


@pytest.mark.parametrize("name", [None, *sorted(CONFIGS)])
@pytest.mark.parametrize("storm", [False, True])
def test_after_a_drain_nothing_is_left(name: str | None, storm: bool) -> None:
    for seed in range(scale(4)):
        rng = random.Random(1000 * seed + storm)
        config = random_config(rng) if name is None else CONFIGS[name]
        driver = Driver(rng, config, Solo)
        drive(driver, 300)
        pair = driver.pair
        pair.next_wakeup()
        for handle in [*pair.waiting, *pair.started]:
            if storm and rng.random() < 0.8:
                pair.cancel(handle)
        run_dry(pair)
        nothing_is_left(pair)


@pytest.mark.parametrize("queue_over_rate", [False, True])
@pytest.mark.parametrize("premium", [0.0, 0.5])
def test_bucket_tokens_add_up(queue_over_rate: bool, premium: float) -> None:
    """level = start - what was charged in the end - what is reserved now + what came in, while nothing is clipped."""
    rate, burst = 50.0, 20_000.0
    for seed in range(scale(20)):
        rng = random.Random(seed)
        pair = Solo({**ONE, "kv_blocks": [10_000], "slots": [6], "preemption": 1, "bid_premium": premium})
        tenant = pair.add_tenant(rate=rate, burst=burst, queue_over_rate=queue_over_rate)
        # Held to the end, so that the bucket is never full again.
        held = pair.submit(tenant, 7_000, 3_000, 1, 0)
        pair.next_batch(0)
        charged = 0.0
        for _ in range(300):
            pair.now += rng.random() * 0.1
            alive = [h for h in [*pair.waiting, *pair.started] if h != held]
            draw = rng.random()
            if draw < 0.3 or not alive:
                most = rng.randint(1, 60)
                pair.submit(tenant, rng.randint(1, 60), most, rng.randint(1, 10), rng.randint(0, most))
            elif draw < 0.4:
                charged += pair.cancel(rng.choice(alive))
            elif draw < 0.5:
                pair.rebid(rng.choice(alive), rng.randint(1, 10))
            elif draw < 0.7:
                pair.next_batch(0)
            else:
                for r in pair.running(0):
                    if r.handle == held or rng.random() < 0.3:
                        continue
                    if r.computed < r.target:
                        pair.progress(r.handle, r.target, r.generated)
                    elif r.generated < r.output:
                        pair.progress(r.handle, r.target, r.generated + 1)
                    else:  # the last may come with the settlement, and be more than was asked for
                        charged += pair.settle(r.handle, r.generated + rng.choice((0, 0, 70)))
        for handle in [*pair.waiting, *pair.started]:
            if handle != held:
                charged += pair.cancel(handle)
        level = plain(pair.compare_snapshot()["tenants"]["level"])[0]
        expected = burst - 10_000.0 - charged + rate * pair.now
        assert expected < burst
        assert level == pytest.approx(expected, abs=1e-6 * burst)

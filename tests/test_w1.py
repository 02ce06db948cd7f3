"""W1, the burst of 50 + 50 requests at weights 85:15, in virtual time: scheduler and engine in a plain loop."""

from typing import NamedTuple

import numpy as np
import pytest

from aps import Scheduler, Tenant
from aps.metrics import Metrics, jain
from aps.profiles import REFERENCE
from aps_core.gpu import Engine


class Figures(NamedTuple):
    """occupancy: time-weighted slots in use over slots. output: tokens/s over the makespan. dollars: per million prompt
    + output tokens. fairness: Jain's index of prompt + output tokens delivered while both wait."""

    occupancy: float
    output: float
    dollars: float
    fairness: float


def w1(seed: int) -> Figures:
    rng = np.random.default_rng(seed)
    prompts = np.rint(rng.uniform(0.75 * 590, 1.25 * 590, 100)).astype(int).tolist()
    outputs = np.rint(rng.uniform(0.75 * 128, 1.25 * 128, 100)).astype(int).tolist()
    device = REFERENCE.device("gpu0")
    engine = Engine(REFERENCE.step_time, device.slots, device.kv_blocks)
    scheduler = Scheduler([Tenant("vip", weight=85.0), Tenant("free", weight=15.0)], devices=[device])
    metrics = Metrics(lambda accounts: engine.served[:, :accounts])
    engine.reserve_accounts(2)
    tenants = metrics.tenant("vip"), metrics.tenant("free")
    asked = {}
    for i, (prompt, output) in enumerate(zip(prompts, outputs, strict=True)):
        tenant, bid = tenants[i % 2], (10, 1)[i % 2]
        verdict = scheduler.submit(tenant.name, prompt_tokens=prompt, max_tokens=output, bid=bid, now=0.0)
        metrics.arrived(tenant, metrics.bids[bid], prompt + output, 0.0)
        asked[verdict.id] = (tenant, prompt, output, bid)
    at_ns = 0
    while True:
        for id in scheduler.next_batch(now=at_ns / 1e9).started:
            tenant, prompt, output, bid = asked[id]
            assert isinstance(id, int)
            engine.start(id, prompt, output, bid, account=tenant.account)
            metrics.started(tenant, metrics.bids[bid], at_ns / 1e9)
        end_ns = engine.begin_step(at_ns)
        if end_ns < 0:
            break
        at_ns = end_ns
        n = engine.end_step()
        rows = zip(
            engine.request_ids[:n].tolist(), engine.computed[:n].tolist(), engine.generated[:n].tolist(), strict=True
        )
        for at, (id, computed, generated) in enumerate(rows):
            if at < n - engine.ended:
                scheduler.progress(id, computed, generated, now=at_ns / 1e9)
            else:
                scheduler.settle(id, generated, now=at_ns / 1e9)
                metrics.ended(asked[id][0], metrics.bids[asked[id][3]], False, at_ns / 1e9)
    seconds = at_ns / 1e9
    assert engine.busy_ns == at_ns
    assert (engine.prefill_tokens, engine.output_tokens) == (sum(prompts), sum(outputs))
    shares = metrics.while_all_wait(seconds).tokens
    index = jain(shares.values())
    assert index is not None and shares["vip"] > shares["free"]
    return Figures(
        engine.slot_ns / at_ns / device.slots,
        engine.output_tokens / seconds,
        REFERENCE.dollars_per_hour / 3600 * seconds / (sum(prompts) + sum(outputs)) * 1e6,
        index,
    )


@pytest.fixture(scope="module")
def figures() -> list[Figures]:
    return [w1(seed) for seed in range(10)]


def test_every_seed_is_near_the_promise(figures: list[Figures]) -> None:
    for found in figures:
        assert found.occupancy >= 0.95
        assert found.output >= 125
        assert found.fairness == pytest.approx(0.67, abs=0.02)
        assert found.dollars <= 0.54


def test_the_means_are_the_promise(figures: list[Figures]) -> None:
    means = Figures(*np.mean(figures, axis=0).tolist())
    assert means.occupancy == pytest.approx(0.982, abs=0.005)
    assert means.output >= 128
    assert round(means.dollars, 2) <= 0.53
    assert means.fairness == pytest.approx(0.671, abs=0.01)

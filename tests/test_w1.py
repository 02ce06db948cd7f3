"""W1, the burst of 50 + 50 requests at weights 85:15: scheduler and engine in a plain loop, beside the laboratory."""

from typing import NamedTuple

import pytest

from aps import Scheduler
from aps.lab.figures import figures
from aps.lab.promise.burst import PROMISED, SCENARIO, measured
from aps.lab.run import Setup, simulate
from aps.lab.seeds import over_seeds
from aps.lab.workload import Workload
from aps.metrics import Metrics, jain
from aps.profiles import REFERENCE
from aps_core.gpu import Engine

SEEDS = range(10)


class Figures(NamedTuple):
    """The promised figures of W1, named as the laboratory names them.

    occupancy: time-weighted slots in use over slots. output_tokens_per_s: over the makespan. dollars: per million
    prompt + output tokens. jain: Jain's index of prompt + output tokens computed while both wait.
    """

    occupancy: float
    output_tokens_per_s: float
    dollars_per_million_tokens: float
    jain: float


def plain_loop(workload: Workload) -> Figures:
    """The live scheduler and the engine, called from here."""
    columns = (workload.tenant, workload.prompt_tokens, workload.output_tokens, workload.bid)
    rows = list(zip(*(column.tolist() for column in columns), strict=True))
    device = REFERENCE.device("gpu0")
    engine = Engine(REFERENCE.step_time, device.slots, device.kv_blocks)
    scheduler = Scheduler(workload.tenants, devices=[device])
    metrics = Metrics(lambda accounts: engine.served[:, :accounts])
    engine.reserve_accounts(2)
    tenants = [metrics.tenant(tenant.name) for tenant in workload.tenants]
    asked = {}
    for slot, prompt, output, bid in rows:
        tenant = tenants[slot]
        verdict = scheduler.submit(tenant.name, prompt_tokens=prompt, max_tokens=output, bid=bid, now=0.0)
        metrics.arrived(tenant, 0.0)
        asked[verdict.id] = (tenant, prompt, output, bid)
    at_ns = 0
    while True:
        for id in scheduler.next_batch(now=at_ns / 1e9).started:
            tenant, prompt, output, bid = asked[id]
            assert isinstance(id, int)
            engine.start(id, prompt, output, bid, account=tenant.account)
            metrics.started(tenant, at_ns / 1e9)
        end_ns = engine.begin_step(at_ns)
        if end_ns < 0:
            break
        at_ns = end_ns
        n = engine.end_step()
        news = (engine.request_ids[:n].tolist(), engine.computed[:n].tolist(), engine.generated[:n].tolist())
        for at, (id, computed, generated) in enumerate(zip(*news, strict=True)):
            if at < n - engine.ended:
                scheduler.progress(id, computed, generated, now=at_ns / 1e9)
            else:
                scheduler.settle(id, generated, now=at_ns / 1e9)
                metrics.ended(asked[id][0], False, at_ns / 1e9)
    seconds = at_ns / 1e9
    tokens = sum(prompt + output for _, prompt, output, _ in rows)
    assert engine.busy_ns == at_ns
    assert engine.prefill_tokens + engine.output_tokens == tokens
    shares = metrics.while_all_wait(seconds).tokens
    index = jain(shares.values())
    assert index is not None and shares["stress_vip"] > shares["stress_free"]
    return Figures(
        engine.slot_ns / at_ns / device.slots,
        engine.output_tokens / seconds,
        REFERENCE.dollars_per_hour / 3600 * seconds / tokens * 1e6,
        index,
    )


@pytest.fixture(scope="module")
def found() -> list[Figures]:
    return [plain_loop(SCENARIO.build(seed)) for seed in SEEDS]


def test_the_laboratory_measures_the_same(found: list[Figures]) -> None:
    for seed, expected in zip(SEEDS, found, strict=True):
        run = simulate(SCENARIO.build(seed), PROMISED.policy, Setup(REFERENCE))
        tree = over_seeds([figures(run)])
        ours = Figures(*(measured(tree, name)["mean"] for name in Figures._fields))
        assert ours == pytest.approx(expected, rel=1e-9)


def test_every_seed_is_near_the_promise(found: list[Figures]) -> None:
    for one in found:
        assert one.occupancy >= 0.95
        assert one.output_tokens_per_s >= 125
        assert one.jain == pytest.approx(0.67, abs=0.02)
        assert one.dollars_per_million_tokens <= 0.54

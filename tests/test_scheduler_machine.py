"""The compiled scheduler gives the twin's answers, to the last bit, whatever is done to both."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.drive import CONFIGS, run
from tests.scheduler_pair import Pair, scale

INF = math.inf

pauses = st.sampled_from([0.0, 0.0, 0.0, 1e-9, 0.0037, 0.01, 0.25, 40.0])
sizes = st.integers(1, 40)
bids = st.integers(1, 10)
picks = st.integers(0, 1000)
tenants = st.fixed_dictionaries(
    {"weight": st.sampled_from([1.0, 2.0, 0.3])},
    optional={
        "max_bid": st.integers(1, 10),
        "max_in_flight": st.integers(1, 3),
        "max_queued": st.integers(0, 4),
        "max_queued_tokens": st.integers(0, 150),
        "kv_share": st.sampled_from([0.2, 0.5, 1.0]),
        "max_request_tokens": st.integers(2, 80),
    },
)
token_buckets: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(dict),
    st.fixed_dictionaries(
        {
            "rate": st.sampled_from([3.0, 41.7, 900.0]),
            "burst": st.sampled_from([30.0, 77.7, 400.0]),
            "queue_over_rate": st.booleans(),
        }
    ),
)
request_buckets: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(dict),
    st.fixed_dictionaries(
        {"request_rate": st.sampled_from([0.3, 7.7, 900.0]), "request_burst": st.sampled_from([1.0, 2.5, 12.0])}
    ),
)
buckets = st.builds(lambda tokens, requests: {**tokens, **requests}, token_buckets, request_buckets)


class Beside(RuleBasedStateMachine):
    """Every rule does one thing to both schedulers, `pause` seconds after the last."""

    pair: Pair

    @initialize(name=st.sampled_from(sorted(CONFIGS)), first=tenants, second=tenants, bucket=buckets)
    def build(self, name: str, first: dict[str, Any], second: dict[str, Any], bucket: dict[str, Any]) -> None:
        self.pair = Pair(CONFIGS[name])
        self.pair.add_tenant(**first)
        self.pair.add_tenant(**second, **bucket)

    def wait(self, pause: float) -> None:
        self.pair.now += pause
        self.pair.next_wakeup()  # plays the time: what is picked below is alive now

    def slot(self, pick: int, state: int) -> int | None:
        slots = [slot for slot, s in self.pair.states().items() if s == state]
        return slots[pick % len(slots)] if slots else None

    @rule(
        pause=pauses,
        pick=picks,
        prompt=sizes,
        most=sizes,
        bid=bids,
        share=st.floats(0.0, 1.2),
        deadline=st.sampled_from([INF, INF, INF, 0.0, 1e-9, 0.02, 3.0]),
        forecast=st.sampled_from([-1, -1, 0, 7]),
    )
    def submit(
        self, pause: float, pick: int, prompt: int, most: int, bid: int, share: float, deadline: float, forecast: int
    ) -> None:
        self.wait(pause)
        slot = self.slot(pick, 1)
        if slot is not None:
            output = int(share * most)
            deadline_at = self.pair.now + deadline
            self.pair.submit(slot, prompt, most, bid, output, deadline_at=deadline_at, expected_output=forecast)

    @rule(pause=pauses, device=picks)
    def dispatch(self, pause: float, device: int) -> None:
        self.wait(pause)
        self.pair.next_batch(device % len(self.pair.config["slots"]))

    @precondition(lambda self: self.pair.started)
    @rule(pause=pauses, device=picks, steps=st.integers(1, 12), many=st.booleans())
    def engine(self, pause: float, device: int, steps: int, many: bool) -> None:
        self.wait(pause)
        for _ in range(steps):
            self.pair.engine_step(device % len(self.pair.config["slots"]), many=many)

    @precondition(lambda self: self.pair.waiting or self.pair.started)
    @rule(pause=pauses, pick=picks, bid=st.none() | bids)
    def cancel_or_rebid(self, pause: float, pick: int, bid: int | None) -> None:
        self.wait(pause)
        alive = [*self.pair.waiting, *self.pair.started]
        if alive and bid is None:
            self.pair.cancel(alive[pick % len(alive)])
        elif alive and bid is not None:
            self.pair.rebid(alive[pick % len(alive)], bid)

    @precondition(lambda self: any(r.device >= 0 for r in self.pair.started.values()))
    @rule(pause=pauses, pick=picks, lost=st.booleans())
    def preempt_or_restart(self, pause: float, pick: int, lost: bool) -> None:
        self.wait(pause)
        running = [r.handle for r in self.pair.started.values() if r.device >= 0]
        displace = self.pair.restart if lost else self.pair.preempt
        displace(running[pick % len(running)])

    @rule(pause=pauses, pick=picks, keywords=tenants, bucket=buckets)
    def set_tenant(self, pause: float, pick: int, keywords: dict[str, Any], bucket: dict[str, Any]) -> None:
        self.wait(pause)
        slot = self.slot(pick, 1)
        if slot is not None:
            self.pair.set_tenant(slot, **keywords, **bucket)

    @rule(pause=pauses, pick=picks, keywords=tenants, bucket=buckets)
    def remove_readmit_add(self, pause: float, pick: int, keywords: dict[str, Any], bucket: dict[str, Any]) -> None:
        self.wait(pause)
        draining, active = self.slot(pick, 2), self.slot(pick, 1)
        if draining is not None:
            self.pair.readmit_tenant(draining, **keywords, **bucket)
        elif active is not None and pick % 2:
            self.pair.remove_tenant(active)
        elif len(self.pair.states()) < 6:
            self.pair.add_tenant(**keywords, **bucket)

    @rule(pause=pauses, horizon=st.sampled_from([0.0, 0.05, 3.0, INF]), window=st.sampled_from([0.0, 30.0, 1e3, INF]))
    def knobs(self, pause: float, horizon: float, window: float) -> None:
        self.wait(pause)
        self.pair.set_aging_horizon(horizon)
        self.pair.set_fairness_window(window)

    @precondition(lambda self: self.pair.waiting or self.pair.started)
    @rule(pause=pauses)
    def explain(self, pause: float) -> None:
        self.wait(pause)
        for handle in [*self.pair.waiting, *self.pair.started]:
            self.pair.compare_explain(handle)

    @invariant()
    def looks_alike(self) -> None:
        if hasattr(self, "pair"):
            self.pair.compare_snapshot()


TestBeside = Beside.TestCase
TestBeside.settings = settings(
    max_examples=scale(60), stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.parametrize("name", sorted(CONFIGS))
def test_random_operations(name: str) -> None:
    for seed in range(scale(4)):
        run(seed, 500, CONFIGS[name])


@pytest.mark.parametrize("block", range(10))
def test_random_configurations(block: int) -> None:
    for seed in range(block * 1000, block * 1000 + scale(5)):
        run(seed, 500)

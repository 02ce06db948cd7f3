"""The conservation law of a burst: a policy moves waiting between requests, it makes no work and saves none.

Premises: n requests at one instant on one device of s slots; continuous batching, no preemption, no deadlines; no
tenant has a limit of its own, and the KV cache holds s of the largest. Whole prompts (no token budget), so that every
request in a slot gets one token in every step, the first step included. A step with b requests and p prompt tokens
takes a*p + g(b), as on `reference`.

1. Work conservation: while anything waits, b = s. For the device is filled before each step, somebody contends while
   anything waits, whoever has the least service is in the window, and nothing is short but slots.
2. The makespan is a*P + sum over the steps of g(b), P all prompt tokens: each prompt is computed once, each step
   follows the one before. So *policies with equal batch fill (as many steps of each size) have equal makespan*, up to
   the rounding of each step to whole nanoseconds.
3. With one output length o for all, every policy has the same batch fill: a request holds its slot for exactly o
   steps, whichever it is, so how many slots are free before step k depends on nothing else. Prompts, tenants, weights
   and bids may differ. (Occupancy is not conserved: long prompts may fall into full or into empty steps.)
4. With different outputs the fill differs in the last steps only. Let f = g(s)/s and e the largest g(b) - f*b; g(b)/b
   falls with b. The steps with b < s are at most the longest output, since all that is left runs in the first of them;
   and the sum of b over all steps is the output O. So every makespan lies in [a*P + f*O, a*P + f*O + e*o_max].
5. With one prompt, one output and one bid for all it holds exactly on any step time, with a token budget too: requests
   that cannot be told apart give the same steps. Different bids order the chunks of a budget differently: then, and
   with mixed sizes on a step time that is no such sum, makespans are only close.
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aps.lab.promise.burst import SCENARIO
from aps.lab.run import Run, Setup, simulate
from aps.lab.workload import Workload
from aps.policy import Policy
from aps.profiles import REFERENCE, profile_named
from aps.tenants import Tenant
from aps_core.step_time import ReferenceModel

SLOTS = 4
NS = 1e-9
MODEL = ReferenceModel()
G = [0.0] + [MODEL.step_seconds(decodes=b) for b in range(1, SLOTS + 1)]  # by batch size
A = MODEL.step_seconds(prefill_tokens=1, decodes=1) - MODEL.step_seconds(decodes=2)

POLICIES = st.builds(
    Policy,
    aging_horizon_s=st.sampled_from([0.0, 0.5, 30.0, inf]),
    fairness_window=st.sampled_from([0.0, 300.0, 2048.0, inf]),
    expected_output=st.sampled_from([None, 0, 7]),
    output_weight=st.sampled_from([1.0, 2.0]),
    bid_premium=st.sampled_from([0.0, 0.3]),
    max_passes=st.sampled_from([0, 64]),
)


@st.composite
def bursts(draw: st.DrawFn, *, outputs: st.SearchStrategy[int], same: bool = False) -> Workload:
    """Requests at 0 s. same: they cannot be told apart but for their tenants."""
    n = draw(st.integers(1, 40))
    tenants = draw(st.integers(1, 3))
    each = {"prompt": st.integers(1, 900), "output": outputs, "bid": st.integers(1, 10)}
    columns: dict[str, Any] = {
        name: [draw(of)] * n if same else draw(st.lists(of, min_size=n, max_size=n)) for name, of in each.items()
    }
    return Workload(
        name="burst",
        tenants=tuple(Tenant(f"t{k}", weight=draw(st.sampled_from([0.5, 1.0, 3.0]))) for k in range(tenants)),
        tenant=np.array(draw(st.lists(st.integers(0, tenants - 1), min_size=n, max_size=n)), dtype=np.int32),
        at_s=np.zeros(n),
        prompt_tokens=np.array(columns["prompt"], dtype=np.int32),
        output_tokens=np.array(columns["output"], dtype=np.int32),
        max_tokens=np.array(columns["output"], dtype=np.int32),
        bid=np.array(columns["bid"], dtype=np.int32),
    )


def whole_prompts(workload: Workload, policy: Policy) -> Run:
    run = simulate(workload, policy, Setup(REFERENCE, slots=SLOTS))
    assert (run.reason == 0).all()
    return run


def sizes(run: Run) -> list[int]:
    """Requests in each step, from the order of the starts and the outputs alone."""
    outputs = run.workload.output_tokens[np.argsort(run.order)].tolist()
    running: list[int] = []
    found = []
    while outputs or running:
        while outputs and len(running) < SLOTS:
            running.append(outputs.pop(0))
        found.append(len(running))
        running = [left - 1 for left in running if left > 1]
    return found


def total(column: Any) -> int:
    return int(np.asarray(column).sum(dtype=np.int64))


@given(bursts(outputs=st.integers(1, 30)), POLICIES)
def test_the_makespan_is_the_prompts_and_the_batch_fill(workload: Workload, policy: Policy) -> None:
    run = whole_prompts(workload, policy)
    steps = sizes(run)
    assert run.steps == len(steps)
    assert run.idle_slot_s[0] == 0.0, "no slot is free while anything waits"
    expected = A * total(workload.prompt_tokens) + sum(G[size] for size in steps)
    assert run.ended_at == pytest.approx(expected, abs=NS * run.steps)
    assert run.busy_s[0] == pytest.approx(run.ended_at, abs=NS)


@given(st.integers(1, 30).flatmap(lambda o: bursts(outputs=st.just(o))), POLICIES, POLICIES)
def test_with_equal_outputs_all_policies_have_one_makespan(workload: Workload, one: Policy, other: Policy) -> None:
    runs = whole_prompts(workload, one), whole_prompts(workload, other)
    assert sizes(runs[0]) == sizes(runs[1])
    assert runs[0].ended_at == pytest.approx(runs[1].ended_at, abs=NS * runs[0].steps)


@given(bursts(outputs=st.integers(1, 30)), POLICIES)
def test_with_different_outputs_makespans_are_within_the_last_steps(workload: Workload, policy: Policy) -> None:
    run = whole_prompts(workload, policy)
    per_token = G[SLOTS] / SLOTS
    excess = max(G[b] - per_token * b for b in range(1, SLOTS + 1))
    least = A * total(workload.prompt_tokens) + per_token * total(workload.output_tokens)
    most = least + excess * int(workload.output_tokens.max())
    rounding = NS * run.steps
    assert least - rounding <= run.ended_at <= most + rounding


@settings(max_examples=50)
@given(bursts(outputs=st.integers(1, 30), same=True), POLICIES, POLICIES)
def test_requests_that_are_alike_give_the_same_steps_on_physics(workload: Workload, one: Policy, other: Policy) -> None:
    setup = Setup(profile_named("a100-llama2-7b"), slots=SLOTS)  # with its token budget
    runs = [simulate(workload, policy, setup) for policy in (one, other)]
    assert runs[0].ended_at == runs[1].ended_at
    assert runs[0].steps == runs[1].steps
    for run in runs:
        assert sorted(run.finished_at.tolist()) == sorted(runs[0].finished_at.tolist())


def test_what_breaks_it() -> None:
    """Preemption by recompute makes work, an own limit makes a slot idle: the premises are needed."""
    workload = Workload(
        name="burst",
        tenants=(Tenant("a"), Tenant("b", max_in_flight=1)),
        tenant=np.repeat(np.array([0, 1], dtype=np.int32), 8),
        at_s=np.concatenate((np.zeros(8), np.full(8, 1.0))),
        prompt_tokens=np.full(16, 400, dtype=np.int32),
        output_tokens=np.full(16, 20, dtype=np.int32),
        max_tokens=np.full(16, 20, dtype=np.int32),
        bid=np.repeat(np.array([1, 10], dtype=np.int32), 8),
    )
    free = workload.with_tenants((Tenant("a"), Tenant("b")))
    fifo = whole_prompts(free, Policy.fifo()).ended_at
    assert whole_prompts(workload, Policy.fifo()).ended_at > fifo + 0.1
    assert whole_prompts(free, Policy.bids(preemption="recompute")).ended_at > fifo + 0.1


@pytest.mark.parametrize(("profile", "within"), [("reference", 0.01), ("a100-llama2-7b", 0.03)])
def test_on_the_promised_burst_policies_are_close(profile: str, within: float) -> None:
    """Mixed prompts and outputs: other last steps, and on physics other chunks."""
    setup = Setup(profile_named(profile))
    policies = (Policy.fifo(), Policy.strict(), Policy.vtc(), Policy.fair(), Policy.bids(), Policy())
    for seed in range(3):
        workload = SCENARIO.build(seed)
        makespans = [simulate(workload, policy, setup).ended_at for policy in policies]
        assert max(makespans) <= min(makespans) * (1 + within)
        assert len(set(makespans)) > 1

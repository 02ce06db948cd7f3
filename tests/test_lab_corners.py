"""On every scenario the corners of the plane give, in the replay, the schedule of the independent FIFO, strict priority
and VTC: the same dispatches in the same order, every request in the same steps. One device, no caps, KV never short."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from aps.lab.catalog import AZURE_CODE, open_workload
from aps.lab.policies import POLICIES
from aps.lab.run import Setup, simulate
from aps.lab.scenarios import SCENARIOS
from aps.lab.traces import TraceOptions
from aps.lab.workload import Workload
from aps.policy import Policy as Knobs
from aps.profiles import profile_named
from tests.reference_policies import Fifo, Policy, StrictPriority, Vtc
from tests.step_loop import Schedule, play

SMALL: dict[str, dict[str, Any]] = {  # about a hundred to a thousand requests each
    "burst": {"per_tenant": 40, "buckets": False},
    "vip": {"duration_s": 30.0, "vip_per_s": 2.0},
    "noisy": {"duration_s": 20.0},
    "poisson": {"duration_s": 30.0, "load": 1.1},
    "gamma": {"duration_s": 30.0, "load": 1.1},
    "weibull": {"duration_s": 30.0, "load": 1.1},
    "on-off": {"duration_s": 60.0, "load": 1.1, "on_s": 5.0, "off_s": 10.0},
    "diurnal": {"duration_s": 60.0, "days": 2.0, "load": 1.1},
    "saturated": {"duration_s": 20.0, "think_s": 0.5},
    "skewed": {"duration_s": 30.0, "load": 1.2},
}
PUBLISHED: dict[str, Any] = {"capacity_per_s": 2.4}  # half of what the device completes: fewer requests
HORIZON_S = {"vtc-on-off": 100.0, "vtc-shift": 100.0, "vtc-rising": 150.0}  # with an off minute; else 40 s
REFERENCES: dict[str, tuple[Knobs, Callable[[dict[int, float]], Policy]]] = {
    "fifo": (POLICIES["fifo"].policy, lambda _: Fifo()),
    "strict": (POLICIES["strict"].policy, lambda _: StrictPriority()),
    "vtc": (POLICIES["weighted-vtc"].policy, lambda weights: Vtc(weights, output_price=1.0)),
    "vtc, the paper's prices": (Knobs.vtc(output_weight=2.0), Vtc),
}


AZURE = TraceOptions(limit=400, rate_scale=2.0, tenants="zipf:4", bids={"tenant-1": 1, "tenant-2": 9})


def small(name: str) -> Workload:
    if name == AZURE_CODE:
        return open_workload(AZURE_CODE, options=AZURE)
    workload = SCENARIOS[name].build(3, **SMALL.get(name, PUBLISHED))
    return workload if name in SMALL else workload.until(HORIZON_S.get(name, 40.0))


def both(workload: Workload, name: str, profile: str) -> tuple[Schedule, Schedule]:
    """The reference's schedule and the replay's."""
    knobs, reference = REFERENCES[name]
    setup = Setup(profile=profile_named(profile))
    weights = {slot: tenant.weight for slot, tenant in enumerate(workload.tenants)}
    (device,) = setup.devices
    run = simulate(workload, knobs, setup)
    dispatched = np.flatnonzero(run.order >= 0)
    found = Schedule(
        dispatched[np.argsort(run.order[dispatched])].tolist(), instants(run.started_at), instants(run.finished_at)
    )
    return play(workload, reference(weights), setup.profile, device), found


def instants(column: Any) -> dict[int, int]:
    return {int(at): round(float(column[at]) * 1e9) for at in np.flatnonzero(~np.isnan(column))}


@pytest.mark.parametrize("policy", REFERENCES)
@pytest.mark.parametrize("name", [*SCENARIOS, AZURE_CODE])
def test_a_corner_is_the_policy_that_others_describe(name: str, policy: str) -> None:
    workload = small(name)
    expected, found = both(workload, policy, "reference" if name == "burst" else "a100-llama2-7b")
    assert expected.blocked == 0, "the premise: KV is never short"
    assert len(expected.dispatched) >= 80
    assert found.dispatched == expected.dispatched
    assert found.started_ns == expected.started_ns
    assert found.finished_ns == expected.finished_ns


@pytest.mark.parametrize(
    "name", ["vip", "poisson", "saturated", AZURE_CODE, "vtc-poisson", "vtc-on-off", "vtc-weighted"]
)
def test_the_workloads_tell_the_corners_apart(name: str) -> None:
    """Else agreement would say nothing."""
    workload = small(name)
    orders = {policy: both(workload, policy, "a100-llama2-7b")[0].dispatched for policy in REFERENCES}
    different = {tuple(order) for order in orders.values()}
    assert len(different) >= (2 if name.startswith("vtc") else 3)


@pytest.mark.parametrize("name", ["gamma", "vip"])
def test_on_the_blocking_profile_too(name: str) -> None:
    """Whole prompts and no token budget: another composition of steps."""
    for policy in REFERENCES:
        expected, found = both(small(name), policy, "reference")
        assert (found.dispatched, found.finished_ns) == (expected.dispatched, expected.finished_ns)

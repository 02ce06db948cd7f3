"""The largest charge that requests and a policy allow, by hand and by brute force."""

from functools import partial
from itertools import product
from math import inf
from typing import Any

import numpy as np
import pytest

from aps import Device, Policy, Tenant
from aps.lab import charges
from aps.lab.charges import largest_charge
from aps.lab.run import Setup, simulate
from aps.lab.workload import Workload
from aps.profiles import REFERENCE


def test_the_largest_charge_by_hand() -> None:
    tenants = (Tenant("a", max_bid=5), Tenant("b", max_in_flight=2))
    columns: dict[str, Any] = {"at_s": [0.0] * 4, "prompt_tokens": [100, 10, 20, 400], "output_tokens": [50, 8, 6, 9]}
    columns |= {"tenant": [0, 1, 1, 1], "bid": [9, 1, 1, 1], "max_tokens": [60, 8, 6, 9]}
    workload = Workload("charges", tenants, **columns)
    bound = partial(_bound, workload)
    assert bound(Policy(fairness_window=0.0)) == 409.0
    assert bound(Policy(fairness_window=7.0, input_weight=0.5, output_weight=2.0)) == 7.0 + 200 + 18
    assert bound(Policy(fairness_window=0.0, bid_premium=1.0)) == 5 * 160.0  # the bid is clamped to 5
    # what is generated beyond the forecast: of a, 50 - 5; of b, the two largest of 3, 1 and 4, beside 400 + 5
    assert bound(Policy(fairness_window=0.0, expected_output=5)) == 400 + 5 + 4 + 3
    # a, at bid 5, may displace two of the weaker: 409 and 26
    assert bound(Policy(fairness_window=0.0, preemption="swap"), slots=2) == 160 + 409 + 26
    assert bound(Policy(fairness_window=0.0, preemption="swap"), slots=2, kv_tokens=416) == 160 + 416
    assert bound(Policy()) == 2048 + 409
    assert bound(Policy.fifo()) == inf


def _bound(workload: Workload, policy: Policy, **setup: Any) -> float:
    return simulate(workload, policy, Setup(REFERENCE, **setup)).gap_bound


def brute_force(
    workload: Workload, policy: Policy, devices: tuple[Device, ...], charged: np.ndarray[Any, Any]
) -> float:
    """As docs/promises.md defines it, request by request; blocks of 16 tokens."""
    rows = []
    for i in np.flatnonzero(charged):
        tenant = workload.tenants[workload.tenant[i]]
        prompt, most, output = (int(getattr(workload, f"{name}_tokens")[i]) for name in ("prompt", "max", "output"))
        forecast = most if policy.expected_output is None else min(most, policy.expected_output)
        rows.append((tenant, prompt, min(output, most), forecast, min(int(workload.bid[i]), tenant.max_bid)))
    largest = 0.0
    for tenant in workload.tenants:
        mine = [row[1:] for row in rows if row[0] is tenant]
        dispatches, surplus = [], []
        for prompt, output, forecast, bid in mine:
            premium = 1 + policy.bid_premium * (bid - 1)
            cost = (policy.input_weight * prompt + policy.output_weight * forecast) * premium
            if policy.preemption != "off":
                weaker = sorted(row[1] + row[2] for row in rows if row[4] <= bid - policy.preempt_margin)
                held = [
                    min(sum(weaker[-device.slots :]), int(policy.kv_high_watermark * device.kv_blocks) * 16)
                    for device in devices
                ]
                cost += policy.input_weight * max(held)
            dispatches.append(cost)
            surplus.append(policy.output_weight * max(0, output - forecast) * premium)
        at_once = len(mine) if tenant.max_in_flight is None else tenant.max_in_flight
        if policy.preemption == "off":
            at_once = min(at_once, sum(device.slots for device in devices))
        largest = max(largest, max(dispatches, default=0.0) + sum(sorted(surplus, reverse=True)[:at_once]))
    return largest


CHOICES = [
    Policy(
        expected_output=forecast,
        bid_premium=premium,
        preemption=preemption,  # type: ignore[arg-type]
        preempt_margin=margin,
        input_weight=0.5,
        kv_high_watermark=0.9,
    )
    for forecast, premium, preemption, margin in product((None, 0, 7), (0.0, 0.5), ("off", "recompute"), (1, 3, 9))
]


@pytest.mark.parametrize("policy", CHOICES)
def test_the_largest_charge_by_brute_force(monkeypatch: pytest.MonkeyPatch, policy: Policy) -> None:
    monkeypatch.setattr(charges, "CHUNK", 7)
    devices = (Device(slots=3, kv_blocks=20), Device(slots=2, kv_blocks=50, name="gpu1"))
    tenants = (Tenant("a", max_bid=6, default_bid=5), Tenant("b", max_in_flight=2), Tenant("c"), Tenant("d"))
    for seed in range(10):
        rng = np.random.default_rng(seed)
        n = 40
        columns: dict[str, Any] = {"at_s": np.zeros(n), "tenant": rng.integers(0, 3, n), "bid": rng.integers(1, 11, n)}
        for name in ("prompt_tokens", "output_tokens", "max_tokens"):
            columns[name] = rng.integers(1, 100, n)
        workload = Workload("random", tenants, **columns)
        charged = rng.random(n) < (0.8 if seed else 0.0)
        found = largest_charge(workload, policy, devices, 16, charged)
        assert found == pytest.approx(brute_force(workload, policy, devices, charged), rel=1e-12)

"""The tenants that the service starts with."""

import pytest

from aps.service.tenants import DEFAULT_TENANTS, STRESS_TENANTS
from aps.stress.workloads import BURST_BIDS, TRACE_TENANTS, burst


def test_the_default_tenants_are_the_documented_ones() -> None:
    assert {tenant.name: (tenant.rate, tenant.burst) for tenant in DEFAULT_TENANTS} == {
        "tenant_a": (500, 5_000),
        "tenant_b": (300, 3_000),
        "tenant_c": (1_000, 10_000),
    }
    assert {tenant.default_max_tokens for tenant in DEFAULT_TENANTS} == {256}


def test_the_stress_tenants_share_85_to_15_and_admit_the_burst() -> None:
    vip, free = STRESS_TENANTS
    assert vip.weight / free.weight == pytest.approx(85 / 15)
    for tenant in STRESS_TENANTS:
        for seed in range(20):
            asked = sum(call.prompt_tokens + call.max_tokens for call in burst(seed=seed) if call.tenant == tenant.name)
            assert asked <= tenant.burst


def test_the_stress_test_sends_as_tenants_that_there_are() -> None:
    assert set(BURST_BIDS) == {tenant.name for tenant in STRESS_TENANTS}
    assert set(TRACE_TENANTS) == {tenant.name for tenant in DEFAULT_TENANTS}

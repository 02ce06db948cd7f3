"""The tenants that the service starts with, and those of a file."""

from math import inf
from pathlib import Path

import pytest

from aps.service.tenants import DEFAULT_TENANTS, STRESS_TENANTS, read_tenants
from aps.stress.workloads import BURST_BIDS, TRACE_TENANTS, burst
from aps.tenants import Tenant


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


def test_tenants_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "tenants.toml"
    path.write_text('[tenants.gold]\nweight = 3\nrate = 100\nburst = 1000\nover_rate = "queue"\n[tenants."a b"]\n')
    assert read_tenants(path) == (Tenant("gold", weight=3, rate=100, burst=1000, over_rate="queue"), Tenant("a b"))
    assert read_tenants(path)[1].rate == inf


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tenants = 3", "must have a table"),
        ("", "must have a table"),
        ("[tenants", "is not TOML"),
        ("tenants.x = 3", "tenants.x must be a table"),
        ('[tenants.x]\nname = "y"', "without name"),
        ("[tenants.x]\nweight = 0", "Tenant.weight must be a number in 1e-9..1e9, got 0"),
        ("[tenants.x]\nwheight = 1", "wheight"),
        ("[tenants.x]\nrate = 1", "Tenant.burst"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "tenants.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"tenants\.toml") as caught:
        read_tenants(path)
    assert said in str(caught.value)

"""VTC's published workloads: their rates, phases, lengths and weights, as published and scaled."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aps.lab.scenarios import SCENARIOS
from aps.lab.vtc_scenarios import PUBLISHED_PER_S
from aps.lab.workload import Workload


def published(name: str, seed: int = 0, **parameters: Any) -> Workload:
    return SCENARIOS[name].build(seed, capacity_per_s=PUBLISHED_PER_S, **parameters)


def instants(workload: Workload) -> list[NDArray[np.float64]]:
    """Of each client."""
    return [workload.at_s[workload.tenant == client] for client in range(len(workload.tenants))]


def lengths(workload: Workload, client: int) -> set[tuple[int, int]]:
    """The (prompt, output) pairs of a client."""
    mine = workload.tenant == client
    return set(zip(workload.prompt_tokens[mine].tolist(), workload.output_tokens[mine].tolist(), strict=True))


@pytest.mark.parametrize(
    ("name", "parameters", "per_minute", "minutes"),
    [
        ("vtc-overload", {}, [90, 180], 6),
        ("vtc-overload", {"variant": "eight"}, [24, 24, 24, 36, 36, 36, 36, 36], 6),
        ("vtc-proportional", {}, [15, 30, 90], 10),
        ("vtc-weighted", {}, [48, 48, 72, 96], 6),
        ("vtc-weighted", {"variant": "alike"}, [24, 48, 72, 96], 6),
    ],
)
def test_steady_clients_send_evenly_at_published_rates(
    name: str, parameters: dict[str, Any], per_minute: list[int], minutes: int
) -> None:
    workload = published(name, **parameters)
    assert [len(at_s) for at_s in instants(workload)] == [rate * minutes for rate in per_minute]
    for client, (at_s, rate) in enumerate(zip(instants(workload), per_minute, strict=True)):
        assert np.diff(at_s) == pytest.approx(60 / rate)
        assert 0 <= at_s[0] < 60 / rate
        assert lengths(workload, client) == {(256, 256)}
    assert workload.until_s == 60 * minutes
    assert not workload.notes


def test_an_on_off_client_is_silent_in_every_second_minute() -> None:
    for variant, rates in (("overload", (120, 180)), ("less", (30, 120))):
        first, second = instants(published("vtc-on-off", variant=variant))
        assert (len(first), len(second)) == (rates[0] * 5, rates[1] * 10)
        assert set((first // 60 % 2).tolist()) == {0.0}
        assert np.bincount((second // 60).astype(int)).tolist() == [rates[1]] * 10


def test_the_poisson_on_off_clients_have_mixed_lengths() -> None:
    workload = published("vtc-on-off", variant="poisson")
    first, second = instants(workload)
    assert (first // 60 % 2 == 0).all()
    assert len(first) == pytest.approx(150, abs=50)
    assert len(second) == pytest.approx(1200, abs=140)
    assert 16 <= workload.prompt_tokens.min() < 20 and 505 < workload.prompt_tokens.max() <= 511


@pytest.mark.parametrize(
    ("variant", "pairs"), [("short-long", [(64, 64), (256, 256)]), ("input-output", [(512, 32), (32, 512)])]
)
def test_poisson_clients_have_their_lengths(variant: str, pairs: list[tuple[int, int]]) -> None:
    workload = published("vtc-poisson", variant=variant)
    assert [lengths(workload, client) for client in (0, 1)] == [{pair} for pair in pairs]
    counts = [len(at_s) for at_s in instants(workload)]
    assert counts == [pytest.approx(4800, abs=280), pytest.approx(900, abs=120)]
    gaps = np.diff(instants(workload)[0])
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.06)


def test_a_rising_client_rises_along_a_line() -> None:
    steady, rising = instants(published("vtc-rising"))
    assert (len(steady), len(rising)) == (300, 660)
    by_minute = np.bincount((rising // 60).astype(int))
    assert by_minute == pytest.approx(12 + 10.8 * (np.arange(10) + 0.5), abs=1.5)


def test_the_pattern_shifts_every_five_minutes() -> None:
    first, second = (np.bincount((at_s // 60).astype(int), minlength=15) for at_s in instants(published("vtc-shift")))
    assert first.tolist() == [30, 0, 30, 0, 30] + [60] * 5 + [30] * 5
    assert second.tolist() == [120] * 5 + [60] * 5 + [90] * 5


def test_weights_are_the_published_ones() -> None:
    assert [tenant.weight for tenant in published("vtc-weighted").tenants] == [1, 2, 3, 4]
    assert {tenant.weight for tenant in published("vtc-overload").tenants} == {1}


def test_rates_scale_with_the_device_and_minutes_do_not() -> None:
    workload = SCENARIOS["vtc-on-off"].build(0, capacity_per_s=4 * PUBLISHED_PER_S)
    first, second = instants(workload)
    assert (len(first), len(second)) == (2400, 7200)
    assert set((first // 60 % 2).tolist()) == {0.0}
    assert workload.until_s == 600
    assert workload.notes == ("rates are 4 times the published ones: capacity_per_s over 1.74",)
    assert SCENARIOS["vtc-on-off"].build(0, drain=True).until_s == np.inf

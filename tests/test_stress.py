"""The stress test's parts: what it sends, how it reads counters, what it makes of answers."""

import asyncio
import math
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from aps.data import azure_code_trace
from aps.service.tenants import DEFAULT_TENANTS
from aps.stress import limits
from aps.stress.client import Client, Outcome, ServiceError
from aps.stress.counters import Counters
from aps.stress.report import Times, jain, phase, started_in, while_all_wait
from aps.stress.tenants import Tenants
from aps.stress.tenants import settings as put_settings
from aps.stress.workloads import Call, burst, trace_slice
from aps.tenants import Tenant


def test_the_trace_is_whole_and_in_order() -> None:
    trace = azure_code_trace()
    assert len(trace) == 8819
    assert trace[0] == (0.0, 4808, 10)
    assert all(a.at_s <= b.at_s for a, b in pairwise(trace))
    assert 3435 < trace[-1].at_s < 3436


def test_a_slice_of_the_trace_keeps_its_times() -> None:
    whole = azure_code_trace()
    part = azure_code_trace(600.0, 60.0)
    assert part == [arrival for arrival in whole if 600.0 <= arrival.at_s < 660.0]
    assert len(part) == 421
    assert azure_code_trace(4000.0) == []


class Cut(Client):
    """To a service without tenants; it is cut off before it hears that the third is there."""

    def __init__(self, error: BaseException, made: bool) -> None:
        super().__init__("http://127.0.0.1:9", admin_key="k")
        self.error, self.made, self.tenants = error, made, set[str]()

    async def metrics(self) -> str:
        return ""

    async def administer(self, method: str, tenant: str, settings: dict[str, Any] | None = None) -> None:
        third = method == "PUT" and len(self.tenants) == 2
        if method == "DELETE" and tenant not in self.tenants:
            raise ServiceError("no such tenant")
        if method == "DELETE":
            self.tenants.remove(tenant)
        elif not third or self.made:
            self.tenants.add(tenant)
        if third:
            raise self.error


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize("error", [asyncio.CancelledError(), ServiceError("it refuses")], ids=["cancelled", "refused"])
async def test_no_tenant_is_left_of_a_test_that_is_cut_off_while_it_brings_them(
    error: BaseException, made: bool
) -> None:
    client = Cut(error, made)
    with pytest.raises(type(error)) as caught:
        await Tenants(client).__aenter__()
    assert caught.value is error and client.tenants == set()
    await client.__aexit__()


def test_the_trace_is_dealt_in_turn() -> None:
    calls = trace_slice(600.0, 60.0, ("x", "y"))
    arrivals = azure_code_trace(600.0, 60.0)
    assert [call.tenant for call in calls[:4]] == ["x", "y", "x", "y"]
    assert [(call.prompt_tokens, call.max_tokens) for call in calls] == [arrival[1:] for arrival in arrivals]
    assert calls[0].at_s == pytest.approx(arrivals[0].at_s - 600.0)


def test_the_burst_is_the_promised_one() -> None:
    calls = burst(50, seed=7)
    assert Counter((call.tenant, call.bid) for call in calls) == {("stress_vip", 10): 50, ("stress_free", 1): 50}
    assert all(442 <= call.prompt_tokens <= 738 and 96 <= call.max_tokens <= 160 for call in calls)
    assert calls == burst(50, seed=7) != burst(50, seed=8)
    many = burst(2000, seed=1)
    assert sum(call.prompt_tokens for call in many) / 4000 == pytest.approx(590, rel=0.01)
    assert sum(call.max_tokens for call in many) / 4000 == pytest.approx(128, rel=0.01)


def test_counters_read_the_text_format() -> None:
    counters = Counters(
        '# HELP x_total what\n# TYPE x_total counter\nx_total{tenant="a",reason="r"} 3\n'
        'x_total{tenant="b \\"\\\\\\n"} 4.5\n'
        'up 1\nle{le="+Inf"} +Inf\n'
    )
    assert counters.total("x_total") == 7.5
    assert counters.total("x_total", tenant="a") == 3
    assert counters.total("x_total", tenant='b "\\\n') == 4.5
    assert counters.total("x_total", tenant="nobody") == 0
    assert counters.total("le") == math.inf
    with pytest.raises(KeyError, match="no missing_total"):
        counters.total("missing_total")


def test_counters_say_what_is_there() -> None:
    counters = Counters('x_total{tenant="a"} 0\n')
    assert counters.has("x_total", tenant="a") and counters.has("x_total")
    assert not counters.has("x_total", tenant="b") and not counters.has("y_total")


def test_the_small_requests_fit_both_bursts_and_the_large_ones_do_not() -> None:
    bursts = {tenant.name: tenant.burst for tenant in DEFAULT_TENANTS}
    asked: Counter[str] = Counter()
    for call in limits.small():
        asked[call.tenant] += call.prompt_tokens + call.max_tokens
    assert set(asked) == {"tenant_a", "tenant_b"} and len(limits.small()) == 100
    assert all(tokens <= bursts[tenant] for tenant, tokens in asked.items())
    for call in limits.large():
        assert call.prompt_tokens + call.max_tokens == 700
        asked[call.tenant] += 700
    assert len(limits.large()) == 20 and all(tokens > bursts[tenant] for tenant, tokens in asked.items())


def test_a_tenant_is_put_with_null_for_no_limit() -> None:
    settings = put_settings(Tenant("x", weight=2.0))
    assert settings["rate"] is settings["burst"] is None and settings["weight"] == 2.0 and "name" not in settings
    assert put_settings(DEFAULT_TENANTS[0])["burst"] == 5000.0


def test_jain() -> None:
    assert jain([5.0, 5.0, 5.0]) == pytest.approx(1.0)
    assert jain([1.0, 0.0]) == 0.5
    assert jain([0.85, 0.15]) == pytest.approx(0.671, abs=5e-4)
    assert jain([0.0, 0.0]) is None


def test_what_started_counts_whole_and_the_ends_of_an_interval_belong_to_it() -> None:
    times = [Times("x", 0.0, started_at, 99.0, tokens) for started_at, tokens in ((1, 1), (2, 10), (3, 100), (4, 1000))]
    assert started_in((2.0, 3.0), times) == 110
    assert started_in((0.0, 1.5), times) == 1
    assert started_in((1.0, 1.0), times) == 0


def test_while_all_wait_is_where_every_tenant_has_a_waiting_request() -> None:
    def waits(tenant: str, arrived_at: float, started_at: float) -> Times:
        return Times(tenant, arrived_at, started_at, 99.0, 2)

    times = [waits("x", 0, 5), waits("x", 3, 9), waits("y", 1, 4), waits("y", 4, 6), waits("y", 8, 20)]
    # y's second request begins to wait at the very instant at which its first stops: one interval or two, the same time
    intervals = while_all_wait(times, ["x", "y"])
    assert sum(end - begin for begin, end in intervals) == pytest.approx((6 - 1) + (9 - 8))
    assert (intervals[0][0], intervals[-1]) == (1, (8, 9))
    assert while_all_wait(times, ["x", "y", "z"]) == []
    assert while_all_wait([waits("x", 2, 2)], ["x"]) == []


def metrics(prompt: int, output: int, busy: float, slots: float) -> Counters:
    return Counters(
        f'aps_prompt_tokens_total{{tenant="x"}} {prompt}\naps_output_tokens_total{{tenant="x"}} {output}\n'
        f'aps_device_busy_seconds_total{{device="gpu0"}} {busy}\n'
        f'aps_device_slot_seconds_total{{device="gpu0"}} {slots}\naps_device_slots{{device="gpu0"}} 16\n'
        'aps_devices 1\naps_gpu_hour_dollars 1.39\naps_tenant_weight{tenant="x"} 3\n'
        f'aps_shared_seconds_total {busy}\naps_shared_tokens_total{{tenant="x"}} {output}\n'
    )


def answer(arrived_at: float, wait: float, prompt: int = 600, output: int = 120) -> dict[str, Any]:
    return {
        "arrived_at": arrived_at,
        "queue_wait_s": wait,
        "ttft_s": wait + 1,
        "e2e_s": wait + 5,
        "prompt_tokens": prompt,
        "output_tokens": output,
    }


def test_a_phase_is_reported_from_answers_and_counter_differences() -> None:
    call = Call("x", 600, 120)
    outcomes = [
        Outcome(call, attempts=1, answer=answer(10.0, 0.0), total_s=5.0),
        Outcome(call, attempts=3, refused=Counter(over_rate=2), answer=answer(11.0, 4.0), total_s=30.0),
        Outcome(call, attempts=1, refused=Counter(over_rate=1), failure="out of patience", total_s=60.0),
        Outcome(call, attempts=1, refused=Counter(exceeds_burst=1), failure="exceeds_burst", total_s=0.0),
    ]
    report = phase(outcomes, metrics(1000, 100, 3.0, 4.0), metrics(2200, 340, 12.0, 84.0))
    assert report["makespan_s"] == 10.0  # 10 to 20
    assert (report["sent"], report["completed"]) == (4, 2)
    assert report["failures"] == {"out of patience": 1, "exceeds_burst": 1}
    assert (report["busy"], report["occupancy"]) == (0.9, 0.5)
    assert (report["output_tokens_per_s"], report["tokens_per_s"]) == (24.0, 144.0)
    assert report["dollars_per_million_tokens"] == pytest.approx(10 / 3600 * 1.39 / 1440 * 1e6)
    assert report["arrivals_spread_s"] == 1.0
    tenant = report["tenants"]["x"]
    assert (tenant["sent"], tenant["attempts"], tenant["completed"], tenant["gave_up"]) == (4, 6, 2, 1)
    assert tenant["refused"] == {"over_rate": 3, "exceeds_burst": 1}
    assert tenant["queue_wait_s"]["p50"] == 2.0
    assert tenant["with_retries_s"]["p50"] == 17.5
    assert tenant["promised_share"] == 1.0
    # Between 11 and 15 the second waits: nobody else is there, so all wait, and what starts then is the second itself.
    assert (report["all_wait_s"], report["jain"], tenant["share"]) == (4.0, 1.0, 1.0)
    assert (report["shared_s"], report["jain_computed"]) == (9.0, 1.0)


def test_a_phase_without_answers_has_no_figures_and_no_crash() -> None:
    report = phase([Outcome(Call("x", 1, 1), failure="gone")], metrics(0, 0, 0, 0), metrics(0, 0, 0, 0))
    assert report["completed"] == 0
    assert report["jain"] is report["busy"] is report["dollars_per_million_tokens"] is None
    assert report["tenants"]["x"]["ttft_s"] is None

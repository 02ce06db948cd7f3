"""What the driver's "no" says: which limit it was, and how large."""

import asyncio
from dataclasses import replace
from math import inf
from typing import Any

import pytest

from aps import Limits, Policy, Tenant
from aps.driver import Driver
from aps.service.errors import Refusal
from aps.service.refusals import refusal_of
from tests.driving import opened
from tests.virtual_loop import VirtualLoop, run

ASKED: dict[str, Any] = {"prompt_tokens": 60, "max_tokens": 40}


async def refused(driver: Driver, **asked: Any) -> Refusal:
    asked = ASKED | asked
    result = await driver.infer("a", **asked)
    assert result.status in ("rejected", "throttled")
    return refusal_of(result, driver, max_tokens=asked["max_tokens"])


@pytest.mark.parametrize(
    ("tenant", "options", "said"),
    [
        ({}, {"limits": Limits(max_context=90)}, "exceed the longest context of 90 tokens"),
        ({}, {"kv_tokens": 80}, "exceed the KV cache of every device, 80 tokens at most"),
        ({"max_request_tokens": 90}, {}, "exceed a's largest request of 90 tokens"),
        ({"kv_share": 0.5}, {"kv_tokens": 160}, "exceed a's share of the KV cache, 80 tokens"),
        ({"rate": 1.0, "burst": 90.0}, {}, "exceed a's burst of 90 tokens"),
        (
            {"rate": 1.0, "burst": 150.0},
            {"policy": Policy(bid_premium=0.1)},
            "at bid 10, which counts them x1.9, exceed a's burst of 150 tokens",
        ),
        ({}, {"limits": Limits(max_queued_tokens=90)}, "exceed the service's queue, which takes 90 tokens at most"),
        ({"max_queued": 0}, {}, "exceed a's queue, which takes 0 tokens at most"),
    ],
)
def test_a_limit_that_is_always_exceeded_is_named_with_its_size(
    tenant: dict[str, Any], options: dict[str, Any], said: str
) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, Tenant("a", **tenant), **options) as driver:
            refusal = await refused(driver, bid=10)
            assert refusal.error.message.startswith("60 prompt + 40 max tokens ")
            assert f" {said}: " in refusal.error.message
            largest = refusal.error.largest_max_tokens
            assert largest is not None
            if largest:
                assert (await driver.infer("a", prompt_tokens=60, max_tokens=largest, bid=10)).status == "finished"

    run(main)


def test_a_context_beyond_what_any_request_may_have() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            refusal = await refused(driver, prompt_tokens=2**31 - 1, max_tokens=1)
            assert "exceed the 2147483647 tokens that any request may have: " in refusal.error.message

    run(main)


@pytest.mark.parametrize(
    ("tenant", "limits", "said"),
    [
        ({"max_queued": 2}, Limits(), "a has 2 requests waiting, of 2 at most"),
        ({}, Limits(max_queued=3), "the service's queue of 3 requests is full, and keeps no more places for a"),
        (
            {"max_queued_tokens": 250},
            Limits(),
            "a may have 250 tokens waiting, and has no room for 100 more",
        ),
        (
            {},
            Limits(max_queued_tokens=170),
            "the service's queue of 170 tokens has no room for 100 more, and keeps none for a",
        ),
        ({"rate": 0.5, "burst": 150.0}, Limits(), "a is over its rate of 0.5 tokens/s"),
        ({"request_rate": 0.5, "request_burst": 1.0}, Limits(), "a is over its rate of 0.5 requests/s"),
    ],
)
@pytest.mark.parametrize("time_scale", [1.0, 10.0])
def test_a_limit_that_is_met_for_now_is_named_with_its_size(
    tenant: dict[str, Any], limits: Limits, said: str, time_scale: float
) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, Tenant("a", **tenant), limits=limits, slots=1, time_scale=time_scale) as driver:
            tickets = [driver.submit("a", **ASKED) for _ in range(5)]
            result = await tickets[-1].result()
            message = refusal_of(result, driver, max_tokens=40).error.message
            if time_scale == 1.0:
                assert message.startswith(f"{said}: try again in ") and message.endswith(" s")
            else:
                words = said.replace("/s", " a simulated second")
                assert message.startswith(f"{words}: try again in ") and message.endswith(" s of your clock")
            await driver.drain()

    run(main)


@pytest.mark.parametrize(
    ("tenant", "limits", "reason"),
    [
        (Tenant("a", max_queued=2), Limits(), "tenant_queue_full"),
        (Tenant("a", max_queued_tokens=200), Limits(), "tenant_queue_tokens_full"),
        (Tenant("a"), Limits(max_queued=2), "queue_full"),
        (Tenant("a"), Limits(max_queued_tokens=200), "queue_tokens_full"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
@pytest.mark.parametrize("time_scale", [1.0, 10.0])
def test_a_full_queue_says_how_often_there_is_room(
    tenant: Tenant, limits: Limits, reason: str, time_scale: float
) -> None:
    """A second of the service's clock until one that waited has started; then the time from one start to the next."""

    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, tenant, limits=limits, slots=1, time_scale=time_scale) as driver:
            starts, said = list[float](), list[float]()
            waiting = [driver.submit("a", **ASKED) for _ in range(3)]
            for _ in range(6):
                refusal = refusal_of(await driver.infer("a", **ASKED), driver, max_tokens=40)
                assert (refusal.error.reason, refusal.error.retry_after_s is None) == (reason, False)
                said.append((refusal.error.retry_after_s or 0.0) * time_scale)
                result = await waiting.pop(0).result()
                starts.append(result.arrived_at + (result.queue_wait_s or 0.0))
                waiting.append(driver.submit("a", **ASKED))
            assert said[0] == 1.0 != said[1]
            assert said[-1] == pytest.approx(starts[-1] - starts[-2], rel=0.05) != pytest.approx(1.0, rel=0.1)
            await driver.drain()

    run(main)


def test_a_deadline_is_of_the_service_s_clock() -> None:
    async def main(loop: VirtualLoop) -> None:
        for time_scale, seconds in ((1.0, "5 s"), (10.0, "5 simulated s")):
            async with opened(loop, Tenant("a", max_in_flight=1), time_scale=time_scale) as driver:
                driver.submit("a", prompt_tokens=10_000, max_tokens=10)
                result = await driver.infer("a", **ASKED, deadline_s=5.0)
                message = refusal_of(result, driver, deadline_s=5.0).error.message
                assert message == f"it had not started {seconds} after it arrived"
                await driver.drain()

    run(main)


def test_limits_that_changed_while_it_waited_are_named_and_what_would_do() -> None:
    async def main(loop: VirtualLoop) -> None:
        before = Tenant("a", rate=1.0, burst=500.0, max_in_flight=1)
        async with opened(loop, before) as driver:
            for changed, limit, burst in (
                (replace(before, max_request_tokens=90, burst=600.0), "a's largest request of 90 tokens", 600.0),
                (replace(before, kv_share=0.001, rate=inf, burst=inf), "a's share of the KV cache, 48 tokens", None),
            ):
                driver.set_tenant(before)
                first, second = (driver.submit("a", **ASKED) for _ in range(2))
                driver.set_tenant(changed)
                error = refusal_of(await second.result(), driver).error
                assert error.message.startswith("the limits changed while it waited: its prompt + max tokens exceed ")
                assert f" exceed {limit} now: " in error.message
                assert error.burst == burst
                assert error.largest_max_tokens == (30 if burst else 0)
                await first.result()
                await asyncio.sleep(500)

    run(main)

"""What the service says of a tenant and of itself: bucket, shares, estimates, health."""

import asyncio
import random
from math import inf
from typing import Any

import pytest

from aps import Policy, Scheduler, Tenant
from aps.backends import SimulatedBackend
from aps.backends.protocol import Health as DeviceState
from aps.driver import Driver, Ticket
from aps.service.config import Settings
from aps.service.errors import Refusal
from aps.service.estimates import Starts
from aps.service.health import Health, health_of
from aps.service.metrics import Exporter
from aps.service.status import TenantStatus, status_of
from tests.driving import opened
from tests.serving import serving
from tests.virtual_loop import VirtualLoop, run


async def backlog(driver: Driver, names: str, each: int, **asked: Any) -> None:
    for _ in range(each):
        for name in names:
            driver.submit(name, prompt_tokens=50, max_tokens=50, **asked)


# A tenant


@pytest.mark.parametrize("step_s", [0.11, 0.23, 0.37, 0.53, 0.71])
def test_one_that_is_gone_between_two_looks_is_unknown(step_s: float) -> None:
    now = 0.0

    def clock() -> float:
        nonlocal now
        now += step_s  # at each look
        return now

    async def scenario() -> None:
        backend = SimulatedBackend(clock=clock)
        async with Driver(Scheduler([Tenant("a"), Tenant("b")], devices=backend.devices), backend) as driver:
            driver.submit("a", prompt_tokens=10, max_tokens=300)
            driver.remove_tenant("a")
            with pytest.raises(Refusal):
                for _ in range(1000):
                    assert status_of(driver, "a").state == "draining"

    asyncio.run(scenario())


def test_over_http_it_fits_its_schema() -> None:
    with serving((Tenant("x", weight=3.0, rate=1e-3, burst=1000.0), Tenant("y"))) as service:
        fresh = service.status("x")
        TenantStatus.model_validate(fresh, extra="forbid")
        assert fresh["bucket"] == {
            "rate": 1e-3,
            "burst": 1000,
            "level": 1000,
            "debt": 0,
            "over_rate": "refuse",
            "typical_tokens": 512,
            "typical_requests": 1,
        }
        assert fresh["request_bucket"] == {"rate": None, "burst": None, "level": None}
        assert fresh["share"] == {"weight": 3, "promised": 0.75, "received": None, "promised_then": None}
        assert (fresh["queue_wait_s"], fresh["refused"], fresh["gpu_s"]) == (None, {}, 0)
        assert service.infer(tenant_id="x", prompt_tokens=300, max_tokens=100).status_code == 200
        assert service.infer(tenant_id="x", prompt_tokens=300, max_tokens=400).status_code == 429
        status = service.status("x")
        TenantStatus.model_validate(status, extra="forbid")
        assert status["bucket"]["level"] == pytest.approx(600, abs=0.1)
        assert (status["bucket"]["typical_tokens"], status["bucket"]["typical_requests"]) == (400, 2)
        assert status["recent"] == {"admitted": 1, "throttled": 1, "rejected": 0}
        assert status["refused"] == {"over_rate": 1}
        assert status["requests"]["finished"] == status["e2e_s"]["count"] == 1
        assert status["e2e_s"]["p50"] == pytest.approx(300 / 1024 + 100 / 128, rel=0.05)
        assert status["gpu_s"] == pytest.approx(status["e2e_s"]["p50"], rel=0.05)
        unlimited = service.status("y")
        assert unlimited["bucket"]["rate"] is unlimited["bucket"]["typical_requests"] is None
        assert service.client.get("/tenants/nobody/status").status_code == 404


def test_a_request_bucket_and_the_wait_for_it() -> None:
    tenants = (Tenant("x", rate=1e-3, burst=1e4, request_rate=1e-3, request_burst=2.0),)
    with serving(tenants, time_scale=10.0) as service:
        assert service.status("x")["request_bucket"] == {"rate": 1e-3, "burst": 2, "level": 2}
        for _ in range(2):
            assert service.infer(tenant_id="x", prompt_tokens=10, max_tokens=10).status_code == 200
        assert service.infer(tenant_id="x", prompt_tokens=10, max_tokens=10).status_code == 429
        status = service.status("x")
        assert 0 <= status["request_bucket"]["level"] < 1
        assert status["refused"] == {"over_request_rate": 1}
        assert status["estimated_wait_s"] == pytest.approx(1000 * (1 - status["request_bucket"]["level"]))


def test_a_burst_in_typical_requests_pays_the_premium_of_the_default_bid() -> None:
    async def main(loop: VirtualLoop) -> None:
        tenant = Tenant("a", rate=10.0, burst=1000.0, default_bid=6)
        async with opened(loop, tenant, policy=Policy(bid_premium=0.1)) as driver:
            await driver.infer("a", prompt_tokens=60, max_tokens=40)
            assert status_of(driver, "a").bucket.typical_requests == 6  # 1000 / (100 * 1.5)

    run(main)


def test_refused_requests_are_not_typical_and_one_that_never_fits_has_no_estimate() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, Tenant("a", rate=10.0, burst=300.0, default_max_tokens=20)) as driver:
            await driver.infer("a", prompt_tokens=2**31 - 1, max_tokens=1)
            bucket = status_of(driver, "a").bucket
            assert (bucket.typical_tokens, bucket.typical_requests) == (40.0, 7)  # as its default_max_tokens says
            for _ in range(5):
                await driver.infer("a", prompt_tokens=100, max_tokens=100)  # but for the first, throttled
            bucket = status_of(driver, "a").bucket
            assert (bucket.typical_tokens, bucket.typical_requests) == (200.0, 1)
            driver.set_tenant(Tenant("a", rate=10.0, burst=150.0))
            status = status_of(driver, "a")
            assert status.bucket.typical_requests is status.estimated_wait_s is None

    run(main)


def test_share_received_beside_share_promised() -> None:
    async def main(loop: VirtualLoop) -> None:
        tenants = (Tenant("a", weight=2.0), Tenant("b"), Tenant("c"))
        async with opened(loop, *tenants, policy=Policy(fairness_window=256.0)) as driver:
            await backlog(driver, "ab", 300)
            await asyncio.sleep(40)
            share = status_of(driver, "a").share
            assert (share.weight, share.promised) == (2.0, 0.5)  # of a, b and c
            assert share.promised_then == pytest.approx(2 / 3)  # of a and b
            assert share.received == pytest.approx(2 / 3, abs=0.03)
            assert status_of(driver, "c").share.received is None
            await driver.drain(0)

    run(main)


def test_who_is_being_removed_has_a_status_and_no_estimate() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            await backlog(driver, "a", 40)
            driver.remove_tenant("a")
            status = status_of(driver, "a")
            assert (status.state, status.estimated_wait_s, status.waiting) == ("draining", None, 39)
            await driver.drain()
            with pytest.raises(Refusal):
                status_of(driver, "a")

    run(main)


def test_a_look_while_the_timer_is_late_plays_what_is_due_first() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            tickets = [driver.submit("a", prompt_tokens=100, max_tokens=50) for _ in range(40)]
            exporter = Exporter(driver)
            for _ in range(5):
                loop.block(0.7)  # several steps end in it
                status_of(driver, "a")
                loop.block(0.7)
                exporter.page(Settings())
                loop.block(0.7)
                health_of(driver)
            assert {(await ticket.result()).status for ticket in tickets} == {"finished"}

    run(main)


# The estimate


def test_nobody_waits_where_a_slot_is_free() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            assert status_of(driver, "a").estimated_wait_s == 0.0

    run(main)


def test_nothing_is_known_before_anything_was_computed() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            await backlog(driver, "a", 40)
            assert status_of(driver, "a").estimated_wait_s is None
            await driver.drain(0)

    run(main)


@pytest.mark.parametrize("limits", [{"max_queued": 0}, {"max_queued_tokens": 100}, {"max_request_tokens": 100}])
def test_one_that_would_be_refused_for_ever_has_no_wait(limits: dict[str, Any]) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, Tenant("a", **limits), Tenant("b", default_max_tokens=20)) as driver:
            assert status_of(driver, "a").estimated_wait_s is None
            assert status_of(driver, "b").estimated_wait_s == 0.0

    run(main)


def test_a_bucket_must_fill_first() -> None:
    async def main(loop: VirtualLoop) -> None:
        refused = Tenant("a", rate=10.0, burst=200.0)
        queued = Tenant("b", rate=10.0, burst=200.0, over_rate="queue")
        async with opened(loop, refused, queued) as driver:
            assert status_of(driver, "a").estimated_wait_s is None  # its default is more than the bucket holds
            for name in ("a", "b"):
                for _ in range(2):
                    await driver.infer(name, prompt_tokens=50, max_tokens=50)
            driver.submit("b", prompt_tokens=50, max_tokens=50)
            for name, waiting in (("a", 0), ("b", 100)):
                status = status_of(driver, name)
                level = status.bucket.level
                assert level is not None and status.waiting_tokens == waiting
                assert status.estimated_wait_s == pytest.approx((100 + waiting - level) / 10.0)
            await driver.drain()

    run(main)


def test_a_request_waits_for_the_larger_ones_before_it_to_be_paid() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, Tenant("a", rate=10.0, burst=100.0, over_rate="queue")) as driver:
            await driver.infer("a", prompt_tokens=50, max_tokens=50)
            tickets = [driver.submit("a", prompt_tokens=n, max_tokens=n) for n in (50, 50, 8)]
            level = driver.snapshot().tenants["a"].level
            starts, results = Starts(driver), []
            for ahead, ticket in ((0, tickets[0]), (200, tickets[2])):
                tokens = ticket.prompt_tokens + ticket.max_tokens
                start_in_s = starts.start_in_s(ticket, driver.explain(ticket.id))
                assert start_in_s == pytest.approx((ahead + tokens - level) / 10.0)
                results.append(start_in_s)
            assert results[1] is not None
            waited = (await tickets[2].result()).queue_wait_s
            assert waited == pytest.approx(results[1], abs=1.0)

    run(main)


@pytest.mark.parametrize(("heavy", "light"), [(300, 300), (300, 20)])
def test_the_estimate_is_about_right_under_load(heavy: int, light: int) -> None:
    """Each tenant's next request, at the bid that the others have."""

    async def main(loop: VirtualLoop) -> None:
        policy = Policy(fairness_window=256.0)
        async with opened(loop, Tenant("a", weight=3.0), Tenant("b"), policy=policy) as driver:
            await backlog(driver, "a", heavy)
            await backlog(driver, "b", light)
            await asyncio.sleep(20)
            for name in "ab":
                estimate = status_of(driver, name).estimated_wait_s
                ticket = driver.submit(name, prompt_tokens=50, max_tokens=50)
                result = await ticket.result()
                assert estimate is not None and result.queue_wait_s is not None
                assert 0.5 * result.queue_wait_s - 3 < estimate < 1.5 * result.queue_wait_s + 3
            await driver.drain(0)

    run(main)


async def sent(driver: Driver, name: str, number: int, draw: random.Random) -> list[Ticket]:
    """Requests of 200 and 100 tokens, each half more or less, one soon after the other."""
    tickets = []
    for _ in range(number):
        part = draw.uniform(0.5, 1.5)
        tickets.append(driver.submit(name, prompt_tokens=int(200 * part), max_tokens=int(100 * part)))
        await asyncio.sleep(0.001)
    return tickets


@pytest.mark.parametrize("idle_s", [0.0, 20.0, 100.0])
@pytest.mark.parametrize("gpus", [1, 2])
def test_the_estimate_holds_after_a_quiet_minute(idle_s: float, gpus: int) -> None:
    """One small request, nothing for a while, then many at once: within a factor of 4 while nothing is known but how
    the small one went, and within 2 once the devices have been full for a while."""

    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, Tenant("a", weight=85.0), Tenant("b", weight=15.0), gpus=gpus) as driver:
            await driver.infer("a", prompt_tokens=100, max_tokens=50)
            await asyncio.sleep(idle_s)
            assert status_of(driver, "a").estimated_wait_s == 0.0
            for factor, number in ((4, 80 * gpus), (2, 40 * gpus)):
                await sent(driver, "a", number, random.Random(1))
                estimate = status_of(driver, "a").estimated_wait_s
                result = await driver.infer("a", prompt_tokens=200, max_tokens=100)
                assert estimate is not None and result.queue_wait_s is not None
                assert result.queue_wait_s / factor < estimate < factor * result.queue_wait_s
            await driver.drain(0)

    run(main)


@pytest.mark.parametrize("idle_s", [0.0, 100.0])
def test_when_waiting_requests_start(idle_s: float) -> None:
    """Once the devices have been full: nine in ten within a factor of 2, or by less than a request takes."""

    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, Tenant("a", weight=85.0), Tenant("b", weight=15.0)) as driver:
            starts, draw, seen = Starts(driver), random.Random(2), list[tuple[Ticket, float, float]]()
            for ticket in await sent(driver, "a", 40, draw):
                await ticket.result()
            await asyncio.sleep(idle_s)
            tickets = await sent(driver, "a", 60, draw) + await sent(driver, "b", 20, draw)
            for _ in range(6):
                for ticket in tickets:
                    where = None if ticket.done else driver.explain(ticket.id)
                    if where is not None and where.state == "waiting":
                        start_in_s = starts.start_in_s(ticket, where)
                        assert start_in_s is not None
                        seen.append((ticket, driver.now, start_in_s))
                await asyncio.sleep(3.0)
            right = 0
            for ticket, now, start_in_s in seen:
                result = await ticket.result()
                assert result.queue_wait_s is not None
                really = result.arrived_at + result.queue_wait_s - now
                right += really / 2 < start_in_s < 2 * really or abs(really - start_in_s) < 2.0
            assert len(seen) > 100 and right > 0.9 * len(seen), (right, len(seen))

    run(main)


# Health


def test_live_and_ready_apart() -> None:
    with serving((Tenant("x"),)) as service:
        for path in ("/health", "/health/live", "/health/ready"):
            reply = service.client.get(path)
            assert reply.status_code == 200
            Health.model_validate(reply.json(), extra="forbid")
        health = reply.json()
        assert (health["live"], health["ready"], health["draining"]) == (True, True, False)
        assert (health["devices"], health["slots"], health["tenants"], health["profile"]) == (1, 16, 1, "reference")
        assert health["device_health"] == [{"name": "gpu0", "ok": True, "detail": ""}]
        assert (health["outstanding"], health["since_progress_s"]) == (0, None)
        service.driver.draining = True
        replies = [service.client.get(path) for path in ("/health", "/health/live", "/health/ready")]
        assert [reply.status_code for reply in replies] == [200, 200, 503]
        assert replies[2].json()["draining"] is True


def test_ready_while_one_device_takes_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    ill: set[int] = set()

    def state(device: int) -> DeviceState:
        return DeviceState(False, "unplugged") if device in ill else DeviceState(True)

    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, gpus=2) as driver:
            monkeypatch.setattr(driver.backend, "health", state)
            ill.add(1)
            health = health_of(driver)
            assert (health.live, health.ready) == (True, True)
            assert [(device.name, device.ok, device.detail) for device in health.device_health] == [
                ("gpu0", True, ""),
                ("gpu1", False, "unplugged"),
            ]
            ill.add(0)
            assert (health_of(driver).live, health_of(driver).ready) == (True, False)
            ill.clear()

    run(main)


def test_time_since_progress_grows_while_a_device_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            await asyncio.sleep(100)
            assert health_of(driver).since_progress_s is None
            ticket = driver.submit("a", prompt_tokens=512, max_tokens=100)
            await asyncio.sleep(0.6)
            since = health_of(driver).since_progress_s
            assert since is not None and since < 0.1
            ends = driver.backend.next_event_at()
            with monkeypatch.context() as hung:
                hung.setattr(driver.backend, "next_event_at", lambda: inf)
                await asyncio.sleep(50)
                since = health_of(driver).since_progress_s
                assert since is not None and since > 49
            assert ends < driver.now
            driver.cancel(ticket.id)

    run(main)

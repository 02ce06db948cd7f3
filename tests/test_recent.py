"""The sliding window: shares while tenants contend, work, verdicts. Times and tokens are exact on a virtual loop."""

import asyncio

import pytest

from aps import Policy, Scheduler, Tenant
from aps.backends import SimulatedBackend
from aps.driver import Driver
from aps.recent import PIECES
from tests.driving import opened
from tests.virtual_loop import VirtualLoop, run

HEAVY, LIGHT = Tenant("heavy", weight=3.0), Tenant("light")


async def crowd(driver: Driver, *names: str, each: int, tokens: int = 50) -> None:
    tickets = [driver.submit(name, prompt_tokens=50, max_tokens=tokens) for _ in range(each) for name in names]
    for ticket in tickets:
        await ticket.result()


async def give_up(driver: Driver, crowded: asyncio.Task[None]) -> None:
    crowded.cancel()
    await driver.drain(0)


def test_weights_decide_who_gets_what_and_the_indices_say_so() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, HEAVY, LIGHT, policy=Policy(fairness_window=256.0)) as driver:
            crowded = asyncio.create_task(crowd(driver, "heavy", "light", each=300))
            await asyncio.sleep(50)
            found = driver.lately()
            assert found.seconds == pytest.approx(50.0)
            assert found.contended_s > 40
            heavy, light = found.shares["heavy"], found.shares["light"]
            assert heavy.received + light.received == pytest.approx(heavy.pool) == light.pool
            assert heavy.promised == pytest.approx(0.75 * heavy.pool)
            assert light.equal == pytest.approx(0.5 * light.pool)
            assert heavy.received / heavy.pool == pytest.approx(0.75, abs=0.03)
            assert found.weighted_jain == pytest.approx(1.0, abs=0.005)
            assert found.jain == pytest.approx(1 / (2 * (0.75**2 + 0.25**2)), abs=0.02)
            await give_up(driver, crowded)

    run(main)


def test_who_waits_alone_shares_with_nobody() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            crowded = asyncio.create_task(crowd(driver, "a", each=200))
            await asyncio.sleep(20)
            await driver.infer("b", prompt_tokens=10, max_tokens=10)
            found = driver.lately()
            assert (found.shares, found.jain, found.weighted_jain, found.contended_s) == ({}, None, None, 0.0)
            await give_up(driver, crowded)

    run(main)


def test_who_is_held_back_by_its_own_limits_is_owed_nothing() -> None:
    async def main(loop: VirtualLoop) -> None:
        capped = Tenant("capped", max_in_flight=1)
        async with opened(loop, HEAVY, LIGHT, capped) as driver:
            crowded = asyncio.create_task(crowd(driver, "heavy", "light", "capped", each=200))
            await asyncio.sleep(30)
            found = driver.lately()
            assert found.shares.keys() == {"heavy", "light"}
            await give_up(driver, crowded)

    run(main)


def test_work_in_the_window_is_what_the_device_did() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            await asyncio.sleep(3)
            await driver.infer("a", prompt_tokens=512, max_tokens=128)
            await asyncio.sleep(10 - driver.now)
            found = driver.lately()
            assert found.seconds == pytest.approx(10.0)
            assert (found.work.prefill_tokens, found.work.output_tokens, found.work.first_tokens) == (512, 128, 1)
            assert found.work.busy_s == found.work.slot_s == pytest.approx(512 / 1024 + 128 / 128)

    run(main)


def test_a_piece_longer_than_the_window_counts_for_its_part() -> None:
    """Nothing starts for minutes, and nobody looks: the window is there, and has what was done in it."""

    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            ticket = driver.submit("a", prompt_tokens=1, max_tokens=60_000)  # 128 of them a second
            for instant in (30, 100, 107, 407):
                await asyncio.sleep(instant - driver.now)
                found = driver.lately()
                seconds = min(instant, 60.0)
                assert found.seconds == pytest.approx(seconds)
                assert found.work.busy_s == found.work.slot_s == pytest.approx(seconds, abs=0.01)
                assert found.work.output_tokens == pytest.approx(128 * seconds, abs=2)
            await ticket.result()
            ended = driver.now
            await driver.infer("a", prompt_tokens=1, max_tokens=1)
            await asyncio.sleep(20)
            assert driver.lately().work.busy_s == pytest.approx(60 - (driver.now - ended), abs=0.1)
            await asyncio.sleep(1000)
            assert driver.lately().work.busy_s < 0.1

    run(main)


def test_an_idle_window_is_as_long_as_any_and_has_no_work() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            for instant in (20, 100, 1000):
                await asyncio.sleep(instant - driver.now)
                found = driver.lately()
                assert found.seconds == min(60.0, instant)
                assert set(found.work) == {0.0}
                assert (found.contended_s, found.jain, found.weighted_jain) == (0.0, None, None)
            await driver.infer("a", prompt_tokens=512, max_tokens=128)  # it is not lost in the long piece
            found = driver.lately()
            assert found.seconds == pytest.approx(60.0)
            assert (found.work.prefill_tokens, found.work.output_tokens) == (512, 128)
            assert found.work.busy_s == pytest.approx(512 / 1024 + 128 / 128)

    run(main)


def test_of_long_contention_and_old_verdicts_the_window_has_its_part() -> None:
    async def main(loop: VirtualLoop) -> None:
        tenants = (Tenant("a"), Tenant("b"), Tenant("c", rate=1.0, burst=10.0))
        async with opened(loop, *tenants, slots=1) as driver:
            long = driver.submit("a", prompt_tokens=1, max_tokens=128 * 300)
            waiting = [driver.submit(name, prompt_tokens=1, max_tokens=10) for name in ("a", "b")]
            await asyncio.sleep(10)
            assert driver.lately().contended_s == 0.0  # not throughout
            for _ in range(3):
                driver.submit("c", prompt_tokens=50, max_tokens=50)  # never
            await asyncio.sleep(200 - driver.now)
            found = driver.lately()  # a piece of 190 s
            assert found.contended_s == pytest.approx(60.0)
            assert found.shares["a"].received == pytest.approx(128 * 60, abs=2)
            assert found.jain == found.weighted_jain == pytest.approx(0.5)
            assert (found.verdicts("a"), found.verdicts("c")) == ((0, 0, 0), (0, 0, 1))
            for ticket in (long, *waiting):
                await ticket.result()

    run(main)


def test_the_window_slides_and_its_memory_is_bounded() -> None:
    async def main(loop: VirtualLoop) -> None:
        async with opened(loop) as driver:
            recent = driver._pump.recent
            crowded = asyncio.create_task(crowd(driver, "a", "b", each=2000, tokens=20))
            for _ in range(40):
                await asyncio.sleep(4)
                found = driver.lately()
                assert len(recent._pieces) <= PIECES + 1
                assert found.seconds == pytest.approx(min(driver.now, recent.window_s))
            assert 2 * found.shares["a"].pool < sum(driver.metrics.while_all_wait(driver.now).tokens.values())
            await give_up(driver, crowded)
            driver.draining = False
            await asyncio.sleep(500)
            idle = driver.lately()
            assert idle.shares == {}
            await driver.infer("a", prompt_tokens=10, max_tokens=10)
            assert driver.lately().seconds == pytest.approx(recent.window_s)

    run(main)


def test_verdicts_in_the_window() -> None:
    async def main(loop: VirtualLoop) -> None:
        backend = SimulatedBackend(clock=loop.time)
        tenants = (Tenant("a", rate=1.0, burst=100.0), Tenant("b"))
        async with Driver(Scheduler(tenants, devices=backend.devices), backend) as driver:
            for prompt in (50, 40, 90, 200):  # the third is over its rate, the fourth over its burst
                await driver.infer("a", prompt_tokens=prompt, max_tokens=5)
            assert driver.lately().verdicts("a") == (2, 1, 1)
            assert driver.lately().verdicts("b") == (0, 0, 0)
            for _ in range(30):
                await asyncio.sleep(10)
                await driver.infer("b", prompt_tokens=10, max_tokens=5)
            assert driver.lately().verdicts("a") == (0, 0, 0)
            assert 5 <= driver.lately().verdicts("b")[0] <= 8
            driver.remove_tenant("b")
            driver.add_tenant(Tenant("b"))
            await driver.infer("b", prompt_tokens=10, max_tokens=5)
            assert driver.lately().verdicts("b") == (1, 0, 0)
            with pytest.raises(KeyError):
                driver.lately().verdicts("nobody")

    run(main)


def test_a_large_time_scale_makes_few_pieces() -> None:
    """A piece costs a look at all tenants: at most five of them in a wall second."""

    async def main(loop: VirtualLoop) -> None:
        async with opened(loop, time_scale=10_000.0) as driver:
            crowded = asyncio.create_task(crowd(driver, "a", "b", each=100_000 // 20))
            rolled = 0
            recent = driver._pump.recent
            roll = recent.roll

            def counted(now: float) -> None:
                nonlocal rolled
                rolled += 1
                roll(now)

            recent.roll = counted  # type: ignore[method-assign]
            await asyncio.sleep(0.25)
            assert 1 <= rolled <= 2
            await give_up(driver, crowded)

    run(main)

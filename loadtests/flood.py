"""One tenant sends more requests than the queue of all takes; a quiet tenant is never refused and keeps its latency.

    python loadtests/flood.py --over driver
    python loadtests/flood.py --over http

None of the flood's requests waits for another to be sent. While they come they wait for their tenant's own bucket
alone, so the queue fills however slow the sender is; then the bucket is lifted, and all that waits has the device to
contend for. Several rounds, so that what the first round leaves behind is told from what every round would. Prints
figures; exit code 1 when the quiet tenant waits too long, anything but the flood's surplus is refused, something is
lost, or memory stays up. The device is simulated; times of service are simulated seconds.
"""

import argparse
import asyncio
import gc
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from aps.backends.simulated import SimulatedBackend
from aps.driver import Driver, Ticket
from aps.policy import Limits
from aps.scheduler import Scheduler
from aps.service.keys import new_key
from aps.tenants import Tenant
from loadtests.books import astray, idle, memory_verdict, outstanding, verdict
from loadtests.figures import percentile
from loadtests.serving import Service, resident_bytes, serving
from loadtests.wire import Connection, message, request

PROFILE, TIME_SCALE = "a100-llama2-7b", 10.0
PROMPT, OUTPUT = 16, 4
SHAPE = {"prompt_tokens": PROMPT, "max_tokens": OUTPUT}
CONNECTIONS = 32
HELD = {"rate": 1e-3, "burst": PROMPT + OUTPUT, "over_rate": "queue"}  # of the flood: one request, then none
FREE = {"rate": None, "burst": None}
ALONE = 20  # requests of the quiet tenant before a flood, and while the flood waits for its bucket
EVERY_S = 0.05  # of the client, between two requests of the quiet tenant
LONGEST_WAIT_S = 1.0  # simulated
DRAINED_WITHIN_S = 600.0
CONFIG = f"""
[devices]
profile = "{PROFILE}"
time_scale = {TIME_SCALE}
[requests]
max_finished = 100
[server]
drain_s = 1
[logging]
level = "error"
[tenants.quiet]
[tenants.flood]
"""

Ask = Callable[[], Awaitable[float]]  # one request of the quiet tenant; its queue wait


@dataclass(frozen=True)
class Plan:
    """What is played: rounds of so many requests, against a queue of so many, and the quiet tenant's longest wait."""

    requests: int
    queue: int
    rounds: int
    wait_s: float


class Round:
    """What one flood did. Waits are simulated seconds."""

    def __init__(self, alone: list[float], flooded: list[float], sent_s: float, all_s: float, most: int) -> None:
        self.alone, self.flooded, self.sent_s, self.all_s, self.most = alone, flooded, sent_s, all_s, most

    def __str__(self) -> str:
        return (
            f"sent in {self.sent_s:.1f} s, {self.most:,} waiting at most, ended after {self.all_s:.1f} s; "
            f"the quiet tenant's queue wait, simulated s: p50 {percentile(self.flooded, 50):.3f}, "
            f"p99 {percentile(self.flooded, 99):.3f} of {len(self.flooded)} requests "
            f"(before the flood p99 {percentile(self.alone, 99):.3f})"
        )


async def one_round(
    ask: Ask,
    flood: Callable[[], Awaitable[None]],
    lift: Callable[[], Awaitable[None]],
    waiting: Callable[[], Awaitable[int]],
) -> Round:
    """The quiet tenant alone for a second, then beside a flood until all of it has ended. lift: the flood's bucket."""
    alone, flooded = [], []
    for _ in range(ALONE):
        alone.append(await ask())
        await asyncio.sleep(EVERY_S)
    began = time.monotonic()
    sending = asyncio.ensure_future(flood())
    sent_s, most = 0.0, 0
    while True:
        flooded.append(await ask())
        await asyncio.sleep(EVERY_S)
        if sending.done() and not sent_s:
            await sending
            sent_s = time.monotonic() - began
            most = await waiting()
            for _ in range(ALONE):
                flooded.append(await ask())
            await lift()
        if len(flooded) % 10 == 0 or sent_s:
            there = await waiting()
            most = max(most, there)
            if sent_s and not there:
                return Round(alone, flooded, sent_s, time.monotonic() - began, most)


async def over_driver(plan: Plan) -> int:
    """The driver in this process."""
    backend = SimulatedBackend(PROFILE, time_scale=TIME_SCALE)
    tenants = (Tenant("quiet"), Tenant("flood"))
    scheduler = Scheduler(tenants, devices=backend.devices, limits=Limits(max_queued=plan.queue))
    tickets: list[Ticket] = []
    refused: Counter[str] = Counter()
    sizes, blocks, peak = [resident_bytes()], [sys.getallocatedblocks()], 0
    async with Driver(scheduler, backend) as driver:

        async def ask() -> float:
            result = await driver.infer("quiet", prompt_tokens=PROMPT, max_tokens=OUTPUT)
            assert result.status == "finished" and result.queue_wait_s is not None
            return result.queue_wait_s

        async def flood() -> None:
            driver.set_tenant(Tenant("flood", **HELD))  # type: ignore[arg-type]
            for at in range(plan.requests):
                tickets.append(driver.submit("flood", prompt_tokens=PROMPT, max_tokens=OUTPUT))
                if at % 500 == 499:
                    await asyncio.sleep(0)

        async def lift() -> None:
            driver.set_tenant(Tenant("flood"))

        async def waiting() -> int:
            nonlocal peak
            peak = max(peak, resident_bytes())
            return driver.outstanding

        played, lost = [], 0
        for _ in range(plan.rounds):
            played.append(await one_round(ask, flood, lift, waiting))
            print(played[-1], flush=True)
            lost += plan.requests - sum(ticket.done for ticket in tickets)
            refused.update(ticket.verdict.reason for ticket in tickets if not ticket.verdict.admitted)
            tickets.clear()
            gc.collect()
            sizes.append(resident_bytes())
            blocks.append(sys.getallocatedblocks())
        found = driver.invariants()
        grown = blocks[-1] - blocks[1]
        print(f"Python's allocated blocks: {', '.join(f'{count:,}' for count in blocks)} before and after each round")
        found["blocks a request that rounds add up"] = round(grown / (plan.requests * (plan.rounds - 1)))
        return _verdict(plan, played, refused, sizes, peak, {**found, "requests without an end": lost})


async def over_http(plan: Plan) -> int:
    """A service in a process of its own; the flood does not wait for answers (`wait: false`)."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "aps.toml"
        config.write_text(f"{CONFIG}[limits]\nmax_queued = {plan.queue}\n")
        key = new_key()
        with serving("--config", str(config), env={"APS_ADMIN_KEY": key}) as service:
            return await _over_http(plan, service, key)


async def _over_http(plan: Plan, service: Service, key: str) -> int:
    quiet = message({"tenant_id": "quiet", **SHAPE}, service.port, key=key)
    noise = message({"tenant_id": "flood", "wait": False, **SHAPE}, service.port, key=key)
    hold, free = (request("PATCH", "/admin/tenants/flood", service.port, each, key=key) for each in (HELD, FREE))
    reads = {"authorization": f"Bearer {key}"}
    own = await Connection.open(service.port)
    refused: Counter[str] = Counter()
    peak = 0
    sizes = [service.resident_bytes()]

    async def ask() -> float:
        status, answer = await own.ask(quiet)
        assert status == 200, answer
        wait_s: float = answer["queue_wait_s"]
        return wait_s

    async def send(count: int) -> None:
        connection = await Connection.open(service.port)
        for _ in range(count):
            status, answer = await connection.ask(noise)
            if status != 202:
                refused[answer["error"]["reason"]] += 1
        await connection.close()

    async def change(whole: bytes) -> None:
        connection = await Connection.open(service.port)
        status, answer = await connection.ask(whole)
        assert status == 200, answer
        await connection.close()

    async def flood() -> None:
        await change(hold)
        shares = [plan.requests // CONNECTIONS + (at < plan.requests % CONNECTIONS) for at in range(CONNECTIONS)]
        await asyncio.gather(*map(send, shares))

    async def lift() -> None:
        await change(free)

    async def waiting() -> int:
        nonlocal peak
        peak = max(peak, service.resident_bytes())
        return await outstanding(service, reads)

    played: list[Round] = []
    for _ in range(plan.rounds):
        played.append(await one_round(ask, flood, lift, waiting))
        print(played[-1], flush=True)
        await idle(service, DRAINED_WITHIN_S, reads)
        sizes.append(service.resident_bytes())
    await own.close()
    return _verdict(plan, played, refused, sizes, peak, astray(service.get("/metrics", reads)))


def _verdict(
    plan: Plan, played: list[Round], refused: Counter[str], sizes: list[int], peak: int, found: Mapping[str, float]
) -> int:
    sent, surplus = plan.rounds * plan.requests, plan.rounds * max(0, plan.requests - plan.queue - 1)
    worst = max(percentile(each.flooded, 99) or 0.0 for each in played)
    lost = ", ".join(f"{name} {value:g}" for name, value in found.items())
    return verdict(
        [
            (
                f"the quiet tenant's p99 queue wait {worst:.3f} s <= {plan.wait_s:g} s simulated, and none refused",
                worst <= plan.wait_s,
            ),
            (
                f"of the flood's {sent:,} requests {refused.total():,} refused >= {surplus:,}, as queue_full alone",
                refused.total() >= surplus and set(refused) <= {"queue_full"},
            ),
            (f"astray: {lost}", not any(found.values())),
            memory_verdict(sizes, max(peak, *sizes)),
        ]
    )


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--over", choices=("driver", "http"), default="http", help="(default %(default)s)")
    parser.add_argument("--requests", type=int, default=120_000, metavar="N", help="(default %(default)s)")
    parser.add_argument(
        "--queue", type=int, default=Limits().max_queued, metavar="N", help="max_queued (default %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=4, metavar="N", help="2 or more (default %(default)s)")
    parser.add_argument(
        "--wait-s",
        type=float,
        default=LONGEST_WAIT_S,
        metavar="S",
        help="the quiet tenant's p99 queue wait in the flood, simulated seconds, at most (default %(default)s)",
    )
    options = parser.parse_args()
    if options.requests < 1 or options.queue < 1 or options.rounds < 2:
        parser.error("--requests and --queue must be 1 or more and --rounds 2 or more")
    print(f"a flood of {options.requests:,} requests over {options.over}, {options.rounds} times", flush=True)
    run = over_driver if options.over == "driver" else over_http
    return asyncio.run(run(Plan(options.requests, options.queue, options.rounds, options.wait_s)))


if __name__ == "__main__":
    sys.exit(main())

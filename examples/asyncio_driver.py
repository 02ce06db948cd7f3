"""Two tenants share a simulated A100 from asyncio: the paying one bids high, the other one waits its turn."""

import asyncio

import aps
from aps.backends import SimulatedBackend


async def main() -> None:
    backend = SimulatedBackend("reference", time_scale=100)  # 100 simulated seconds in one
    tenants = [aps.Tenant("paying", weight=3), aps.Tenant("free")]
    async with aps.Driver(aps.Scheduler(tenants, devices=backend.devices), backend) as driver:
        asked = [("free", 1), ("paying", 9)] * 20
        calls = [driver.infer(name, prompt_tokens=300, max_tokens=64, bid=bid) for name, bid in asked]
        results = await asyncio.gather(*calls)
        async for token in driver.stream("paying", prompt="Say hello.", prompt_tokens=3, max_tokens=8):
            print(token, end="")
        print()
    for name in ("paying", "free"):
        waits = [result.queue_wait_s or 0.0 for result in results if result.tenant == name]
        print(f"{name:>6}: {len(waits)} answered, waited {sum(waits) / len(waits):.1f} simulated seconds on average")


asyncio.run(main())

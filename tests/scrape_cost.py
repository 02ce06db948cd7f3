"""`python -m tests.scrape_cost`: what one `GET /metrics` takes on the event loop, by the number of tenants."""

import time
from collections.abc import Callable

from aps import Tenant
from aps.service.config import Settings
from aps.service.metrics import Exporter
from aps.service.wire import encode
from tests.driving import opened
from tests.virtual_loop import VirtualLoop, run


def milliseconds(work: Callable[[], object]) -> float:
    """The least of several."""
    taken = []
    for _ in range(9):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken) * 1e3


async def cost(loop: VirtualLoop, tenants: int) -> None:
    names = [f"tenant_{i:05d}" for i in range(tenants)]
    async with opened(loop, *(Tenant(name, rate=1e6, burst=1e6) for name in names), time_scale=100.0) as driver:
        for turn in range(3):
            for at, name in enumerate(names):
                driver.submit(name, prompt_tokens=50, max_tokens=5, bid=1 + (at + turn) % 10)
            await driver.drain()
            driver.draining = False
        exporter, settings = Exporter(driver), Settings(max_labels=100)
        text = milliseconds(lambda: exporter.page(settings).render())
        json = milliseconds(lambda: encode(exporter.page(settings).data()))
        size = len(exporter.page(settings).render().encode())
        print(f"{tenants:6,} tenants: text {text:5.1f} ms, {size / 2**20:.2f} MiB; JSON {json:5.1f} ms")


if __name__ == "__main__":
    for tenants in (10, 100, 1_000, 10_000):
        run(lambda loop, tenants=tenants: cost(loop, tenants))  # type: ignore[misc]

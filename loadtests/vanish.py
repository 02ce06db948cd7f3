"""2,000 clients that vanish in the middle of their streams, half by a reset: `python loadtests/vanish.py`.

All of them stream at once, on a device with as many slots. Three rounds, so that what the first leaves behind is told
from what every round would. Prints figures; exit code 1 when a request is not cancelled, something is lost, or memory
stays up.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from aps.stress.counters import Counters
from loadtests.books import astray, idle, memory_verdict, verdict
from loadtests.serving import Service, largest_files, serving
from loadtests.wire import Connection, message

SHAPE = {"prompt_tokens": 16, "max_tokens": 2000, "stream": True}
IDLE_WITHIN_S = 60.0


def config(clients: int) -> str:
    """A service on whose devices all of them run at once."""
    return f"""
[devices]
profile = "a100-llama2-7b"
slots = {clients}
kv_tokens = {clients * 2032}
token_budget = {4 * clients}
[limits]
max_connections = {clients + 100}
[requests]
max_finished = 100
[tenants.gone]
"""


async def one_round(service: Service, clients: int) -> tuple[float, int]:
    """All come, stream, and vanish; the seconds until the service is idle, and its resident size before they went."""
    whole = message({"tenant_id": "gone", **SHAPE}, service.port)
    connections = [await Connection.open(service.port) for _ in range(clients)]
    statuses = await asyncio.gather(*(connection.first_token(whole) for connection in connections))
    assert set(statuses) == {200}, statuses
    peak = service.resident_bytes()
    print(f"{clients:,} streams, {peak / 2**20:.0f} MiB resident; all vanish", flush=True)
    for at, connection in enumerate(connections):
        connection.vanish(abort=at % 2 == 0)
    return await idle(service, IDLE_WITHIN_S), peak


async def run(clients: int, rounds: int) -> int:
    """All rounds against a service of our own; the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "aps.toml"
        file.write_text(config(clients))
        with serving("--config", str(file)) as service:
            sizes, peak, longest = [service.resident_bytes()], 0, 0.0
            for _ in range(rounds):
                began = time.monotonic()
                seconds, most = await one_round(service, clients)
                longest, peak = max(longest, seconds), max(peak, most)
                print(f"idle again; the round took {time.monotonic() - began:.1f} s", flush=True)
                sizes.append(service.resident_bytes())
            text = service.get("/metrics")
    cancelled = Counters(text).total("aps_requests_total", outcome="cancelled")
    found = astray(text)
    return verdict(
        [
            (f"{cancelled:,.0f} requests cancelled of {clients * rounds:,}", cancelled == clients * rounds),
            (f"idle within {longest:.1f} s of the last that vanished", longest <= IDLE_WITHIN_S),
            (f"astray: {', '.join(f'{name} {value:g}' for name, value in found.items())}", not any(found.values())),
            memory_verdict(sizes, max(peak, *sizes)),
        ]
    )


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--clients", type=int, default=2000, metavar="N", help="(default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="2 or more (default %(default)s)")
    options = parser.parse_args()
    if options.clients < 2 or options.rounds < 2:
        parser.error("--clients and --rounds must be 2 or more")
    if (most := largest_files()) < options.clients + 200:
        parser.error(f"{options.clients} clients need as many open files, and this process may have {most}")
    return asyncio.run(run(options.clients, options.rounds))


if __name__ == "__main__":
    sys.exit(main())

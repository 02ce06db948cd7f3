"""10,000 tenants in a store: how long a service takes to start, a change to be seen, and a scrape.

    python loadtests/tenancy.py [--tenants N] [--store URL]

Prints wall and CPU seconds of the start, from the process to the first answer of /health, beside those of a service
without a store; then wall seconds of changes through the administration, from the request until a read of the running
service shows it; then of changes that are made in the database, until the service has them; then, once more tenants
than have labels have asked for something, what a scrape takes and has. Exit code 1: the median of the starts is 2 s or
more, that of the changes through the administration or of the scrapes 0.1 s or more, or a scrape is larger, or has more
values of a label, than tenants with labels make it.
"""

import argparse
import contextlib
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from aps.service.keys import digest_of, new_key
from aps.store.database import Database
from aps.store.store import Store
from aps.tenants import Tenant

START_S, CHANGE_S = 2.0, 0.1  # at most
SCRAPE_S = 0.1  # at most: it is made on the event loop, and every request waits for it
LABELS = 100  # metrics.max_labels, which the service has by default
VALUES = LABELS + 1  # of a label, at most: those tenants, and "_other"
SCRAPE_BYTES = VALUES * 10 * 2**10  # at most: 10 KiB a tenant, 5 as it is; the rest of the page is small
LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def filled(url: str, tenants: int) -> Store:
    """A store with so many tenants, a key each."""
    database = Database(url)
    database.upgrade()
    store = Store(database)
    made = [Tenant(f"tenant-{n}", weight=1 + n % 5, rate=1000, burst=10_000) for n in range(tenants)]
    with store.changing("loadtests/tenancy.py") as change:
        change.add(*made)
        change.add_keys({tenant.name: [digest_of(new_key().encode())] for tenant in made})
    return store


def cpu_s(pid: int) -> float:
    """CPU seconds of a process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def served(url: str | None, admin: str) -> Iterator[tuple[httpx.Client, float, float]]:
    """A client of `aps serve` on the store, if any, and the wall and CPU seconds that it took to start."""
    began = time.perf_counter()
    command = [sys.executable, "-m", "aps", "serve", "--port", "0", *([] if url is None else ["--store", url])]
    environ = {**os.environ, "APS_ADMIN_KEY": admin}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None, "aps serve did not start"
        headers = {"authorization": f"Bearer {admin}"}
        with httpx.Client(base_url=found[0], headers=headers, trust_env=False, timeout=30) as client:
            client.get("/health").raise_for_status()
            yield client, time.perf_counter() - began, cpu_s(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def changed_over_http(client: httpx.Client, times: int) -> list[float]:
    """Seconds from a change's request until the running scheduler's status shows it."""
    took = []
    for turn in range(times):
        burst = 20_000.0 + turn
        began = time.perf_counter()
        client.patch("/admin/tenants/tenant-7", json={"burst": burst}).raise_for_status()
        while client.get("/admin/tenants/tenant-7").json()["burst"] != burst:
            pass
        took.append(time.perf_counter() - began)
    return took


def changed_in_the_store(store: Store, client: httpx.Client, times: int) -> list[float]:
    """Seconds from the end of a transaction until the service has taken the change."""
    took = []
    for turn in range(times):
        burst = 30_000.0 + turn
        with store.changing("loadtests/tenancy.py") as change:
            change.set("tenant-8", {"burst": burst})
        began = time.perf_counter()
        while client.get("/admin/tenants/tenant-8").json()["burst"] != burst:
            time.sleep(0.005)
        took.append(time.perf_counter() - began)
    return took


def scrapes(client: httpx.Client, tenants: int, times: int) -> tuple[list[float], str]:
    """Seconds from a scrape's request to its end, and the last one's text, once so many tenants have sent something."""
    for n in range(tenants):
        fields = {"tenant_id": f"tenant-{n}", "prompt_tokens": 1, "max_tokens": 1, "wait": False}
        client.post("/infer", json=fields).raise_for_status()
    took, text = [], ""
    for _ in range(times):
        began = time.perf_counter()
        text = client.get("/metrics").raise_for_status().text
        took.append(time.perf_counter() - began)
    return took, text


def most_values(page: str) -> tuple[str, int]:
    """The label of a scrape with the most values, and how many."""
    values: dict[str, set[str]] = {}
    for name, value in LABEL.findall(page):
        values.setdefault(name, set()).add(value)
    return max(((name, len(found)) for name, found in values.items()), key=lambda pair: pair[1])


def within(page: str) -> bool:
    """Prints how large a scrape is, and its label with the most values; whether both are as they may be."""
    size, (name, values) = len(page.encode()), most_values(page)
    print(f"  bytes of it {size:,} (at most {SCRAPE_BYTES:,}); values of the label {name} {values} (at most {VALUES})")
    return size <= SCRAPE_BYTES and values <= VALUES


def said(what: str, seconds: Sequence[float]) -> float:
    """Prints a line; the median."""
    median = statistics.median(seconds)
    print(
        f"{what:48} median {median:7.3f} s  lowest {min(seconds):7.3f}  highest {max(seconds):7.3f}  ({len(seconds)})"
    )
    return median


def main(argv: Sequence[str] | None = None) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tenants", type=int, default=10_000)
    parser.add_argument("--store", help="an empty database (default: an SQLite file in a temporary directory)")
    parser.add_argument("--starts", type=int, default=5)
    parser.add_argument("--changes", type=int, default=100)
    options = parser.parse_args(argv)
    admin = new_key()
    with tempfile.TemporaryDirectory() as folder:
        url = options.store or str(Path(folder) / "aps.db")
        store = filled(url, options.tenants)
        print(f"{options.tenants:,} tenants with a key each in {store.database.shown}")
        starts: dict[str | None, list[list[float]]] = {url: [], None: []}
        for _ in range(options.starts):
            for which, took in starts.items():
                with served(which, admin) as (_client, *figures):
                    took.append(figures)
        start = said("start: from the process to GET /health", [wall for wall, _ in starts[url]])
        said("  CPU time of it", [cpu for _, cpu in starts[url]])
        said("  of a start without a store, for comparison", [wall for wall, _ in starts[None]])
        said("  CPU time of that", [cpu for _, cpu in starts[None]])
        with served(url, admin) as (client, *_):
            change = said("change over HTTP: from PATCH until GET shows it", changed_over_http(client, options.changes))
            said("change in the database: until GET shows it", changed_in_the_store(store, client, 10))
            looks, page = scrapes(client, min(3 * LABELS, options.tenants), 20)
            scrape = said("GET /metrics", looks)
            bounded = within(page)
        store.database.close()
    return 0 if start < START_S and change < CHANGE_S and scrape < SCRAPE_S and bounded else 1


if __name__ == "__main__":
    sys.exit(main())

"""HTTP rows: `POST /infer` of the whole service beside a raw ASGI echo, with a store beside itself without one, and its
streams beside an asyncio.Queue each.

One server at a time works, on one core; wrk loads it from another. The servers take turns in rounds of seconds; a ratio
is the median of those of the turns, because the machine's speed changes from one turn to another.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from loadtests.micro.http_servers import METRICS_KEY, SAVE_S, STREAM_TOKENS, TENANTS, key, tenant
from loadtests.micro.rows import BY_NAME, Row
from loadtests.micro.timing import idle_ticks

HERE = Path(__file__).resolve().parent
ROUNDS, SECONDS = 5, 2
SHORT_ROUNDS, SHORT_SECONDS = 15, 1  # of whole answers: many, and each soon after its peer's
TICKS = os.sysconf("SC_CLK_TCK")


class Load(NamedTuple):
    """What one round did: requests, wall microseconds a request, CPU microseconds of the server a request, latency."""

    requests: int
    us: float
    cpu_us: float
    busy: float  # part of the time in which the server used its core
    p50_ms: float
    p99_ms: float


class Served(NamedTuple):
    """A server that runs."""

    process: subprocess.Popen[str]
    port: int

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def answers(quick: bool) -> Iterator[Row]:
    """Rows http.64 and http.512."""
    with bench(("service", "echo", "fastapi")) as (servers, wrk):
        for connections in (64, 512):
            before, lines = counted(servers["service"])
            sent = 0
            loads: dict[str, list[Load]] = {name: [] for name in servers}
            for name, load, counts in rounds(servers, wrk, connections, 2, False, quick, SHORT_SECONDS, SHORT_ROUNDS):
                sent += load.requests if name == "service" else 0
                if counts:
                    loads[name].append(load)
            passed, recorded = counted(servers["service"])
            passed, recorded = passed - before, recorded - lines
            if not sent <= passed <= sent + connections * (SHORT_ROUNDS + 1):
                raise RuntimeError(f"{sent} requests were answered, {passed} passed submit, next_batch and settle")
            if recorded < passed:
                raise RuntimeError(f"{passed} requests passed, and the record has {recorded} lines of them")
            ours, echo, fastapi = (middle(loads[name]) for name in ("service", "echo", "fastapi"))
            note = (
                f"{1e6 / ours.us:,.0f} requests/s beside {1e6 / echo.us:,.0f}, and {1e6 / fastapi.us:,.0f} of FastAPI "
                f"with pydantic; {said(ours)}; echo {said(echo)}; by CPU time "
                f"{by_turn(loads['echo'], loads['service'], 'cpu_us'):.2f}"
            )
            ratio = by_turn(loads["echo"], loads["service"])
            yield BY_NAME[f"http.{connections}"].judge(ours.us, echo.us, note, ratio=ratio)


def kept(quick: bool) -> Iterator[Row]:
    """Rows store.64 and store.512."""
    with bench(("service", "kept")) as (servers, wrk):
        for connections in (64, 512):
            loads: dict[str, list[Load]] = {name: [] for name in servers}
            for name, load, counts in rounds(servers, wrk, connections, 2, False, quick, SAVE_S):  # a save in each
                if counts:
                    loads[name].append(load)
            ours, without = middle(loads["kept"]), middle(loads["service"])
            by_cpu = by_turn(loads["kept"], loads["service"], "cpu_us")
            note = f"{said(ours)}; without {said(without)}; by CPU time {by_cpu:.3f}"
            ratio = by_turn(loads["kept"], loads["service"])
            yield BY_NAME[f"store.{connections}"].judge(ours.us, without.us, note, ratio=ratio)


def streams(quick: bool) -> Iterator[Row]:
    """Rows sse.64 and sse.512."""
    with bench(("stream", "queue")) as (servers, wrk):
        for connections, seconds in ((64, SECONDS), (512, 4 * SECONDS)):  # only whole streams count
            loads: dict[str, list[Load]] = {name: [] for name in servers}
            for name, load, counts in rounds(servers, wrk, connections, STREAM_TOKENS, True, quick, seconds):
                if counts:
                    loads[name].append(load)
            ours, queue = middle(loads["stream"]), middle(loads["queue"])
            note = (
                f"{STREAM_TOKENS * 1e6 / ours.us:,.0f} tokens/s beside {STREAM_TOKENS * 1e6 / queue.us:,.0f}, in "
                f"streams of {STREAM_TOKENS}; {said(ours)}; queues {said(queue)}"
            )
            per_token = 1e3 / STREAM_TOKENS
            ratio = by_turn(loads["queue"], loads["stream"])
            yield BY_NAME[f"sse.{connections}"].judge(ours.us * per_token, queue.us * per_token, note, ratio=ratio)


def said(load: Load) -> str:
    return f"CPU {load.cpu_us:.0f} us, core {load.busy:.0%} busy, p50 {load.p50_ms:.1f} ms, p99 {load.p99_ms:.1f} ms"


def middle(loads: list[Load]) -> Load:
    """The median of each column."""
    return Load._make(statistics.median(column) for column in zip(*loads, strict=True))


def by_turn(these: list[Load], those: list[Load], column: str = "us") -> float:
    """The median over the turns of how much more these took than those."""
    at = Load._fields.index(column)
    return statistics.median(a[at] / b[at] for a, b in zip(these, those, strict=True))


@contextmanager
def bench(names: tuple[str, ...]) -> Iterator[tuple[dict[str, Served], list[str]]]:
    """Servers on one core, and the beginning of wrk's command line on another."""
    if shutil.which("wrk") is None:
        raise RuntimeError("wrk is not there: install it, on Debian with apt-get install wrk")
    server_core, client_core = cores()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tenants = folder / "tenants"
        tenants.write_text("".join(f"{tenant(n)} {key(n)}\n" for n in range(TENANTS)))
        servers = {name: stack.enter_context(served(name, server_core)) for name in names}
        wrk = ["taskset", "-c", str(client_core), "wrk", "-t1", "-s", str(HERE / "infer.lua"), "--timeout", "10s"]
        yield servers, [*wrk, str(tenants)]


def cores() -> tuple[int, int]:
    """The idlest core for the server, the next for wrk; the same when there is one."""
    os.sched_setaffinity(0, range(os.cpu_count() or 1))  # our caller has bound us to one
    before = idle_ticks()
    time.sleep(0.1)
    after = idle_ticks()
    allowed = sorted(os.sched_getaffinity(0), key=lambda cpu: after.get(cpu, 0) - before.get(cpu, 0), reverse=True)
    return allowed[0], allowed[-1 if len(allowed) < 2 else 1]


@contextmanager
def served(name: str, core: int) -> Iterator[Served]:
    command = ["taskset", "-c", str(core), sys.executable, "-m", "loadtests.micro.http_servers", name]
    root = str(HERE.parents[1])
    paths = [path for path in sys.path if path] + [root]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root, env=environment) as process:
        try:
            assert process.stdout is not None
            yield Served(process, int(process.stdout.readline()))
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def rounds(
    servers: dict[str, Served],
    wrk: list[str],
    connections: int,
    tokens: int,
    stream: bool,
    quick: bool,
    seconds: float = SECONDS,
    turns: int = ROUNDS,
) -> Iterator[tuple[str, Load, bool]]:
    """Every server in turn, in rotated order, and whether the round counts: the first does not."""
    names = list(servers)
    held = connections // 8 if quick else connections  # a second is short for many streams on a busy machine
    for turn in range(1 if quick else turns + 1):
        for name in names:
            load = one(servers[name], wrk, held, tokens, stream, 1 if quick else round(seconds))
            yield name, load, quick or turn > 0
        names.append(names.pop(0))


def one(server: Served, wrk: list[str], connections: int, tokens: int, stream: bool, seconds: int) -> Load:
    *command, tenants = wrk
    where = [f"-c{connections}", f"-d{seconds}s", f"http://127.0.0.1:{server.port}", "--"]
    before = server.cpu_s()
    done = subprocess.run(
        [*command, *where, tenants, str(tokens), str(stream).lower()], capture_output=True, text=True, check=True
    )
    used_s = server.cpu_s() - before
    found = json.loads(done.stdout.strip().splitlines()[-1])
    if found["failed"] or not found["requests"]:
        raise RuntimeError(f"wrk: {found}")
    n = found["requests"]
    return Load(
        n, found["us"] / n, used_s * 1e6 / n, used_s * 1e6 / found["us"], found["p50_us"] / 1e3, found["p99_us"] / 1e3
    )


def counted(server: Served) -> tuple[int, int]:
    """Requests that the service has settled and lines that it has recorded, by its own counters."""
    headers = {"authorization": f"Bearer {METRICS_KEY}"}
    request = urllib.request.Request(f"http://127.0.0.1:{server.port}/metrics", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as reply:
        page = reply.read().decode()
    finished = re.findall(r'^aps_requests_total\{[^}]*outcome="finished"[^}]*\} (\S+)$', page, re.MULTILINE)
    lines = re.findall(r"^aps_record_lines_total (\S+)$", page, re.MULTILINE)
    return round(sum(map(float, finished))), round(float(lines[0]))

"""kill -9 at random moments under load, again and again: `python loadtests/crash.py`, on SQLite or `--store URL`.

Meanwhile tenants and keys are changed. After each kill the store is held to what the answers said, and the next start
to what was saved. Exit code 1 when anything is not as docs/store.md and docs/tenants.md say.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from rich.console import Console
from rich.progress import track
from rich.table import Table
from sqlalchemy import select

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parents[1]))

from aps.service.keys import new_key
from aps.store import schema, states
from aps.store.book import Book
from aps.store.database import Database
from aps.store.store import Store
from aps.store.usage import Used, read
from aps.stress.counters import Counters
from loadtests.books import FIGURE
from loadtests.changes import Administrator
from loadtests.serving import Service, serving
from loadtests.wire import Connection, message

INTERVAL_S = 0.5
TIME_SCALE = 20.0
PREMIUM = 0.37
CLIENTS = 24
SLACK_S = 2.0  # beyond the interval that a save may take to come, on a busy machine
CONFIG = f"""
[devices]
profile = "a100-llama2-7b"
time_scale = {TIME_SCALE}
[policy]
bid_premium = {PREMIUM}
[store]
interval_s = {INTERVAL_S}
[tenants.free]
[tenants.paid]
weight = 3
rate = 200
burst = 20_000
[tenants.queued]
rate = 100
burst = 10_000
over_rate = "queue"
"""
TENANTS = ("free", "paid", "queued")
ADMINISTERED = (("red", "green"), ("blue",))  # tenants, by who changes them


@dataclass
class Heard:
    """What the clients of one run know. Instants are Unix times, charges micro-tokens."""

    answered: list[tuple[float, str, int]] = field(default_factory=list)
    refused: list[tuple[float, str]] = field(default_factory=list)
    in_flight: Counter[str] = field(default_factory=Counter)
    may_cost: Counter[str] = field(default_factory=Counter)  # what is in flight, at most


@dataclass
class Saved:
    """What the store has: the ledger, tenants and keys, the state, when each run saved last."""

    usage: dict[str, Used]
    book: Book
    levels: dict[str, float]  # of buckets with a limit
    state_at: float
    saved_at: float

    @classmethod
    def read(cls, url: str) -> "Saved":
        with closing(Database(url)) as database:
            with database.reading() as connection:
                usage = {used.tenant or "": used for used in read(connection)}
                state, at = states.load(connection, "aps") or (None, None)
                last = connection.execute(select(schema.runs).order_by(schema.runs.c.started_at.desc())).first()
            book = Store(database).read()
        assert last is not None
        levels = {} if state is None else dict(zip(state.tenants, state.level.tolist(), strict=True))
        state_at = 0.0 if at is None else at.timestamp()  # killed before its first save
        return cls(usage, book, levels, state_at, last.saved_at.timestamp() if last.saved_at else 0.0)


@dataclass
class Outcome:
    """Of all kills. problems: what is not as it must be."""

    kills: int = 0
    answered: int = 0
    lost: int = 0
    lost_s: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    changed: int = 0
    cut_off: int = 0


async def client(port: int, key: str, heard: Heard, random: Random) -> None:
    """One request after the other, until the service is gone."""
    with suppress(OSError, asyncio.IncompleteReadError):
        connection = await Connection.open(port)
        try:
            while True:
                await ask(connection, port, key, heard, random)
        finally:
            connection.vanish(abort=False)


async def ask(connection: Connection, port: int, key: str, heard: Heard, random: Random) -> None:
    """One request, and what became of it."""
    tenant, bid = random.choice(TENANTS), random.randint(1, 10)
    prompt, most = random.randint(10, 400), random.randint(1, 60)
    fields = {"tenant_id": tenant, "prompt_tokens": prompt, "max_tokens": most, "bid": bid}
    cost = round((prompt + most) * (1 + PREMIUM * (bid - 1)) * 1e6) + 1
    heard.in_flight[tenant] += 1
    heard.may_cost[tenant] += cost
    status, said = await connection.ask(message(fields, port, key=key))
    at = time.time()
    heard.in_flight[tenant] -= 1
    heard.may_cost[tenant] -= cost
    if status == 200:
        heard.answered.append((at, tenant, round(said["charge"] * 1e6)))
    elif status == 429:
        heard.refused.append((at, tenant))
        await asyncio.sleep(0.02)
    else:
        raise RuntimeError(f"{status}: {said}")


async def load(
    service: Service, key: str, administrators: list[Administrator], seconds: float, random: Random
) -> tuple[Heard, float]:
    """Load and changes, then kill -9; what the clients heard, and when it was killed."""
    heard = Heard()
    clients = [asyncio.create_task(client(service.port, key, heard, random)) for _ in range(CLIENTS)]
    clients += [asyncio.create_task(one.work(service.port)) for one in administrators]
    await asyncio.wait(clients, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    killed_at = time.time()
    service.process.kill()
    await asyncio.gather(*clients)
    return heard, killed_at


def started(service: Service, key: str, before: Saved | None, spawned_at: float) -> Iterator[str]:
    """What is wrong with the counters and buckets right after a start."""
    counters = Counters(service.get("/metrics", {"authorization": f"Bearer {key}"}))
    now = time.time()
    if counters.total(FIGURE):
        yield f"{FIGURE} is {counters.total(FIGURE):g} after a start"
    if before is None:
        return
    for name in TENANTS:
        tenant = before.book.tenants[name]
        if name not in before.levels or tenant.rate == float("inf"):
            continue
        level = counters.total("aps_bucket_level_tokens", tenant=name)
        least, most = (
            min(tenant.burst, before.levels[name] + tenant.rate * TIME_SCALE * max(0.0, at - before.state_at))
            for at in (spawned_at, now)
        )
        if not least - 1e-6 <= level <= most + 1e-6:
            yield f"the bucket of {name} has {level:.6f}, and must have {least:.6f} to {most:.6f}"


def compared(before: Saved | None, after: Saved, heard: Heard) -> Iterator[str]:
    """What is wrong with the ledger of a run, by what its clients heard until the last save and until the end."""
    nobody = Used(None, None)
    for tenant in TENANTS:
        was = nobody if before is None else before.usage.get(tenant, nobody)
        now = after.usage.get(tenant, nobody)
        charges = [(at, charge) for at, whose, charge in heard.answered if whose == tenant]
        refusals = [at for at, whose in heard.refused if whose == tenant]
        more = heard.in_flight[tenant]
        for what, got, least, most in (
            (
                "finished",
                now.finished - was.finished,
                sum(at <= after.saved_at for at, _ in charges),
                len(charges) + more,
            ),
            (
                "refused",
                sum(now.refused.values()) - sum(was.refused.values()),
                sum(at <= after.saved_at for at in refusals),
                len(refusals) + more,
            ),
            (
                "charged_micro",
                now.charged_micro - was.charged_micro,
                sum(charge for at, charge in charges if at <= after.saved_at),
                sum(charge for _, charge in charges) + heard.may_cost[tenant],
            ),
        ):
            if not least <= got <= most:
                yield f"{what} of {tenant}: {got:,} in the ledger, {least:,} to {most:,} by the answers"


def others(before: Book, after: Book, administered: set[str]) -> Iterator[str]:
    """What is wrong with tenants that nobody has changed."""
    names = (before.tenants.keys() | after.tenants.keys() | before.keys.keys() | after.keys.keys()) - administered
    for name in sorted(names):
        if (before.tenants.get(name), before.keys.get(name)) != (after.tenants.get(name), after.keys.get(name)):
            yield f"{name} is {after.tenants.get(name)}, and was {before.tenants.get(name)}, or its keys are others"


def crash(url: str, kills: int, seed: int, console: Console) -> Outcome:
    """Kill as often, then stop once in order."""
    outcome, random, key = Outcome(), Random(seed), new_key()
    administrators = [Administrator(names, key, random) for names in ADMINISTERED]
    before: Saved | None = None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "aps.toml"
        file.write_text(CONFIG)
        options = ("--config", str(file), "--store", url)
        for number in track(range(kills + 1), "killing", console=console, disable=not console.is_terminal):
            last = number == kills
            spawned_at = time.time()
            with serving(*options, env={"APS_ADMIN_KEY": key}, killed=not last) as service:
                serves_at = time.time()
                problems = list(started(service, key, before, spawned_at))
                for one in administrators:
                    problems += asyncio.run(one.held(service.port))
                heard = Heard()
                if not last:
                    seconds = random.uniform(0.2, 4 * INTERVAL_S)
                    heard, killed_at = asyncio.run(load(service, key, administrators, seconds, random))
            after = Saved.read(url)
            outcome.cut_off += sum(one.cut_off is not None for one in administrators)
            problems += compared(before, after, heard)
            problems += [problem for one in administrators for problem in one.kept(after.book)]
            if before is not None:
                problems += others(before.book, after.book, {name for one in administrators for name in one.rows})
            outcome.problems += [f"kill {number + 1}: {problem}" for problem in problems]
            if not last:
                outcome.kills += 1
                outcome.answered += len(heard.answered)
                outcome.lost += sum(at > after.saved_at for at, _, _ in heard.answered)
                outcome.lost_s.append(killed_at - max(after.saved_at, serves_at))
            before = after
    outcome.changed = sum(one.answered for one in administrators)
    return outcome


def shown(outcome: Outcome, console: Console) -> int:
    """Print what became of it; the exit code."""
    table = Table(box=None, pad_edge=False, show_header=False)
    longest = max(outcome.lost_s)
    late = longest > INTERVAL_S + SLACK_S
    for what, value in (
        ("killed", f"{outcome.kills} times"),
        ("answered", f"{outcome.answered:,} requests"),
        ("of them lost from the ledger", f"{outcome.lost:,}"),
        ("changes of tenants and keys", f"{outcome.changed:,} answered, {outcome.cut_off:,} cut off"),
        ("unsaved when killed, s", f"{sum(outcome.lost_s) / len(outcome.lost_s):.2f} mean, {longest:.2f} longest"),
        ("not as it must be", f"{len(outcome.problems) + late}"),
    ):
        table.add_row(what, value)
    console.print(table)
    for problem in outcome.problems:
        console.print(f"WRONG  {problem}", highlight=False)
    if late:
        console.print(f"WRONG  a save was {longest:.2f} s away; the interval is {INTERVAL_S:g} s")
    return 1 if outcome.problems or late else 0


def main() -> int:
    """Run it; the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="(default %(default)s)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the moments (default %(default)s)")
    parser.add_argument("--store", metavar="URL", help="an empty database (default: an SQLite file of its own)")
    options = parser.parse_args()
    if options.kills < 1:
        parser.error("--kills must be 1 or more")
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        url = options.store or str(Path(folder) / "aps.db")
        return shown(crash(url, options.kills, options.seed, console), console)


if __name__ == "__main__":
    sys.exit(main())

"""What a running service keeps, over real HTTP and when the store does what stores do."""

import asyncio
import csv
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from sqlalchemy import event, select

from aps import Policy, Scheduler, Tenant
from aps.backends import SimulatedBackend
from aps.cli import main
from aps.cuts import Cut
from aps.driver import Driver, DriverError
from aps.service.access import Access
from aps.service.config import Settings
from aps.service.health import health_of
from aps.service.keeper import Keeper
from aps.service.keys import digest_of
from aps.service.metrics import Exporter
from aps.store import schema
from aps.store.database import Database, StoreError
from aps.store.saves import Saves
from aps.store.store import Store
from aps.store.usage import Used, read, total
from tests.scrapes import Scrape
from tests.serving import serving, until

if TYPE_CHECKING:
    from tests.postgres import Server

ADMIN = "aps_" + "a" * 43
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    made.upgrade()
    yield made
    made.close()


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Database]:
    made = Database(str(tmp_path / "aps.db"))
    made.upgrade()
    yield made
    made.close()


def keeping(database: Database, **options: Any) -> Callable[[Driver], Keeper]:
    """Keepers that have begun."""

    def keep(driver: Driver) -> Keeper:
        keeper = Keeper(database, driver, **{"interval_s": 0.05} | options)
        keeper.restore()
        return keeper

    return keep


def driver_of(*tenants: Tenant, policy: Policy | None = None) -> Driver:
    backend = SimulatedBackend("reference", time_scale=1000.0)
    return Driver(Scheduler(tenants, policy=policy or Policy(), devices=backend.devices), backend)


def ledger(database: Database, **asked: Any) -> dict[str | None, Used]:
    with database.reading() as connection:
        return {used.tenant: used for used in read(connection, **asked)}


async def true(what: Callable[[], object], within_s: float = 20.0) -> None:
    """Wait for it to come true."""
    deadline = time.monotonic() + within_s
    while not what():
        assert time.monotonic() < deadline, "it did not come true"
        await asyncio.sleep(0.01)


# Exact


def stream_charge(client: httpx.Client, **asked: Any) -> float:
    """Of a whole stream."""
    with client.stream("POST", "/infer", json=asked | {"stream": True}) as answer:
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: {")]
    charge: float = json.loads(lines[-1])["charge"]
    return charge


def test_the_ledger_is_what_the_answers_and_the_metrics_say(database: Database) -> None:
    """With a bid premium that is no round number, refusals, streams, cancels."""
    tenants = (
        Tenant("whole"),
        Tenant("stream", weight=3.0),
        Tenant("poor", rate=1.0, burst=400.0),
        Tenant("gone"),
        Tenant("idle"),
    )
    access = Access({}, admin=digest_of(ADMIN.encode()))
    charges: dict[str, int] = {}
    policy = Policy(bid_premium=0.0371)
    with serving(tenants, keep=keeping(database), policy=policy, access=access, time_scale=50.0) as service:
        client = service.client
        client.headers["authorization"] = f"Bearer {ADMIN}"

        def charged(tenant: str, charge: float) -> None:
            charges[tenant] = charges.get(tenant, 0) + round(charge * 1e6)

        refused = 0
        for number in range(12):
            asked = {"prompt_tokens": 7 + 13 * number, "max_tokens": 1 + number % 5, "bid": 1 + number % 10}
            answer = service.infer(tenant_id="whole", **asked)
            charged("whole", answer.json()["charge"])
            charged("stream", stream_charge(client, tenant_id="stream", **asked))
            answer = service.infer(tenant_id="poor", **asked)
            if answer.status_code == 200:
                charged("poor", answer.json()["charge"])
            else:
                refused += 1
        for _ in range(3):
            long = {"tenant_id": "gone", "prompt_tokens": 50, "max_tokens": 60_000, "wait": False}
            path = f"/requests/{client.post('/infer', json=long).json()['id']}"
            until(lambda path=path: client.get(path).json()["explain"]["generated"] > 0)  # type: ignore[misc]
            client.delete(path)
        found = Scrape(client.get("/metrics").text)
        at = datetime.now(UTC).isoformat()
        until(lambda: client.get("/health").json()["store"]["saved_at"] > at)
        said = client.get("/admin/usage").json()
        by_hour = client.get("/admin/usage", params={"by": "hour", "tenant": "whole"}).json()
        metrics = service.driver.metrics.tenants
    rows = ledger(database)
    assert said["rows"] == [row.plain() for row in rows.values()]
    assert said["total"] == total(rows.values()).plain()
    assert by_hour["total"]["finished"] == 12 and all(row["period"] for row in by_hour["rows"])
    assert rows.keys() == {"whole", "stream", "poor", "gone"}
    for name, row in rows.items():
        assert name is not None
        tally = metrics[name]
        counts = ("admitted", "finished", "cancelled", "prompt_tokens", "output_tokens", "charged_micro")
        assert [getattr(row, key) for key in counts] == [getattr(tally, key) for key in counts]
        assert row.refused == dict(tally.refused)
        assert found.one("aps_charged_tokens_total", tenant=name) == row.charged_micro / 1e6
        assert found.one("aps_output_tokens_total", tenant=name) == row.output_tokens
        assert row.gpu_ns > 0
    assert {name: rows[name].charged_micro for name in charges} == charges
    assert refused == sum(rows["poor"].refused.values()) > 0
    assert rows["gone"].cancelled == 3 and rows["gone"].charged_micro > 0
    busy_s = sum(found.of("aps_device_busy_seconds_total").values())
    assert total(rows.values()).gpu_ns / 1e9 == pytest.approx(busy_s, rel=0.05)


def test_what_is_wrong_with_a_question(file: Database) -> None:
    access = Access({"a": [digest_of(b"k" * 47)]}, admin=digest_of(ADMIN.encode()))
    with serving((Tenant("a"),), keep=keeping(file), access=access) as service:
        client = service.client
        assert client.get("/admin/usage").status_code == 401
        assert client.get("/admin/usage", headers={"authorization": f"Bearer {'k' * 47}"}).status_code == 403
        client.headers["authorization"] = f"Bearer {ADMIN}"
        for asked, field in (
            ({"from": "yesterday"}, "from"),
            ({"to": "2026-03-01T12:30"}, "to"),
            ({"by": "week"}, "query.by"),
        ):
            answer = client.get("/admin/usage", params=asked)
            assert answer.status_code == 422 and answer.json()["error"]["field"] == field, answer.text
        assert client.get("/admin/usage", params={"from": "2026-03-01T12:00+01:00"}).json()["rows"] == []


def test_why_a_store_fails_is_for_operators(file: Database) -> None:
    """GET /health needs no key, and the reason may name machines, users and files."""
    tenants_key, made = "k" * 47, []
    access = Access({"a": [digest_of(tenants_key.encode())]}, admin=digest_of(ADMIN.encode()))

    def keep(driver: Driver) -> Keeper:
        made.append(keeping(file, interval_s=60.0)(driver))
        return made[0]

    with serving((Tenant("a"),), keep=keep, access=access) as service:
        made[0].writer._failed("no route to db.internal")
        for path in ("/health", "/health/live", "/health/ready"):
            for key, said in ((None, None), (tenants_key, None), ("x", None), (ADMIN, "no route to db.internal")):
                headers = {} if key is None else {"authorization": f"Bearer {key}"}
                answer = service.client.get(path, headers=headers)
                store = answer.json()["store"]
                assert (answer.status_code, store["status"], store["error"]) == (200, "failing", said)


# Restart


@pytest.mark.parametrize("away_s", [0.0, 7.0, -1e6])
def test_a_restart_hands_out_no_free_burst(database: Database, away_s: float) -> None:
    """The bucket refills for the time that passed, in the service's seconds; a clock that went back is none."""
    now = [NOON]
    tenant = Tenant("a", rate=2.0, burst=50_000.0)

    def wall() -> float:
        return now[0]

    async def spend() -> float:
        driver = driver_of(tenant)
        async with keeping(database, wall=wall, interval_s=60.0)(driver), driver:
            await driver.infer("a", prompt_tokens=40_000, max_tokens=1)
        return driver.scheduler.level("a")

    async def look() -> float:
        driver = driver_of(tenant)
        keeping(database, wall=wall)(driver)
        return driver.scheduler.level("a")

    left = asyncio.run(spend())
    assert left < 12_000
    now[0] += away_s
    assert asyncio.run(look()) == pytest.approx(left + 2.0 * 1000 * max(0.0, away_s), abs=1e-6)


# An hour's end


async def test_an_hour_is_cut_where_it_ends(file: Database) -> None:
    began = time.monotonic()

    def wall() -> float:
        return NOON - 0.4 + time.monotonic() - began

    driver = driver_of(Tenant("a"))
    async with keeping(file, wall=wall, interval_s=60.0)(driver) as keeper, driver:
        before = 0
        while wall() < NOON - 0.1:
            await driver.infer("a", prompt_tokens=10, max_tokens=1)
            before += 1
        await true(lambda: keeper.writer.status.saves > 0)
        assert wall() > NOON
        for _ in range(5):
            await driver.infer("a", prompt_tokens=10, max_tokens=1)
    with file.reading() as connection:
        rows = read(connection, by="hour")
    assert [(row.period, row.finished) for row in rows] == [("2026-03-01T11:00", before), ("2026-03-01T12:00", 5)]
    with file.reading() as connection:
        assert [row.finished for row in read(connection, since=datetime.fromtimestamp(NOON, UTC))] == [5]


# What stores do


LONG = [f"{number:0250}" for number in range(20)]  # names that fill pages


async def fails_and_works_again(database: Database, fail: Callable[[], object], mend: Callable[[], object]) -> None:
    """Requests go on while it fails; after it everything is there."""
    driver = driver_of(Tenant("a"), *map(Tenant, LONG))
    keeper = keeping(database)(driver)
    status = keeper.writer
    async with keeper, driver:
        await driver.infer("a", prompt_tokens=10, max_tokens=1)
        await true(lambda: status.status.saves > 1)
        fail()
        for name in LONG:
            assert (await driver.infer(name, prompt_tokens=10, max_tokens=1)).status == "finished"
        await true(lambda: status.status.status == "failing")
        before = status.status
        await driver.infer("a", prompt_tokens=10, max_tokens=1)
        await true(lambda: status.status.errors > before.errors and status.pending_rows > 0)
        assert status.status.saved_at == before.saved_at and keeper.unsaved_s > 0 and status.status.error
        health = health_of(driver, keeper)
        assert health.ready and health.store is not None
        assert health.store.status == "failing" and health.store.error
        found = Scrape(Exporter(driver, None, keeper).page(Settings()).render())
        assert found.one("aps_store_up") == 0 and found.one("aps_store_errors_total") > before.errors
        assert found.one("aps_store_pending_rows") > 0 and found.one("aps_store_unsaved_seconds") > 0
        mend()
        await true(lambda: status.status.status == "ok", 60.0)
        assert status.status.error is None
    found_rows = ledger(database)
    assert {name: row.finished for name, row in found_rows.items()} == {"a": 2} | dict.fromkeys(LONG, 1)
    assert total(found_rows.values()).charged_micro == 22 * 11_000_000
    with database.reading() as connection:
        run = connection.execute(select(schema.runs)).one()
    assert (run.saves, run.stopped_at) == (status.status.saves, run.saved_at)


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.name == "aps.store"]


async def test_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr("aps.store.database.WAIT_S", 0.05)
    database = Database(str(tmp_path / "aps.db"))
    database.upgrade()
    other = sqlite3.connect(tmp_path / "aps.db", isolation_level=None)
    await fails_and_works_again(database, lambda: other.execute("BEGIN IMMEDIATE"), lambda: other.execute("ROLLBACK"))
    other.close()
    database.close()
    said = logged(caplog)  # once for each change, not for each try
    assert len(said) == 2 and "the store fails" in said[0] and "locked" in said[0] and "works again" in said[1]


async def test_the_disk_is_full(file: Database, caplog: pytest.LogCaptureFixture) -> None:
    pages = [0]  # 0: as many as there are to be
    event.listen(file.engine, "begin", lambda on: on.exec_driver_sql(f"PRAGMA max_page_count={pages[0]}").close())

    def full() -> None:
        with file.reading() as connection:
            pages[0] = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    def free() -> None:
        pages[0] = 2**30

    await fails_and_works_again(file, full, free)
    assert "full" in logged(caplog)[0]


async def test_postgresql_goes_away_and_comes_back(postgres: "Server", caplog: pytest.LogCaptureFixture) -> None:
    database = Database(postgres.url("aps_outage"))
    database.upgrade()
    stopped = False

    def stop() -> None:
        nonlocal stopped
        postgres.stop()
        stopped = True

    def start() -> None:
        nonlocal stopped
        postgres.start()
        stopped = False

    try:
        await fails_and_works_again(database, stop, start)
    finally:
        database.close()
        if stopped:
            postgres.start()
    assert len(logged(caplog)) == 2


async def test_a_slow_store_does_not_pile_up(file: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A save that lasts many intervals: nothing is cut meanwhile, the driver's own counters add up."""
    save, go = Saves.save, threading.Event()
    monkeypatch.setattr(Saves, "save", lambda *given, **options: (go.wait(30), save(*given, **options)))
    driver = driver_of(Tenant("a"))
    keeper = keeping(file, interval_s=0.01)(driver)
    cuts = []

    def cut() -> Cut:
        cuts.append(1)
        return Driver.cut(driver)

    monkeypatch.setattr(driver, "cut", cut)
    async with keeper, driver:
        for _ in range(30):
            await driver.infer("a", prompt_tokens=10, max_tokens=1)
            await asyncio.sleep(0.01)
        assert len(cuts) <= 2
        go.set()
    assert ledger(file)["a"].finished == 30


async def test_a_stop_does_not_wait_for_ever(
    file: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aps.service.keeper.STOP_S", 0.2)
    monkeypatch.setattr("aps.service.writer.PAUSE_S", 0.05)

    def fail(*_: Any, **__: Any) -> None:
        raise StoreError("no")

    driver = driver_of(Tenant("a"))
    keeper = keeping(file, interval_s=60.0)(driver)
    monkeypatch.setattr(Saves, "save", fail)
    async with keeper, driver:
        await driver.infer("a", prompt_tokens=10, max_tokens=1)
    assert keeper.writer.ended.is_set()
    assert "are lost" in logged(caplog)[-1] and "1 rows" in logged(caplog)[-1]


async def test_a_driver_that_fails_has_its_usage_saved_and_its_state_left(file: Database) -> None:
    driver = driver_of(Tenant("a", rate=1.0, burst=100.0))
    keeper = keeping(file, interval_s=0.01)(driver)
    async with keeper, driver:
        await driver.infer("a", prompt_tokens=10, max_tokens=1)
        await true(lambda: keeper.writer.status.saves > 1)
        with file.reading() as connection:
            at = connection.execute(select(schema.scheduler_states.c.saved_at)).scalar_one()
        driver._player.stop(RuntimeError("broken"))
        saves = keeper.writer.status.saves
        await true(lambda: keeper.writer.status.saves > saves + 2)
    with file.reading() as connection:
        assert connection.execute(select(schema.scheduler_states.c.saved_at)).scalar_one() - at < timedelta(seconds=5)
    assert ledger(file)["a"].finished == 1


async def test_a_driver_that_fails_while_it_is_looked_at_loses_no_usage(
    file: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = driver_of(Tenant("a"))
    keeper = keeping(file, interval_s=60.0)(driver)
    async with keeper, driver:
        await driver.infer("a", prompt_tokens=10, max_tokens=1)

        def broken() -> None:
            raise RuntimeError("broken")

        monkeypatch.setattr(driver._pump, "fill", broken, raising=False)
        with suppress(DriverError):
            keeper._take()
        assert driver.failed is not None
    assert ledger(file)["a"].finished == 1


def test_another_run_that_looks_alive(file: Database, caplog: pytest.LogCaptureFixture) -> None:
    keeping(file, interval_s=5.0)(driver_of(Tenant("a")))
    assert logged(caplog) == []
    keeping(file, interval_s=5.0, service="other")(driver_of(Tenant("a")))
    assert logged(caplog) == []
    keeping(file, interval_s=5.0)(driver_of(Tenant("a")))
    assert len(logged(caplog)) == 1 and "has not stopped" in logged(caplog)[0]


def test_last_use_of_keys(file: Database) -> None:
    key = "aps_" + "k" * 43
    with Store(file).changing("test") as change:
        change.add(Tenant("a"))
        change.issue("a", digest_of(key.encode()))
    access = Access({"a": [digest_of(key.encode())]})
    with serving((Tenant("a"),), keep=keeping(file, uses=access.uses), access=access) as service:
        before = datetime.now(UTC)
        service.client.headers["authorization"] = f"Bearer {key}"
        assert service.infer(prompt_tokens=1, max_tokens=1).status_code == 200
    (found,) = Store(file).read().keys["a"]
    assert found.last_used_at is not None and found.last_used_at >= before


# The command line


def test_the_command_line(database: Database, capsys: pytest.CaptureFixture[str]) -> None:
    access = Access({}, admin=digest_of(ADMIN.encode()))
    tenants = (Tenant("a"), Tenant("poor", rate=1.0, burst=11.0))
    address = database.url.render_as_string(hide_password=False)
    with serving(tenants, keep=keeping(database), access=access, policy=Policy(bid_premium=0.125)) as service:
        service.client.headers["authorization"] = f"Bearer {ADMIN}"
        for name in ("a", "a", "poor", "poor"):
            service.infer(tenant_id=name, prompt_tokens=10, max_tokens=1, bid=1)
        at = datetime.now(UTC).isoformat()
        until(lambda: service.client.get("/health").json()["store"]["saved_at"] > at)
        os.environ["APS_ADMIN_KEY"] = ADMIN
        try:
            assert main(["usage", "--url", service.url, "--json"]) == 0
        finally:
            del os.environ["APS_ADMIN_KEY"]
        said = json.loads(capsys.readouterr().out)
    assert main(["usage", "--store", address, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"rows": said["rows"], "total": said["total"]}
    assert said["total"]["charged_micro"] == 33_000_000 and said["total"]["refused"] == {"over_rate": 1}
    assert main(["usage", "--store", address, "--csv", "--by", "day", "--tenant", "a"]) == 0
    names, row = csv.reader(capsys.readouterr().out.splitlines())
    found = dict(zip(names, row, strict=True))
    assert (found["tenant"], found["finished"], found["charged_tokens"], found["refused"]) == ("a", "2", "22", "0")
    assert main(["usage", "--store", address]) == 0
    table = capsys.readouterr().out
    assert "poor" in table and "refused: over_rate 1" in table and "cancelled" not in table
    assert main(["usage", "--store", address, "--from", "2026-03-01T00:30"]) == 2
    assert "--from must be a full hour" in capsys.readouterr().err


def test_the_command_line_without_a_ledger(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["usage", "--store", str(tmp_path / "no.db")]) == 2
    assert "there is no such database" in capsys.readouterr().err and not (tmp_path / "no.db").exists()
    assert main(["usage"]) == 2
    assert "there is no store" in capsys.readouterr().err

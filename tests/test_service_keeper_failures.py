"""What a running service keeps while the store does what stores do, and its driver what drivers do."""

import asyncio
import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, select

from aps import Tenant
from aps.cuts import Cut
from aps.driver import Driver, DriverError
from aps.service.access import Access
from aps.service.config import Settings
from aps.service.health import health_of
from aps.service.keys import digest_of
from aps.service.metrics import Exporter
from aps.store import schema
from aps.store.database import Database, StoreError
from aps.store.saves import Saves
from aps.store.store import Store
from aps.store.usage import total
from tests.keeping import driver_of, keeping, ledger, true
from tests.scrapes import Scrape
from tests.serving import serving

if TYPE_CHECKING:
    from tests.postgres import Server


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Database]:
    made = Database(str(tmp_path / "aps.db"))
    made.upgrade()
    yield made
    made.close()


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


@pytest.mark.parametrize("replaced", [False, True])
async def test_the_file_is_taken_away_and_put_back(file: Database, replaced: bool) -> None:
    """What is written to a file without a name would be gone with the process."""
    kept = file.file.with_name("kept.db")

    def take() -> None:
        file.file.rename(kept)
        if replaced:
            file.file.write_bytes(b"")

    await fails_and_works_again(file, take, lambda: kept.rename(file.file))


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
    assert keeper.writer.ended.is_set() and keeper.lost
    *_, verdict, row = logged(caplog)
    assert "are lost" in verdict and "1 rows" in verdict and "(no)" in verdict
    assert re.fullmatch(r"lost: tenant 'a', hour [\dT:-]+Z: admitted 1, finished 1, prompt_tokens 10, .*", row)


async def test_a_save_that_never_ends_is_told_while_it_hangs_and_once_at_the_end(
    file: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("aps.service.keeper.STOP_S", 0.2)
    monkeypatch.setattr("aps.service.keeper.LATE_S", 0.1)
    hung, thawed = threading.Event(), threading.Event()

    def hang(*_: Any, **__: Any) -> None:
        hung.set()
        thawed.wait(60)
        raise StoreError("it was too late")

    driver = driver_of(Tenant("a"))
    keeper = keeping(file, interval_s=0.02)(driver)
    monkeypatch.setattr(Saves, "save", hang)
    async with keeper, driver:
        await true(hung.is_set)
        await driver.infer("a", prompt_tokens=10, max_tokens=1)
        await true(lambda: keeper.writer.status.status == "failing")
        found = Scrape(Exporter(driver, None, keeper).page(Settings()).render())
        assert (found.one("aps_store_up"), found.one("aps_store_errors_total")) == (0, 0)
        health = health_of(driver, keeper).store
        assert health is not None and (health.status, health.error) == ("failing", keeper.writer.status.error)
        assert "no answer for" in str(health.error)
    assert keeper.lost
    thawed.set()
    begun, verdict, row = logged(caplog)
    assert "the store fails: no answer for" in begun and "1 rows of usage" in verdict and "tenant 'a'" in row


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

"""What is too old goes from the database, some rows at a time, and nothing else does."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import func, insert, select

from aps import Tenant
from aps.store import pruning, schema, usage
from aps.store.database import Database, StoreError
from aps.store.pruning import Pruner, prune
from aps.store.store import Store
from aps.store.usage import NUMBERS, Deltas, read
from tests.keeping import driver_of, keeping

NOW = datetime(2026, 3, 10, 15, 30, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
TABLES = (schema.usage, schema.refusals, schema.audit, schema.runs)


def fill(database: Database, now: datetime, days: int) -> None:
    """For each day up to now, at noon: usage and refusals of two tenants, an entry of the audit, a run that ended."""
    deltas = Deltas()
    ones = [1] * len(NUMBERS)
    for ago in reversed(range(days)):
        at = now.replace(hour=12, minute=0, second=0, microsecond=0) - DAY * ago
        deltas.note(at, ["a", "b"], [ones, ones], {"a": {"over_rate": 1}, "b": {"queue_full": 1}})
        with Store(database).changing("somebody", at) as change:
            change.add(Tenant(f"of {at.date()}"))
        with database.writing() as connection:
            run = {
                "id": f"run {at.date()}",
                "service": "x",
                "started_at": at - DAY * 99,
                "saved_at": at,
                "stopped_at": at,
            }
            connection.execute(insert(schema.runs), run)
    with database.writing() as connection:
        usage.add(connection, deltas)


def rows(database: Database) -> dict[str, int]:
    with database.reading() as connection:
        counts = {table.name: select(func.count()).select_from(table) for table in TABLES}
        return {name: connection.execute(count).scalar_one() for name, count in counts.items()}


def test_the_oldest_go_first_so_many_at_a_time_and_nothing_newer(database: Database) -> None:
    fill(database, NOW, 10)
    before = NOW.replace(hour=12, minute=0) - DAY * 5  # those of five days ago are not older
    assert prune(database, before, batch=3) == {"usage": 3, "refusals": 3, "audit": 3, "runs": 3}
    with database.reading() as connection:
        periods = {used.period for used in read(connection, by="day")}
    assert periods == {f"2026-03-{day:02}" for day in range(2, 11)}
    assert prune(database, before, batch=5) == {"usage": 5, "refusals": 5, "audit": 1, "runs": 1}
    assert prune(database, before, batch=5) == dict.fromkeys(("usage", "refusals", "audit", "runs"), 0)
    assert rows(database) == {"usage": 12, "refusals": 12, "audit": 6, "runs": 6}
    with database.reading() as connection:
        assert {used.admitted for used in read(connection)} == {6}
    assert len(Store(database).read().tenants) == 10  # tenants are no history


def test_whole_days_are_kept_and_seldom_looked_for(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(database, NOW, 4)
    Pruner(database, None).step(NOW + DAY * 999)
    assert rows(database)["audit"] == 4
    pruner = Pruner(database, 2)
    pruner.step(NOW)
    assert rows(database) == {"usage": 6, "refusals": 6, "audit": 3, "runs": 3}  # today, and two whole days
    fill(database, NOW - DAY * 50, 1)
    pruner.step(NOW + HOUR / 2)
    assert rows(database)["runs"] == 4
    pruner.step(NOW + HOUR)
    assert rows(database)["runs"] == 3
    monkeypatch.setattr(pruning, "BATCH", 1)
    monkeypatch.setattr(pruning, "prune", lambda database, before: prune(database, before, 1))
    for left in (5, 4, 4):
        pruner.step(NOW + DAY)  # goes on at once while there is more
        assert rows(database)["usage"] == left


def test_ids_of_the_audit_rise_whatever_has_gone(database: Database) -> None:
    store = Store(database)
    fill(database, NOW, 3)
    prune(database, NOW + DAY * 9)
    assert [entry.id for entry in store.audit()] == [3]
    with store.changing("somebody") as change:
        change.add(Tenant("new"))
    assert [entry.id for entry in store.audit()] == [4, 3]


def test_a_service_follows_though_the_audit_was_pruned(database: Database) -> None:
    store = Store(database)
    base = store.number()
    fill(database, NOW, 4)
    prune(database, NOW - DAY * 2)
    news = store.since(base)
    assert news is not None and news.whole and len(news.book.tenants) == 4


async def test_a_service_prunes_and_goes_on_when_it_cannot(
    database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(database: Database, before: datetime) -> dict[str, int]:
        raise StoreError("no right to delete")

    fill(database, datetime.now(UTC), 5)

    async def serve(keep_days: int | None) -> int:
        driver = driver_of(Tenant("a"))
        keeper = keeping(database, interval_s=0.02, keep_days=keep_days)(driver)
        async with keeper, driver:
            while keeper.writer.status.saves < 2:
                await driver.infer("a", prompt_tokens=5, max_tokens=5)
        return keeper.writer.status.errors

    assert await serve(None) == 0 and rows(database)["refusals"] == 10
    with monkeypatch.context() as broken:
        broken.setattr(pruning, "prune", fails)
        assert await serve(1) == 0 and rows(database)["refusals"] == 10
    assert [record.message for record in caplog.records if record.name == "aps.store"] == [
        "what is too old cannot be deleted: no right to delete"
    ]
    assert await serve(1) == 0
    assert rows(database) | {"usage": 0} == {"usage": 0, "refusals": 4, "audit": 2, "runs": 2 + 3}

"""The ledger, the scheduler's state and keys' last use: saved together, once each, whatever fails."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from sqlalchemy import Connection, insert, select, text

from aps.store import schema, states, usage
from aps.store.database import Database, StoreError
from aps.store.saves import Saves
from aps.store.states import State, TenantState
from aps.store.usage import NUMBERS, Deltas, Used, hour_of, read, total

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    made = Database(database_url)
    made.upgrade()
    yield made
    made.close()


def begun(database: Database, service: str = "aps") -> Saves:
    saves = Saves(database, service)
    saves.begin(NOON, 15.0)
    return saves


def row(**numbers: int) -> list[int]:
    return [numbers.get(name, 0) for name in NUMBERS]


def state_of(**levels: float) -> State:
    tenants = {name: TenantState(level, None, 1.5, 0.25, 2.0) for name, level in levels.items()}
    return State(7.5, 2048.0, "a", True, tenants)


def ledger(database: Database, by: usage.By = "tenant", **narrow: object) -> list[Used]:
    with database.reading() as connection:
        return read(connection, by=by, **narrow)  # type: ignore[arg-type]


def test_an_hour_begins_on_the_hour() -> None:
    assert hour_of(NOON.timestamp()) == hour_of(NOON.timestamp() + 3599.999) == NOON
    assert hour_of(NOON.timestamp() + 3600) == NOON + HOUR


def test_usage_adds_up_by_tenant_hour_and_day(database: Database) -> None:
    saves = begun(database)
    random = Random(1)
    whole: dict[str, list[int]] = {}
    for at in range(60):
        hour = NOON + HOUR * (at % 30)
        names = random.sample(["a", "b", "c", "d", 'e "quoted"; --', "ü"], 3)
        numbers = [[random.randrange(10**12) for _ in NUMBERS] for _ in names]
        saves.deltas.note(hour, names, numbers, {names[0]: {"over_rate": at + 1, "queue_full": 1}, "refused": {"x": 1}})
        for name, values in zip(names, numbers, strict=True):
            whole[name] = [a + b for a, b in zip(whole.get(name, row()), values, strict=True)]
        if at % 7 == 0:
            saves.save(NOON, None)
    saves.save(NOON, None)
    assert len(saves) == 0
    found = {used.tenant: used for used in ledger(database)}
    assert {name: list(usage.numbers_of(used)) for name, used in found.items() if name != "refused"} == whole
    assert found["refused"].refused == {"x": 60} and found["refused"].admitted == 0
    for by in usage.BY:
        assert total(ledger(database, by)) == total(found.values())
    assert total(found.values()).refused == {"over_rate": 1830, "queue_full": 60, "x": 60}
    days = {used.period for used in ledger(database, "day")}
    assert days == {"2026-03-01", "2026-03-02"}
    hours = ledger(database, "hour", tenant="refused", since=NOON + HOUR, until=NOON + HOUR * 3)
    assert [(used.period, used.refused) for used in hours] == [
        ("2026-03-01T13:00", {"x": 2}),
        ("2026-03-01T14:00", {"x": 2}),
    ]
    assert ledger(database, tenant="nobody") == []


def test_charges_are_exact() -> None:
    assert [Used(None, None, charged_micro=n).charged for n in (0, 1, 1_500_000, 2_000_000, 2**62)] == [
        "0", "0.000001", "1.5", "2", "4611686018427.387904",
    ]  # fmt: skip


def test_nothing_is_written_of_whom_nothing_is_counted() -> None:
    deltas = Deltas()
    deltas.note(NOON, ["a", "b"], [row(), row(gpu_ns=1)], {})
    assert list(deltas.numbers) == [(NOON, "b")] and len(deltas) == 1


def test_the_state_comes_back_as_it_was(database: Database) -> None:
    assert Saves(database, "aps").begin(NOON, 15.0).state is None
    saves = begun(database)
    first = state_of(a=1.0, b=-2.5e-300, c=3.0)
    saves.save(NOON, first)
    begun(database, "other").save(NOON, state_of(x=1.0))
    assert Saves(database, "aps").begin(NOON, 15.0).state == (first, NOON)
    second = State(8.25, None, None, False, {**first.tenants, "d": TenantState(None, 5.0, 0.1, 0.2, 1e9)})
    del second.tenants["a"]  # type: ignore[attr-defined]
    saves.save(NOON + HOUR, second)
    assert Saves(database, "aps").begin(NOON, 15.0).state == (second, NOON + HOUR)


def test_only_what_changed_is_written(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    saves = begun(database)
    saves.save(NOON, state_of(a=1.0, b=2.0))
    with database.writing() as connection:
        connection.execute(text("UPDATE tenant_states SET credit = 99"))
    saves.save(NOON, state_of(a=1.0, b=3.0, c=4.0))
    with database.reading() as connection:
        rows = connection.execute(text("SELECT tenant, level, credit FROM tenant_states ORDER BY tenant")).all()
    assert [tuple(found) for found in rows] == [("a", 1.0, 99.0), ("b", 3.0, 0.25), ("c", 4.0, 0.25)]


def test_last_use_of_keys(database: Database) -> None:
    with database.writing() as connection:
        connection.execute(
            insert(schema.tenants),
            {
                "name": "a", "weight": 1, "over_rate": "refuse", "default_bid": 5, "max_bid": 10,
                "default_max_tokens": 1, "kv_share": 1, "created_at": NOON, "changed_at": NOON,
            },
        )  # fmt: skip
        for digest in ("1" * 64, "2" * 64):
            values = {"id": digest[:8], "tenant": "a", "digest": digest, "created_at": NOON}
            connection.execute(insert(schema.keys), values)
    saves = begun(database)
    saves.used(["1" * 64, "f" * 64], NOON)  # the second is of a file
    saves.save(NOON, None)
    with database.reading() as connection:
        rows = connection.execute(select(schema.keys.c.digest, schema.keys.c.last_used_at)).all()
    found = {row[0]: row[1] for row in rows}
    assert found == {"1" * 64: NOON, "2" * 64: None}


def test_runs_that_look_alive(database: Database) -> None:
    first = begun(database)
    first.save(NOON, None)
    assert Saves(database, "other").begin(NOON, 15.0).alive == []
    second = Saves(database, "aps")
    assert second.begin(NOON + timedelta(seconds=14), 15.0).alive == [NOON]
    second.save(NOON + timedelta(seconds=14), None, stopped=True)
    assert Saves(database, "aps").begin(NOON + timedelta(seconds=16), 15.0).alive == []


class Cut(Exception):
    """The connection breaks here."""


@pytest.mark.parametrize("arrived", [False, True])
def test_a_save_whose_outcome_is_unknown_is_not_counted_twice(
    database: Database, monkeypatch: pytest.MonkeyPatch, arrived: bool
) -> None:
    saves = begun(database)
    saves.deltas.note(NOON, ["a"], [row(admitted=1)], {"a": {"over_rate": 1}})
    saves.save(NOON, state_of(a=1.0))
    commit = Connection._commit_impl

    def broken(connection: Connection) -> None:
        if arrived:
            commit(connection)
        else:
            connection._rollback_impl()
        raise StoreError("the connection is lost")

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "_commit_impl", broken)
        for _ in range(2):
            saves.deltas.note(NOON, ["a"], [row(admitted=10)], {"a": {"over_rate": 10}})
            with pytest.raises(StoreError):
                saves.save(NOON, state_of(a=2.0, b=2.0))
    assert len(saves) > 0
    saves.deltas.note(NOON, ["a", "b"], [row(admitted=100), row(admitted=1)], {})
    saves.save(NOON + HOUR, state_of(a=1.0))
    assert len(saves) == 0
    assert [(used.tenant, used.admitted, used.refused) for used in ledger(database)] == [
        ("a", 121, {"over_rate": 21}),
        ("b", 1, {}),
    ]
    with database.reading() as connection:
        assert states.load(connection, "aps") == (state_of(a=1.0), NOON + HOUR)
        assert connection.execute(select(schema.runs.c.saves)).scalar_one() == (4 if arrived else 2)


def test_a_save_is_whole_or_not_at_all(database: Database) -> None:
    saves = begun(database)
    saves.deltas.note(NOON, ["a"], [row(admitted=1)], {})
    impossible = State(0.0, None, None, True, {"a": TenantState(1.0, 1.0, None, 0.0, 1.0)})  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(StoreError):
            saves.save(NOON, impossible)
        assert ledger(database) == []
    saves.save(NOON, state_of(a=1.0))
    assert [used.admitted for used in ledger(database)] == [1]


def test_a_run_that_is_gone_or_written_by_another(database: Database) -> None:
    saves = begun(database)
    with database.writing() as connection:
        connection.execute(text("UPDATE runs SET saves = 7"))
    with pytest.raises(StoreError, match="somebody else"):
        saves.save(NOON, None)
    with database.writing() as connection:
        connection.execute(text("DELETE FROM runs"))
    with pytest.raises(StoreError, match="gone"):
        saves.save(NOON, None)

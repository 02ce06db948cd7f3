"""The ledger, the scheduler's state and keys' last use: saved together, once each, whatever fails."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import inf
from random import Random

import numpy as np
import pytest
from sqlalchemy import Connection, insert, select, text

from aps.state import COLUMNS, SchedulerState
from aps.store import schema, states, usage
from aps.store.database import Database, StoreError
from aps.store.saves import Saves
from aps.store.usage import NUMBERS, Deltas, TooMany, Used, hour_of, read, total

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def begun(database: Database, service: str = "aps") -> Saves:
    saves = Saves(database, service)
    saves.begin(NOON, 15.0)
    return saves


def row(**numbers: int) -> list[int]:
    return [numbers.get(name, 0) for name in NUMBERS]


def state_of(at_ns: int = 0, last: str | None = None, window: float = 2048.0, **bases: float) -> SchedulerState:
    """Of tenants whose bucket has so much; inf: unlimited."""
    n, base = len(bases), np.array(list(bases.values()), float)
    limited = base < inf
    return SchedulerState(
        at_ns, 7.5, window, last, tuple(bases), np.full(n, 2.0), np.full(n, 1.5), np.full(n, 0.1),
        np.where(limited, 100.0, inf), np.where(limited, 1e4, inf), base, np.full(n, at_ns - 5),
        np.where(limited, 3.0, inf), np.where(limited, 30.0, inf), base / 100, np.full(n, at_ns - 7),
    )  # fmt: skip


def same(one: SchedulerState | None, other: SchedulerState) -> bool:
    """But for the order of tenants."""
    assert one is not None
    order = [one.tenants.index(name) for name in other.tenants]
    names = ("at_ns", "virtual_time", "fairness_window", "last_contender")
    return len(order) == len(one.tenants) and (
        all(getattr(one, name) == getattr(other, name) for name in names)
        and all((getattr(one, name)[order] == getattr(other, name)).all() for name in COLUMNS)
    )


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


def test_more_than_was_to_be_read_is_refused_and_never_cut_off(database: Database) -> None:
    deltas = Deltas()
    for number in range(4):
        deltas.note(NOON, [], [], {f"t{number}": {"over_rate": 1, "tenant_queue_full": 1}})
    with database.writing() as connection:
        usage.add(connection, deltas)
    with database.reading() as connection:
        assert len(read(connection, most=8)) == 4
        for most in (3, 4, 7):
            with pytest.raises(TooMany, match=f"more than {most} rows"):
                read(connection, most=most)


def test_charges_are_exact() -> None:
    assert [usage.charged(n) for n in (0, 1, 1_500_000, 2_000_000, 2**62)] == [
        "0", "0.000001", "1.5", "2", "4611686018427.387904",
    ]  # fmt: skip


def test_nothing_is_written_of_whom_nothing_is_counted() -> None:
    deltas = Deltas()
    deltas.note(NOON, ["a", "b"], [row(), row(gpu_ns=1)], {})
    assert list(deltas.numbers) == [(NOON, "b")] and len(deltas) == 1


def test_the_state_comes_back_as_it_was(database: Database) -> None:
    assert Saves(database, "aps").begin(NOON, 15.0).state is None
    saves = begun(database)
    first = state_of(12345678901234567, a=1.0, b=-2.5e-300, c=3.0)
    begun(database, "other").save(NOON, state_of(x=1.0))
    for hours, state in enumerate((first, state_of(5, "b", inf, b=1 / 3, d=inf, c=3.0), state_of())):
        saves.save(NOON + HOUR * hours, state)
        found, at = Saves(database, "aps").begin(NOON, 15.0).state or (None, None)
        assert same(found, state) and at == NOON + HOUR * hours


def test_only_what_changed_is_written(database: Database) -> None:
    saves = begun(database)
    saves.save(NOON, state_of(a=1.0, b=2.0, gone=1.0))
    with database.writing() as connection:
        connection.execute(text("UPDATE tenant_states SET credit = 99"))
    saves.save(NOON, state_of(a=1.0, b=3.0, c=4.0))
    with database.reading() as connection:
        rows = connection.execute(text("SELECT tenant, base, credit FROM tenant_states ORDER BY tenant")).all()
    assert [tuple(found) for found in rows] == [("a", 1.0, 99.0), ("b", 3.0, 0.1), ("c", 4.0, 0.1)]


def test_two_runs_of_one_name_leave_the_state_of_one_of_them(database: Database) -> None:
    """Not a mixture, which may be no state at all: one of them has run for long."""
    runs = [(begun(database), state_of(10**15, a=5.0, b=1.0)), (begun(database), state_of(10**9, a=6.0))]
    for later in range(3):
        for saves, first in runs:
            state = replace(first, at_ns=first.at_ns + later)
            saves.save(NOON, state)
            found, _ = Saves(database, "aps").begin(NOON, 15.0).state or (None, None)
            assert same(found, state)


def test_rows_that_are_no_state(database: Database) -> None:
    begun(database).save(NOON, state_of(a=1.0))
    values = {"-1": "weight must be.*-1"}
    if database.sqlite:  # any column takes text
        values["'much'"] = "weight must be an array of float64"
    for value, said in values.items():
        with database.writing() as connection:
            connection.execute(text(f"UPDATE tenant_states SET weight = {value}"))
        with pytest.raises(StoreError, match=f"service 'aps'.*{said}"):
            begun(database)


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
    saves.used([bytes.fromhex("1" * 64), bytes.fromhex("f" * 64)], NOON)  # the second is of a file
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
        found, at = states.load(connection, "aps") or (None, None)
        assert same(found, state_of(a=1.0)) and at == NOON + HOUR
        assert connection.execute(select(schema.runs.c.saves)).scalar_one() == (4 if arrived else 2)


def test_a_save_is_whole_or_not_at_all(database: Database) -> None:
    saves = begun(database)
    saves.deltas.note(NOON, ["a"], [row(admitted=1)], {})
    with database.writing() as connection:
        connection.execute(text("ALTER TABLE tenant_states RENAME TO hidden"))
    for _ in range(2):
        with pytest.raises(StoreError):
            saves.save(NOON, state_of(a=1.0))
        assert ledger(database) == []
    with database.writing() as connection:
        connection.execute(text("ALTER TABLE hidden RENAME TO tenant_states"))
    saves.save(NOON, state_of(a=1.0))
    assert [used.admitted for used in ledger(database)] == [1]


@pytest.mark.parametrize(
    ("damage", "left"), [("UPDATE runs SET saves = 1", 1), ("DELETE FROM runs", None), ("UPDATE runs SET saves = 9", 9)]
)
def test_a_database_that_went_back_is_written_on(
    database: Database, damage: str, left: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A backup, or a standby that had not heard of everything. What it lost is lost, and all of the state is new."""
    saves = begun(database)
    for _ in range(3):
        saves.deltas.note(NOON, ["a"], [row(admitted=1)], {})
        saves.save(NOON, state_of(a=1.0))
    with database.writing() as connection:
        connection.execute(text(damage))
        connection.execute(text("DELETE FROM tenant_states"))
        connection.execute(text("UPDATE usage SET admitted = 1"))
    for _ in range(2):
        saves.deltas.note(NOON, ["a"], [row(admitted=10)], {})
        saves.save(NOON, state_of(a=1.0))
    assert [used.admitted for used in ledger(database)] == [21]
    with database.reading() as connection:
        assert connection.execute(select(schema.runs.c.saves)).scalar_one() == (3 if left is None else left) + 2
        found, _ = states.load(connection, "aps") or (None, None)
        assert same(found, state_of(a=1.0))
    assert [record.message for record in caplog.records if "is not what it was" in record.message] != []
    assert len(caplog.records) == 1

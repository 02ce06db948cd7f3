"""The store's database: addresses, versions, and what becomes of it when something goes wrong."""

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect, select, text, update

from aps.service import config_view
from aps.store import schema
from aps.store.database import Database, StoreError, Unreachable, Unsure, VersionError, address, newest, versions
from aps.store.store import Store
from aps.tenants import Tenant
from tests.committing import breaks_in_commits

if TYPE_CHECKING:
    from tests.postgres import Server


@pytest.mark.parametrize(
    ("url", "means"),
    [
        ("aps.db", "sqlite:///aps.db"),
        ("/var/lib/aps/aps.db", "sqlite:////var/lib/aps/aps.db"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
        ("postgresql://u:p@h:5/d", "postgresql+psycopg://u:***@h:5/d"),
        ("postgres://u@h/d?sslmode=require", "postgresql+psycopg://u@h/d?sslmode=require"),
    ],
)
def test_addresses(url: str, means: str) -> None:
    assert address(url).render_as_string(hide_password=True) == means


@pytest.mark.parametrize(
    "url",
    ["", ":memory:", "mysql://u:secret@h/d", "sqlite://", "sqlite:///:memory:", "postgresql://u:secret@h:x/d", "://"],
)
def test_no_address(url: str) -> None:
    with pytest.raises(ValueError, match=r"must be an SQLite file's path.*got") as error:
        address(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("url", ["aps:secret@127.0.0.1:1/aps", "aps@127.0.0.1:1/aps?password=secret"])
def test_the_password_is_never_shown(url: str) -> None:
    url = f"postgresql://{url}"
    database = Database(url)
    assert "secret" not in f"{database.shown} {config_view.shown('store.url', url)}"
    assert "secret" not in database.shown
    with pytest.raises(StoreError) as error:
        database.upgrade()
    assert "secret" not in str(error.value)
    assert "127.0.0.1" in str(error.value)


def test_tables_are_made_once_and_are_those_of_the_schema(database_url: str) -> None:
    database = Database(database_url)
    with pytest.raises(VersionError, match=r"no tables of APS yet|no such database"):
        database.check()
    assert database.upgrade() is None
    assert database.upgrade() == newest()
    database.check()
    with database.reading() as connection:
        context = MigrationContext.configure(connection, opts={"compare_server_default": False})
        assert compare_metadata(context, schema.metadata) == []
        assert connection.execute(select(schema.revision.c.number)).scalar_one() == 0
    database.close()


def test_a_newer_database_is_refused(database_url: str) -> None:
    database = Database(database_url)
    database.upgrade()
    with database.writing() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    for attempt in (database.upgrade, database.check):
        with pytest.raises(VersionError, match=r"version 9999.*newer than this APS \(" + newest()):
            attempt()
    database.close()


def test_a_migration_that_fails_half_way_leaves_nothing(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    database = Database(database_url)
    if database.sqlite:
        database.file.touch()
    with pytest.raises(StoreError), database.writing() as connection:
        connection.execute(text("CREATE TABLE keys (x INTEGER)"))  # in the way of one of the later tables
        context = MigrationContext.configure(connection)
        assert context.get_current_revision() is None
        connection.execute(text("SELECT nothing FROM nowhere"))
    with database.reading() as connection:
        assert inspect(connection).get_table_names() == []
    with database.writing() as connection:
        connection.execute(text("CREATE TABLE keys (x INTEGER)"))
    with pytest.raises(StoreError, match="keys"):
        database.upgrade()
    with database.reading() as connection:
        assert inspect(connection).get_table_names() == ["keys"]  # none of the tables before it
    with database.writing() as connection:
        connection.execute(text("DROP TABLE keys"))
    assert database.upgrade() is None
    database.check()
    database.close()


def test_a_process_killed_in_the_middle_of_a_migration_leaves_nothing(database_url: str) -> None:
    program = f"""
import os, signal
from sqlalchemy import event
from aps.store.database import Database
database = Database({database_url!r})
seen = []
@event.listens_for(database.engine, "after_cursor_execute")
def kill(connection, cursor, statement, parameters, context, many):
    seen.append(statement)
    if "CREATE TABLE usage" in statement:
        os.kill(os.getpid(), signal.SIGKILL)
database.upgrade()
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60)
    assert done.returncode == -9
    database = Database(database_url)
    assert database.upgrade() is None
    database.check()
    database.close()


@pytest.mark.parametrize("attempt", range(3))
def test_services_that_start_at_once(database_url: str, attempt: int) -> None:
    databases = [Database(database_url) for _ in range(8)]
    problems: list[BaseException] = []
    together = threading.Barrier(len(databases))

    def start(database: Database) -> None:
        together.wait(60)
        try:
            database.upgrade()
            database.check()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=start, args=(database,)) for database in databases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert problems == []
    for database in databases:
        database.close()


def test_a_reader_sees_one_state_and_does_not_wait_for_a_writer(database_url: str) -> None:
    database = Database(database_url)
    database.upgrade()
    number = select(schema.revision.c.number)
    with database.reading() as reader:
        assert reader.execute(number).scalar_one() == 0
        with database.writing() as writer:
            writer.execute(update(schema.revision).values(number=7))
            assert reader.execute(number).scalar_one() == 0
        assert reader.execute(number).scalar_one() == 0
    with database.reading() as reader:
        assert reader.execute(number).scalar_one() == 7
    database.close()


def test_files_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no directory"):
        Database(str(tmp_path / "nowhere" / "aps.db")).upgrade()
    (tmp_path / "notes").write_text("not a database, but long enough to be looked at as one" * 100)
    with pytest.raises(StoreError, match="not a database"):
        Database(str(tmp_path / "notes")).upgrade()
    assert (tmp_path / "notes").read_text().startswith("not a database")
    with pytest.raises(StoreError, match="unable to open"):
        Database(str(tmp_path)).upgrade()


def test_a_locked_file_is_an_error_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aps.store.database.WAIT_S", 0.1)
    path = tmp_path / "aps.db"
    database = Database(str(path))
    database.upgrade()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="locked"), database.writing():
        pass
    with database.reading() as connection:  # readers go on
        assert connection.execute(select(schema.revision.c.number)).scalar_one() == 0
    other.execute("ROLLBACK")
    other.close()
    with database.writing():
        pass
    database.close()


def test_a_file_that_is_replaced_or_removed_is_written_no_more(tmp_path: Path) -> None:
    """Its connections would write to a file without a name, and say that all is well."""
    path, aside = tmp_path / "aps.db", tmp_path / "aside.db"
    database = Database(str(path))
    database.upgrade()
    path.rename(aside)
    for attempt in (database.writing, database.reading):
        with pytest.raises(StoreError, match=r"aps\.db was removed while it was open; put it back"), attempt():
            pass
    assert not path.exists()
    path.write_bytes(b"")
    with pytest.raises(StoreError, match=r"aps\.db was replaced while it was open"), database.writing():
        pass
    path.unlink()
    aside.rename(path)
    with database.writing() as connection:
        connection.execute(update(schema.revision).values(number=7))
    database.close()


def test_only_an_upgrade_makes_a_file(tmp_path: Path) -> None:
    database = Database(str(tmp_path / "aps.db"))
    for attempt in (database.writing, database.reading):
        with pytest.raises(StoreError, match="No such file"), attempt():
            pass
    with pytest.raises(VersionError, match="there is no such database"):
        database.check()
    assert list(tmp_path.iterdir()) == []
    database.close()


@pytest.mark.parametrize("writable", [True, False])
def test_what_is_only_read_stays_as_it_is_and_may_be_where_nothing_can_be_written(
    tmp_path: Path, writable: bool
) -> None:
    path = tmp_path / "aps.db"
    database = Database(str(path))
    database.upgrade()
    database.close()
    assert not Path(f"{path}-wal").exists()
    if not writable:  # of the index of its WAL it can make none
        Path(f"{path}-shm").mkdir()
    before = path.read_bytes()
    reader = Database(str(path), read_only=True)
    reader.check()
    with pytest.raises(StoreError, match="readonly"), reader.writing() as connection:
        connection.execute(update(schema.revision).values(number=7))
    reader.close()
    assert path.read_bytes() == before


def test_what_may_pass_is_told_from_what_stays_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aps.store.database.WAIT_S", 0.1)
    path = tmp_path / "aps.db"
    database = Database(str(path))
    database.upgrade()
    with pytest.raises(StoreError) as caught, database.reading() as connection:
        connection.execute(text("SELECT * FROM nothing"))
    assert not isinstance(caught.value, Unreachable)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Unreachable, match="locked"), database.writing():
        pass
    other.close()
    database.close()
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1"):
        Database("postgresql://aps@127.0.0.1:1/aps").upgrade()


def test_a_database_that_is_lost_during_the_commit_is_told_from_one_that_changed_nothing(postgres: "Server") -> None:
    database = Database(postgres.url("lost"))
    database.upgrade()
    store = Store(database)
    with store.changing("test") as change:
        change.add(Tenant("gold"))
    breaks_in_commits(database)
    said = "lost during the commit: terminating connection"
    with pytest.raises(Unsure, match=said), store.changing("test") as change:
        change.set("gold", {"weight": 2})
    with pytest.raises(StoreError) as caught, database.writing() as connection:  # before it
        connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
    assert not isinstance(caught.value, Unsure)
    database.close()


def test_versions_are_one_line() -> None:
    assert len(set(versions())) == len(versions())
    assert versions()[-1] == "0001"
    assert versions()[0] == newest()

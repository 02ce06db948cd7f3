"""A database that the store is in: its address, its connections, and its version."""

import os
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

if TYPE_CHECKING:
    from alembic.config import Config  # slow to import, and seldom needed

NEWEST = "0001"  # the version of the tables; a test holds it to the scripts
ALLOWED = "an SQLite file's path, sqlite:///FILE, or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
WAIT_S = 5  # wall seconds: for a connection, and for another's lock
STATEMENT_S = 30  # wall seconds that PostgreSQL may take for one statement
# PostgreSQL's machine is gone without a word: the connection is given up after some 15 s, not after hours.
GONE = {"keepalives_idle": 5, "keepalives_interval": 5, "keepalives_count": 2, "tcp_user_timeout": 15_000}
# What PostgreSQL says, in English, to who may not come in. It comes without the code that other errors have.
DENIED = re.compile(
    r"""^.*(authentication\ failed | no\ password\ supplied | pg_hba\.conf | is\ not\ permitted\ to\ log\ in
    | (role|database)\ ".*"\ does\ not\ exist | permission\ denied\ for\ database | no\ such\ (user|database)).*$""",
    re.MULTILINE | re.VERBOSE,
)
PASSING = (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)
MADE_BY = "aps serve makes it, with the tenants of its configuration, or aps tenants apply FILE"
PUT_BACK = "put it back, or end the service before another takes its place"
MAYBE = "a change may have been made, or be made yet: look (aps tenants audit, GET /admin/audit) before you ask again"
MIGRATION_LOCK = 0x415053  # one service at a time brings a PostgreSQL database up to date


class StoreError(Exception):
    """The store cannot be had, or not now. The message says which and why, without the password."""


class Unreachable(StoreError):
    """Not now: it is down, locked, full, or the way to it is. The same may work later."""


class Denied(StoreError):
    """PostgreSQL answers, and lets nobody in by this address: the user, the password or the database is wrong."""


class Unsure(Unreachable):
    """What was asked may be done, may yet be done, or not: whoever asked must look."""


class VersionError(StoreError):
    """The database has no tables, or was not brought up to date."""


class NewerError(VersionError):
    """The database was made by a newer APS."""


def address(url: str) -> URL:
    """What a configured `url` means; a bare path is an SQLite file. ValueError: no such address."""
    if "://" not in url:
        if url in ("", ":memory:"):  # SQLite would keep it until it is closed, and no longer
            raise ValueError(f"must be {ALLOWED}, got {url!r}: a store is a file")
        return URL.create("sqlite", database=url)
    try:
        found = make_url(url)
    except (ArgumentError, ValueError):  # a port that is no number
        raise ValueError(f"must be {ALLOWED}, got {url.split('://')[0]}://...") from None
    kind = found.get_backend_name()
    if kind in ("postgresql", "postgres"):
        return found.set(drivername="postgresql+psycopg")
    if kind == "sqlite":
        if not found.database or found.database == ":memory:":
            raise ValueError(f"must be {ALLOWED}, got {url!r}: a store is a file")
        return found.set(drivername="sqlite")
    raise ValueError(f"must be {ALLOWED}, got {found.drivername}://...")


def shown(url: URL) -> str:
    """Without its password, and without its options, where one may be too."""
    return url.set(query={}).render_as_string(hide_password=True)


class Database:
    """Connections to one database. Any thread may use it; every call may wait, so none belongs on an event loop.

    url: see `address`. shown: the same without its password and its options. read_only: of SQLite, the file is not
    made, nor anything in it changed. Nothing is opened before the first call. Only `upgrade` makes a file; one that is
    replaced or removed once it has been opened is a StoreError from then on: what is written would be in a file that
    has no name any more. ValueError: the url means nothing; StoreError: the driver of PostgreSQL is not installed.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self.url = address(url)
        self.shown = shown(self.url)
        self._opened: tuple[int, int] | None = None  # device and inode of SQLite's file
        try:
            self.engine = _engine(self.url, read_only)
        except (ImportError, NoSuchModuleError) as error:
            raise StoreError(f"{self.shown}: {error}; pip install 'aps-scheduler[postgres]'") from error

    @property
    def sqlite(self) -> bool:
        """Whether it is a file of SQLite."""
        return self.url.get_backend_name() == "sqlite"

    @property
    def file(self) -> Path:
        """Of SQLite."""
        return Path(str(self.url.database))

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction, committed at the end unless something is raised.

        StoreError: the database failed, and nothing has changed. Unsure: it was lost while it was to commit.
        """
        committing = False
        with self._failing():
            try:
                with self.engine.begin() as connection:
                    yield connection
                    committing = True
            except DBAPIError as error:
                if committing and error.connection_invalidated:
                    raise Unsure(f"{self.shown}: lost during the commit: {_first_line(error.orig)}") from error
                raise

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """One transaction that sees one state of everything. StoreError: the database failed."""
        with self._failing(), self.engine.connect() as connection:
            options = {"aps_reading": True} if self.sqlite else {"isolation_level": "REPEATABLE READ"}
            yield connection.execution_options(**options)

    def upgrade(self) -> str | None:
        """Make the tables, or bring them up to date, in one transaction. The version it had before; None: none.

        VersionError: it is of a newer APS. StoreError: it cannot be had; it is as it was.
        """
        if self.sqlite:
            self._make_file()
        with self.writing() as connection:
            if not self.sqlite:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
            before = self._version(connection)
            if before != NEWEST:
                _migrate(connection)
        return before

    def version(self) -> str | None:
        """Of its tables; None: there are none, or no file yet. It makes none. Errors as of `check`."""
        if self.sqlite and not self.file.exists():
            return None
        with self.reading() as connection:
            return self._version(connection)

    def check(self) -> None:
        """VersionError: the tables are not those of this APS. StoreError: it cannot be had."""
        version = self.version()
        if version is None and self.sqlite and not self.file.exists():
            raise VersionError(f"{self.shown}: there is no such database; {MADE_BY}")
        if version is None:
            raise VersionError(f"{self.shown} has no tables of APS yet; {MADE_BY}")
        if version != NEWEST:
            raise VersionError(f"{self.shown} is of version {version}, this APS needs {NEWEST}; start the service once")

    def close(self) -> None:
        """Let go of the connections."""
        self.engine.dispose()

    def _version(self, connection: Connection) -> str | None:
        if not inspect(connection).has_table("alembic_version"):
            return None
        found = connection.execute(text("SELECT version_num FROM alembic_version")).scalar_one_or_none()
        version = None if found is None else str(found)
        if version not in (None, NEWEST) and version not in versions():
            raise NewerError(
                f"{self.shown} is of version {version}, which is newer than this APS ({NEWEST}): "
                "install the APS that made it, or restore a backup"
            )
        return version

    def _make_file(self) -> None:
        if not self.file.parent.is_dir():
            raise StoreError(f"{self.shown}: there is no directory {self.file.parent}")
        if self._opened is None and not self.file.exists():
            try:
                os.close(os.open(self.file, os.O_RDWR | os.O_CREAT, 0o644))  # no bytes are an empty database
            except OSError as error:
                raise StoreError(f"{self.shown}: {error.strerror}") from error

    def _check_file(self) -> None:
        """StoreError: SQLite's file is not the one that was opened first."""
        try:
            found = self.file.stat()
        except OSError as error:
            if self._opened is None:
                raise StoreError(f"{self.shown}: {error.strerror}") from error
            raise StoreError(f"{self.shown} was removed while it was open; {PUT_BACK}") from error
        its = found.st_dev, found.st_ino
        if self._opened not in (None, its):
            raise StoreError(f"{self.shown} was replaced while it was open; {PUT_BACK}")
        self._opened = its

    @contextmanager
    def _failing(self) -> Iterator[None]:
        if self.sqlite:
            self._check_file()
        try:
            yield
        except DBAPIError as error:
            if denied := _denied(error):
                raise Denied(f"{self.shown}: {denied}") from error
            kind = Unreachable if _may_pass(error) else StoreError
            raise kind(f"{self.shown}: {_first_line(error.orig)}") from error
        except PoolTimeoutError as error:
            raise Unreachable(f"{self.shown}: {_first_line(error)}") from error
        except SQLAlchemyError as error:
            raise StoreError(f"{self.shown}: {_first_line(error)}") from error


def versions() -> tuple[str, ...]:
    """All that this APS knows, the newest first."""
    from alembic.script import ScriptDirectory

    return tuple(script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions())


def newest() -> str:
    """The version of this APS's tables."""
    return NEWEST


def _migrate(connection: Connection) -> None:
    from alembic import command

    config = _alembic()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _alembic() -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", "aps.store:migrations")
    return config


def _engine(url: URL, read_only: bool) -> Engine:
    if url.get_backend_name() == "sqlite":
        opened = partial(_sqlite_reader if read_only else _sqlite_writer, str(url.database))
        engine = create_engine(url, creator=opened, pool_timeout=WAIT_S)
        event.listen(engine, "connect", _sqlite_read if read_only else _sqlite_opened)
        event.listen(engine, "begin", _sqlite_begins)
        return engine
    options = f"-c statement_timeout={STATEMENT_S * 1000} -c lock_timeout={WAIT_S * 1000}"
    connect = {"connect_timeout": WAIT_S, "application_name": "aps", "options": options} | GONE | dict(url.query)
    return create_engine(
        url.set(query={}), connect_args=connect, pool_pre_ping=True, pool_size=2, max_overflow=4, pool_timeout=WAIT_S
    )


def _sqlite(file: str, options: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(file)}?{options}", uri=True, timeout=WAIT_S, check_same_thread=False)


def _sqlite_writer(file: str) -> sqlite3.Connection:
    return _sqlite(file, "mode=rw")


def _sqlite_reader(file: str) -> sqlite3.Connection:
    connection = _sqlite(file, "mode=ro")
    try:
        connection.execute("SELECT 1 FROM sqlite_master").close()
        return connection
    except sqlite3.OperationalError as error:
        connection.close()
        wal = Path(f"{file}-wal")
        # Where nothing may be written there is no index of the WAL to be made. Without a WAL the file is all there is.
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) or wal.exists():
            raise
    return _sqlite(file, "mode=ro&immutable=1")


def _sqlite_read(connection: Any, _: Any) -> None:
    # The module would begin and end transactions of its own, and leave changes of tables out of them.
    connection.isolation_level = None


def _sqlite_opened(connection: Any, _: Any) -> None:
    _sqlite_read(connection, _)
    _to_wal(connection)
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _to_wal(connection: sqlite3.Connection) -> None:
    # Two that make a new file WAL's at once would wait for each other: SQLite refuses one of them without a wait.
    until = time.monotonic() + WAIT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL").close()
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                raise
        time.sleep(0.005)


def _sqlite_begins(connection: Connection) -> None:
    # Whoever is to write takes the lock first: a reader that turned into a writer would not wait for it.
    reading = connection.get_execution_options().get("aps_reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _may_pass(error: DBAPIError) -> bool:
    """Whether the same may work later. In SQLite a table that is not there is an OperationalError too."""
    code = getattr(error.orig, "sqlite_errorcode", None)
    return isinstance(error, OperationalError | InterfaceError) and (code is None or code & 0xFF in PASSING)


def _denied(error: DBAPIError) -> str:
    """Why a connection was refused for good, in a line; empty: it was not."""
    if getattr(error.orig, "sqlstate", "") is not None:  # it is of a connection that there is
        return ""
    found = DENIED.search(str(error.orig))
    return found[0].strip() if found else ""


def _first_line(error: object) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__

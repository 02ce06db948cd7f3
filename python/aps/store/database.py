"""A database that the store is in: its address, its connections, and its version."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

ALLOWED = "an SQLite file's path, sqlite:///FILE, or postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
WAIT_S = 5  # wall seconds: for a connection, and for another's lock
STATEMENT_S = 30  # wall seconds that PostgreSQL may take for one statement
MIGRATION_LOCK = 0x415053  # one service at a time brings a PostgreSQL database up to date


class StoreError(Exception):
    """The store cannot be had, or not now. The message says which and why, without the password."""


class VersionError(StoreError):
    """The database was made by a newer APS, or not brought up to date."""


def address(url: str) -> URL:
    """What a configured `url` means; a bare path is an SQLite file. ValueError: no such address."""
    if "://" not in url:
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


class Database:
    """Connections to one database. Any thread may use it; every call may wait, so none belongs on an event loop.

    url: see `address`. shown: the same without its password. Nothing is opened before the first call. ValueError: the
    url means nothing; StoreError: the driver of PostgreSQL is not installed.
    """

    def __init__(self, url: str) -> None:
        self.url = address(url)
        self.shown = self.url.render_as_string(hide_password=True)
        try:
            self.engine = _engine(self.url)
        except (ImportError, NoSuchModuleError) as error:
            raise StoreError(f"{self.shown}: {error}; pip install 'aps-scheduler[postgres]'") from error

    @property
    def sqlite(self) -> bool:
        """Whether it is a file of SQLite."""
        return self.url.get_backend_name() == "sqlite"

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """One transaction, committed at the end unless something is raised. StoreError: the database failed."""
        with self._failing(), self.engine.begin() as connection:
            yield connection

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
            folder = Path(str(self.url.database)).parent
            if not folder.is_dir():
                raise StoreError(f"{self.shown}: there is no directory {folder}")
        with self.writing() as connection:
            if not self.sqlite:
                connection.execute(text(f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"))
            before = self._version(connection)
            config = _alembic()
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
        return before

    def check(self) -> None:
        """VersionError: the tables are not those of this APS. StoreError: it cannot be had."""
        with self.reading() as connection:
            version = self._version(connection)
        if version != newest():
            raise VersionError(
                f"{self.shown} has no tables of APS yet; start the service once"
                if version is None
                else f"{self.shown} is of version {version}, this APS needs {newest()}; start the service once"
            )

    def close(self) -> None:
        """Let go of the connections."""
        self.engine.dispose()

    def _version(self, connection: Connection) -> str | None:
        version = MigrationContext.configure(connection).get_current_revision()
        if version is not None and version not in versions():
            raise VersionError(
                f"{self.shown} is of version {version}, which is newer than this APS ({newest()}): "
                "install the APS that made it, or restore a backup"
            )
        return version

    @contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            raise StoreError(f"{self.shown}: {_first_line(error.orig)}") from error
        except SQLAlchemyError as error:
            raise StoreError(f"{self.shown}: {_first_line(error)}") from error


def versions() -> tuple[str, ...]:
    """All that this APS knows, the newest first."""
    return tuple(script.revision for script in ScriptDirectory.from_config(_alembic()).walk_revisions())


def newest() -> str:
    """The version of this APS's tables."""
    return versions()[0]


def _alembic() -> Config:
    config = Config()
    config.set_main_option("script_location", "aps.store:migrations")
    return config


def _engine(url: URL) -> Engine:
    if url.get_backend_name() == "sqlite":
        engine = create_engine(url, connect_args={"timeout": WAIT_S, "check_same_thread": False})
        event.listen(engine, "connect", _sqlite_opened)
        event.listen(engine, "begin", _sqlite_begins)
        return engine
    options = f"-c statement_timeout={STATEMENT_S * 1000} -c lock_timeout={WAIT_S * 1000}"
    connect = {"connect_timeout": WAIT_S, "application_name": "aps", "options": options} | dict(url.query)
    return create_engine(
        url.set(query={}), connect_args=connect, pool_pre_ping=True, pool_size=2, max_overflow=4, pool_timeout=WAIT_S
    )


def _sqlite_opened(connection: Any, _: Any) -> None:
    # The module would begin and end transactions of its own, and leave changes of tables out of them.
    connection.isolation_level = None
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _sqlite_begins(connection: Connection) -> None:
    # Whoever is to write takes the lock first: a reader that turned into a writer would not wait for it.
    reading = connection.get_execution_options().get("aps_reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _first_line(error: object) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__

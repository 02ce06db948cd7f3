"""What is old enough to go: usage, refusals, the audit and runs that are over; some rows at a time."""

import logging
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Table, delete, func, select, tuple_

from aps.store import schema
from aps.store.database import Database

LOG = logging.getLogger("aps.store")
BATCH = 1000  # rows of a table in one transaction: nobody who wants the database waits for more
PAUSE = timedelta(hours=1)  # until the next look, once nothing old is left or a try has failed

AGES: tuple[tuple[Table, ColumnElement[datetime]], ...] = (
    (schema.usage, schema.usage.c.hour),
    (schema.refusals, schema.refusals.c.hour),
    (schema.audit, schema.audit.c.at),
    (schema.runs, func.coalesce(schema.runs.c.saved_at, schema.runs.c.started_at)),
)


def prune(database: Database, before: datetime, batch: int = BATCH) -> dict[str, int]:
    """Delete what is older, of each table `batch` rows at most, the oldest first; how many, by table. StoreError."""
    with database.writing() as connection:
        return {table.name: _prune(connection, table, age, before, batch) for table, age in AGES}


def _prune(connection: Connection, table: Table, age: ColumnElement[datetime], before: datetime, batch: int) -> int:
    key = list(table.primary_key.columns)
    oldest = select(*key).where(age < before).order_by(age).limit(batch)
    if table is schema.audit:  # its newest stays: after it SQLite would count ids from 1 again
        oldest = oldest.where(table.c.id < select(func.max(table.c.id)).scalar_subquery())
    return connection.execute(delete(table).where(tuple_(*key).in_(oldest))).rowcount


class Pruner:
    """Keeps so many whole days (UTC) and the one that has begun. keep_days: None: everything. One thread at a time."""

    def __init__(self, database: Database, keep_days: int | None) -> None:
        self._database, self._keep_days = database, keep_days
        self._again_at = datetime.min.replace(tzinfo=UTC)

    def step(self, at: datetime) -> None:
        """It is `at`: delete some of what is too old, if it is time to look. StoreError."""
        if self._keep_days is None or at < self._again_at:
            return
        self._again_at = at + PAUSE
        before = at.replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=self._keep_days)
        gone = prune(self._database, before)
        if any(gone.values()):
            said = ", ".join(f"{name} {rows}" for name, rows in gone.items() if rows)
            LOG.info("rows of before %s are deleted: %s", before.date(), said)
        if BATCH in gone.values():
            self._again_at = at

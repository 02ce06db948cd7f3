"""Rows that are added, or change what is there: the one statement that SQLite and PostgreSQL spell alike."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Table
from sqlalchemy.dialects import sqlite

if TYPE_CHECKING:
    from sqlalchemy.dialects import postgresql

    Insert = postgresql.Insert | sqlite.Insert


def insert(connection: Connection, table: Table) -> "Insert":
    """An insert that has `on_conflict_do_update`."""
    if connection.dialect.name == "sqlite":
        return sqlite.insert(table)
    from sqlalchemy.dialects import postgresql  # a tenth of a second at the start, for those who need it

    return postgresql.insert(table)


def adding(connection: Connection, table: Table, columns: Iterable[str]) -> "Insert":
    """Add the values of these columns to those of the row with the same primary key, or make the row."""
    statement = insert(connection, table)
    sums = {name: table.c[name] + statement.excluded[name] for name in columns}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=sums)


def replacing(connection: Connection, table: Table) -> "Insert":
    """Put the values in place of those of the row with the same primary key, or make the row."""
    statement = insert(connection, table)
    keys = table.primary_key.columns.keys()
    rest = {column.name: statement.excluded[column.name] for column in table.columns if column.name not in keys}
    return statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=rest)

"""A PostgreSQL database whose connection breaks while a change is committed."""

from sqlalchemy import text

from aps.store.database import Database


def breaks_in_commits(database: Database) -> None:
    """From now on: the server ends the connection of whoever commits a change of tenants."""
    with database.writing() as connection:
        for statement in (
            "CREATE FUNCTION ends() RETURNS trigger LANGUAGE plpgsql AS "
            "'BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NULL; END'",
            "CREATE CONSTRAINT TRIGGER ends AFTER INSERT OR UPDATE ON tenants DEFERRABLE INITIALLY DEFERRED "
            "FOR EACH ROW EXECUTE FUNCTION ends()",
        ):
            connection.execute(text(statement))

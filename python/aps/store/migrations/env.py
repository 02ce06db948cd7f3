"""Alembic's entry: runs on the connection, and in the transaction, of `Database.upgrade`."""

from alembic import context

from aps.store.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
context.run_migrations()

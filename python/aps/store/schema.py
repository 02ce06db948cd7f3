"""The tables. A change here is a change of `migrations` too; a test holds the two together."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
)

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_name)s",
    "uq": "uq_%(table_name)s_%(column_0_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s",
    "pk": "pk_%(table_name)s",
}
LONGEST_NAME = 256


class Instant(TypeDecorator[datetime]):
    """An aware datetime, kept in UTC; SQLite has no time zones."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """To UTC."""
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:
        """In UTC."""
        return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


metadata = MetaData(naming_convention=NAMING)


def _name(key: str = "tenant", **options: Any) -> Column[str]:
    return Column(key, String(LONGEST_NAME), **options)


def _count(key: str) -> Column[int]:
    return Column(key, BigInteger, nullable=False, server_default="0")


# As aps.Tenant; NULL: no limit.
tenants = Table(
    "tenants",
    metadata,
    _name("name", primary_key=True),
    Column("weight", Double, nullable=False),
    Column("rate", Double),
    Column("burst", Double),
    Column("over_rate", String(16), nullable=False),
    Column("request_rate", Double),
    Column("request_burst", Double),
    Column("default_bid", Integer, nullable=False),
    Column("max_bid", Integer, nullable=False),
    Column("default_max_tokens", Integer, nullable=False),
    Column("max_request_tokens", BigInteger),
    Column("max_in_flight", Integer),
    Column("max_queued", Integer),
    Column("max_queued_tokens", BigInteger),
    Column("kv_share", Double, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
)

# id: short and public, to name a key without showing it. digest: SHA-256 of the key.
# expires_at: it stops working then (the overlap of a rotation); revoked_at: it has stopped.
keys = Table(
    "keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", ForeignKey("tenants.name", ondelete="CASCADE"), nullable=False, index=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("label", Text, nullable=False, server_default=""),
    Column("created_at", Instant, nullable=False),
    Column("expires_at", Instant),
    Column("revoked_at", Instant),
    Column("last_used_at", Instant),
)

# number: rises with every change of tenants or keys, so that a reader sees by one row whether anything has changed.
# keyed: there has been a key: without any the service is closed, not open to all.
revision = Table(
    "revision",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, nullable=False),
    Column("keyed", Boolean, nullable=False),
)

# Who changed what; details: JSON. revision: the number of the change, so that a reader finds what has changed since.
audit = Table(
    "audit",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("at", Instant, nullable=False, index=True),
    Column("revision", BigInteger, nullable=False, index=True),
    Column("actor", Text, nullable=False),
    Column("action", String(64), nullable=False),
    _name("subject", nullable=False),
    Column("details", Text, nullable=False, server_default="{}"),
)

# Sums over an hour that begins at `hour`. charged_micro: millionths of a bucket token. gpu_ns: nanoseconds.
usage = Table(
    "usage",
    metadata,
    _name(primary_key=True),
    Column("hour", Instant, primary_key=True),
    *(
        _count(name)
        for name in (
            "admitted",
            "finished",
            "cancelled",
            "expired",
            "dropped",
            "failed",
            "prompt_tokens",
            "output_tokens",
            "charged_micro",
            "gpu_ns",
        )
    ),
    Index("ix_usage_hour", "hour"),
)

# Requests that were not admitted, by reason.
refusals = Table(
    "refusals",
    metadata,
    _name(primary_key=True),
    Column("hour", Instant, primary_key=True),
    Column("reason", String(64), primary_key=True),
    _count("count"),
    Index("ix_refusals_hour", "hour"),
)

# A run of a service, from start to stop. saves: how many of its saves are in the other tables: what was saved when a
# connection broke is found by it, and is not saved twice.
runs = Table(
    "runs",
    metadata,
    Column("id", String(32), primary_key=True),
    _name("service", nullable=False, index=True),
    Column("started_at", Instant, nullable=False),
    Column("saved_at", Instant),
    Column("stopped_at", Instant),
    Column("saves", BigInteger, nullable=False, server_default="0"),
)

# Where the scheduler of a service stood at saved_at; see aps.SchedulerState. fairness_window NULL: infinite.
scheduler_states = Table(
    "scheduler_states",
    metadata,
    _name("service", primary_key=True),
    Column("saved_at", Instant, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("virtual_time", Double, nullable=False),
    Column("fairness_window", Double),
    _name("last_contender"),
)

# NULL: infinite. service_received: its S.
tenant_states = Table(
    "tenant_states",
    metadata,
    _name("service", primary_key=True),
    _name(primary_key=True),
    Column("weight", Double, nullable=False),
    Column("service_received", Double, nullable=False),
    Column("credit", Double, nullable=False),
    Column("rate", Double),
    Column("burst", Double),
    Column("base", Double),
    Column("base_at_ns", BigInteger, nullable=False),
    Column("request_rate", Double),
    Column("request_burst", Double),
    Column("request_base", Double),
    Column("request_base_at_ns", BigInteger, nullable=False, server_default="0"),
)

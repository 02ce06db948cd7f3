"""The first tables.

A migration is a picture of its time: it does not import the schema, which goes on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

INSTANT = sa.DateTime(timezone=True)
NAME = sa.String(256)


def upgrade() -> None:
    """From nothing."""
    op.create_table(
        "audit",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("at", INSTANT, nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.String(length=64), nullable=False),
        sa.Column("subject", NAME, nullable=False),
        sa.Column("details", sa.Text(), server_default="{}", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_audit"),
    )
    op.create_index("ix_audit_at", "audit", ["at"])
    op.create_index("ix_audit_revision", "audit", ["revision"])
    op.create_table(
        "refusals",
        sa.Column("tenant", NAME, nullable=False),
        sa.Column("hour", INSTANT, nullable=False),
        sa.Column("reason", sa.String(length=64), nullable=False),
        sa.Column("count", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("tenant", "hour", "reason", name="pk_refusals"),
    )
    op.create_index("ix_refusals_hour", "refusals", ["hour"])
    op.create_table(
        "revision",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("keyed", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_revision"),
    )
    op.create_table(
        "runs",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("service", NAME, nullable=False),
        sa.Column("started_at", INSTANT, nullable=False),
        sa.Column("saved_at", INSTANT, nullable=True),
        sa.Column("stopped_at", INSTANT, nullable=True),
        sa.Column("saves", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
    )
    op.create_index("ix_runs_service", "runs", ["service"])
    op.create_table(
        "scheduler_states",
        sa.Column("service", NAME, nullable=False),
        sa.Column("saved_at", INSTANT, nullable=False),
        sa.Column("at_ns", sa.BigInteger(), nullable=False),
        sa.Column("virtual_time", sa.Double(), nullable=False),
        sa.Column("fairness_window", sa.Double(), nullable=True),
        sa.Column("last_contender", NAME, nullable=True),
        sa.PrimaryKeyConstraint("service", name="pk_scheduler_states"),
    )
    op.create_table(
        "tenant_states",
        sa.Column("service", NAME, nullable=False),
        sa.Column("tenant", NAME, nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("service_received", sa.Double(), nullable=False),
        sa.Column("credit", sa.Double(), nullable=False),
        sa.Column("rate", sa.Double(), nullable=True),
        sa.Column("burst", sa.Double(), nullable=True),
        sa.Column("base", sa.Double(), nullable=True),
        sa.Column("base_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("request_rate", sa.Double(), nullable=True),
        sa.Column("request_burst", sa.Double(), nullable=True),
        sa.Column("request_base", sa.Double(), nullable=True),
        sa.Column("request_base_at_ns", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("service", "tenant", name="pk_tenant_states"),
    )
    op.create_table(
        "tenants",
        sa.Column("name", NAME, nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("rate", sa.Double(), nullable=True),
        sa.Column("burst", sa.Double(), nullable=True),
        sa.Column("over_rate", sa.String(length=16), nullable=False),
        sa.Column("request_rate", sa.Double(), nullable=True),
        sa.Column("request_burst", sa.Double(), nullable=True),
        sa.Column("default_bid", sa.Integer(), nullable=False),
        sa.Column("max_bid", sa.Integer(), nullable=False),
        sa.Column("default_max_tokens", sa.Integer(), nullable=False),
        sa.Column("max_request_tokens", sa.BigInteger(), nullable=True),
        sa.Column("max_in_flight", sa.Integer(), nullable=True),
        sa.Column("max_queued", sa.Integer(), nullable=True),
        sa.Column("max_queued_tokens", sa.BigInteger(), nullable=True),
        sa.Column("kv_share", sa.Double(), nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("changed_at", INSTANT, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_tenants"),
    )
    op.create_table(
        "usage",
        sa.Column("tenant", NAME, nullable=False),
        sa.Column("hour", INSTANT, nullable=False),
        sa.Column("admitted", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("finished", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("cancelled", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("expired", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("dropped", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("charged_micro", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("gpu_ns", sa.BigInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("tenant", "hour", name="pk_usage"),
    )
    op.create_index("ix_usage_hour", "usage", ["hour"])
    op.create_table(
        "keys",
        sa.Column("id", sa.String(length=32), nullable=False),
        sa.Column("tenant", NAME, nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.Column("label", sa.Text(), server_default="", nullable=False),
        sa.Column("created_at", INSTANT, nullable=False),
        sa.Column("expires_at", INSTANT, nullable=True),
        sa.Column("revoked_at", INSTANT, nullable=True),
        sa.Column("last_used_at", INSTANT, nullable=True),
        sa.ForeignKeyConstraint(["tenant"], ["tenants.name"], name="fk_keys_tenant", ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name="pk_keys"),
        sa.UniqueConstraint("digest", name="uq_keys_digest"),
    )
    op.create_index("ix_keys_tenant", "keys", ["tenant"])
    op.execute("INSERT INTO revision (id, number, keyed) VALUES (1, 0, false)")

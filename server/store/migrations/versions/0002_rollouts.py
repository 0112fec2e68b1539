"""Rollouts: plans, phases, offers, quarantine, budgets, waypoints, events, leases.

Frozen: a later change of tables.py is a later version, never an edit here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_ROW = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _device(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["device"], ["devices.id"], name=f"fk_{table}_device", ondelete="CASCADE"
    )


def _rollout(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["rollout"], ["rollouts.id"], name=f"fk_{table}_rollout", ondelete="CASCADE"
    )


def upgrade() -> None:
    for column in (
        sa.Column("group_name", sa.String(64)),
        sa.Column("tags", sa.Text, nullable=False, server_default="[]"),
        sa.Column("attributes", sa.Text, nullable=False, server_default="{}"),
        sa.Column("old_digest", sa.LargeBinary(32)),
        sa.Column("old_until", sa.BigInteger),
    ):
        op.add_column("devices", column)
    op.create_index("ix_devices_seen_at", "devices", ["seen_at"])
    op.create_index("ix_devices_product_channel", "devices", ["product", "channel"])
    op.create_index("ix_devices_old_digest", "devices", ["old_digest"], unique=True)
    op.create_table(
        "quarantines",
        sa.Column("device", sa.String(128), nullable=False),
        sa.Column("release", sa.String(64), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("device", "release", name="pk_quarantines"),
        _device("quarantines"),
    )
    # Until now a report of a fall-back was what kept a release from being offered again.
    op.execute(
        "INSERT INTO quarantines (device, release, reason, since)"
        " SELECT device, release, MAX(reason), MIN(received_at) FROM reports"
        " WHERE kind = 'fell_back' AND release IS NOT NULL GROUP BY device, release"
    )
    op.create_table(
        "rollouts",
        sa.Column("id", _ROW, nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("product", sa.String(64), nullable=False),
        sa.Column("channel", sa.String(64), nullable=False),
        sa.Column("release", sa.String(64), nullable=False),
        sa.Column("plan", sa.Text, nullable=False),
        sa.Column("status", sa.String(24), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("grants", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_rollouts"),
        sa.UniqueConstraint("name", name="uq_rollouts_name"),
    )
    op.create_index("ix_rollouts_status", "rollouts", ["status"])
    op.create_table(
        "phases",
        sa.Column("rollout", _ROW, nullable=False),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("opened_at", sa.BigInteger, nullable=False),
        sa.Column("members", sa.BigInteger, nullable=False),
        sa.Column("limit", sa.BigInteger),
        sa.Column("cuts", sa.Text, nullable=False),
        sa.Column("everyone", sa.Boolean, nullable=False),
        sa.Column("offered", sa.BigInteger, nullable=False),
        sa.Column("proved", sa.Boolean, nullable=False),
        sa.Column("soaked_s", sa.BigInteger, nullable=False),
        sa.Column("forgiven", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("rollout", "phase", name="pk_phases"),
        _rollout("phases"),
    )
    op.create_table(
        "attempts",
        sa.Column("id", _ROW, nullable=False),
        sa.Column("rollout", _ROW, nullable=False),
        sa.Column("device", sa.String(128), nullable=False),
        sa.Column("phase", sa.Integer, nullable=False),
        sa.Column("release", sa.String(64), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("failure", sa.String(16)),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("source", sa.String(64)),
        sa.Column("offered_at", sa.BigInteger, nullable=False),
        sa.Column("changed_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_attempts"),
        _rollout("attempts"),
        _device("attempts"),
        sa.UniqueConstraint("rollout", "device", name="uq_attempts_rollout_device"),
    )
    op.create_index("ix_attempts_device", "attempts", ["device"])
    op.create_index(
        "ix_attempts_rollout_phase_state_failure",
        "attempts",
        ["rollout", "phase", "state", "failure"],
    )
    op.create_table(
        "holds",
        sa.Column("label", sa.String(96), nullable=False),
        sa.Column("value", sa.String(128), nullable=False),
        sa.Column("device", sa.String(128), nullable=False),
        sa.Column("rollout", _ROW),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("label", "value", "device", name="pk_holds"),
        _device("holds"),
    )
    op.create_index("ix_holds_device", "holds", ["device"])
    op.create_index("ix_holds_rollout", "holds", ["rollout"])
    op.create_table(
        "hold_queues",
        sa.Column("label", sa.String(96), nullable=False),
        sa.Column("value", sa.String(128), nullable=False),
        sa.Column("turns", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("label", "value", name="pk_hold_queues"),
    )
    op.create_table(
        "budgets",
        sa.Column("label", sa.String(96), nullable=False),
        sa.Column("max_unavailable", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("label", name="pk_budgets"),
    )
    op.create_table(
        "waypoints",
        sa.Column("product", sa.String(64), nullable=False),
        sa.Column("channel", sa.String(64), nullable=False),
        sa.Column("release", sa.String(64), nullable=False),
        sa.Column("counter", sa.BigInteger, nullable=False),
        sa.Column("barrier", sa.Boolean, nullable=False),
        sa.Column("dead_end", sa.Boolean, nullable=False),
        sa.Column("min_source", sa.BigInteger, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("product", "channel", "release", name="pk_waypoints"),
    )
    op.create_table(
        "events",
        sa.Column("id", _ROW, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(24), nullable=False),
        sa.Column("device", sa.String(128)),
        sa.Column("rollout", _ROW),
        sa.Column("text", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_events"),
    )
    op.create_index("ix_events_device_id", "events", ["device", "id"])
    op.create_index("ix_events_rollout_id", "events", ["rollout", "id"])
    op.create_table(
        "leases",
        sa.Column("name", sa.String(32), nullable=False),
        sa.Column("holder", sa.String(64), nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_leases"),
    )


def downgrade() -> None:
    raise NotImplementedError("restore the backup from before the upgrade")

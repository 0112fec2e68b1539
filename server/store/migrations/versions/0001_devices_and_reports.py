"""Devices and their reports.

Frozen: a later change of tables.py is a later version, never an edit here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "devices",
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("product", sa.String(64), nullable=False),
        sa.Column("channel", sa.String(64), nullable=False),
        sa.Column("token_digest", sa.LargeBinary(32), nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger),
        sa.Column("hardware", sa.String(64)),
        sa.Column("release", sa.String(64)),
        sa.Column("counter", sa.BigInteger),
        sa.Column("booted_root", sa.String(64)),
        sa.Column("trial", sa.Boolean),
        sa.Column("slots", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_devices"),
        sa.UniqueConstraint("token_digest", name="uq_devices_token_digest"),
    )
    op.create_index("ix_devices_release", "devices", ["release"])
    op.create_table(
        "reports",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("device", sa.String(128), nullable=False),
        sa.Column("key", sa.String(128), nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("release", sa.String(64)),
        sa.Column("counter", sa.BigInteger),
        sa.Column("booted_root", sa.String(64)),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("details", sa.Text, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("received_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_reports"),
        sa.ForeignKeyConstraint(
            ["device"], ["devices.id"], name="fk_reports_device", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("device", "key", name="uq_reports_device_key"),
    )
    op.create_index("ix_reports_device_kind", "reports", ["device", "kind"])


def downgrade() -> None:
    op.drop_table("reports")
    op.drop_table("devices")

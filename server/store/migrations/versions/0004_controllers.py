"""Devices that speak hawkBit's DDI; marks of offers that can be called back and closed.

Frozen: a later change of tables.py is a later version, never an edit here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for name in ("recalled_at", "consent_at", "refused_at", "closed_at"):
        op.add_column("attempts", sa.Column(name, sa.BigInteger))
    op.create_table(
        "controllers",
        sa.Column("device", sa.String(128), nullable=False),
        sa.Column("since", sa.BigInteger, nullable=False),
        sa.Column("wants_attributes", sa.Boolean, nullable=False),
        sa.Column("auto_confirm_by", sa.String(128)),
        sa.Column("auto_confirm_remark", sa.Text),
        sa.Column("auto_confirm_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("device", name="pk_controllers"),
        sa.ForeignKeyConstraint(
            ["device"], ["devices.id"], name="fk_controllers_device", ondelete="CASCADE"
        ),
    )


def downgrade() -> None:
    raise NotImplementedError("restore the backup from before the upgrade")

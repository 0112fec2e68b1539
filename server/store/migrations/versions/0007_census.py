"""Counts of devices by release, hour by hour.

Frozen: a later change of tables.py is a later version, never an edit here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "census",
        sa.Column("hour", sa.BigInteger, nullable=False),
        sa.Column("product", sa.String(64), nullable=False),
        sa.Column("release", sa.String(64), nullable=False),
        sa.Column("devices", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("hour", "product", "release", name="pk_census"),
    )


def downgrade() -> None:
    raise NotImplementedError("restore the backup from before the upgrade")

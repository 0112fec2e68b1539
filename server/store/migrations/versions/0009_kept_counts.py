"""What stays of devices that were removed, what an installation fetched, and lines by name.

Frozen: a later change of tables.py is a later version, never an edit here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("phases", sa.Column("removed", sa.Text, nullable=False, server_default="{}"))
    op.add_column("attempts", sa.Column("fetched_bytes", sa.BigInteger))
    op.add_column("attempts", sa.Column("full_bytes", sa.BigInteger))
    op.create_index("ix_rollouts_product_channel", "rollouts", ["product", "channel"])


def downgrade() -> None:
    raise NotImplementedError("restore the backup from before the upgrade")

"""What a server saw: how long a phase was offered, when anybody listened to the fleet, and when a
device itself named a release.

Frozen: a later change of tables.py is a later version, never an edit here.
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "phases", sa.Column("watched_s", sa.BigInteger, nullable=False, server_default="0")
    )
    op.add_column("attempts", sa.Column("shown_at", sa.BigInteger))
    op.create_table(
        "listening",
        sa.Column("begin", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("begin", name="pk_listening"),
    )


def downgrade() -> None:
    raise NotImplementedError("restore the backup from before the upgrade")

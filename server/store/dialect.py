"""What SQLite and PostgreSQL spell alike, but SQLAlchemy keeps apart."""

from typing import cast

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

ROWS_AT_ONCE = 500  # of eight values each in a statement: SQLite takes 32766 values


def insert_into(connection: AsyncConnection, table: sa.Table) -> sqlite.Insert:
    """INSERT with `on_conflict_do_...`."""
    if connection.dialect.name == "postgresql":
        return cast(sqlite.Insert, postgresql.insert(table))
    return sqlite.insert(table)

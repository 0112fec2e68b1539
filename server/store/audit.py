"""The audit log: rows that chain by hash. What a row says stands in server/chain.py."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.chain import Entry, Sealed, seal
from slipstream.server.store.tables import audit, audit_head

_FIELDS = tuple(Entry.__dataclass_fields__)
_COLUMNS = tuple(audit.c[name] for name in (*_FIELDS, "previous", "digest"))


async def append(
    connection: AsyncConnection,
    at: int,
    actor: str,
    act: str,
    thing: str,
    before: str = "",
    after: str = "",
) -> None:
    """Add a row, in the transaction of what it tells of."""
    # Locks the head until the transaction ends: rows of two servers queue.
    turn = await connection.execute(
        sa.update(audit_head)
        .values(rows=audit_head.c.rows + 1)
        .returning(audit_head.c.rows, audit_head.c.digest)
    )
    number, previous = turn.one()
    sealed = seal(previous, Entry(number, at, actor, act, thing, before, after))
    await connection.execute(
        sa.insert(audit).values(
            **asdict(sealed.entry), previous=sealed.previous, digest=sealed.digest
        )
    )
    await connection.execute(sa.update(audit_head).values(digest=sealed.digest))


async def head(connection: AsyncConnection) -> tuple[int, bytes]:
    """How many rows there are, and the digest of the newest."""
    query = sa.select(audit_head.c.rows, audit_head.c.digest)
    rows, digest = (await connection.execute(query)).one()
    return rows, digest


async def list_after(
    connection: AsyncConnection, after: int, until: int, *, limit: int
) -> tuple[Sealed, ...]:
    """Rows behind an id, up to `until`, oldest first: for who verifies."""
    query = sa.select(*_COLUMNS).where(audit.c.id > after, audit.c.id <= until)
    rows = await connection.execute(query.order_by(audit.c.id).limit(limit))
    return tuple(_sealed(row) for row in rows)


async def list_before(
    connection: AsyncConnection, before: int | None, *, limit: int
) -> tuple[Sealed, ...]:
    """Rows before an id, newest first: for who reads."""
    query = sa.select(*_COLUMNS).order_by(audit.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(audit.c.id < before)
    return tuple(_sealed(row) for row in await connection.execute(query))


def _sealed(row: Sequence[Any]) -> Sealed:
    *fields, previous, digest = row
    return Sealed(Entry(*fields), previous, digest)

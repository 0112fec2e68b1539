"""Duties that one server has at a time: a row with a holder and an end."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.store.dialect import insert_into
from slipstream.server.store.tables import leases


async def take(
    connection: AsyncConnection, name: str, holder: str, now: int, length_s: int
) -> int | None:
    """Take or renew a duty until now + length_s: its fencing token; None: another has it.

    The token rises whenever the holder changes. A clock that jumps forward may give the duty to
    two servers for a while: whatever they do compares and swaps as well.
    """
    statement = insert_into(connection, leases).values(
        name=name, holder=holder, until=now + length_s, token=1
    )
    changes = sa.case((leases.c.holder == holder, leases.c.token), else_=leases.c.token + 1)
    result = await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["name"],
            set_={"holder": holder, "until": now + length_s, "token": changes},
            # One that ends later than any lease could was taken by a clock that was ahead.
            where=sa.or_(
                leases.c.holder == holder,
                leases.c.until <= now,
                leases.c.until > now + 2 * length_s,
            ),
        ).returning(leases.c.token)
    )
    token: int | None = result.scalar_one_or_none()
    return token


async def give_back(connection: AsyncConnection, name: str, holder: str) -> None:
    """Let another server have the duty at once."""
    await connection.execute(
        sa.update(leases).where(leases.c.name == name, leases.c.holder == holder).values(until=0)
    )

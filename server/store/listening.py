"""When a server listened to the fleet: the rows of rollout/listening.py."""

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.limits import LISTEN_KEPT_S, LISTEN_NOTE_S
from slipstream.server.rollout.listening import Span
from slipstream.server.store.tables import listening


async def note(connection: AsyncConnection, now: int, gap_s: int) -> tuple[Span, ...]:
    """A server listens, and did so since the last note if that is at most `gap_s` old.

    All spans, newest first. For one server at a time, the one with the engine's duty.
    """
    rows = await connection.execute(sa.select(listening).order_by(listening.c.begin.desc()))
    spans = [Span(row.begin, row.until) for row in rows]
    newest = spans[0] if spans else None
    if newest is None or now - newest.until > gap_s:
        await connection.execute(sa.insert(listening).values(begin=now, until=now))
        await connection.execute(
            sa.delete(listening).where(listening.c.until < now - LISTEN_KEPT_S)
        )
        return (Span(now, now), *spans)
    # A clock that was set back changes nothing until it has come there again.
    if now - newest.until >= LISTEN_NOTE_S:
        await connection.execute(
            sa.update(listening).where(listening.c.begin == newest.begin).values(until=now)
        )
    return (Span(newest.begin, max(now, newest.until)), *spans[1:])

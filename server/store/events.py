"""What the server did and decided, in order: for timelines, live pages and waking the engine."""

from collections.abc import Collection
from dataclasses import dataclass

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.limits import FORGET_ROWS_MAX
from slipstream.server.store import webhooks
from slipstream.server.store.tables import events


@dataclass(frozen=True, slots=True)
class Event:
    """One line of a timeline; `at` in seconds since 1970, the server's clock."""

    id: int
    at: int
    kind: str
    device: str | None
    rollout: int | None
    text: str


_COLUMNS = tuple(events.c[name] for name in Event.__dataclass_fields__)


async def add(
    connection: AsyncConnection,
    at: int,
    kind: str,
    text: str,
    *,
    device: str | None = None,
    rollout: int | None = None,
) -> None:
    """Keep an event, and queue it for the webhooks that want its kind."""
    statement = sa.insert(events).values(
        at=at, kind=kind, text=text, device=device, rollout=rollout
    )
    if kind not in webhooks.KINDS:
        await connection.execute(statement)
        return
    number = (await connection.execute(statement.returning(events.c.id))).scalar_one()
    event = Event(number, at, kind, device, rollout, text)
    await webhooks.enqueue(connection, kind, msgspec.json.encode(event).decode(), at)


async def forget(connection: AsyncConnection, before: int) -> int:
    """Drop the oldest events of devices that are from before `before`: how many of them.

    It looks at FORGET_ROWS_MAX rows, however many there are: ids rise with time.
    """
    of_devices = events.c.device.is_not(None)
    oldest = sa.select(events.c.id, events.c.at).where(of_devices).order_by(events.c.id)
    rows = oldest.limit(FORGET_ROWS_MAX).subquery()
    old = sa.select(rows.c.id).where(rows.c.at < before)
    return (await connection.execute(sa.delete(events).where(events.c.id.in_(old)))).rowcount


async def list_after(connection: AsyncConnection, after: int, *, limit: int) -> tuple[Event, ...]:
    """Events behind an id, oldest first.

    On PostgreSQL an event may become visible behind one with a higher id: a feed that must not
    miss any looks back a little.
    """
    query = sa.select(*_COLUMNS).where(events.c.id > after).order_by(events.c.id).limit(limit)
    return tuple(Event(*row) for row in await connection.execute(query))


async def list_of_device(
    connection: AsyncConnection, device: str, *, before: int | None = None, limit: int
) -> tuple[Event, ...]:
    """The newest events of a device, newest first; those with ids below `before`."""
    return await _newest(connection, events.c.device == device, before, limit)


async def list_of_rollout(
    connection: AsyncConnection, rollout: int, *, before: int | None = None, limit: int
) -> tuple[Event, ...]:
    """The newest events of a rollout, newest first; those with ids below `before`."""
    return await _newest(connection, events.c.rollout == rollout, before, limit)


async def list_of_kinds(
    connection: AsyncConnection, kinds: Collection[str], *, limit: int, rollout: int | None = None
) -> tuple[Event, ...]:
    """The newest events of these kinds, of a rollout if it is named, newest first."""
    condition: sa.ColumnElement[bool] = events.c.kind.in_(kinds)
    if rollout is not None:
        condition = sa.and_(condition, events.c.rollout == rollout)
    return await _newest(connection, condition, None, limit)


async def newest_id(connection: AsyncConnection) -> int:
    """The id of the newest event; 0 without any."""
    return int((await connection.execute(sa.select(sa.func.max(events.c.id)))).scalar() or 0)


async def stirred_after(connection: AsyncConnection, after: int) -> frozenset[int]:
    """Rollouts with events behind an id."""
    query = sa.select(events.c.rollout).distinct()
    rows = await connection.execute(query.where(events.c.id > after, events.c.rollout.is_not(None)))
    return frozenset(row[0] for row in rows)


async def _newest(
    connection: AsyncConnection,
    condition: sa.ColumnElement[bool],
    before: int | None,
    limit: int,
) -> tuple[Event, ...]:
    if before is not None:
        condition = sa.and_(condition, events.c.id < before)
    query = sa.select(*_COLUMNS).where(condition).order_by(events.c.id.desc()).limit(limit)
    return tuple(Event(*row) for row in await connection.execute(query))

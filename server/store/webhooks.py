"""Webhooks, and what is still to be delivered to them: a queue that a kill does not empty."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.store.tables import deliveries, webhooks

# Events that a webhook may ask for (server/store/events.py): what a person would be told of.
KINDS: Final = ("rollout", "phase", "failed", "fell_back", "regressed", "silent", "lifted")
TEST = "test"  # what an operator sends to see whether it arrives


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where events are sent, and what they are signed with."""

    id: int
    url: str
    kinds: tuple[str, ...]
    secret: bytes
    created_at: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event on its way to one webhook. `due_at` None: delivered, or given up."""

    id: int
    webhook: int
    kind: str
    body: str  # JSON
    created_at: int
    tries: int
    due_at: int | None
    delivered_at: int | None
    error: str


_COLUMNS = tuple(deliveries.c[name] for name in Delivery.__dataclass_fields__)


async def add(
    connection: AsyncConnection, url: str, kinds: Collection[str], secret: bytes, now: int
) -> int:
    """Keep a webhook: its id."""
    wanted = msgspec.json.encode(sorted(set(kinds))).decode()
    statement = sa.insert(webhooks).values(url=url, kinds=wanted, secret=secret, created_at=now)
    return int((await connection.execute(statement.returning(webhooks.c.id))).scalar_one())


async def remove(connection: AsyncConnection, webhook: int) -> bool:
    """Forget a webhook and what was to be delivered to it; False if there is none."""
    statement = sa.delete(webhooks).where(webhooks.c.id == webhook)
    return (await connection.execute(statement)).rowcount == 1


async def list_all(connection: AsyncConnection) -> tuple[Webhook, ...]:
    """All webhooks, by id."""
    rows = await connection.execute(sa.select(webhooks).order_by(webhooks.c.id))
    return tuple(
        Webhook(
            row.id,
            row.url,
            msgspec.json.decode(row.kinds, type=tuple[str, ...]),
            row.secret,
            row.created_at,
        )
        for row in rows
    )


async def enqueue(
    connection: AsyncConnection, kind: str, body: str, now: int, *, only: int | None = None
) -> int:
    """Queue an event for every webhook that wants its kind, or for one: how many."""
    if only is None:
        wants = webhooks.c.kinds.contains(f'"{kind}"', autoescape=True)
    else:
        wants = webhooks.c.id == only
    chosen = sa.select(
        webhooks.c.id,
        sa.literal(kind),
        sa.literal(body),
        sa.literal(now, sa.BigInteger),
        sa.literal(0),
        sa.literal(now, sa.BigInteger),
        sa.literal(""),
    ).where(wants)
    names = ["webhook", "kind", "body", "created_at", "tries", "due_at", "error"]
    return (await connection.execute(sa.insert(deliveries).from_select(names, chosen))).rowcount


async def due(
    connection: AsyncConnection, now: int, *, limit: int, resting: Collection[int] = ()
) -> tuple[Delivery, ...]:
    """What is to be sent now, the longest due first: up to `limit` of each webhook.

    Of `resting` webhooks, which failed a moment ago, a test alone: somebody waits for that.
    """
    order = (deliveries.c.due_at, deliveries.c.id)
    place = sa.func.row_number().over(partition_by=deliveries.c.webhook, order_by=order)
    may = sa.or_(deliveries.c.webhook.not_in(resting), deliveries.c.kind == TEST)
    ranked = (
        sa.select(*_COLUMNS, place.label("place")).where(deliveries.c.due_at <= now, may).subquery()
    )
    query = sa.select(*(ranked.c[name] for name in Delivery.__dataclass_fields__))
    rows = await connection.execute(
        query.where(ranked.c.place <= limit).order_by(ranked.c.due_at, ranked.c.id)
    )
    return tuple(Delivery(*row) for row in rows)


async def list_of_webhook(
    connection: AsyncConnection, webhook: int, *, before: int | None, limit: int
) -> tuple[Delivery, ...]:
    """A webhook's deliveries with ids below `before`, newest first."""
    query = sa.select(*_COLUMNS).where(deliveries.c.webhook == webhook)
    if before is not None:
        query = query.where(deliveries.c.id < before)
    rows = await connection.execute(query.order_by(deliveries.c.id.desc()).limit(limit))
    return tuple(Delivery(*row) for row in rows)


async def note_delivered(connection: AsyncConnection, delivery: int, now: int) -> None:
    """It arrived."""
    await connection.execute(
        sa.update(deliveries)
        .where(deliveries.c.id == delivery)
        .values(tries=deliveries.c.tries + 1, due_at=None, delivered_at=now, error="")
    )


async def note_failed(
    connection: AsyncConnection, delivery: int, error: str, due_at: int | None
) -> None:
    """It did not arrive: it is due again, or with None given up."""
    await connection.execute(
        sa.update(deliveries)
        .where(deliveries.c.id == delivery)
        .values(tries=deliveries.c.tries + 1, due_at=due_at, error=error)
    )


async def forget(connection: AsyncConnection, before: int) -> None:
    """Drop what came to an end and is from before `before`."""
    await connection.execute(
        sa.delete(deliveries).where(deliveries.c.due_at.is_(None), deliveries.c.created_at < before)
    )

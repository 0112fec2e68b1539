"""Quarantines: releases that a device is not offered again, and why. grants.py lifts them."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.limits import QUARANTINES_PER_DEVICE_MAX
from slipstream.server.store.dialect import insert_into
from slipstream.server.store.tables import quarantines


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A release that a device is not offered; `since` in seconds since 1970."""

    device: str
    release: str
    reason: str
    since: int


_COLUMNS = tuple(quarantines.c[name] for name in Quarantine.__dataclass_fields__)


async def add(
    connection: AsyncConnection, device: str, release: str, reason: str, now: int
) -> None:
    """Do not offer the release to the device again; the first reason stays.

    A device has at most QUARANTINES_PER_DEVICE_MAX: the one that is oldest makes room.
    """
    statement = insert_into(connection, quarantines).values(
        device=device, release=release, reason=reason, since=now
    )
    if (await connection.execute(statement.on_conflict_do_nothing())).rowcount == 0:
        return
    of_device = quarantines.c.device == device
    newest = (
        sa.select(quarantines.c.release)
        .where(of_device, quarantines.c.release != release)
        .order_by(quarantines.c.since.desc(), quarantines.c.release)
        .limit(QUARANTINES_PER_DEVICE_MAX - 1)
    )
    await connection.execute(
        sa.delete(quarantines).where(
            of_device, quarantines.c.release != release, quarantines.c.release.not_in(newest)
        )
    )


async def count_devices(connection: AsyncConnection) -> int:
    """How many devices have a release that is not offered to them again."""
    query = sa.select(sa.func.count(sa.distinct(quarantines.c.device)))
    return int((await connection.execute(query)).scalar_one())


async def list_page(
    connection: AsyncConnection, *, after: tuple[str, str] = ("", ""), limit: int
) -> tuple[Quarantine, ...]:
    """Up to `limit` quarantines behind a (device, release), in that order."""
    key = sa.tuple_(quarantines.c.device, quarantines.c.release)
    query = sa.select(*_COLUMNS).where(key > after)
    rows = await connection.execute(query.order_by(*key.clauses).limit(limit))
    return tuple(Quarantine(*row) for row in rows)


async def list_of_device(connection: AsyncConnection, device: str) -> tuple[Quarantine, ...]:
    """What a device is not offered, by release."""
    query = sa.select(*_COLUMNS).where(quarantines.c.device == device)
    rows = await connection.execute(query.order_by(quarantines.c.release))
    return tuple(Quarantine(*row) for row in rows)

"""The census: how many devices ran which release, hour by hour, for "versions over time"."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.limits import CENSUS_KEPT_S, CENSUS_RELEASES_MAX
from slipstream.server.store.dialect import insert_into
from slipstream.server.store.tables import census, devices

HOUR_S = 3600
OTHER = "other"  # releases beyond the CENSUS_RELEASES_MAX most common: a device names what it likes


@dataclass(frozen=True, slots=True)
class Count:
    """Devices of a product that ran a release; "" where they never said what they run."""

    product: str
    release: str
    devices: int


async def count(connection: AsyncConnection) -> tuple[Count, ...]:
    """The census of this moment: the most common releases by number, then the rest as OTHER."""
    query = (
        sa.select(devices.c.product, devices.c.release, sa.func.count())
        .group_by(devices.c.product, devices.c.release)
        .order_by(sa.func.count().desc(), devices.c.product, devices.c.release)
    )
    found = [Count(row[0], row[1] or "", row[2]) for row in await connection.execute(query)]
    rest: dict[str, int] = defaultdict(int)
    for one in found[CENSUS_RELEASES_MAX:]:
        rest[one.product] += one.devices
    kept = {(one.product, one.release): one.devices for one in found[:CENSUS_RELEASES_MAX]}
    for product, number in rest.items():
        kept[product, OTHER] = kept.get((product, OTHER), 0) + number
    return tuple(Count(*key, number) for key, number in kept.items())


async def take(connection: AsyncConnection, now: int) -> None:
    """Write this hour's census down, whole, unless that was done; forget those above CENSUS_KEPT_S
    old."""
    await connection.execute(sa.delete(census).where(census.c.hour < now - CENSUS_KEPT_S))
    # Another server, or this one before it was started again, has taken all of it.
    done = sa.exists().where(census.c.hour == hour_of(now))
    if (await connection.execute(sa.select(done))).scalar_one():
        return
    rows = [
        {"product": one.product, "release": one.release, "devices": one.devices}
        for one in await count(connection)
    ]
    if rows:
        statement = insert_into(connection, census).values(hour=hour_of(now))
        await connection.execute(statement.on_conflict_do_nothing(), rows)


async def history(
    connection: AsyncConnection, since: int
) -> Mapping[int, Mapping[tuple[str, str], int]]:
    """Devices by (product, release), by the hour's first second; from `since` on, in order."""
    found: dict[int, dict[tuple[str, str], int]] = {}
    query = sa.select(census).where(census.c.hour >= since).order_by(census.c.hour)
    for row in await connection.execute(query):
        found.setdefault(row.hour, {})[row.product, row.release] = row.devices
    return found


def hour_of(now: int) -> int:
    """The first second of the hour that `now` lies in."""
    return now - now % HOUR_S

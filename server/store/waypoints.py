"""Waypoints: what operators say of releases that devices must, or must not, pass through."""

from collections.abc import Mapping

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.rollout.route import Waypoint
from slipstream.server.store.dialect import insert_into
from slipstream.server.store.tables import waypoints


async def list_all(
    connection: AsyncConnection,
) -> Mapping[tuple[str, str], tuple[Waypoint, ...]]:
    """All waypoints, by product and channel."""
    found: dict[tuple[str, str], list[Waypoint]] = {}
    for row in await connection.execute(sa.select(waypoints)):
        found.setdefault((row.product, row.channel), []).append(
            Waypoint(
                row.release, row.counter, row.barrier, row.dead_end, row.min_source, row.reason
            )
        )
    return {key: tuple(value) for key, value in found.items()}


async def put(connection: AsyncConnection, product: str, channel: str, waypoint: Waypoint) -> None:
    """Say of a release that it is a barrier, a dead end, or wants a lowest source."""
    values = {
        "counter": waypoint.counter,
        "barrier": waypoint.barrier,
        "dead_end": waypoint.dead_end,
        "min_source": waypoint.min_source,
        "reason": waypoint.reason,
    }
    statement = insert_into(connection, waypoints).values(
        product=product, channel=channel, release=waypoint.release, **values
    )
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["product", "channel", "release"], set_=values
        )
    )


async def remove(connection: AsyncConnection, product: str, channel: str, release: str) -> bool:
    """Say nothing of a release any more; False where nothing was said."""
    result = await connection.execute(
        sa.delete(waypoints).where(
            waypoints.c.product == product,
            waypoints.c.channel == channel,
            waypoints.c.release == release,
        )
    )
    return result.rowcount == 1

"""Which devices a filter matches: looked up in the whole fleet, decided by the rollout engine's own."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from heapq import nsmallest

from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.limits import SAMPLE_MAX
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.order import position
from slipstream.server.rollout.rsql import EVERYTHING, Filter, matches
from slipstream.server.store import devices
from slipstream.server.store.database import Database
from slipstream.server.store.devices import Device

_CHUNK = 2000  # devices that are matched together, beside the event loop


@dataclass(frozen=True, slots=True)
class Found:
    """Devices by id. `next`: behind which id to go on; None: there are no more."""

    devices: tuple[Device, ...]
    next: str | None


@dataclass(frozen=True, slots=True)
class Preview:
    """Of a filter: how many match of how many, and some of them, evenly chosen."""

    count: int
    whole: int
    sample: tuple[Facts, ...]


@dataclass(frozen=True, slots=True)
class Population:
    """All that match, of the devices of a product's channel."""

    devices: tuple[Facts, ...]
    whole: int  # all that there are
    sample: tuple[Facts, ...]


async def list_matching(
    database: Database,
    condition: Filter,
    after: str,
    limit: int,
    *,
    look_at_max: int | None = None,
) -> Found:
    """Up to `limit` devices that match behind the id `after`, looking at so many at most."""
    found: list[Device] = []
    looked_at, more = 0, True
    while more and len(found) < limit and (look_at_max is None or looked_at < look_at_max):
        size = limit if condition == EVERYTHING else _CHUNK
        async with database.reading() as connection:
            page = await devices.list_page(connection, after=after, limit=size)
        more = len(page) == size
        fitting = await asyncio.to_thread(_fitting, [one.facts() for one in page], condition)
        ids = {one.id for one in fitting}
        for one in page:
            if len(found) == limit:
                more = True
                break
            after, looked_at = one.id, looked_at + 1
            if one.id in ids:
                found.append(one)
    return Found(tuple(found), after if more else None)


async def preview(
    database: Database,
    condition: Filter,
    product: str | None,
    channel: str | None,
    sample_max: int,
) -> Preview:
    """Count and sample of the devices that match; of all products, or channels, for None."""
    count, whole = 0, 0
    sample: Sequence[Facts] = ()
    async with database.reading() as connection:
        async for size, fitting in _walk(connection, condition, product, channel):
            count, whole = count + len(fitting), whole + size
            sample = await asyncio.to_thread(_draw, [*sample, *fitting], sample_max)
    return Preview(count, whole, tuple(sample))


async def population(
    database: Database, condition: Filter, product: str, channel: str
) -> Population:
    """The devices of a line that match."""
    whole = 0
    found: list[Facts] = []
    async with database.reading() as connection:
        async for size, fitting in _walk(connection, condition, product, channel):
            whole += size
            found.extend(fitting)
    sample = await asyncio.to_thread(_draw, found, SAMPLE_MAX)
    return Population(tuple(found), whole, tuple(sample))


async def _walk(
    connection: AsyncConnection, condition: Filter, product: str | None, channel: str | None
) -> AsyncIterator[tuple[int, list[Facts]]]:
    """Page by page: how many devices it has, and those that match."""
    async for page in devices.facts_of_channel(connection, product, channel):
        yield len(page), await asyncio.to_thread(_fitting, page, condition)


def _fitting(page: Sequence[Facts], condition: Filter) -> list[Facts]:
    return [one for one in page if matches(condition, one)]


def _draw(fleet: Sequence[Facts], most: int) -> list[Facts]:
    """Some of a fleet, the same ones each time, whatever their ids have in common."""
    return nsmallest(most, fleet, key=lambda one: (position("preview", one.id), one.id))

"""Which devices a filter matches: looked up in the whole fleet, decided by the rollout engine's own."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import nsmallest

from slipstream.delta.limits import PAGE_ROWS_MAX, SAMPLE_MAX
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.rsql import EVERYTHING, Filter, matches
from slipstream.server.store import devices
from slipstream.server.store.database import Database
from slipstream.server.store.devices import Device


@dataclass(frozen=True, slots=True)
class Preview:
    """Of a filter over the devices of a product's channel."""

    population: tuple[Facts, ...]  # all that match
    whole: int  # all that there are
    sample: tuple[Facts, ...]


async def list_matching(
    database: Database, condition: Filter, after: str, limit: int
) -> tuple[Device, ...]:
    """Up to `limit` devices that match behind the id `after`, by id."""
    found: list[Device] = []
    while len(found) < limit:
        size = limit if condition == EVERYTHING else PAGE_ROWS_MAX
        async with database.reading() as connection:
            page = await devices.list_page(connection, after=after, limit=size)
        found.extend(await asyncio.to_thread(_matching, page, condition))
        if len(page) < size:
            break
        after = page[-1].id
    return tuple(found[:limit])


async def preview(database: Database, product: str, channel: str, condition: Filter) -> Preview:
    """Count and sample of the devices of a line that match."""
    whole = 0
    population: list[Facts] = []
    async with database.reading() as connection:
        async for page in devices.facts_of_channel(connection, product, channel):
            whole += len(page)
            population.extend(one for one in page if matches(condition, one))
    sample = nsmallest(SAMPLE_MAX, population, key=lambda one: one.id)
    return Preview(tuple(population), whole, tuple(sample))


def _matching(page: Sequence[Device], condition: Filter) -> list[Device]:
    return [one for one in page if condition == EVERYTHING or matches(condition, one.facts())]

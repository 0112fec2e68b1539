"""Devices that a filter matches: listed, or counted with a sample of them."""

from typing import Annotated

import msgspec
from aiohttp import web

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import SAMPLE_ROWS_MAX, SCAN_ROWS_MAX
from slipstream.server import matching
from slipstream.server.api.call import Answer, Call, Cursor, Limit, Page, World
from slipstream.server.api.device_state import ShownDevice, shown_device
from slipstream.server.rollout.rsql import Filter, parse_filter
from slipstream.server.store import devices
from slipstream.server.wire import Body, Name, refusal

FilterText = Annotated[str, msgspec.Meta(max_length=4096, pattern=r"^[^\x00]*\Z")]


class DeviceQuery(Body, frozen=True):
    """Which devices: an RSQL filter, and which part of the list.

    A page may hold fewer than `limit`: one call looks at 20,000 devices. Go on while `next` is
    not null.
    """

    filter: FilterText = ""
    after: Cursor = ""
    limit: Limit = 100


class PreviewQuery(Body, frozen=True):
    """A filter, and the devices that it is applied to."""

    filter: FilterText = ""
    product: Name | None = None
    channel: Name | None = None
    sample: Annotated[int, msgspec.Meta(ge=0, le=SAMPLE_ROWS_MAX)] = 10


class Preview(msgspec.Struct, frozen=True):
    """What a filter matches: how many of how many, and some of them, evenly chosen."""

    count: int
    total: int
    sample: tuple[ShownDevice, ...]


async def list_devices(world: World, call: Call) -> Answer:
    """Devices that a filter matches, by id."""
    query: DeviceQuery = call.query
    condition = _parse_filter(query.filter)
    await world.polls.flush()
    found = await matching.list_matching(
        world.database, condition, query.after, query.limit, look_at_max=SCAN_ROWS_MAX
    )
    return Answer(value=Page(tuple(shown_device(one) for one in found.devices), found.next))


async def preview_filter(world: World, call: Call) -> Answer:
    """How many devices a filter matches, and a sample of them."""
    query: PreviewQuery = call.query
    condition = _parse_filter(query.filter)
    await world.polls.flush()
    seen = await matching.preview(
        world.database, condition, query.product, query.channel, query.sample
    )
    async with world.database.reading() as connection:
        sample = await devices.find_all(connection, [one.id for one in seen.sample])
    return Answer(value=Preview(seen.count, seen.whole, tuple(map(shown_device, sample))))


def _parse_filter(text: str) -> Filter:
    try:
        return parse_filter(text)
    except UsageError as error:
        raise refusal(web.HTTPBadRequest, str(error), field="?filter") from error

"""A device with all that is known of it; its quarantines, offers and holds, and taking them back."""

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.api.call import (
    Act,
    Answer,
    Call,
    Done,
    Limit,
    PageQuery,
    World,
    missing,
    number_after,
    page_of,
    taken,
)
from slipstream.server.api.device_state import ShownDevice, ShownReport, shown_device, shown_report
from slipstream.server.api.registration import find_locked
from slipstream.server.store import attempts, devices, events, grants, holds, quarantines, reports
from slipstream.server.store.attempts import Attempt
from slipstream.server.store.events import Event
from slipstream.server.store.holds import Hold
from slipstream.server.store.quarantines import Quarantine
from slipstream.server.wire import Body


class NewestQuery(Body, frozen=True):
    """How many, of the newest."""

    limit: Limit = 50


class DeviceDetail(msgspec.Struct, frozen=True):
    """Everything that is known of a device; lists newest first."""

    device: ShownDevice
    quarantines: tuple[Quarantine, ...]
    attempts: tuple[Attempt, ...]
    holds: tuple[Hold, ...]
    reports: tuple[ShownReport, ...]
    events: tuple[Event, ...]


async def show_device(world: World, call: Call) -> Answer:
    """A device with its offers, reports, quarantine and timeline."""
    name, limit = call.places["device"], call.query.limit
    await world.polls.flush()
    async with world.database.reading() as connection:
        device = await devices.find(connection, name)
        if device is None:
            raise missing(f"device {name}")
        told = await reports.list_of(connection, name, limit=limit)
        detail = DeviceDetail(
            shown_device(device),
            await quarantines.list_of_device(connection, name),
            (await attempts.of_device(connection, name))[:limit],
            await holds.list_of_device(connection, name),
            tuple(shown_report(one) for one in told),
            await events.list_of_device(connection, name, limit=limit),
        )
    return Answer(value=detail)


async def list_device_events(world: World, call: Call) -> Answer:
    """A device's timeline, newest first."""
    query: PageQuery = call.query
    async with world.database.reading() as connection:
        found = await events.list_of_device(
            connection,
            call.places["device"],
            before=number_after(query.after),
            limit=query.limit,
        )
    return Answer(value=page_of(found, query.limit, lambda one: one.id))


async def list_quarantines(world: World, call: Call) -> Answer:
    """Releases that devices are not offered again, and why."""
    query: PageQuery = call.query
    device, _, release = query.after.partition(" ")
    async with world.database.reading() as connection:
        found = await quarantines.list_page(connection, after=(device, release), limit=query.limit)
    return Answer(value=page_of(found, query.limit, lambda one: f"{one.device} {one.release}"))


async def lift_quarantine(_world: World, call: Call) -> Act:
    """Offer the release to the device again."""
    name, release = call.places["device"], call.places["release"]

    async def act(connection: AsyncConnection) -> Done:
        if not await grants.lift_quarantine(connection, name, release, call.now):
            raise missing(f"quarantine of {release} on device {name}")
        return Done(thing=f"device {name}", before={"quarantined": release})

    return act


async def recall_offer(_world: World, call: Call) -> Act:
    """Take the offer of a release back, from this device alone and for good.

    A hawkBit client is asked to cancel, and may refuse; any other is not offered it again by that
    rollout. What is installed stays installed. 409 where no offer of it is on its way.
    """
    name, release = call.places["device"], call.places["release"]

    async def act(connection: AsyncConnection) -> Done:
        await find_locked(connection, name)
        for one in await attempts.of_device(connection, name, release=release):
            if await attempts.recall(connection, one.id, call.identity.actor, call.now):
                return Done(
                    thing=f"device {name}", before={"offered": release, "rollout": one.rollout}
                )
        raise taken(f"no offer of {release} to device {name} is on its way")

    return act


async def release_holds(_world: World, call: Call) -> Act:
    """Give back every place in a budget that a device holds, for FleetLock or a rollout, when it will
    not do so itself. Whether it is back in service is for the operator to know."""
    name = call.places["device"]

    async def act(connection: AsyncConnection) -> Done:
        before = await find_locked(connection, name)
        held = await holds.list_of_device(connection, name)
        await holds.give_up(connection, name)
        return Done(thing=f"device {before.id}", before=held)

    return act

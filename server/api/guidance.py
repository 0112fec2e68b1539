"""What leads rollouts: releases and channels, waypoints of releases, budgets of the fleet."""

from typing import Annotated

import msgspec
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.limits import BUDGET_MAX
from slipstream.server.api.call import Act, Answer, Call, Done, Page, World, missing
from slipstream.server.catalog import Release
from slipstream.server.rollout.facts import check_selector
from slipstream.server.rollout.route import Waypoint
from slipstream.server.store import devices, holds, rollouts, waypoints
from slipstream.server.wire import Body, Counter, Reason, refusal


class Releases(msgspec.Struct, frozen=True):
    """What the repository offers, the newest first. `skipped`: entries that make no sense."""

    items: tuple[Release, ...]
    expires: str
    skipped: int


class Channel(msgspec.Struct, frozen=True):
    """A line of releases and who follows it. `managed`: it has, or had, a rollout."""

    product: str
    channel: str
    newest: str | None
    counter: int | None
    devices: int
    managed: bool


class WaypointChange(Body, frozen=True):
    """What is said of a release. `min_source`: lowest counter of a device that may take it."""

    barrier: bool = False
    dead_end: bool = False
    min_source: Counter = 0
    reason: Reason = ""


class ShownWaypoint(msgspec.Struct, frozen=True):
    """A waypoint and the line of releases that it stands on."""

    product: str
    channel: str
    waypoint: Waypoint


class BudgetChange(Body, frozen=True):
    """How many devices with one value of a label may be unavailable at once."""

    max_unavailable: Annotated[int, msgspec.Meta(ge=1, le=BUDGET_MAX)]


class Held(msgspec.Struct, frozen=True):
    """How many devices hold a place of a value."""

    value: str
    devices: int


class ShownBudget(msgspec.Struct, frozen=True):
    """A budget, and what is used of it. `max_unavailable` null: only rollouts limit it."""

    label: str
    max_unavailable: int | None
    held: tuple[Held, ...]


async def list_releases(world: World, _call: Call) -> Answer:
    """Releases of the repository, with their images and deltas."""
    catalog = await world.catalog.read()
    return Answer(value=Releases(catalog.releases, catalog.expires, catalog.skipped))


async def list_channels(world: World, _call: Call) -> Answer:
    """Products' channels: the newest release of each, and how many devices follow it."""
    catalog = await world.catalog.read()
    async with world.database.reading() as connection:
        counts = await devices.count_by_line(connection)
        managed = await rollouts.list_lines(connection)
    lines = {(one.product, one.channel) for one in catalog.releases} | set(counts) | managed
    shown = []
    for product, channel in sorted(lines):
        newest = catalog.newest(product, channel)
        shown.append(
            Channel(
                product,
                channel,
                None if newest is None else newest.release,
                None if newest is None else newest.counter,
                counts.get((product, channel), 0),
                (product, channel) in managed,
            )
        )
    return Answer(value=Page(tuple(shown), None))


async def list_waypoints(world: World, _call: Call) -> Answer:
    """Barriers, dead ends and lowest sources."""
    async with world.database.reading() as connection:
        found = await waypoints.list_all(connection)
    shown = (
        ShownWaypoint(product, channel, one)
        for (product, channel), ones in sorted(found.items())
        for one in sorted(ones, key=lambda one: one.counter)
    )
    return Answer(value=Page(tuple(shown), None))


async def set_waypoint(world: World, call: Call) -> Act:
    """Say of a release of the repository that it is a barrier, a dead end, or wants a source."""
    body: WaypointChange = call.body
    product, channel, name = (call.places[one] for one in ("product", "channel", "release"))
    release = (await world.catalog.read()).find(product, name)
    if release is None or release.channel != channel:
        raise missing(f"release {name} of {product} in channel {channel}")
    waypoint = Waypoint(
        name, release.counter, body.barrier, body.dead_end, body.min_source, body.reason
    )

    async def act(connection: AsyncConnection) -> Done:
        await waypoints.put(connection, product, channel, waypoint)
        return Done(
            value=ShownWaypoint(product, channel, waypoint),
            thing=f"release {product} {channel} {name}",
            after=waypoint,
            moves=True,
        )

    return act


async def remove_waypoint(_world: World, call: Call) -> Act:
    """Say nothing of a release any more."""
    product, channel, name = (call.places[one] for one in ("product", "channel", "release"))

    async def act(connection: AsyncConnection) -> Done:
        if not await waypoints.remove(connection, product, channel, name):
            raise missing(f"waypoint {name} of {product} in channel {channel}")
        return Done(thing=f"release {product} {channel} {name}", moves=True)

    return act


async def list_budgets(world: World, _call: Call) -> Answer:
    """Budgets of the fleet and what is used of them, by rollouts and FleetLock together."""
    async with world.database.reading() as connection:
        limits = await holds.list_budgets(connection)
        counts = await holds.count(connection)
    labels = sorted(set(limits) | {label for label, _ in counts})
    shown = (
        ShownBudget(
            label,
            limits.get(label),
            tuple(
                Held(value, number) for (of, value), number in sorted(counts.items()) if of == label
            ),
        )
        for label in labels
    )
    return Answer(value=Page(tuple(shown), None))


async def set_budget(_world: World, call: Call) -> Act:
    """Limit how many devices with one value of a label may be unavailable at once.

    A label is a selector of filters: group, hardware, attribute.site. Group also limits FleetLock.
    A device that has no value of it is not limited by it.
    """
    label, most = call.places["label"], call.body.max_unavailable
    check_selector(label)
    if len(label) > 96:
        raise refusal(web.HTTPBadRequest, "a label has at most 96 characters", field="label")

    async def act(connection: AsyncConnection) -> Done:
        before = (await holds.list_budgets(connection)).get(label)
        await holds.set_budget(connection, label, most)
        counts = await holds.count(connection)
        held = (
            Held(value, number) for (of, value), number in sorted(counts.items()) if of == label
        )
        return Done(
            value=ShownBudget(label, most, tuple(held)),
            thing=f"budget {label}",
            before=None if before is None else {"max_unavailable": before},
            after={"max_unavailable": most},
            moves=True,
        )

    return act


async def remove_budget(_world: World, call: Call) -> Act:
    """Take a budget of the fleet away."""
    label = call.places["label"]

    async def act(connection: AsyncConnection) -> Done:
        before = (await holds.list_budgets(connection)).get(label)
        if not await holds.set_budget(connection, label, None):
            raise missing(f"budget {label}")
        return Done(thing=f"budget {label}", before={"max_unavailable": before}, moves=True)

    return act

"""Devices: found, shown, described, registered one by one or from a CSV file, removed."""

import asyncio
import heapq
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import (
    LABELS_MAX,
    NAME_CHARS_MAX,
    SAMPLE_ROWS_MAX,
    SCAN_ROWS_MAX,
    TOKEN_OVERLAP_S,
)
from slipstream.server.api.call import (
    Act,
    Answer,
    Call,
    Cursor,
    Done,
    Limit,
    Page,
    PageQuery,
    World,
    missing,
    number_after,
    page_of,
    taken,
)
from slipstream.server.api.roster import parse_roster
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.order import position
from slipstream.server.rollout.rsql import EVERYTHING, Filter, matches, parse_filter
from slipstream.server.store import attempts, devices, events, grants, holds, quarantines, reports
from slipstream.server.store.attempts import Attempt
from slipstream.server.store.devices import Device
from slipstream.server.store.events import Event
from slipstream.server.store.holds import Hold
from slipstream.server.store.quarantines import Quarantine
from slipstream.server.store.reports import Report
from slipstream.server.tokens import hash_token, make_token
from slipstream.server.wire import Body, DeviceId, Name, refusal

FilterText = Annotated[str, msgspec.Meta(max_length=4096, pattern=r"^[^\x00]*\Z")]
Tag = Name
# Values are what people write; PostgreSQL's text holds no NUL.
Text = Annotated[str, msgspec.Meta(max_length=256, pattern=r"^[^\x00]*\Z")]
Key = Annotated[
    str, msgspec.Meta(min_length=1, max_length=NAME_CHARS_MAX, pattern=r"^[A-Za-z0-9_.:-]+\Z")
]
Tags = Annotated[tuple[Tag, ...], msgspec.Meta(max_length=LABELS_MAX)]
Attributes = Annotated[dict[Key, Text], msgspec.Meta(max_length=LABELS_MAX)]
Group = Annotated[str, msgspec.Meta(max_length=NAME_CHARS_MAX, pattern=r"^[A-Za-z0-9._:@+~-]*\Z")]
_CHUNK = 2000


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


class NewestQuery(Body, frozen=True):
    """How many, of the newest."""

    limit: Limit = 50


class NewDevice(Body, frozen=True):
    """A device that is registered."""

    id: DeviceId
    product: Name
    channel: Name = "stable"
    group: Group = ""
    tags: Tags = ()
    attributes: Attributes = msgspec.field(default_factory=dict)


class DeviceChange(Body, frozen=True):
    """What operators say of a device. Null stays; an empty group takes it away."""

    channel: Name | None = None
    group: Group | None = None
    tags: Tags | None = None
    attributes: Attributes | None = None


class Rotation(Body, frozen=True):
    """For how long the token before is taken, so that the device can be told the new one."""

    overlap_s: Annotated[int, msgspec.Meta(ge=0, le=TOKEN_OVERLAP_S)] = 86_400


class ShownDevice(msgspec.Struct, frozen=True):
    """A device: what it was registered as, what its last poll said, what operators say of it."""

    id: str
    product: str
    channel: str
    created_at: int
    seen_at: int | None
    hardware: str | None
    release: str | None
    counter: int | None
    booted_root: str | None
    trial: bool | None
    slots: list[dict[str, Any]]
    group: str | None
    tags: tuple[str, ...]
    attributes: dict[str, str]


class ShownReport(msgspec.Struct, frozen=True):
    """What a device reported; `at` is its own clock."""

    key: str
    kind: str
    release: str | None
    counter: int | None
    booted_root: str | None
    reason: str
    details: dict[str, Any]
    at: int
    received_at: int


class DeviceDetail(msgspec.Struct, frozen=True):
    """Everything that is known of a device; lists newest first."""

    device: ShownDevice
    quarantines: tuple[Quarantine, ...]
    attempts: tuple[Attempt, ...]
    holds: tuple[Hold, ...]
    reports: tuple[ShownReport, ...]
    events: tuple[Event, ...]


class DeviceToken(msgspec.Struct, frozen=True):
    """A device's token, shown this once."""

    id: str
    token: str | None


class Imported(msgspec.Struct, frozen=True):
    """The devices of a file, with their tokens."""

    devices: tuple[DeviceToken, ...]


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
    found: list[Device] = []
    after, looked_at, more = query.after, 0, True
    async with world.database.reading() as connection:
        while more and len(found) < query.limit and looked_at < SCAN_ROWS_MAX:
            size = query.limit if condition is EVERYTHING else _CHUNK
            rows = await devices.list_page(connection, after=after, limit=size)
            more = len(rows) == size
            for one in rows:
                if len(found) == query.limit:
                    more = True
                    break
                after, looked_at = one.id, looked_at + 1
                if matches(condition, one.facts()):
                    found.append(one)
    return Answer(value=Page(tuple(_show(one) for one in found), after if more else None))


async def preview_filter(world: World, call: Call) -> Answer:
    """How many devices a filter matches, and a sample of them."""
    query: PreviewQuery = call.query
    condition = _parse_filter(query.filter)
    await world.polls.flush()
    count, total, after = 0, 0, ""
    best: list[tuple[int, str, Device]] = []
    async with world.database.reading() as connection:
        while True:
            rows = await devices.list_page(connection, after=after, limit=_CHUNK)
            line = [one for one in rows if _in_line(one, query)]
            fitting = await asyncio.to_thread(_fitting, condition, line)
            count, total = count + len(fitting), total + len(line)
            ranked = ((position("preview", one.id), one.id, one) for one in fitting)
            best = heapq.nsmallest(query.sample, [*best, *ranked], key=lambda one: one[:2])
            if len(rows) < _CHUNK:
                break
            after = rows[-1].id
    return Answer(value=Preview(count, total, tuple(_show(one) for _, _, one in best)))


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
            _show(device),
            await quarantines.list_of_device(connection, name),
            (await attempts.of_device(connection, name))[:limit],
            await holds.list_of_device(connection, name),
            tuple(_show_report(one) for one in told),
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


async def add_device(_world: World, call: Call) -> Act:
    """Register a device: its token, shown once; null when the call is repeated."""
    body: NewDevice = call.body
    token = make_token()

    async def act(connection: AsyncConnection) -> Done:
        if await devices.add_all(connection, [_newcomer(body, token)], call.now):
            raise taken(f"device {body.id} exists", "$.id")
        return Done(
            value=DeviceToken(body.id, token),
            kept=DeviceToken(body.id, None),
            thing=f"device {body.id}",
            after=body,
        )

    return act


async def import_devices(_world: World, call: Call) -> Act:
    """Register devices from CSV: a header with id and product; channel, group, tags, attribute.KEY.

    Tags are separated by spaces. All of them, or with an error that names line and column none.
    """
    rows = await asyncio.to_thread(parse_roster, call.body, NewDevice)
    tokens = {one.id: make_token() for _, one in rows}

    async def act(connection: AsyncConnection) -> Done:
        newcomers = [_newcomer(one, tokens[one.id]) for _, one in rows]
        there = set(await devices.add_all(connection, newcomers, call.now))
        if there:
            line, one = next((line, one) for line, one in rows if one.id in there)
            raise taken(f"device {one.id} exists", f"line {line}, id")
        return Done(
            value=Imported(tuple(DeviceToken(name, token) for name, token in tokens.items())),
            kept=Imported(tuple(DeviceToken(name, None) for name in tokens)),
            thing=f"{len(rows)} devices",
            after=list(tokens),
        )

    return act


async def describe_device(_world: World, call: Call) -> Act:
    """Say of a device: its channel, group, tags, attributes."""
    name, body = call.places["device"], call.body

    async def act(connection: AsyncConnection) -> Done:
        before = await _find_locked(connection, name)
        await devices.describe(
            connection,
            name,
            channel=body.channel,
            group=body.group,
            tags=body.tags,
            attributes=body.attributes,
        )
        after = await devices.find(connection, name)
        assert after is not None
        return Done(
            value=_show(after), thing=f"device {name}", before=_said(before), after=_said(after)
        )

    return act


async def remove_device(_world: World, call: Call) -> Act:
    """Remove a device with its token, reports and offers."""
    name = call.places["device"]

    async def act(connection: AsyncConnection) -> Done:
        before = await _find_locked(connection, name)
        await devices.remove(connection, name)
        return Done(thing=f"device {name}", before=_said(before))

    return act


async def rotate_token(_world: World, call: Call) -> Act:
    """Give a device another token; the one before is taken for a while, or not with overlap_s 0."""
    name, body = call.places["device"], call.body
    token = make_token()

    async def act(connection: AsyncConnection) -> Done:
        until = call.now + body.overlap_s
        if not await devices.rotate_token(connection, name, hash_token(token), until):
            raise missing(f"device {name}")
        return Done(
            value=DeviceToken(name, token),
            kept=DeviceToken(name, None),
            thing=f"device {name}",
            after={"old_token_until": until},
        )

    return act


async def revoke_token(_world: World, call: Call) -> Act:
    """Take a device's token away: it is unknown until it is given another."""
    name = call.places["device"]
    nobodys = hash_token(make_token())

    async def act(connection: AsyncConnection) -> Done:
        if not await devices.revoke_token(connection, name, nobodys):
            raise missing(f"device {name}")
        return Done(thing=f"device {name}")

    return act


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
        await _find_locked(connection, name)
        for one in await attempts.of_device(connection, name, release=release):
            if await attempts.recall(connection, one.id, call.identity.actor, call.now):
                return Done(
                    thing=f"device {name}", before={"offered": release, "rollout": one.rollout}
                )
        raise taken(f"no offer of {release} to device {name} is on its way")

    return act


async def release_holds(_world: World, call: Call) -> Act:
    """Give back what a device holds for FleetLock, when it will not do so itself."""
    name = call.places["device"]

    async def act(connection: AsyncConnection) -> Done:
        before = await _find_locked(connection, name)
        held = [one for one in await holds.list_of_device(connection, name) if one.rollout is None]
        await holds.release(connection, name)
        return Done(thing=f"device {before.id}", before=held)

    return act


async def _find_locked(connection: AsyncConnection, name: str) -> Device:
    """The device, which nobody else changes until the transaction ends; 404."""
    if not await attempts.lock(connection, name):
        raise missing(f"device {name}")
    found = await devices.find(connection, name)
    assert found is not None
    return found


def _parse_filter(text: str) -> Filter:
    try:
        return parse_filter(text)
    except UsageError as error:
        raise refusal(web.HTTPBadRequest, str(error), field="?filter") from error


def _in_line(device: Device, query: PreviewQuery) -> bool:
    return query.product in (None, device.product) and query.channel in (None, device.channel)


def _fitting(condition: Filter, rows: list[Device]) -> list[Device]:
    return [one for one in rows if matches(condition, one.facts())]


def _newcomer(body: NewDevice, token: str) -> devices.Newcomer:
    return devices.Newcomer(
        body.id,
        body.product,
        body.channel,
        hash_token(token),
        body.group or None,
        body.tags,
        body.attributes,
    )


def _show(device: Device) -> ShownDevice:
    facts: Facts = device.facts()
    return ShownDevice(
        id=device.id,
        product=device.product,
        channel=device.channel,
        created_at=device.created_at,
        seen_at=device.seen_at,
        hardware=device.hardware,
        release=device.release,
        counter=device.counter,
        booted_root=device.booted_root,
        trial=device.trial,
        slots=msgspec.json.decode(device.slots or "[]", type=list[dict[str, Any]]),
        group=device.group_name,
        tags=tuple(sorted(facts.tags)),
        attributes=dict(facts.attributes),
    )


def _show_report(report: Report) -> ShownReport:
    details = msgspec.json.decode(report.details, type=dict[str, Any])
    return ShownReport(
        key=report.key,
        kind=report.kind,
        release=report.release,
        counter=report.counter,
        booted_root=report.booted_root,
        reason=report.reason,
        details=details,
        at=report.at,
        received_at=report.received_at,
    )


def _said(device: Device) -> Mapping[str, object]:
    """What operators say of a device, for the audit log."""
    facts = device.facts()
    return {
        "product": device.product,
        "channel": device.channel,
        "group": device.group_name,
        "tags": sorted(facts.tags),
        "attributes": dict(facts.attributes),
    }

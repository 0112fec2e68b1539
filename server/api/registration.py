"""Devices registered, one by one or from a CSV file, described, removed; their tokens."""

import asyncio
from collections.abc import Mapping
from typing import Annotated

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.limits import LABELS_MAX, NAME_CHARS_MAX, TOKEN_OVERLAP_S
from slipstream.server.api.call import Act, Call, Done, World, missing, taken
from slipstream.server.api.device_state import shown_device
from slipstream.server.api.roster import parse_roster
from slipstream.server.store import attempts, devices
from slipstream.server.store.devices import Device
from slipstream.server.tokens import hash_token, make_token
from slipstream.server.wire import Body, DeviceId, Name

Tag = Name
# Values are what people write; PostgreSQL's text holds no NUL.
Text = Annotated[str, msgspec.Meta(max_length=256, pattern=r"^[^\x00]*\Z")]
Key = Annotated[
    str, msgspec.Meta(min_length=1, max_length=NAME_CHARS_MAX, pattern=r"^[A-Za-z0-9_.:-]+\Z")
]
Tags = Annotated[tuple[Tag, ...], msgspec.Meta(max_length=LABELS_MAX)]
Attributes = Annotated[dict[Key, Text], msgspec.Meta(max_length=LABELS_MAX)]
Group = Annotated[str, msgspec.Meta(max_length=NAME_CHARS_MAX, pattern=r"^[A-Za-z0-9._:@+~-]*\Z")]


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


class DeviceToken(msgspec.Struct, frozen=True):
    """A device's token, shown this once."""

    id: str
    token: str | None


class Imported(msgspec.Struct, frozen=True):
    """The devices of a file, with their tokens."""

    devices: tuple[DeviceToken, ...]


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
        before = await find_locked(connection, name)
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
            value=shown_device(after),
            thing=f"device {name}",
            before=_said(before),
            after=_said(after),
        )

    return act


async def remove_device(_world: World, call: Call) -> Act:
    """Remove a device with its token, reports and offers."""
    name = call.places["device"]

    async def act(connection: AsyncConnection) -> Done:
        before = await find_locked(connection, name)
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


async def find_locked(connection: AsyncConnection, name: str) -> Device:
    """The device, which nobody else changes until the transaction ends; 404."""
    if not await attempts.lock(connection, name):
        raise missing(f"device {name}")
    found = await devices.find(connection, name)
    assert found is not None
    return found


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

"""FleetLock: a device asks before it reboots, and says when it is healthy again.

    POST /v1/pre-reboot      {"client_params": {"id", "group"}}  ->  200, or 409 {"kind", "value"}
    POST /v1/steady-state    the same                            ->  200

The protocol of Zincati and airlock, with one addition: the device shows its token, as Bearer or as
the password of Basic. A lock that anybody can take holds a fleet. Places come from the fleet's budgets,
which rollouts take from as well; a group without a budget has one place. A device's group is the one
that operators gave it, or else the first that it named.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated

import msgspec
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.errors import SlipstreamError
from slipstream.delta.limits import FLEETLOCK_SLOTS, POLL_BYTES_MAX
from slipstream.server.fleet.offers import places_of
from slipstream.server.store import attempts, devices, events, holds
from slipstream.server.store.database import Database
from slipstream.server.store.devices import Device
from slipstream.server.tokens import basic_password, bearer_token, hash_token
from slipstream.server.wire import answer_json, read_body

GROUP = "group"
HEADER = "fleet-lock-protocol"


class NoPlace(SlipstreamError):
    """No place is free."""


class ClientParams(msgspec.Struct, frozen=True):
    """Who asks, as the client names itself. Fields that a later protocol adds are passed over."""

    id: Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
    group: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9.-]+\Z")]


class LockRequest(msgspec.Struct, frozen=True):
    """The body of both calls."""

    client_params: ClientParams


class LockError(msgspec.Struct, frozen=True):
    """What the protocol says instead of 200: a word for programs, a sentence for people."""

    kind: str
    value: str


@dataclass(frozen=True, slots=True)
class FleetLockHandler:
    """Answers both calls."""

    database: Database
    now: Callable[[], int]  # seconds since 1970

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/pre-reboot", self._take),
            web.post("/v1/steady-state", self._give_back),
        ]

    async def _take(self, request: web.Request) -> web.Response:
        now = self.now()
        found = await self._open(request, now)
        if isinstance(found, web.Response):
            return found
        device, group = found
        async with self.database.reading() as connection:
            budgets = {GROUP: FLEETLOCK_SLOTS, **await holds.list_budgets(connection)}
        if device.group_name is None:
            device = await self._join(device, group, now)
        places = places_of(device.facts(), budgets)

        async def act(connection: AsyncConnection) -> None:
            if not await attempts.lock(connection, device.id):
                raise NoPlace("the device was removed")
            held = await holds.list_of_device(connection, device.id)
            for (label, value), most in sorted(places.items()):
                if not await holds.take(connection, label, value, device.id, most, now):
                    raise NoPlace(f"{most} devices with {label} {value} are away")
            if not places.keys() <= {(one.label, one.value) for one in held}:
                await events.add(connection, now, "lock", "may reboot", device=device.id)

        try:
            await self.database.write(act)
        except NoPlace as error:
            return _refuse(409, "no_place", str(error))
        return answer_json({})

    async def _join(self, device: Device, group: str, now: int) -> Device:
        """A device that no operator has given a group has the one that it names first.

        Rollouts count it there as well, and it cannot look for a group with room.
        """

        async def act(connection: AsyncConnection) -> Device | None:
            if not await attempts.lock(connection, device.id):
                return None
            found = await devices.find(connection, device.id)
            if found is None or found.group_name is not None:
                return found
            await devices.describe(connection, device.id, group=group)
            text = f"joins group {group}, as it names itself"
            await events.add(connection, now, "lock", text, device=device.id)
            return replace(found, group_name=group)

        return await self.database.write(act) or device

    async def _give_back(self, request: web.Request) -> web.Response:
        now = self.now()
        found = await self._open(request, now)
        if isinstance(found, web.Response):
            return found
        device, _ = found

        async def act(connection: AsyncConnection) -> None:
            if await attempts.lock(connection, device.id) and await holds.release(
                connection, device.id
            ):
                await events.add(connection, now, "lock", "healthy again", device=device.id)

        await self.database.write(act)
        return answer_json({})

    async def _open(self, request: web.Request, now: int) -> tuple[Device, str] | web.Response:
        """Who asks, and the group it names; or how the protocol refuses."""
        if request.headers.get(HEADER) != "true":
            return _refuse(400, "no_protocol", f"the header {HEADER}: true is missing")
        header = request.headers.get("Authorization")
        token = bearer_token(header) or basic_password(header)
        if token is None:
            return _refuse(401, "unknown_device", "the device's token is needed")
        async with self.database.reading() as connection:
            device = await devices.find_by_token(connection, hash_token(token), now)
        if device is None:
            return _refuse(401, "unknown_device", "unknown device or wrong token")
        raw = await read_body(request, POLL_BYTES_MAX)
        try:
            body = msgspec.json.decode(raw, type=LockRequest)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return _refuse(400, "invalid", str(error))
        return device, body.client_params.group


def _refuse(status: int, kind: str, value: str) -> web.Response:
    headers = {"WWW-Authenticate": 'Basic realm="slipstream device"'} if status == 401 else {}
    return answer_json(LockError(kind, value), status=status, headers=headers)

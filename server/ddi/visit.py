"""Who asks over DDI, and from where: credentials become a known device, or a new one."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.ddi.answers import Place
from slipstream.server.ddi.credentials import Stranger, authenticate
from slipstream.server.ddi.settings import DdiSettings
from slipstream.server.proxies import Proxies
from slipstream.server.store import controllers, devices
from slipstream.server.store.controllers import Controller
from slipstream.server.store.database import Database
from slipstream.server.tokens import hash_token, make_token
from slipstream.server.wire import refusal

_log: Any = structlog.get_logger(__name__)
_DEVICE = re.compile(r"[A-Za-z0-9._:@+-]{1,128}")


@dataclass(frozen=True, slots=True)
class Visit:
    """A request whose sender is known."""

    request: web.Request
    controller: Controller
    place: Place
    now: int

    @property
    def device(self) -> str:
        return self.controller.device.id


@dataclass(frozen=True, slots=True)
class Reception:
    """Lets in who may come in."""

    database: Database
    settings: DdiSettings
    proxies: Proxies
    now: Callable[[], int]  # seconds since 1970

    async def enter(self, request: web.Request) -> Visit:
        """Who asks; registers whom the credentials vouch for. Refuses with 400, 401 or 403."""
        tenant, name = request.match_info["tenant"], request.match_info["device"]
        if tenant.casefold() != self.settings.tenant.casefold():
            raise stranger("no such tenant")
        if not _DEVICE.fullmatch(name):
            raise refusal(web.HTTPBadRequest, "not an id of a device")
        now = self.now()
        controller = await self.know(name, now)
        digests = () if controller is None else controller.digests
        try:
            credential = authenticate(
                request.headers,
                name,
                digests,
                self.settings,
                by_proxy=self.proxies.trusts(request.remote),
            )
        except Stranger as error:
            raise stranger(str(error)) from error
        if controller is None:
            if self.settings.product is None:
                raise refusal(web.HTTPForbidden, "the device is not registered")
            controller = await self._register(name, self.settings.product, now)
            _log.info("device registered itself", device=name, by=credential.value)
        elif not controller.met:
            await self.database.write(lambda connection: controllers.meet(connection, name, now))
        return Visit(request, controller, Place(self._origin(request), tenant, name), now)

    async def know(self, device: str, now: int) -> Controller | None:
        """The device as it stands."""
        return await self.database.lookup.know_controller(device, now)

    async def _register(self, name: str, product: str, now: int) -> Controller:
        # It comes by the gateway or a certificate: nobody has to know this token.
        digest = hash_token(make_token())

        async def act(connection: AsyncConnection) -> None:
            await devices.add(connection, name, product, self.settings.channel, digest, now)
            await controllers.meet(connection, name, now)

        await self.database.write(act)
        found = await self.know(name, now)
        if found is None:
            raise stranger("the device was removed")
        return found

    def _origin(self, request: web.Request) -> str:
        """The beginning of every link: as it is set, or as the client reached us."""
        if self.settings.public_url is not None:
            return self.settings.public_url.rstrip("/")
        scheme, host = request.scheme, request.host
        if self.proxies.trusts(request.remote):
            scheme = self.proxies.scheme(request.remote, request.headers, scheme)
            host = request.headers.get("X-Forwarded-Host", host)
        return f"{scheme}://{host}"


def stranger(reason: str) -> web.HTTPError:
    """401, to be raised."""
    return refusal(web.HTTPUnauthorized, reason, {"WWW-Authenticate": "TargetToken"})

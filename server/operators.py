"""The operator's endpoints: register, list and remove devices, list releases.

    POST   /v1/devices         {"id", "product", "channel"?}  ->  201 {"id", "token"}, 409 if taken
    GET    /v1/devices?after=ID&limit=N                       ->  200 {"devices": [...], "next"}
    GET    /v1/devices/{id}/reports?limit=N                   ->  200 {"reports": [...]}
    DELETE /v1/devices/{id}                                   ->  204, 404
    GET    /v1/releases                                       ->  200 {"releases": [...], ...}

They take the operator's token as Bearer only: a browser that knows it as a Basic password
would send it with a form that any other page submits. Changes are in the audit log, as those of
/api/v1 are.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import structlog
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.limits import PAGE_ROWS_MAX, POLL_BYTES_MAX
from slipstream.server.access import INSTALLATION
from slipstream.server.catalog import CatalogReader
from slipstream.server.devices import PollLog
from slipstream.server.store import audit, devices, reports
from slipstream.server.store.database import Database
from slipstream.server.store.devices import Device
from slipstream.server.store.reports import Report
from slipstream.server.tokens import (
    WrongToken,
    basic_password,
    bearer_token,
    check_token,
    hash_token,
    make_token,
)
from slipstream.server.wire import (
    Body,
    DeviceId,
    Name,
    answer_json,
    query_integer,
    read_json,
    refusal,
)

_log: Any = structlog.get_logger(__name__)


class DeviceEntry(Body, frozen=True):
    """The body of POST /v1/devices."""

    id: DeviceId
    product: Name
    channel: Name = "stable"


@dataclass(frozen=True, slots=True)
class OperatorHandler:
    """Answers the operator."""

    database: Database
    polls: PollLog
    catalog: CatalogReader
    token_digest: bytes
    now: Callable[[], int]  # seconds since 1970

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/devices", self._add_device),
            web.get("/v1/devices", self._list_devices),
            web.delete("/v1/devices/{id}", self._remove_device),
            web.get("/v1/devices/{id}/reports", self._list_reports),
            web.get("/v1/releases", self._list_releases),
        ]

    async def _add_device(self, request: web.Request) -> web.Response:
        check_operator(request, self.token_digest)
        new = await read_json(request, DeviceEntry, POLL_BYTES_MAX)
        token = make_token()
        digest, now = hash_token(token), self.now()

        async def act(connection: AsyncConnection) -> bool:
            if not await devices.add(connection, new.id, new.product, new.channel, digest, now):
                return False
            after = msgspec.json.encode(new).decode()
            await audit.append(
                connection, now, INSTALLATION, "device.add", f"device {new.id}", after=after
            )
            return True

        if not await self.database.write(act):
            raise refusal(web.HTTPConflict, f"device {new.id!r} exists")
        _log.info("device added", device=new.id, product=new.product, channel=new.channel)
        return answer_json({"id": new.id, "token": token}, status=201)

    async def _remove_device(self, request: web.Request) -> web.Response:
        check_operator(request, self.token_digest)
        device = request.match_info["id"]

        async def act(connection: AsyncConnection) -> bool:
            if not await devices.remove(connection, device):
                return False
            what = f"device {device}"
            await audit.append(connection, self.now(), INSTALLATION, "device.remove", what)
            return True

        if not await self.database.write(act):
            raise refusal(web.HTTPNotFound, f"no device {device!r}")
        _log.info("device removed", device=device)
        return web.Response(status=204)

    async def _list_devices(self, request: web.Request) -> web.Response:
        check_operator(request, self.token_digest)
        limit = query_integer(request, "limit", PAGE_ROWS_MAX, 1, PAGE_ROWS_MAX)
        await self.polls.flush()
        rows = await list_with_reports(self.database, request.query.get("after", ""), limit)
        return answer_json(
            {
                "devices": [
                    {**_device(device), "last_report": report and _report(report)}
                    for device, report in rows
                ],
                "next": rows[-1][0].id if len(rows) == limit else None,
            }
        )

    async def _list_reports(self, request: web.Request) -> web.Response:
        check_operator(request, self.token_digest)
        limit = query_integer(request, "limit", 50, 1, PAGE_ROWS_MAX)
        async with self.database.reading() as connection:
            found = await reports.list_of(connection, request.match_info["id"], limit=limit)
        return answer_json({"reports": [_report(one) for one in found]})

    async def _list_releases(self, request: web.Request) -> web.Response:
        check_operator(request, self.token_digest)
        catalog = await self.catalog.read()
        return answer_json(asdict(catalog))


async def list_with_reports(
    database: Database, after: str, limit: int
) -> tuple[tuple[Device, Report | None], ...]:
    """Up to `limit` devices behind the id `after`, by id, each with its newest report."""
    async with database.reading() as connection:
        found = await devices.list_page(connection, after=after, limit=limit)
        if not found:
            return ()
        newest = await reports.newest_between(connection, found[0].id, found[-1].id)
    return tuple((device, newest.get(device.id)) for device in found)


def check_operator(request: web.Request, digest: bytes, *, basic: bool = False) -> None:
    """401 unless the request carries the operator's token; as a Basic password if `basic`."""
    header = request.headers.get("Authorization")
    token = bearer_token(header)
    if token is None and basic:
        token = basic_password(header)
    try:
        check_token(token, digest)
    except WrongToken as error:
        scheme = "Basic" if basic else "Bearer"
        raise refusal(
            web.HTTPUnauthorized,
            f"{error}: the operator's token is needed",
            {"WWW-Authenticate": f'{scheme} realm="slipstream operator", charset="UTF-8"'},
        ) from error


def _device(device: Device) -> dict[str, object]:
    return {**asdict(device), "slots": msgspec.Raw((device.slots or "[]").encode())}


def _report(report: Report) -> dict[str, object]:
    return {**asdict(report), "details": msgspec.Raw(report.details.encode())}

"""POST /v1/report: a device tells how an installation went. Durable before it is answered."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import structlog
from aiohttp import web

from slipstream.delta.errors import Unavailable
from slipstream.delta.limits import REPORT_BYTES_MAX
from slipstream.server.catalog import Catalog, CatalogReader
from slipstream.server.devices import authenticate, check_device
from slipstream.server.fleet.engine import Engine
from slipstream.server.fleet.hear import hear_report
from slipstream.server.metrics import Metrics
from slipstream.server.store.database import Database
from slipstream.server.store.reports import Report
from slipstream.server.wire import (
    Body,
    Counter,
    DeviceId,
    OptionalWord,
    Reason,
    Root,
    Seconds,
    answer_json,
    read_json,
    refusal,
)

_log: Any = structlog.get_logger(__name__)

ReportKind = Literal["installed", "confirmed", "fell_back", "failed", "progress"]


class ReportBody(Body, frozen=True):
    """The body of a report."""

    key: Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[!-~]+\Z")]
    device: DeviceId
    kind: ReportKind
    release: OptionalWord | None = None
    counter: Counter | None = None
    booted_root: Root | None = None
    reason: Reason | None = None
    details: dict[str, Any] | None = None
    at: Seconds | float = 0


@dataclass(frozen=True, slots=True)
class ReportHandler:
    """Keeps reports."""

    database: Database
    catalog: CatalogReader
    engine: Engine
    metrics: Metrics
    now: Callable[[], int]  # seconds since 1970

    async def handle(self, request: web.Request) -> web.Response:
        now = self.now()
        device = await authenticate(request, self.database, now)
        body = await read_json(request, ReportBody, REPORT_BYTES_MAX)
        check_device(device, body.device)
        report = Report(
            device=device.id,
            key=body.key,
            kind=body.kind,
            release=body.release,
            counter=body.counter,
            booted_root=body.booted_root,
            reason=body.reason or "",
            details=msgspec.json.encode(body.details or {}).decode(),
            at=_whole_seconds(body.at),
            received_at=now,
        )
        try:
            catalog: Catalog | None = await self.catalog.read()
        except Unavailable:
            catalog = None  # the report is kept; without root hashes it confirms nothing
        try:
            added = await hear_report(self.database, catalog, report)
        except KeyError as error:
            raise refusal(web.HTTPUnauthorized, "the device was removed") from error
        self.engine.wake()
        self.metrics.count_report(body.kind, duplicate=not added)
        if added and body.kind in ("fell_back", "failed"):
            _log.warning(
                body.kind.replace("_", " "),
                device=device.id,
                release=body.release,
                reason=report.reason,
            )
        return answer_json({"accepted": True, "duplicate": not added})


def _whole_seconds(at: float) -> int:
    if not 0 <= at <= 1 << 53:
        raise refusal(
            web.HTTPBadRequest,
            "$.at: it does not belong there; expected seconds since 1970",
            field="$.at",
        )
    return int(at)

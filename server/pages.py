"""The page at /: the fleet and the releases, for a person with a browser and no script.

It needs the operator's token as the password of HTTP Basic (any user name): it names every
device. Reads only; nothing on it can be pressed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import jinja2
from aiohttp import web

from slipstream.delta.errors import Unavailable
from slipstream.delta.limits import PAGE_ROWS_MAX
from slipstream.server.catalog import Catalog, CatalogReader
from slipstream.server.devices import PollLog
from slipstream.server.metrics import parse_expiry
from slipstream.server.operators import check_operator, list_with_reports
from slipstream.server.store import devices
from slipstream.server.store.database import Database
from slipstream.server.store.devices import Device
from slipstream.server.store.reports import Report

_FOLDER = Path(__file__).with_name("pages")
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
_KINDS = {
    "installed": "Installed {release}, not yet confirmed",
    "confirmed": "Confirmed {release}",
    "fell_back": "Fell back from {release}",
    "failed": "Could not install {release}",
    "progress": "On its way to {release}",
}
_BAD = frozenset({"fell_back", "failed"})


@dataclass(frozen=True, slots=True)
class Row:
    """A device as the page shows it."""

    id: str
    product: str
    channel: str
    runs: str
    mark: str  # "good", "trial", "bad" or "": how the row is marked, in colour and in words
    seen: str
    report: str
    reason: str


@dataclass(frozen=True, slots=True)
class PageHandler:
    """Answers browsers."""

    database: Database
    polls: PollLog
    catalog: CatalogReader
    token_digest: bytes
    now: Callable[[], int]  # seconds since 1970

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/", self._index), web.get("/style.css", self._style)]

    async def _index(self, request: web.Request) -> web.Response:
        check_operator(request, self.token_digest, basic=True)
        now = self.now()
        await self.polls.flush()
        after = request.query.get("after", "")
        found = await list_with_reports(self.database, after, PAGE_ROWS_MAX)
        async with self.database.reading() as connection:
            counts = await devices.count_by_release(connection)
        try:
            catalog: Catalog | None = await self.catalog.read()
            trouble = None
        except Unavailable as error:
            catalog, trouble = None, str(error)
        text = _template().render(
            rows=[describe_device(device, report, now) for device, report in found],
            next=found[-1][0].id if len(found) == PAGE_ROWS_MAX else None,
            total=sum(counts.values()),
            counts=counts,
            catalog=catalog,
            trouble=trouble,
            expired=catalog is not None and _is_over(catalog.expires, now),
            now=datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
        return web.Response(text=text, content_type="text/html", headers=_HEADERS)

    async def _style(self, _request: web.Request) -> web.Response:
        text = (_FOLDER / "style.css").read_text(encoding="utf-8")
        return web.Response(
            text=text, content_type="text/css", headers={**_HEADERS, "Cache-Control": "no-cache"}
        )


def describe_device(device: Device, report: Report | None, now: int) -> Row:
    """A device and its newest report, in words. `now` in seconds since 1970."""
    mark = "good" if device.seen_at is not None else ""
    if device.trial:
        mark = "trial"
    if report is not None and report.kind in _BAD:
        mark = "bad"
    return Row(
        id=device.id,
        product=device.product,
        channel=device.channel,
        runs=_runs(device),
        mark=mark,
        seen="never" if device.seen_at is None else describe_age(now - device.seen_at),
        report=_report(report, now),
        reason=report.reason if report is not None else "",
    )


def describe_age(age_s: int) -> str:
    """An age in seconds, in words."""
    for seconds, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if age_s >= 2 * seconds:
            return f"{age_s // seconds} {word}s ago"
    return "just now" if age_s < 60 else f"{age_s} seconds ago"


def describe_size(size: int) -> str:
    """A size in bytes, in words: 1.4 MB (powers of ten, as links are sold)."""
    if size < 1000:
        return f"{size} bytes"
    number = float(size)
    for unit in ("kB", "MB", "GB"):
        number /= 1000
        if number < 999.5:
            return f"{number:.1f} {unit}" if number < 99.95 else f"{number:.0f} {unit}"
    return f"{number / 1000:.1f} TB"


def _runs(device: Device) -> str:
    if device.seen_at is None:
        return "unknown"
    text = device.release or "unknown"
    return f"{text}, on trial" if device.trial else text


def _report(report: Report | None, now: int) -> str:
    if report is None:
        return "none"
    words = _KINDS[report.kind].format(release=report.release or "a release")
    return f"{words}, {describe_age(now - report.received_at)}"


def _is_over(expires: str, now: int) -> bool:
    expiry = parse_expiry(expires)
    return expiry is not None and expiry.timestamp() <= now


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["size"] = describe_size
    return environment.get_template("index.html")

"""GET /devices and /devices/ID: the devices, and all that is known of one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec
from aiohttp import web

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import ROWS_MAX, TIMELINE_MAX
from slipstream.server.access import Deed
from slipstream.server.matching import list_matching
from slipstream.server.pages.desk import Desk, lead_to
from slipstream.server.pages.visitor import Visitor
from slipstream.server.pages.words import EVENTS, REPORTS, STATES, Mark, age_words, plain
from slipstream.server.rollout.rsql import EVERYTHING, Filter, parse_filter
from slipstream.server.store import attempts, devices, events, quarantines, reports, rollouts
from slipstream.server.store.attempts import Attempt
from slipstream.server.store.devices import Device
from slipstream.server.store.reports import Report
from slipstream.server.wire import refusal

_BOOTS = frozenset({"installed", "confirmed", "fell_back"})


@dataclass(frozen=True, slots=True)
class Row:
    """A device in the list."""

    id: str
    product: str
    channel: str
    runs: str
    state: str
    mark: Mark
    seen: str
    group: str
    tags: tuple[str, ...]
    report: str
    report_mark: Mark
    reason: str


@dataclass(frozen=True, slots=True)
class Slot:
    """One of a device's slots, as it says."""

    name: str
    release: str
    state: str
    runs: bool


@dataclass(frozen=True, slots=True)
class Said:
    """A report in words; `facts` are the details that the device gave."""

    at: int
    words: str
    mark: Mark
    reason: str
    root: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Offer:
    """An offer in words."""

    rollout: int
    name: str
    release: str
    phase: int
    state: str
    mark: Mark
    reason: str
    offered_at: int
    changed_at: int


@dataclass(frozen=True, slots=True)
class DevicesHandler:
    """Answers GET /devices and /devices/ID, and lifts quarantines."""

    desk: Desk

    def routes(self) -> list[web.RouteDef]:
        return [
            self.desk.get("/devices", self._list),
            self.desk.get("/devices/{id}", self._show),
            self.desk.post("/devices/{id}/lift", self._lift, Deed.MANAGE_DEVICES),
        ]

    async def _list(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        desk, now = self.desk, self.desk.now()
        text = request.query.get("filter", "").strip()
        after = request.query.get("after", "")
        problem = ""
        condition: Filter = EVERYTHING
        try:
            condition = parse_filter(text)
        except UsageError as error:
            problem = str(error)
        await desk.polls.flush()
        found: tuple[Device, ...] = ()
        if not problem:
            found = (await list_matching(desk.database, condition, after, ROWS_MAX + 1)).devices
        shown = found[:ROWS_MAX]
        async with desk.database.reading() as connection:
            newest = await reports.newest_of(connection, [one.id for one in shown])
            total, _, _ = await devices.count_seen(connection, now)
        return desk.render(
            request,
            visitor,
            "devices.html",
            filter=text,
            after=after,
            problem=problem,
            total=total,
            rows=[describe(one, newest.get(one.id), now, desk.online_s) for one in shown],
            next=shown[-1].id if len(found) > ROWS_MAX else None,
        )

    async def _show(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        desk, now = self.desk, self.desk.now()
        name = request.match_info["id"]
        await desk.polls.flush()
        async with desk.database.reading() as connection:
            device = await devices.find(connection, name)
            if device is None:
                raise refusal(web.HTTPNotFound, f"There is no device {name}.")
            told = await reports.list_of(connection, name, limit=TIMELINE_MAX)
            happened = await events.list_of_device(connection, name, limit=TIMELINE_MAX)
            offers = await attempts.of_device(connection, name)
            kept = await quarantines.list_of_device(connection, name)
            plans = await rollouts.plans(connection, [one.rollout for one in offers])
        facts = device.facts()
        return desk.render(
            request,
            visitor,
            "device.html",
            live=f"device/{name}",
            device=device,
            facts=facts,
            row=describe(device, told[0] if told else None, now, desk.online_s),
            slots=slots_of(device),
            boots=[say(one) for one in told if one.kind in _BOOTS],
            told=[say(one) for one in told],
            offers=_offers(offers, {key: plan.name for key, plan in plans.items()}),
            kept=kept,
            timeline=[(one, EVENTS.get(one.kind, Mark.NONE)) for one in happened],
        )

    async def _lift(
        self, request: web.Request, visitor: Visitor, fields: Mapping[str, str]
    ) -> web.StreamResponse:
        device, release = request.match_info["id"], fields.get("release", "")
        places = {"device": device, "release": release}
        await self.desk.carry_out("quarantine.lift", visitor.identity, places, None)
        return lead_to(f"/devices/{quote(device, safe='')}")


def describe(device: Device, report: Report | None, now: int, online_s: int) -> Row:
    """A device and its newest report, in words. `now` in seconds since 1970."""
    state, mark = condition(device, now, online_s)
    words, report_mark, reason = "nothing yet", Mark.NONE, ""
    if report is not None:
        template, report_mark = REPORTS[report.kind]
        told = template.format(release=report.release or "a release")
        words, reason = f"{told}, {age_words(now - report.received_at)}", report.reason
    facts = device.facts()
    return Row(
        id=device.id,
        product=device.product,
        channel=device.channel,
        runs=device.release or "unknown",
        state=state,
        mark=mark,
        seen="never" if device.seen_at is None else age_words(now - device.seen_at),
        group=device.group_name or "",
        tags=tuple(sorted(facts.tags)),
        report=words,
        report_mark=report_mark,
        reason=reason,
    )


def condition(device: Device, now: int, online_s: int) -> tuple[str, Mark]:
    """How a device is, as far as its polls show."""
    if device.seen_at is None:
        return "Never seen", Mark.NONE
    if now - device.seen_at > online_s:
        return "Overdue", Mark.WARN
    return ("On trial", Mark.GOING) if device.trial else ("Online", Mark.GOOD)


def slots_of(device: Device) -> tuple[Slot, ...]:
    """The slots that a device told of at its last poll."""
    found = msgspec.json.decode(device.slots or "[]", type=list[dict[str, Any]])
    return tuple(
        Slot(
            name=str(one.get("name", "")),
            release=str(one.get("release") or "empty"),
            state=str(one.get("state") or ""),
            runs=one.get("release") is not None and one.get("release") == device.release,
        )
        for one in found
    )


def say(report: Report) -> Said:
    """A report in words."""
    template, mark = REPORTS[report.kind]
    details = msgspec.json.decode(report.details, type=dict[str, Any])
    return Said(
        at=report.received_at,
        words=template.format(release=report.release or "a release"),
        mark=mark,
        reason=report.reason,
        root=(report.booted_root or "")[:16],
        facts=tuple((key.replace("_", " "), plain(value)) for key, value in details.items()),
    )


def _offers(found: Sequence[Attempt], names: Mapping[int, str]) -> list[Offer]:
    return [
        Offer(
            one.rollout,
            names.get(one.rollout, f"rollout {one.rollout}"),
            one.release,
            one.phase + 1,
            *STATES[one.state],
            one.reason,
            one.offered_at,
            one.changed_at,
        )
        for one in found
    ]

"""POST /v1/poll: a device says where it stands and hears what to install.

A poll writes nothing by itself. What it said is gathered here and written every POLL_FLUSH_S
and at shutdown; a kill loses at most that, and the device says it again at its next poll.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Annotated, Any, assert_never

import msgspec
import structlog
from aiohttp import web

from slipstream.delta.errors import Unavailable
from slipstream.delta.limits import DENIED_RELEASES_MAX, POLL_BYTES_MAX, POLL_FLUSH_S, SLOTS_MAX
from slipstream.server.catalog import CatalogReader
from slipstream.server.fleet.board import Board
from slipstream.server.fleet.loop import Loop
from slipstream.server.fleet.polls import Said, answer_poll
from slipstream.server.metrics import Metrics
from slipstream.server.rollout.offer import Decision, Install, Stay
from slipstream.server.store import polls
from slipstream.server.store.database import Database
from slipstream.server.store.devices import Device, Known
from slipstream.server.store.polls import Seen
from slipstream.server.tokens import bearer_token, hash_token
from slipstream.server.wire import (
    Body,
    Counter,
    DeviceId,
    Name,
    OptionalWord,
    Reason,
    Root,
    answer_json,
    read_json,
    refusal,
)

_log: Any = structlog.get_logger(__name__)


class PolledSlot(Body, frozen=True):
    """What the device says of one of its slots."""

    name: Name
    release: OptionalWord | None = None
    state: OptionalWord = ""


class FailedRelease(Body, frozen=True):
    """A release that the device will not try again."""

    release: Name
    reason: Reason = ""


class Poll(Body, frozen=True):
    """The body of a poll."""

    device: DeviceId
    product: Name
    hardware: OptionalWord | None = None
    release: OptionalWord | None = None
    counter: Counter | None = None
    booted_root: Root | None = None
    slots: Annotated[tuple[PolledSlot, ...], msgspec.Meta(max_length=SLOTS_MAX)] = ()
    failed: Annotated[tuple[FailedRelease, ...], msgspec.Meta(max_length=DENIED_RELEASES_MAX)] = ()
    trial: bool = False
    floor: Counter = 0
    channel: Name | None = None  # the one it was registered for, unless it says another


class PollLog:
    """What devices said since it was last written: at most one entry a device."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._seen: dict[str, Seen] = {}
        self._touched: dict[str, int] = {}
        self._leaving: dict[str, Seen] = {}  # being written now
        self._left: dict[str, Seen] = {}  # written last: `stored` may have been read before that
        self.loop = Loop("poll log", self.flush, POLL_FLUSH_S)

    def note(self, seen: Seen, stored: Device) -> None:
        """A device polled. `stored`: what the database says of it; mostly just what it says now."""
        waits = any(seen.device in one for one in (self._seen, self._leaving, self._left))
        if waits or polls.is_news(stored, seen):
            self._seen[seen.device] = seen
        else:
            self.touch(seen.device, seen.seen_at)

    def touch(self, device: str, at: int) -> None:
        """A device polled, and said nothing else by it."""
        self._touched[device] = at

    def latest(self, device: Device) -> Device:
        """The device as it said last, written or not yet."""
        seen = self._seen.get(device.id) or self._leaving.get(device.id)
        return device if seen is None else polls.after_poll(device, seen)

    async def flush(self) -> None:
        """Write what is there; what cannot be written stays for the next time. Unavailable."""
        seen, self._seen = self._seen, {}
        touched, self._touched = self._touched, {}
        self._leaving = seen
        try:
            if touched:
                await self._database.write(lambda connection: polls.touch(connection, touched))
            if seen:
                rows = tuple(seen.values())
                await self._database.write(lambda connection: polls.write(connection, rows))
        except BaseException:
            self._seen = seen | self._seen
            self._touched = touched | self._touched
            raise
        finally:
            self._leaving, self._left = {}, seen

    @asynccontextmanager
    async def flushing(self) -> AsyncIterator["PollLog"]:
        """Flushes every POLL_FLUSH_S while inside, and once more at the end."""
        try:
            async with self.loop.running():
                yield self
        finally:
            await self._try_to_flush()

    async def _try_to_flush(self) -> None:
        try:
            await self.flush()
        except Unavailable as error:
            _log.error("polls not written", reason=str(error), devices=len(self._seen))


@dataclass(frozen=True, slots=True)
class PollHandler:
    """Answers polls."""

    database: Database
    board: Board
    polls: PollLog
    catalog: CatalogReader
    metrics: Metrics
    now: Callable[[], int]  # seconds since 1970
    interval_s: int

    async def handle(self, request: web.Request) -> web.Response:
        now = self.now()
        known = await recognise(request, self.database, now)
        poll = await read_json(request, Poll, POLL_BYTES_MAX)
        check_device(known.device, poll.device)
        if poll.product != known.device.product:
            raise refusal(
                web.HTTPBadRequest,
                f"registered as {known.device.product!r}, not {poll.product!r}",
                field="$.product",
            )
        said = _said(poll, now)
        self.polls.note(said.seen, known.device)
        catalog = await self.catalog.read()
        decision = await answer_poll(self.database, self.board, catalog, known, said, now)
        answer = _answer(decision, now)
        self.metrics.count_poll(answer["action"])
        return answer_json({**answer, "interval_s": self.interval_s})


async def authenticate(request: web.Request, database: Database, now: int) -> Device:
    """The device whose token the request carries; 401 otherwise."""
    return (await recognise(request, database, now)).device


async def recognise(request: web.Request, database: Database, now: int) -> Known:
    """The same device with what decides about its offers; 401 otherwise."""
    known = await database.lookup.know(sent_digest(request), now)
    if known is None:
        raise _stranger()
    return known


def sent_digest(request: web.Request) -> bytes:
    """The digest of the token that the request carries; 401 if there is none.

    Devices are looked up by it: how long that takes depends on SHA-256 of what was sent,
    which tells a guesser nothing about any token.
    """
    token = bearer_token(request.headers.get("Authorization"))
    if token is None:
        raise _stranger()
    return hash_token(token)


def check_device(device: Device, claimed: str) -> None:
    """401 unless the device is who the body says: a token speaks for one device."""
    if device.id != claimed:
        raise _stranger()


def _stranger() -> web.HTTPError:
    return refusal(
        web.HTTPUnauthorized,
        "unknown device or wrong token",
        {"WWW-Authenticate": 'Bearer realm="slipstream device"'},
    )


def _answer(decision: Decision, now: int) -> dict[str, Any]:
    match decision:
        case Install(release, counter, reason, rollout):
            answer = {"action": "install", "release": release, "counter": counter}
            if rollout is not None:
                answer["forced"] = rollout.plan.forced(now)
                answer["download_only"] = rollout.plan.download_only
            return {**answer, "reason": reason}
        case Stay(reason):
            return {"action": "none", "release": None, "counter": None, "reason": reason}
        case _:
            assert_never(decision)


def _said(poll: Poll, now: int) -> Said:
    seen = Seen(
        device=poll.device,
        seen_at=now,
        hardware=poll.hardware,
        release=poll.release,
        counter=poll.counter,
        booted_root=poll.booted_root,
        trial=poll.trial,
        slots=msgspec.json.encode(poll.slots).decode(),
    )
    failed = {one.release: one.reason for one in poll.failed}
    return Said(seen, poll.channel, poll.floor, failed)

"""GET /v1/wake: devices that listen hear when a poll is worth while. Server-sent events.

    event: wake                 poll within so many seconds, at a moment of your own choice
    data: {"within_s": 12}
    : still here                every WAKE_KEEPALIVE_S

It is a hint and nothing else: what a device is offered is decided when it polls, and a device that
hears nothing polls as before. Once a second the rollouts in memory (fleet/board.py, which costs
the database one look for all) are compared with those of a second ago; where a line of devices
changed, each of its listeners is asked of the engine as if it had polled, and woken if it would
be offered something. So a phase of 1 % wakes that 1 %, and one who opens a stream too late for a
change is woken at once.
"""

import asyncio
import random
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import structlog
from aiohttp import web

from slipstream.delta.limits import (
    BOARD_REFRESH_S,
    WAKE_BATCH,
    WAKE_KEEPALIVE_S,
    WAKE_PER_S,
    WAKE_READERS_MAX,
    WAKE_SPREAD_S_MAX,
    WAKE_SPREAD_S_MIN,
    WAKE_STREAM_S,
)
from slipstream.server.catalog import Catalog, CatalogReader
from slipstream.server.devices import PollLog, recognise
from slipstream.server.fleet.board import Board, View
from slipstream.server.fleet.loop import Loop
from slipstream.server.fleet.offers import choose
from slipstream.server.rollout.offer import Decision, Install, Standing, closed
from slipstream.server.rollout.record import Rollout
from slipstream.server.store.database import Database
from slipstream.server.store.devices import Known
from slipstream.server.streams import send_events
from slipstream.server.wire import refusal

_log: Any = structlog.get_logger(__name__)
_Line = tuple[str, str]  # product, channel
_TOO_MANY_S = 600  # until one who found no room asks again


@dataclass(eq=False)
class Listener:
    """One device whose stream is open; `known` as it stood when it was opened."""

    known: Known
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    within_s: int = 0
    ended: bool = False

    @property
    def line(self) -> _Line:
        return self.known.device.product, self.known.device.channel

    def wake(self, within_s: int) -> None:
        self.within_s = within_s
        self.woken.set()

    def end(self) -> None:
        self.ended = True
        self.woken.set()

    def take(self) -> bytes | None:
        """What there is to tell; a comment if there is nothing; None at the end."""
        if self.ended:
            return None
        if not self.woken.is_set():
            return b": still here\n\n"
        self.woken.clear()
        return b'event: wake\ndata: {"within_s": %d}\n\n' % self.within_s


class Waker:
    """Keeps streams, and wakes them. Use `following` around the application's life."""

    def __init__(
        self,
        database: Database,
        board: Board,
        catalog: CatalogReader,
        polls: PollLog,
        now: Callable[[], int],
    ) -> None:
        self._database = database
        self._board = board
        self._catalog = catalog
        self._polls = polls
        self._now = now
        self._listeners: dict[str, Listener] = {}  # by device: one stream each
        self._stood: dict[_Line, object] = {}
        self._closed = False
        self.loop = Loop("wake-up of devices", self.look, BOARD_REFRESH_S)

    @asynccontextmanager
    async def following(self) -> AsyncIterator["Waker"]:
        """Looks for changes while inside."""
        async with self.loop.running():
            yield self

    def close(self) -> None:
        """End all streams, so that a server that stops need not wait for them."""
        self._closed = True
        for listener in self._listeners.values():
            listener.end()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """The stream of a device. 401 for a stranger, 503 where too many listen."""
        now = self._now()
        listener = Listener(await recognise(request, self._database, now))
        device = listener.known.device.id
        before = self._listeners.pop(device, None)
        if before is not None:
            before.end()  # a device that came back, whose old connection nobody has missed yet
        if self._closed or len(self._listeners) >= WAKE_READERS_MAX:
            again = {"Retry-After": str(_TOO_MANY_S)}
            raise refusal(web.HTTPServiceUnavailable, "too many devices listen", again)
        self._listeners[device] = listener
        try:
            catalog = await self._catalog.read()
            if listener.line not in self._stood:  # what changes before the next look has changed
                self._stood[listener.line] = _stand(listener.line, self._board.view, catalog, now)
            decision = self._decide(listener.known, catalog, now)
            if isinstance(decision, Install) and decision.fresh:
                listener.wake(WAKE_SPREAD_S_MIN)
            return await self._stream(request, listener)
        finally:
            if self._listeners.get(device) is listener:
                del self._listeners[device]

    async def _stream(self, request: web.Request, listener: Listener) -> web.StreamResponse:
        # Spread, or those who came together would leave together.
        ends_at = asyncio.get_running_loop().time() + WAKE_STREAM_S * random.uniform(0.75, 1)
        return await send_events(
            request,
            b": listening\n\n",
            listener.woken,
            listener.take,
            keepalive_s=WAKE_KEEPALIVE_S,
            ends_at=ends_at,
        )

    async def look(self) -> None:
        """Wake those for whom something has changed since the last look."""
        if not self._listeners:
            self._stood.clear()
            return
        catalog, view, now = await self._catalog.read(), self._board.view, self._now()
        lines: dict[_Line, list[Listener]] = defaultdict(list)
        for listener in self._listeners.values():
            lines[listener.line].append(listener)
        stands = {line: _stand(line, view, catalog, now) for line in lines}
        before, self._stood = self._stood, stands
        changed = [line for line, found in stands.items() if before.get(line, found) != found]
        if not changed:
            return
        woken: list[Listener] = []
        for count, listener in enumerate((one for line in changed for one in lines[line]), 1):
            if isinstance(self._decide(listener.known, catalog, now), Install):
                woken.append(listener)
            if count % WAKE_BATCH == 0:
                await asyncio.sleep(0)  # a poll must not wait for all of them
        wanted_s = ceil(len(woken) / WAKE_PER_S)
        within_s = max(WAKE_SPREAD_S_MIN, min(WAKE_SPREAD_S_MAX, wanted_s))
        for listener in woken:
            listener.wake(within_s)
        _log.info("devices woken", devices=len(woken), within_s=within_s)

    def _decide(self, known: Known, catalog: Catalog, now: int) -> Decision:
        """What the device would be offered, for all that is known of it. Grants nothing."""
        device = self._polls.latest(known.device)
        standing = Standing(
            facts=device.facts(), refused=known.quarantined, attempts=known.attempts
        )
        return choose(self._board.view, catalog, standing, now)


def _stand(line: _Line, view: View, catalog: Catalog, now: int) -> object:
    """What decides about the offers of a line, as far as it changes by itself or by an operator."""
    release = None if line in view.managed else catalog.newest(*line)
    return (
        release and release.release,
        view.waypoints.get(line),
        tuple(_stand_of(one, now) for one in view.rollouts.get(line, ())),
    )


def _stand_of(rollout: Rollout, now: int) -> object:
    plan = rollout.plan
    shut = closed(plan.schedule, now)
    return rollout.id, rollout.status, len(rollout.opened), plan.forced(now), shut

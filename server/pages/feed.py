"""Changes as they happen, for open pages: server-sent events made of the events in the store.

One reader a server looks for new events once a second, while a page is open, and wakes the pages
whose topic they touch. A page is told only that something changed, and what to say of it to those
who cannot see; what changed it asks for itself.

    topics    fleet          everything
              rollout/ID     one rollout
              device/ID      one device
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from slipstream.delta.limits import (
    FEED_EVENTS_MAX,
    FEED_INTERVAL_S,
    FEED_LOOK_BACK,
    LIVE_KEEPALIVE_S,
    LIVE_READERS_MAX,
)
from slipstream.server.fleet.loop import Loop
from slipstream.server.store import events
from slipstream.server.store.database import Database
from slipstream.server.store.events import Event
from slipstream.server.streams import send_events
from slipstream.server.wire import refusal

_STATUS_KINDS = frozenset({"phase", "rollout"})  # worth saying aloud; the others are only counted


@dataclass(eq=False)
class Reader:
    """One open page: what has happened to its topic since it was told last."""

    topic: str
    status: bool = False
    counts: bool = False
    text: str = ""
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def hear(self, event: Event) -> None:
        """Note an event, if it touches the topic."""
        if self.topic not in {"fleet", f"rollout/{event.rollout}", f"device/{event.device}"}:
            return
        if event.kind in _STATUS_KINDS:
            self.status, self.text = True, event.text
        else:
            self.counts = True
        self.woken.set()

    def take(self) -> bytes:
        """What there is to tell, as server-sent events; a comment if there is nothing."""
        lines = b""
        if self.status:
            text = " ".join(self.text.split())
            lines += f"event: status\ndata: {text}\n\n".encode()
        elif self.counts:
            lines += b"event: counts\ndata:\n\n"
        self.status, self.counts, self.text = False, False, ""
        self.woken.clear()
        return lines or b": still here\n\n"


class Feed:
    """Wakes open pages. Use `following` around the application's life."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._readers: set[Reader] = set()
        self._after: int | None = None
        self._heard: set[int] = set()
        self._closed = False
        self.loop = Loop("news for open pages", self._follow, FEED_INTERVAL_S)

    @asynccontextmanager
    async def following(self) -> AsyncIterator["Feed"]:
        """Looks for events while inside."""
        async with self.loop.running():
            yield self

    def close(self) -> None:
        """End all streams, so that a server that stops need not wait for them."""
        self._closed = True
        for reader in self._readers:
            reader.woken.set()

    @contextmanager
    def reading(self, topic: str) -> Iterator[Reader]:
        """A reader of a topic. 503 when there are LIVE_READERS_MAX."""
        if len(self._readers) >= LIVE_READERS_MAX:
            raise refusal(web.HTTPServiceUnavailable, "too many pages are open")
        reader = Reader(topic)
        self._readers.add(reader)
        try:
            yield reader
        finally:
            self._readers.discard(reader)

    async def serve(self, request: web.Request, topic: str) -> web.StreamResponse:
        """Answer with the changes of a topic until the page or the server goes away."""
        with self.reading(topic) as reader:
            return await send_events(
                request,
                b"retry: 3000\n\n",
                reader.woken,
                lambda: None if self._closed else reader.take(),
                keepalive_s=LIVE_KEEPALIVE_S,
            )

    async def _follow(self) -> None:
        if self._readers:
            await self._look()
        else:
            self._after = None

    async def _look(self) -> None:
        """Tell of events that were not there at the last look.

        Ids below the highest one are looked at again: on PostgreSQL a transaction may commit
        behind one that took a later id.
        """
        async with self._database.reading() as connection:
            if self._after is None:
                self._after = await events.newest_id(connection)
                since = self._after - FEED_LOOK_BACK
                before = await events.list_after(connection, since, limit=FEED_LOOK_BACK)
                self._heard = {event.id for event in before}
                # A page may have been rendered before this first look.
                for reader in self._readers:
                    reader.counts = True
                    reader.woken.set()
                return
            since = self._after - FEED_LOOK_BACK
            found = await events.list_after(connection, since, limit=FEED_EVENTS_MAX)
        for event in found:
            if event.id not in self._heard:
                for reader in self._readers:
                    reader.hear(event)
        if found:
            self._after = max(self._after, found[-1].id)
        self._heard |= {event.id for event in found}
        self._heard = {one for one in self._heard if one > self._after - FEED_LOOK_BACK}

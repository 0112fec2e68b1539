"""Waiting for the next poll, with an ear to the server: server-sent events over GET /v1/wake.

The server says that a poll is worth while, and within how many seconds; the device draws its moment
in that span. What is said is advice, signed by nobody: it brings a poll forward, never more often
than every WAKE_SPACING_S, and nothing else. Where no stream can be had, polls come as without one.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import msgspec

from slipstream.delta.errors import Rejected, Unavailable
from slipstream.delta.limits import (
    WAKE_AGAIN_S,
    WAKE_AGAIN_S_MAX,
    WAKE_KEEPALIVE_S,
    WAKE_LINE_BYTES_MAX,
    WAKE_SPACING_S,
    WAKE_SPREAD_S_MAX,
)
from slipstream.installer.link import Reply
from slipstream.installer.poll import Server
from slipstream.installer.ports import Clock


class _Wake(msgspec.Struct, frozen=True):
    within_s: float = 0.0


@dataclass
class Events:
    """The text of a stream, as it comes, cut into events (WHATWG HTML, 9.2.6). Pure.

    Of the format's fields it knows event and data, of line ends LF and CRLF.
    """

    _rest: bytes = b""
    _name: str = ""
    _data: list[str] = field(default_factory=list)

    def feed(self, piece: bytes) -> Iterator[tuple[str, str]]:
        """Name and data of each event that this piece ends. Unavailable for an endless line."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > WAKE_LINE_BYTES_MAX:
            raise Unavailable(
                "not a stream of events", expected=f"lines of {WAKE_LINE_BYTES_MAX} bytes at most"
            )
        for raw in lines:
            line = raw.removesuffix(b"\r").decode("utf-8", "replace")
            name, _, value = line.partition(":")
            if line == "":
                if self._data:
                    yield self._name or "message", "\n".join(self._data)
                self._name, self._data = "", []
            elif name == "event":
                self._name = value.removeprefix(" ")
            elif name == "data" and sum(map(len, self._data)) < WAKE_LINE_BYTES_MAX:
                self._data.append(value.removeprefix(" "))


@dataclass
class Bell:
    """Rings when the server says so. Use: `listen` as a task, `rest` between rounds."""

    server: Server
    clock: Clock
    chance: Callable[[], float]  # in [0, 1)
    _rung: asyncio.Event = field(default_factory=asyncio.Event, init=False)
    _within_s: float = field(default=0.0, init=False)

    async def listen(self) -> None:
        """Keep a stream open; where it breaks, open another, ever later. Ends when cancelled."""
        failures = 0
        while True:
            began, wish_s = self.clock.monotonic(), None
            try:
                await self._hear(await self.server.listen())
            except (Unavailable, Rejected) as error:
                wish_s = error.retry_after_s if isinstance(error, Unavailable) else None
            # Whatever cuts each stream at once is asked ever less often.
            failures = 0 if self.clock.monotonic() - began >= WAKE_KEEPALIVE_S else failures + 1
            delay_s = min(WAKE_AGAIN_S * 2.0 ** min(failures, 16), WAKE_AGAIN_S_MAX)
            await self.clock.sleep(max(delay_s * (0.5 + self.chance()), wish_s or 0.0))

    async def rest(self, seconds: float, since_poll_s: float) -> bool:
        """Sleep, until `seconds` are over or the bell rings: True. `since_poll_s`: the last poll's age."""
        self._rung.clear()  # what rang before the poll, the poll has heard
        nap, ring = _task(self.clock.sleep(seconds)), _task(self._rung.wait())
        tasks = [nap, ring]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if nap.done():
                nap.result()
                return False
            delay_s = max(self._within_s * self.chance(), WAKE_SPACING_S - since_poll_s)
            tasks.append(_task(self.clock.sleep(delay_s)))
            await asyncio.wait((nap, tasks[-1]), return_when=asyncio.FIRST_COMPLETED)
            return not nap.done()
        finally:
            for one in tasks:
                one.cancel()
            for one in tasks:
                with suppress(asyncio.CancelledError):
                    await one

    async def _hear(self, reply: Reply) -> None:
        """Ring as the stream says, until it ends."""
        events = Events()
        try:
            while piece := await reply.read():
                for name, data in events.feed(piece):
                    if name == "wake":
                        self._within_s = _span(data)
                        self._rung.set()
        finally:
            reply.close()


def _span(data: str) -> float:
    try:
        said = msgspec.json.decode(data, type=_Wake).within_s
    except (msgspec.MsgspecError, ValueError, RecursionError):
        said = 0.0  # a later server has other words for the same
    return min(max(said, 0.0), float(WAKE_SPREAD_S_MAX))


def _task(job: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
    return asyncio.create_task(job)

"""What a test does inside the server process, before it begins to serve.

A process of its own is lost with each: nothing is put back.
"""

import os
import signal
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Protocol

import sqlalchemy as sa
import structlog
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server import reports, serve
from slipstream.server.fleet import engine, loop, polls
from slipstream.server.fleet.engine import Engine
from slipstream.server.rollout.record import Act
from slipstream.server.store.database import Database


class Meddling(Protocol):
    """Picklable: it is made in the test and used in the server."""

    def begin(self) -> None:
        """Called once, in the server's process."""


class Brisk:
    """The engine looks five times a second, and a duty whose holder died is free after 1 s, not 15."""

    def begin(self) -> None:
        engine.ENGINE_LEASE_S, engine.ENGINE_TICK_S = 1, 0.2  # type: ignore[attr-defined]


@dataclass
class Watch:
    """Says in the log, event `waiting`, how many acts waited at once when more did than before.

    The server's clock runs `speed` times as fast, its timers do not. What fails is tried again after
    2 s at the latest: a test need not wait for 15.
    """

    speed: int

    def begin(self) -> None:
        started, write = time.time(), Database.write
        fast = SimpleNamespace(time=lambda: started + self.speed * (time.time() - started))
        loop.LOOP_BACKOFF_S_MAX = 2.0  # type: ignore[attr-defined]
        serve.time = fast  # type: ignore[attr-defined]
        waiting = most = 0

        async def watched_write(database: Database, act: Callable[..., Awaitable[Any]]) -> Any:
            nonlocal waiting, most
            waiting += 1
            if waiting > most:
                most = waiting
                structlog.get_logger(__name__).info("waiting", acts=most)
            try:
                return await write(database, act)
            finally:
                waiting -= 1

        Database.write = watched_write  # type: ignore[assignment,method-assign]


# The calls whose one transaction can be aimed at, and whether a call of these arguments is meant.
AIMS: dict[str, tuple[Any, str, Callable[..., bool]]] = {
    "grant": (polls, "make_offer", lambda *_: True),
    "open": (Engine, "open_next", lambda *_: True),
    "pause": (Engine, "change", lambda _engine, _rollout, act, *_: act is Act.PAUSE),
    "finish": (Engine, "change", lambda _engine, _rollout, act, *_: act is Act.FINISH),
    "confirm": (reports, "hear_report", lambda _database, _catalog, one: one.kind == "confirmed"),
}
_meant: ContextVar[bool] = ContextVar("meant", default=False)


@dataclass
class Aim:
    """kill -9 at one moment of the first transaction of a kind that is not refused.

    Moments are counted from 1: before a statement, after it, before the next, ..., before COMMIT,
    after COMMIT. A transaction that has fewer is survived.
    """

    at: str  # one of AIMS
    moment: int
    _passed: int = field(default=0, init=False)
    _acting: sa.Connection | None = field(default=None, init=False)  # while its statements run
    _open: object = field(default=None, init=False)  # what will be committed
    _over: bool = field(default=False, init=False)

    def begin(self) -> None:
        Brisk().begin()
        owner, name, meant = AIMS[self.at]
        call, write, commit = getattr(owner, name), Database.write, DefaultDialect.do_commit

        async def aimed_call(*arguments: Any) -> Any:
            before = _meant.set(meant(*arguments))
            try:
                return await call(*arguments)
            finally:
                _meant.reset(before)

        async def aimed_write(database: Database, act: Callable[..., Awaitable[Any]]) -> Any:
            return await write(database, self._aimed_at(act) if _meant.get() else act)

        def aimed_commit(dialect: DefaultDialect, connection: Any) -> None:
            mine = self._open is not None and connection is self._open
            self._pass(mine)
            commit(dialect, connection)
            self._pass(mine)
            self._over |= mine

        setattr(owner, name, aimed_call)
        Database.write = aimed_write  # type: ignore[assignment,method-assign]
        DefaultDialect.do_commit = aimed_commit  # type: ignore[method-assign]
        for event in ("before_cursor_execute", "after_cursor_execute"):
            sa.event.listen(sa.Engine, event, self._on_statement)
        sa.event.listen(sa.Engine, "rollback", self._on_rollback)

    def _aimed_at(self, act: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def run(connection: AsyncConnection) -> Any:
            if self._over or self._open is not None:
                return await act(connection)  # another of the same batch
            self._passed = 0
            self._acting = connection.sync_connection
            try:
                result = await act(connection)
                assert self._acting is not None
                self._open = self._acting.connection
                return result
            finally:
                self._acting = None

        return run

    def _on_statement(self, connection: sa.Connection, *_more: object) -> None:
        self._pass(connection is self._acting)

    def _on_rollback(self, connection: sa.Connection) -> None:
        if connection.connection is self._open:
            self._open = None  # refused with its batch: the next is meant

    def _pass(self, mine: bool) -> None:
        self._passed += mine
        if mine and self._passed == self.moment:
            os.kill(os.getpid(), signal.SIGKILL)

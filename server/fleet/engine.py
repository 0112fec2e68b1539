"""The engine: one server at a time opens phases, times out, judges, and carries verdicts out.

Every step compares and swaps on the rollout's version, so that two servers which both believe to
be the one (a clock jumped, a lease was slow) still do everything once.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, assert_never

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.errors import SlipstreamError, Unavailable
from slipstream.delta.limits import (
    ENGINE_LEASE_S,
    ENGINE_SPACING_S,
    ENGINE_TICK_S,
    EVENTS_KEPT_S,
    FINISHED_LOOK_S,
    LISTEN_GAP_S,
    SOAK_NOTE_S,
    TIMEOUTS_MAX,
)
from slipstream.server.fleet.board import Board
from slipstream.server.fleet.loop import Loop
from slipstream.server.fleet.moves import carry_out, draw_phase, open_phase_as
from slipstream.server.rollout.judge import Advance, Finish, Halt, PhaseRecord, Wait, judge
from slipstream.server.rollout.listening import Span
from slipstream.server.rollout.listening import since as listened_since
from slipstream.server.rollout.offer import closed
from slipstream.server.rollout.plan import Halting
from slipstream.server.rollout.record import Act, Rollout, Status
from slipstream.server.rollout.track import Event
from slipstream.server.store import (
    attempts,
    census,
    events,
    holds,
    leases,
    listening,
    rollouts,
    tallies,
)
from slipstream.server.store.database import Database

_log: Any = structlog.get_logger(__name__)
_DUTY = "engine"


@dataclass(frozen=True, slots=True)
class _Stir:
    """What had happened at a look: the newest event, and the rollouts that it and others touched."""

    whole_at: int  # the last look at every rollout
    newest: int
    rollouts: frozenset[int] = frozenset()
    whole: bool = False


@dataclass
class Engine:
    """Moves rollouts on. `holder` is this process's own name among servers."""

    database: Database
    board: Board
    now: Callable[[], int]  # seconds since 1970
    holder: str
    gap_s: int = LISTEN_GAP_S  # without a look: nobody listened in between
    _spans: tuple[Span, ...] = ()  # newest first: when somebody listened
    _watched: dict[int, float] = field(default_factory=dict)  # by rollout, not written down yet
    _soaked: dict[int, float] = field(default_factory=dict)  # by rollout, not written down yet
    _hour: int = -1  # of the last census
    _stirred: _Stir = field(default_factory=lambda: _Stir(0, 0))
    _looked_at: float = 0.0  # on the event loop's clock

    def __post_init__(self) -> None:
        self.loop = Loop("engine", self._look, ENGINE_TICK_S, spacing_s=ENGINE_SPACING_S)

    def wake(self) -> None:
        """Something was heard: look at once."""
        self.loop.wake()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Engine"]:
        """Ticks while inside; gives its duty back at the end."""
        self._looked_at = asyncio.get_running_loop().time()
        try:
            async with self.loop.running():
                yield self
        finally:
            with suppress(SlipstreamError):
                await self.database.write(
                    lambda connection: leases.give_back(connection, _DUTY, self.holder)
                )

    async def _look(self) -> None:
        begun = asyncio.get_running_loop().time()
        # A server that slept did not watch: what it slept through is no soak.
        await self.tick(min(begun - self._looked_at, 3 * ENGINE_TICK_S))
        self._looked_at = begun

    async def tick(self, elapsed_s: float) -> None:
        """Look at every rollout once. `elapsed_s`: time since the last look, as it was watched."""
        now = self.now()

        async def begin(connection: AsyncConnection) -> tuple[Span, ...] | None:
            mine = await leases.take(connection, _DUTY, self.holder, now, ENGINE_LEASE_S)
            return None if mine is None else await listening.note(connection, now, self.gap_s)

        spans = await self.database.write(begin)
        if spans is None:
            self._soaked.clear()
            self._watched.clear()
            self._stirred = _Stir(0, 0)
            return
        self._spans = spans
        if census.hour_of(now) != self._hour:
            await self._keep_house(now)
            self._hour = census.hour_of(now)
        await self.board.refresh()
        stir = await self._stir(now)
        moved = [
            await self._try(one, now, elapsed_s)
            for one in self.board.view.by_id.values()
            if one.status is not Status.FINISHED or stir.whole or one.id in stir.rollouts
        ]
        self._stirred = stir
        if any(moved):
            await self.board.refresh()

    async def _keep_house(self, now: int) -> None:
        """What is due once an hour: the census, and what is older than it is kept."""
        await self.database.write(lambda connection: census.take(connection, now))
        await self.database.write(lambda connection: events.forget(connection, now - EVENTS_KEPT_S))
        await self.database.write(holds.forget_queues)

    async def _stir(self, now: int) -> _Stir:
        """To which rollouts something has happened since the last look.

        All offers of the finished ones are not counted every second for as long as they stand.
        """
        before = self._stirred
        async with self.database.reading() as connection:
            newest = await events.newest_id(connection)
            if not 0 <= now - before.whole_at < FINISHED_LOOK_S:
                return _Stir(now, newest, whole=True)
            found = await events.stirred_after(connection, before.newest)
        return _Stir(before.whole_at, newest, found)

    async def _try(self, rollout: Rollout, now: int, elapsed_s: float) -> bool:
        """Move a rollout; one that cannot be moved holds no other."""
        try:
            return await self._move(rollout, now, elapsed_s)
        except Unavailable:
            raise  # none can be
        except Exception:
            _log.exception("rollout not moved", rollout=rollout.id, name=rollout.plan.name)
            return False

    async def _move(self, rollout: Rollout, now: int, elapsed_s: float) -> bool:
        """Do what is due for one rollout; True if it changed."""
        if rollout.unreadable:
            return False
        match rollout.status:
            case Status.SCHEDULED:
                due = rollout.plan.start_at is None or rollout.plan.start_at <= now
                return due and await self.open_next(rollout, "started", now)
            case Status.RUNNING | Status.FINISHED | Status.PAUSED:
                await self._time_out(rollout, now)
                return await self._judge(rollout, now, elapsed_s)
            case Status.WAITING | Status.ABORTED | Status.DENIED:
                return False
            case _:
                assert_never(rollout.status)

    async def open_next(self, rollout: Rollout, reason: str, now: int) -> bool:
        """Open the next phase; False if another has moved the rollout meanwhile."""
        drawn = await draw_phase(self.database, rollout)
        return await self.database.write(
            lambda connection: open_phase_as(connection, rollout, drawn, reason, now)
        )

    async def _time_out(self, rollout: Rollout, now: int) -> None:
        since = listened_since(self._spans, now, rollout.plan.silent_after_s)
        if since is None:
            return
        async with self.database.reading() as connection:
            found = await attempts.silent(connection, rollout.id, since, limit=TIMEOUTS_MAX)

        async def act(one: attempts.Attempt, connection: AsyncConnection) -> None:
            # Read again behind the lock: the device may have spoken meanwhile.
            if await attempts.lock(connection, one.device):
                again = await attempts.find(connection, one.id)
                if again is not None and again.changed_at == one.changed_at:
                    await attempts.move(
                        connection, again, Event.TIMED_OUT, now, reason="nothing was heard"
                    )

        # At once: the writer commits them together.
        await asyncio.gather(*(self.database.write(partial(act, one)) for one in found))

    async def _judge(self, rollout: Rollout, now: int, elapsed_s: float) -> bool:
        opened = await self._records(rollout)
        finished, paused = rollout.status is Status.FINISHED, rollout.status is Status.PAUSED
        if rollout.status is Status.RUNNING:
            await self._watch(rollout, now, elapsed_s)
        verdict = judge(rollout.plan, opened, finished=finished, paused=paused)
        match verdict:
            case Wait() if paused:
                return False  # a pause is no soak
            case Wait(_, proved):
                await self._soak(rollout, opened[-1], elapsed_s, proved=proved)
                return False
            case Advance(reason):
                return not finished and await self.open_next(rollout, reason, now)
            case Finish(reason):
                return not finished and await self.change(rollout, Act.FINISH, reason, now)
            case Halt(halting, _, reason):
                act = Act.PAUSE if halting is Halting.PAUSE else Act.ABORT
                return await self.change(rollout, act, reason, now)
            case _:
                assert_never(verdict)

    async def change(self, rollout: Rollout, act: Act, reason: str, now: int) -> bool:
        """Give the rollout the status behind an act; False if it has changed meanwhile.

        Raises UsageError for an act that its status does not have.
        """
        return await self.database.write(
            lambda connection: carry_out(connection, rollout, act, reason, now)
        )

    async def _records(self, rollout: Rollout) -> tuple[PhaseRecord, ...]:
        async with self.database.reading() as connection:
            counted = await tallies.of_rollout(connection, rollout.id)
            opened: Mapping[int, Any] = await rollouts.open_phases(connection, [rollout.id])
        return tallies.records(opened.get(rollout.id, ()), counted)

    async def _watch(self, rollout: Rollout, now: int, elapsed_s: float) -> None:
        """Count the time in which whoever polls is offered the release; noted as soak is."""
        crowded = self.board.crowding(rollout.id, now) is not None
        if crowded or closed(rollout.plan.schedule, now):
            return
        watched = self._watched.get(rollout.id, 0.0) + elapsed_s
        if watched >= SOAK_NOTE_S:
            seconds, watched = divmod(watched, 1.0)
            await self.database.write(
                lambda connection: rollouts.note_watch(connection, rollout.id, int(seconds))
            )
        self._watched[rollout.id] = watched

    async def _soak(
        self, rollout: Rollout, record: PhaseRecord, elapsed_s: float, *, proved: bool
    ) -> None:
        """Count what a proved phase soaked; written down every SOAK_NOTE_S, lost with a kill."""
        waiting = self._soaked.get(rollout.id, 0.0) + elapsed_s if proved else 0.0
        if proved == record.proved and waiting < SOAK_NOTE_S:
            if proved:
                self._soaked[rollout.id] = waiting
            return
        seconds, self._soaked[rollout.id] = divmod(waiting, 1.0)
        soaked_s = record.soaked_s + int(seconds) if proved and record.proved else 0
        await self.database.write(
            lambda connection: rollouts.note_soak(
                connection, rollout.id, rollout.phase, proved=proved, soaked_s=soaked_s
            )
        )

"""The rollouts that matter now, in memory: no poll reads them from the database.

Refreshed every BOARD_REFRESH_S and whenever this server changes one. What is a moment old here can
offer nothing wrong: every new offer is granted by the database, which knows.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import structlog

from slipstream.delta.limits import BOARD_REFRESH_S, CROWDED_S
from slipstream.server.fleet.loop import Loop
from slipstream.server.rollout.record import Rollout
from slipstream.server.rollout.route import Waypoint
from slipstream.server.store import holds, rollouts, waypoints
from slipstream.server.store.database import Database

_log: Any = structlog.get_logger(__name__)
_Line = tuple[str, str]  # product, channel


@dataclass(frozen=True, slots=True)
class View:
    """What stood in the database at one moment."""

    rollouts: Mapping[_Line, tuple[Rollout, ...]] = field(default_factory=dict)
    by_id: Mapping[int, Rollout] = field(default_factory=dict)
    managed: frozenset[_Line] = frozenset()  # lines that have, or had, a rollout
    waypoints: Mapping[_Line, tuple[Waypoint, ...]] = field(default_factory=dict)
    budgets: Mapping[str, int] = field(default_factory=dict)


class Board:
    """Keeps a View fresh while `following` is entered."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.view = View()
        # By rollout: when a device last waited for room, and for which.
        self.crowded: dict[int, tuple[int, str]] = {}
        self._unreadable: frozenset[int] = frozenset()
        self.loop = Loop("rollouts' board", self.refresh, BOARD_REFRESH_S)

    async def refresh(self) -> None:
        """Read everything again. Unavailable."""
        async with self._database.reading() as connection:
            found = await rollouts.load(connection)
            managed = await rollouts.list_lines(connection)
            ways = await waypoints.list_all(connection)
            budgets = await holds.list_budgets(connection)
        unreadable = {one.id: one.reason for one in found if one.unreadable}
        for rollout in unreadable.keys() - self._unreadable:
            _log.error("a rollout stands still", rollout=rollout, reason=unreadable[rollout])
        self._unreadable = frozenset(unreadable)
        lines: dict[_Line, list[Rollout]] = {}
        for one in found:
            lines.setdefault((one.plan.product, one.plan.channel), []).append(one)
        self.view = View(
            {key: tuple(value) for key, value in lines.items()},
            {one.id: one for one in found},
            managed,
            ways,
            budgets,
        )

    def crowding(self, rollout: int, now: int) -> str | None:
        """What devices of a rollout wait for, as this server has heard in the last CROWDED_S."""
        at, why = self.crowded.get(rollout, (0, ""))
        return why if at <= now < at + CROWDED_S else None

    @asynccontextmanager
    async def following(self) -> AsyncIterator["Board"]:
        """Refreshed once, then again and again while inside."""
        await self.refresh()
        async with self.loop.running():
            yield self

"""What moves a rollout, each in one transaction: opening a phase, and an act of its table.

Used by the engine and by operators alike. Each compares and swaps on the rollout's version: False
means that somebody else moved it meanwhile, and nothing was written.
"""

import asyncio

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.order import Draw, draw
from slipstream.server.rollout.record import Act, Rollout, step
from slipstream.server.rollout.rsql import matches
from slipstream.server.store import attempts, devices, events, rollouts, tallies
from slipstream.server.store.database import Database

_log = structlog.get_logger(__name__)


async def draw_phase(database: Database, rollout: Rollout) -> Draw:
    """The line of the next phase, through the devices as they are now."""
    plan = rollout.plan
    condition = plan.condition
    population: list[Facts] = []
    async with database.reading() as connection:
        async for page in devices.facts_of_channel(connection, plan.product, plan.channel):
            population.extend(
                one
                for one in page
                if not (one.release == plan.release or (one.counter or 0) >= plan.counter)
                and matches(condition, one)
            )
        offered = await attempts.offered_to(connection, rollout.id)
        opened = (await rollouts.open_phases(connection, [rollout.id])).get(rollout.id, ())
    counts = tuple(one.offered for one in opened)
    return await asyncio.to_thread(draw, plan, rollout.opened, population, offered, counts)


async def open_phase_as(
    connection: AsyncConnection,
    rollout: Rollout,
    drawn: Draw,
    reason: str,
    now: int,
    *,
    by_hand: bool = False,
) -> bool:
    """Open the next phase where draw_phase drew the line. Whoever opens it by hand accepts the
    failures that there are."""
    if not await rollouts.open_next(connection, rollout, drawn, reason, now):
        return False
    if by_hand:
        await _forgive(connection, rollout)
    index = len(rollout.opened)
    words = f"phase {index + 1} ({rollout.plan.phases[index]}) opened"
    text = f"{words} for {drawn.opening.members} devices: {reason}"
    await events.add(connection, now, "phase", text, rollout=rollout.id)
    _log.info(words, rollout=rollout.plan.name, devices=drawn.opening.members, reason=reason)
    return True


async def carry_out(
    connection: AsyncConnection, rollout: Rollout, act: Act, reason: str, now: int
) -> bool:
    """Give the rollout the status behind an act. UsageError for one that its status does not have."""
    status = step(rollout.status, act)
    if not await rollouts.change(connection, rollout, status, reason, now):
        return False
    if act is Act.RESUME:
        await _forgive(connection, rollout)
    words = f"{status.value.replace('_', ' ')}: {reason}" if reason else status.value
    await events.add(connection, now, "rollout", words, rollout=rollout.id)
    _log.info(status.value, rollout=rollout.plan.name, reason=reason)
    return True


async def _forgive(connection: AsyncConnection, rollout: Rollout) -> None:
    counted = await tallies.of_rollout(connection, rollout.id)
    await rollouts.forgive(connection, rollout.id, counted)

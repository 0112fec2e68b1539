"""Holds: which devices are out of service or on their way, by label, and how many may be.

Rollouts and FleetLock take from the same budget. Whoever counts first takes a turn in the queue of
that label's value, a row that the transaction locks: two that count at the same time would both
find room.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.limits import FORGET_ROWS_MAX
from slipstream.server.rollout.track import AWAY, IN_FLIGHT
from slipstream.server.store.dialect import insert_into
from slipstream.server.store.tables import attempts, budgets, hold_queues, holds


@dataclass(frozen=True, slots=True)
class Hold:
    """A place that a device holds; `rollout` None: for FleetLock."""

    label: str
    value: str
    device: str
    rollout: int | None
    since: int


_COLUMNS = tuple(holds.c[name] for name in Hold.__dataclass_fields__)


async def take(
    connection: AsyncConnection,
    label: str,
    value: str,
    device: str,
    max_unavailable: int,
    at: int,
    *,
    rollout: int | None = None,
) -> bool:
    """Hold a place for the device; one that it holds already stays. False: there is no room.

    A place that FleetLock took becomes the rollout's that asks for it: a device that is healthy
    again gives FleetLock's back, while the rollout's own lasts until the device has settled.
    """
    turn = insert_into(connection, hold_queues).values(label=label, value=value, turns=1)
    await connection.execute(
        turn.on_conflict_do_update(
            index_elements=["label", "value"], set_={"turns": hold_queues.c.turns + 1}
        )
    )
    others = sa.select(sa.func.count()).where(
        holds.c.label == label, holds.c.value == value, holds.c.device != device
    )
    if (await connection.execute(others)).scalar_one() >= max_unavailable:
        return False
    statement = insert_into(connection, holds).values(
        label=label, value=value, device=device, rollout=rollout, since=at
    )
    kept = {"rollout": sa.func.coalesce(holds.c.rollout, statement.excluded.rollout)}
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["label", "value", "device"], set_=kept)
    )
    return True


async def forget_queues(connection: AsyncConnection) -> int:
    """Drop queues in which nobody holds a place, up to FORGET_ROWS_MAX: how many there were.

    A device names its group to FleetLock as it likes. A queue is made again by who comes next; one
    that somebody stands in just now is passed over.
    """
    held = sa.exists().where(
        holds.c.label == hold_queues.c.label, holds.c.value == hold_queues.c.value
    )
    query = sa.select(hold_queues.c.label, hold_queues.c.value).where(~held)
    query = query.limit(FORGET_ROWS_MAX).with_for_update(skip_locked=True)
    empty = [{"of": row.label, "among": row.value} for row in await connection.execute(query)]
    if empty:
        statement = sa.delete(hold_queues).where(
            hold_queues.c.label == sa.bindparam("of"), hold_queues.c.value == sa.bindparam("among")
        )
        await connection.execute(statement, empty)
    return len(empty)


async def release(connection: AsyncConnection, device: str, *, rollout: int | None = None) -> bool:
    """Give back what the device holds for a rollout, or for FleetLock; False: it held nothing."""
    whose = holds.c.rollout.is_(None) if rollout is None else holds.c.rollout == rollout
    gone = await connection.execute(sa.delete(holds).where(holds.c.device == device, whose))
    return gone.rowcount > 0


async def release_all(connection: AsyncConnection, device: str) -> bool:
    """Give back what a device holds for rollouts, if none of its offers is on its way any more.

    For one that speaks and is told that there is nothing to do: it is there, and does nothing.
    """
    moving = sa.exists().where(
        attempts.c.device == device, attempts.c.state.in_([one.value for one in IN_FLIGHT])
    )
    gone = await connection.execute(
        sa.delete(holds).where(holds.c.device == device, holds.c.rollout.is_not(None), ~moving)
    )
    return gone.rowcount > 0


async def give_up(connection: AsyncConnection, device: str) -> int:
    """Give back every place that a device holds, whatever it does: how many there were."""
    gone = await connection.execute(sa.delete(holds).where(holds.c.device == device))
    return gone.rowcount


async def settle(connection: AsyncConnection, device: str, rollout: int) -> None:
    """The device is not on its way any more for this rollout.

    It has one place for all: another of its rollouts keeps it, the one that offered last, and its
    own end gives it back.
    """
    heir = (
        sa.select(attempts.c.rollout)
        .where(
            attempts.c.device == device,
            attempts.c.rollout != rollout,
            attempts.c.state.in_([one.value for one in AWAY]),
        )
        .order_by(attempts.c.id.desc())
        .limit(1)
    )
    if (other := (await connection.execute(heir)).scalar_one_or_none()) is None:
        await release(connection, device, rollout=rollout)
        return
    mine = sa.update(holds).where(holds.c.device == device, holds.c.rollout == rollout)
    await connection.execute(mine.values(rollout=other))


async def list_of_device(connection: AsyncConnection, device: str) -> tuple[Hold, ...]:
    """The places that a device holds."""
    query = sa.select(*_COLUMNS).where(holds.c.device == device)
    rows = await connection.execute(query.order_by(holds.c.label, holds.c.value))
    return tuple(Hold(*row) for row in rows)


async def count(connection: AsyncConnection) -> Mapping[tuple[str, str], int]:
    """How many devices hold a place, by label and value."""
    query = sa.select(holds.c.label, holds.c.value, sa.func.count()).group_by(
        holds.c.label, holds.c.value
    )
    return {(row[0], row[1]): row[2] for row in await connection.execute(query)}


async def list_budgets(connection: AsyncConnection) -> Mapping[str, int]:
    """The fleet's budgets: how many devices with one value of a label may be unavailable."""
    rows = await connection.execute(sa.select(budgets.c.label, budgets.c.max_unavailable))
    return {row[0]: row[1] for row in rows}


async def set_budget(connection: AsyncConnection, label: str, max_unavailable: int | None) -> bool:
    """Set a budget of the fleet; None takes it away. False: there was none to take away."""
    if max_unavailable is None:
        gone = await connection.execute(sa.delete(budgets).where(budgets.c.label == label))
        return gone.rowcount == 1
    statement = insert_into(connection, budgets).values(
        label=label, max_unavailable=max_unavailable
    )
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=["label"], set_={"max_unavailable": max_unavailable}
        )
    )
    return True

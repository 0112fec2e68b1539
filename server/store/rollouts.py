"""Rollouts and their phases. Every change names the version it was decided on, and raises it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.errors import SlipstreamError
from slipstream.delta.limits import COUNTER_MAX
from slipstream.server.rollout.judge import Tally
from slipstream.server.rollout.order import Draw, Opening
from slipstream.server.rollout.plan import FailureClass, Phase, Plan
from slipstream.server.rollout.record import OVER, Rollout, Status
from slipstream.server.store.dialect import insert_into
from slipstream.server.store.tables import phases, rollouts


@dataclass(frozen=True, slots=True)
class OpenPhase:
    """A row of `phases`."""

    opening: Opening
    opened_at: int
    offered: int
    proved: bool
    soaked_s: int
    forgiven: Mapping[FailureClass, int]
    watched_s: int = 0


@dataclass(frozen=True, slots=True)
class Papers:
    """Who wrote a rollout and who decided on it; what the engine does not look at."""

    author: str
    decided_by: str  # "": nobody
    remark: str
    changed_at: int


@dataclass(frozen=True, slots=True)
class Decided:
    """A rollout that was approved or denied."""

    id: int
    name: str
    release: str
    status: str
    author: str
    decided_by: str
    remark: str


async def create(
    connection: AsyncConnection, plan: Plan, status: Status, now: int, *, author: str = ""
) -> int | None:
    """Write a rollout down: its id, or None where the name is taken. No device is looked at."""
    statement = insert_into(connection, rollouts).values(
        name=plan.name,
        product=plan.product,
        channel=plan.channel,
        release=plan.release,
        plan=msgspec.json.encode(plan).decode(),
        status=status.value,
        reason="",
        version=1,
        grants=0,
        created_at=now,
        changed_at=now,
        author=author,
    )
    result = await connection.execute(
        statement.on_conflict_do_nothing(index_elements=["name"]).returning(rollouts.c.id)
    )
    found: int | None = result.scalar_one_or_none()
    return found


async def load(
    connection: AsyncConnection, *, ids: Collection[int] | None = None
) -> tuple[Rollout, ...]:
    """Rollouts by id, newest first; without `ids` all that are not over."""
    over = [status.value for status in OVER]
    which = rollouts.c.status.not_in(over) if ids is None else rollouts.c.id.in_(ids)
    rows = (
        await connection.execute(sa.select(rollouts).where(which).order_by(rollouts.c.id.desc()))
    ).all()
    opened = await open_phases(connection, [row.id for row in rows])
    return tuple(_rollout(row, opened.get(row.id, ())) for row in rows)


async def papers(connection: AsyncConnection, rollout: int) -> Papers:
    """Who wrote and who decided. The rollout is there."""
    query = sa.select(*(rollouts.c[name] for name in Papers.__dataclass_fields__))
    return Papers(*(await connection.execute(query.where(rollouts.c.id == rollout))).one())


async def sign(connection: AsyncConnection, rollout: int, decided_by: str, remark: str) -> None:
    """Note who decided on a rollout, with which words."""
    await connection.execute(
        sa.update(rollouts)
        .where(rollouts.c.id == rollout)
        .values(decided_by=decided_by, remark=remark)
    )


async def list_page(
    connection: AsyncConnection,
    *,
    before: int | None,
    limit: int,
    statuses: Collection[Status] | None = None,
) -> tuple[Rollout, ...]:
    """Up to `limit` rollouts with ids below `before`, newest first."""
    query = sa.select(rollouts.c.id).order_by(rollouts.c.id.desc()).limit(limit)
    if statuses is not None:
        query = query.where(rollouts.c.status.in_([one.value for one in statuses]))
    if before is not None:
        query = query.where(rollouts.c.id < before)
    return await load(connection, ids=[row[0] for row in await connection.execute(query)])


async def decisions(connection: AsyncConnection, *, limit: int) -> tuple[Decided, ...]:
    """The newest rollouts that somebody approved or denied, newest first."""
    columns = (rollouts.c[name] for name in Decided.__dataclass_fields__)
    query = sa.select(*columns).where(rollouts.c.decided_by != "")
    rows = await connection.execute(query.order_by(rollouts.c.id.desc()).limit(limit))
    return tuple(Decided(*row) for row in rows)


async def count_of_status(connection: AsyncConnection) -> Mapping[Status, int]:
    """How many rollouts there are in each state."""
    query = sa.select(rollouts.c.status, sa.func.count()).group_by(rollouts.c.status)
    return {Status(row[0]): row[1] for row in await connection.execute(query)}


async def list_lines(connection: AsyncConnection) -> frozenset[tuple[str, str]]:
    """Products and channels that have, or had, a rollout."""
    query = sa.select(rollouts.c.product, rollouts.c.channel).distinct()
    return frozenset((row[0], row[1]) for row in await connection.execute(query))


async def live_of_line(
    connection: AsyncConnection, product: str, channel: str
) -> tuple[tuple[int, str, str], ...]:
    """(id, name, release) of the line's rollouts that offer something, or will."""
    done = [one.value for one in (*OVER, Status.FINISHED)]
    query = sa.select(rollouts.c.id, rollouts.c.name, rollouts.c.release).where(
        rollouts.c.product == product,
        rollouts.c.channel == channel,
        rollouts.c.status.not_in(done),
    )
    rows = await connection.execute(query.order_by(rollouts.c.id))
    return tuple((row.id, row.name, row.release) for row in rows)


async def has_line(connection: AsyncConnection, product: str, channel: str) -> bool:
    """Whether that product and channel have, or had, a rollout."""
    mine = sa.exists().where(rollouts.c.product == product, rollouts.c.channel == channel)
    return bool((await connection.execute(sa.select(mine))).scalar_one())


async def plans(connection: AsyncConnection, ids: Collection[int]) -> Mapping[int, Plan]:
    """The plans of rollouts, whatever their status; but for those that cannot be read here."""
    query = sa.select(rollouts.c.id, rollouts.c.plan).where(rollouts.c.id.in_(ids))
    found = {row[0]: _parse_plan(row[1]) for row in await connection.execute(query)}
    return {rollout: plan for rollout, plan in found.items() if isinstance(plan, Plan)}


async def aborted(connection: AsyncConnection, ids: Collection[int]) -> frozenset[int]:
    """Those of `ids` that were aborted."""
    if not ids:
        return frozenset()
    query = sa.select(rollouts.c.id).where(
        rollouts.c.id.in_(ids), rollouts.c.status == Status.ABORTED.value
    )
    return frozenset(row[0] for row in await connection.execute(query))


async def open_phases(
    connection: AsyncConnection, ids: Sequence[int]
) -> Mapping[int, tuple[OpenPhase, ...]]:
    """The open phases of rollouts, in their order."""
    query = sa.select(phases).where(phases.c.rollout.in_(ids)).order_by(phases.c.phase)
    found: dict[int, list[OpenPhase]] = {}
    for row in await connection.execute(query):
        # JSON numbers above 2^53 are not safe everywhere: positions are kept as text.
        cuts = {key: int(cut) for key, cut in msgspec.json.decode(row.cuts).items()}
        opening = Opening(row.members, row.limit, cuts, row.everyone)
        found.setdefault(row.rollout, []).append(
            OpenPhase(
                opening,
                row.opened_at,
                row.offered,
                row.proved,
                row.soaked_s,
                _parse_forgiven(row.forgiven),
                row.watched_s,
            )
        )
    return {key: tuple(value) for key, value in found.items()}


async def change(
    connection: AsyncConnection, rollout: Rollout, status: Status, reason: str, now: int
) -> bool:
    """Give a rollout another status; False if it has changed since it was read."""
    return await _raise_version(connection, rollout, now, status=status.value, reason=reason)


async def open_next(
    connection: AsyncConnection, rollout: Rollout, drawn: Draw, reason: str, now: int
) -> bool:
    """Open the phase behind the newest open one; False if the rollout has changed since.

    The room of devices that have left the phases before is closed: the new line was drawn around
    those that are there, and devices that join must not fill it beside them.
    """
    if not await _raise_version(
        connection, rollout, now, status=Status.RUNNING.value, reason=reason
    ):
        return False
    for phase, room in enumerate(drawn.rooms):
        taken = sa.case((phases.c.offered > room, phases.c.offered), else_=room)
        await connection.execute(
            sa.update(phases)
            .where(phases.c.rollout == rollout.id, phases.c.phase == phase, phases.c.limit > taken)
            .values(limit=taken)
        )
    opening = drawn.opening
    cuts = {key: str(cut) for key, cut in opening.cuts.items()}
    await connection.execute(
        sa.insert(phases).values(
            rollout=rollout.id,
            phase=len(rollout.opened),
            opened_at=now,
            members=opening.members,
            limit=opening.limit,
            cuts=msgspec.json.encode(cuts).decode(),
            everyone=opening.everyone,
            offered=0,
            proved=False,
            soaked_s=0,
            forgiven="{}",
        )
    )
    return True


async def note_soak(
    connection: AsyncConnection, rollout: int, phase: int, *, proved: bool, soaked_s: int
) -> None:
    """Remember how far a phase has soaked; 0 where it is not proved (any more)."""
    await connection.execute(
        sa.update(phases)
        .where(phases.c.rollout == rollout, phases.c.phase == phase)
        .values(proved=proved, soaked_s=soaked_s if proved else 0)
    )


async def note_watch(connection: AsyncConnection, rollout: int, seconds: int) -> None:
    """Remember that the open phases were offered for so many seconds more."""
    await connection.execute(
        sa.update(phases)
        .where(phases.c.rollout == rollout)
        .values(watched_s=phases.c.watched_s + seconds)
    )


async def forgive(connection: AsyncConnection, rollout: int, counted: Mapping[int, Tally]) -> None:
    """From now on, abort rules do not count the failures that there are: somebody resumed."""
    for phase, tally in counted.items():
        await connection.execute(
            sa.update(phases)
            .where(phases.c.rollout == rollout, phases.c.phase == phase)
            .values(forgiven=msgspec.json.encode(tally.failures).decode())
        )


def _rollout(row: sa.Row[Any], opened: Sequence[OpenPhase]) -> Rollout:
    """A row as a value. One whose plan this version cannot read stands still, and hides no other.

    That is a plan of a later version before a way back, or of a server that knows other time zones.
    """
    plan = _parse_plan(row.plan)
    openings = tuple(phase.opening for phase in opened)
    status = next((one for one in Status if one == row.status), None)
    if isinstance(plan, Plan) and status is not None:
        return Rollout(row.id, plan, status, openings, row.version, row.created_at, row.reason)
    return Rollout(
        row.id,
        _stand_in(row, len(openings)),
        status if status in OVER else Status.PAUSED,
        openings,
        row.version,
        row.created_at,
        f"{row.name!r} cannot be read by this version: {plan if status else row.status}",
        unreadable=True,
    )


def _parse_forgiven(text: str) -> Mapping[FailureClass, int]:
    """By class; classes of a later version are not forgiven."""
    known = msgspec.json.decode(text, type=dict[str, int])
    return {one: known[one] for one in FailureClass if one in known}


def _parse_plan(text: str) -> Plan | str:
    """A plan, or why it cannot be read."""
    try:
        return msgspec.json.decode(text, type=Plan)
    except (msgspec.MsgspecError, SlipstreamError) as error:
        return str(error)


def _stand_in(row: sa.Row[Any], opened: int) -> Plan:
    phases = tuple(Phase(count=1 + index) for index in range(max(1, opened)))
    name = f"rollout {row.id}"  # its own may be what cannot be read
    return Plan(name, row.product, row.release, COUNTER_MAX, phases, channel=row.channel)


async def _raise_version(
    connection: AsyncConnection, rollout: Rollout, now: int, **values: object
) -> bool:
    result = await connection.execute(
        sa.update(rollouts)
        .where(rollouts.c.id == rollout.id, rollouts.c.version == rollout.version)
        .values(version=rollout.version + 1, changed_at=now, **values)
    )
    return result.rowcount == 1

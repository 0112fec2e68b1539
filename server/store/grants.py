"""Offers granted within their bounds: where a fleet's exposure is bounded.

An offer is counted against its phase's limit in the same transaction that writes it down, and only
what was written down is ever said to a device.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.errors import SlipstreamError
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.record import OFFERING
from slipstream.server.rollout.track import QUARANTINED, State
from slipstream.server.store import events
from slipstream.server.store import holds as places
from slipstream.server.store.attempts import COLUMNS, Attempt, of_row
from slipstream.server.store.devices import described
from slipstream.server.store.dialect import insert_into
from slipstream.server.store.tables import (
    attempts,
    devices,
    holds,
    phases,
    quarantines,
    rollouts,
)

_FETCHING = (State.OFFERED.value, State.FETCHING.value)
_OFFERING = tuple(status.value for status in OFFERING)


class NoRoom(SlipstreamError):
    """The offer may not be made now: its message says which bound is reached."""


class Crowded(NoRoom):
    """A budget, or as many downloads as there may be at once: its turn comes when others are done."""


@dataclass(frozen=True, slots=True)
class Request:
    """An offer that shall be made: to a device as it was when that was decided."""

    rollout: int
    # open ones that the device belongs to: it counts in the first with room
    phases: tuple[int, ...]
    device: Facts
    release: str
    # (label, the device's value): devices unavailable at once
    labels: Mapping[tuple[str, str], int] = field(default_factory=dict)
    max_downloads: int | None = None
    source: str | None = None  # the release that it runs


# What became of an offer before, forgotten: it stands again.
_AS_OFFERED: Mapping[str, object] = {
    "state": State.OFFERED.value,
    "failure": None,
    "reason": "",
    "closed_at": None,
    "shown_at": None,
}


async def grant(connection: AsyncConnection, wanted: Request, now: int) -> int:
    """Write an offer down: its id. One that stands already is the same offer; one that lapsed
    stands again, in the phase that it was counted in.

    Raises NoRoom where the rollout does not offer, the device is not what it was or must not have
    the release, the phase is full, or a budget is used up; then the transaction has to be rolled
    back.
    """
    name = wanted.device.id
    await _lock_as_decided(connection, wanted.device)
    # The row that all offers of a rollout queue on, and everything that pauses it.
    turn = await connection.execute(
        sa.update(rollouts)
        .where(rollouts.c.id == wanted.rollout, rollouts.c.status.in_(_OFFERING))
        .values(grants=rollouts.c.grants + 1)
    )
    if turn.rowcount == 0:
        raise NoRoom("the rollout does not offer now")
    refused = sa.select(quarantines.c.reason).where(
        quarantines.c.device == name, quarantines.c.release == wanted.release
    )
    if (why := (await connection.execute(refused)).scalar_one_or_none()) is not None:
        raise NoRoom(f"it is quarantined on this device: {why}")
    if not wanted.phases:
        return await _grant_again(connection, wanted, await _of(connection, wanted), now)
    statement = insert_into(connection, attempts).values(
        rollout=wanted.rollout,
        device=name,
        phase=wanted.phases[0],
        release=wanted.release,
        state=State.OFFERED.value,
        reason="",
        source=wanted.source,
        offered_at=now,
        changed_at=now,
    )
    result = await connection.execute(
        statement.on_conflict_do_nothing(index_elements=["rollout", "device"]).returning(
            attempts.c.id
        )
    )
    made: int | None = result.scalar_one_or_none()
    if made is None:
        before = await _of(connection, wanted)
        if before is None or not before.lapsed:
            return await _grant_again(connection, wanted, before, now)
        made, phase = before.id, before.phase
        await _renew(connection, before, wanted.source, now)
    else:
        phase = await _count_in(connection, wanted)
        if phase != wanted.phases[0]:
            await connection.execute(
                sa.update(attempts).where(attempts.c.id == made).values(phase=phase)
            )
    if wanted.max_downloads is not None:
        busy = (await connection.execute(_busy(wanted.rollout))).scalar_one()
        if busy > wanted.max_downloads:
            raise _downloading(wanted.max_downloads)
    await _take_places(connection, wanted, now)
    await events.add(
        connection,
        now,
        "offered",
        f"offered {wanted.release}, phase {phase + 1}",
        device=name,
        rollout=wanted.rollout,
    )
    return made


async def look_for_room(connection: AsyncConnection, wanted: Request) -> None:
    """Raise NoRoom where grant would: one statement that only reads, for whoever waits.

    A full phase or budget is asked for by every device behind it at each of its polls; they must
    not queue for the database's one writer. What it finds may be old a moment later: grant decides.
    """
    mine = sa.and_(attempts.c.rollout == wanted.rollout, attempts.c.device == wanted.device.id)
    open_to = sa.and_(
        phases.c.rollout == wanted.rollout,
        phases.c.phase.in_(wanted.phases),
        sa.or_(phases.c.limit.is_(None), phases.c.offered < phases.c.limit),
    )
    labels = sorted(wanted.labels.items())
    held = [
        sa.select(sa.func.count())
        .where(holds.c.label == label, holds.c.value == value, holds.c.device != wanted.device.id)
        .scalar_subquery()
        for (label, value), _ in labels
    ]
    query = sa.select(
        sa.exists().where(mine),
        sa.exists().where(open_to),
        _busy(wanted.rollout).scalar_subquery(),
        *held,
    )
    counted, room, busy, *taken = (await connection.execute(query)).one()
    if wanted.phases and not (counted or room):
        raise _full(wanted)
    most = wanted.max_downloads
    if wanted.phases and most is not None and busy >= most:
        raise _downloading(most)
    for (place, most), number in zip(labels, taken, strict=True):
        if number >= most:
            raise _on_their_way(place, most)


async def _count_in(connection: AsyncConnection, wanted: Request) -> int:
    """Count an offer against the first of its phases that has room: its index."""
    for phase in wanted.phases:
        counted = await connection.execute(
            sa.update(phases)
            .where(
                phases.c.rollout == wanted.rollout,
                phases.c.phase == phase,
                sa.or_(phases.c.limit.is_(None), phases.c.offered < phases.c.limit),
            )
            .values(offered=phases.c.offered + 1)
        )
        if counted.rowcount == 1:
            return phase
    raise _full(wanted)


async def _of(connection: AsyncConnection, wanted: Request) -> Attempt | None:
    query = sa.select(*COLUMNS).where(
        attempts.c.rollout == wanted.rollout, attempts.c.device == wanted.device.id
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else of_row(row)


async def _grant_again(
    connection: AsyncConnection, wanted: Request, before: Attempt | None, now: int
) -> int:
    """An offer that was made before: the device may need its places in the budgets again."""
    if before is None or before.state is State.CANCELLED:
        raise NoRoom("the offer was taken back")
    await _take_places(connection, wanted, now)
    return before.id


async def _renew(
    connection: AsyncConnection, lapsed: Attempt, source: str | None, now: int
) -> None:
    await connection.execute(
        sa.update(attempts)
        .where(attempts.c.id == lapsed.id)
        .values(
            **_AS_OFFERED,
            source=source,
            offered_at=now,
            changed_at=now,
            consent_at=None,
            refused_at=None,
        )
    )


async def stands(connection: AsyncConnection, wanted: Request) -> bool:
    """Whether an offer that was made before may be said again as it is.

    False: it has to be granted again, because the device holds no place in some budget. Raises
    NoRoom where it must not be said. What a poll found out some time ago is looked at once more:
    an answer may be slow, and an operator or a report at another server quick.
    """
    name = wanted.device.id
    refused = sa.and_(
        quarantines.c.device == attempts.c.device, quarantines.c.release == attempts.c.release
    )
    held = sa.and_(holds.c.device == attempts.c.device, holds.c.rollout == attempts.c.rollout)
    query = (
        sa.select(
            attempts.c.state,
            rollouts.c.status,
            quarantines.c.reason,
            holds.c.label,
            holds.c.value,
            devices.c.group_name,
            devices.c.tags,
            devices.c.attributes,
        )
        .join(devices, devices.c.id == attempts.c.device)
        .join(rollouts, rollouts.c.id == attempts.c.rollout)
        .outerjoin(quarantines, refused)
        .outerjoin(holds, held)
        .where(attempts.c.rollout == wanted.rollout, attempts.c.device == name)
    )
    rows = (await connection.execute(query)).all()
    if not rows or rows[0].state == State.CANCELLED:
        raise NoRoom("the offer was taken back")
    if rows[0].status not in _OFFERING:
        raise NoRoom("the rollout does not offer now")
    if rows[0].reason is not None:
        raise NoRoom(f"it is quarantined on this device: {rows[0].reason}")
    if not _is_as_decided(wanted.device, *rows[0][-3:]):
        raise NoRoom("what is known of the device has just changed")
    return wanted.labels.keys() <= {(row.label, row.value) for row in rows}


async def lift_quarantine(connection: AsyncConnection, device: str, release: str, now: int) -> bool:
    """Offer the release to the device again: its offers of it are as new. False: none to lift."""
    result = await connection.execute(
        sa.delete(quarantines).where(
            quarantines.c.device == device, quarantines.c.release == release
        )
    )
    if result.rowcount == 0:
        return False
    await connection.execute(
        sa.update(attempts)
        .where(
            attempts.c.device == device,
            attempts.c.release == release,
            attempts.c.state.in_([one.value for one in QUARANTINED]),
        )
        .values(
            **_AS_OFFERED,
            # Another try: where a protocol's reports have no key, this tells them from the last one's.
            offered_at=sa.case((attempts.c.offered_at < now, now), else_=attempts.c.offered_at + 1),
            changed_at=now,
        )
    )
    await events.add(connection, now, "lifted", f"quarantine of {release} lifted", device=device)
    return True


async def _lock_as_decided(connection: AsyncConnection, device: Facts) -> None:
    """Lock the device, if operators still say of it what the decision was made on."""
    found = (
        await connection.execute(
            sa.update(devices)
            .where(devices.c.id == device.id)
            .values(id=device.id)
            .returning(devices.c.group_name, devices.c.tags, devices.c.attributes)
        )
    ).one_or_none()
    if found is None:
        raise NoRoom("the device was removed")
    if not _is_as_decided(device, *found):
        raise NoRoom("what is known of the device has just changed")


def _is_as_decided(device: Facts, group: str | None, tags: str, attributes: str) -> bool:
    """Whether operators say now of a device what a decision was made on."""
    now = (group, described(tags, attributes))
    return now == (device.group, (device.tags, device.attributes))


async def _take_places(connection: AsyncConnection, wanted: Request, now: int) -> None:
    # In one order everywhere: two transactions that wait for each other's turn never end.
    for (label, value), most in sorted(wanted.labels.items()):
        if not await places.take(
            connection, label, value, wanted.device.id, most, now, rollout=wanted.rollout
        ):
            raise _on_their_way((label, value), most)


def _busy(rollout: int) -> sa.Select[int]:
    """How many of a rollout's devices are downloading, or about to."""
    return sa.select(sa.func.count()).where(
        attempts.c.rollout == rollout, attempts.c.state.in_(_FETCHING)
    )


def _full(wanted: Request) -> NoRoom:
    return NoRoom(f"phase {wanted.phases[-1] + 1} has offered to as many devices as it may")


def _downloading(most: int) -> Crowded:
    return Crowded(f"{most} devices are downloading")


def _on_their_way(place: tuple[str, str], most: int) -> Crowded:
    label, value = place
    return Crowded(f"{most} devices with {label} {value} are on their way")

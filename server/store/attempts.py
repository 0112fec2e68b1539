"""Offers of a rollout's release to a device: granted within bounds, and moved by what is heard.

`grant` is where exposure is bounded: it counts the offer against its phase's limit in the same
transaction that writes it down, and only what was written down is ever said to a device.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.errors import SlipstreamError
from slipstream.delta.limits import QUARANTINES_PER_DEVICE_MAX
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.plan import FailureClass
from slipstream.server.rollout.record import OFFERING
from slipstream.server.rollout.track import IN_FLIGHT, QUARANTINED, Event, State, class_of, step
from slipstream.server.store import events
from slipstream.server.store import holds as places
from slipstream.server.store.devices import described
from slipstream.server.store.dialect import insert_into
from slipstream.server.store.tables import (
    attempts,
    controllers,
    devices,
    holds,
    phases,
    quarantines,
    rollouts,
)

_FETCHING = (State.OFFERED.value, State.FETCHING.value)
_OFFERING = tuple(status.value for status in OFFERING)
# After these a device is not on its way, whatever its offer has been before.
_ENDS = frozenset({Event.FAILED, Event.CONFIRMED, Event.FELL_BACK, Event.CANCELLED})


class NoRoom(SlipstreamError):
    """The offer may not be made now: its message says which bound is reached."""


class Crowded(NoRoom):
    """A budget, or as many downloads as there may be at once: its turn comes when others are done."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One offer and what became of it."""

    id: int
    rollout: int
    device: str
    phase: int
    release: str
    state: State
    failure: FailureClass | None
    reason: str
    source: str | None  # the release that the device ran when it was offered
    offered_at: int
    changed_at: int
    # When it happened, if it did.
    recalled_at: int | None = None  # an operator takes it back
    consent_at: int | None = None  # the person at the device agreed
    refused_at: int | None = None  # the device would not be called back
    closed_at: int | None = None  # the device said its last word
    shown_at: int | None = None  # over DDI: it named the release as what it runs

    @property
    def lapsed(self) -> bool:
        """It was taken back because its rollout paused or a newer one came: not for good."""
        return self.state is State.CANCELLED and self.recalled_at is None


@dataclass(frozen=True, slots=True)
class Quarantine:
    """A release that a device is not offered; `since` in seconds since 1970."""

    device: str
    release: str
    reason: str
    since: int


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
COLUMNS = tuple(attempts.c[name] for name in Attempt.__dataclass_fields__)
_QUARANTINE_COLUMNS = tuple(quarantines.c[name] for name in Quarantine.__dataclass_fields__)


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
        busy = sa.select(sa.func.count()).where(
            attempts.c.rollout == wanted.rollout, attempts.c.state.in_(_FETCHING)
        )
        if (await connection.execute(busy)).scalar_one() > wanted.max_downloads:
            raise Crowded(f"{wanted.max_downloads} devices are downloading")
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
    full = wanted.phases[-1] + 1
    raise NoRoom(f"phase {full} has offered to as many devices as it may")


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
            raise Crowded(f"{most} devices with {label} {value or '(none)'} are on their way")


async def move(
    connection: AsyncConnection,
    attempt: Attempt,
    event: Event,
    now: int,
    *,
    said: FailureClass | None = None,
    reason: str = "",
) -> State:
    """Apply an event to an offer, with all that follows from it: the state after it.

    The caller reads the attempt in the same transaction, behind a statement that writes.
    """
    state = step(attempt.state, event)
    if state is attempt.state:
        if event in _ENDS:  # of another try: it has given up again, or come through again
            await places.settle(connection, attempt.device, attempt.rollout)
        return state
    failure = class_of(state, said)
    await connection.execute(
        sa.update(attempts)
        .where(attempts.c.id == attempt.id)
        .values(
            state=state.value,
            failure=None if failure is None else failure.value,
            reason=reason,
            changed_at=now,
        )
    )
    if state not in IN_FLIGHT:
        await places.settle(connection, attempt.device, attempt.rollout)
    if state in QUARANTINED:
        await quarantine(connection, attempt.device, attempt.release, reason or state.value, now)
    words = state.value.replace("_", " ") + (f": {reason}" if reason else "")
    await events.add(
        connection,
        now,
        state.value,
        f"{attempt.release} {words}",
        device=attempt.device,
        rollout=attempt.rollout,
    )
    return state


async def recall(connection: AsyncConnection, attempt: int, by: str, now: int) -> bool:
    """Take an offer back for good; False if there is none on its way.

    A device that speaks DDI is asked, and acknowledges; any other is not offered it again. What is
    installed stays installed: with DDI, it ends the wait for the device's last word.
    """
    whose = sa.select(attempts.c.device).where(attempts.c.id == attempt).scalar_subquery()
    await connection.execute(
        sa.update(devices).where(devices.c.id == whose).values(id=devices.c.id)  # its lock
    )
    found = await find(connection, attempt)
    if found is None or found.closed_at is not None:
        return False
    asked = sa.select(controllers.c.device).where(controllers.c.device == found.device)
    answers = (await connection.execute(asked)).one_or_none() is not None
    installed = found.state is State.INSTALLED
    if step(found.state, Event.CANCELLED) is found.state and not (installed and answers):
        return False
    await mark(connection, attempt, recalled_at=now, refused_at=None)
    words = f"{found.release} taken back by {by}"
    await events.add(connection, now, "recalled", words, device=found.device, rollout=found.rollout)
    if not answers:
        await move(connection, found, Event.CANCELLED, now, reason=f"taken back by {by}")
    return True


async def mark(connection: AsyncConnection, attempt: int, **at: int | None) -> None:
    """Set some of recalled_at, consent_at, refused_at and closed_at."""
    await connection.execute(sa.update(attempts).where(attempts.c.id == attempt).values(**at))


async def of_device(
    connection: AsyncConnection, device: str, *, release: str | None = None
) -> tuple[Attempt, ...]:
    """The offers that a device has had, newest first; of one release where it is named."""
    query = sa.select(*COLUMNS).where(attempts.c.device == device)
    if release is not None:
        query = query.where(attempts.c.release == release)
    rows = await connection.execute(query.order_by(attempts.c.id.desc()))
    return tuple(of_row(row) for row in rows)


async def offered_to(connection: AsyncConnection, rollout: int) -> frozenset[str]:
    """The ids of all devices that a rollout has ever made an offer."""
    query = sa.select(attempts.c.device).where(attempts.c.rollout == rollout)
    return frozenset((await connection.execute(query)).scalars())


async def find(connection: AsyncConnection, attempt: int) -> Attempt | None:
    """The offer of that id."""
    query = sa.select(*COLUMNS).where(attempts.c.id == attempt)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else of_row(row)


async def list_of_rollout(
    connection: AsyncConnection,
    rollout: int,
    *,
    states: frozenset[State] | None = None,
    after: int = 0,
    limit: int,
) -> tuple[Attempt, ...]:
    """Up to `limit` offers of a rollout behind the id `after`, by id."""
    query = sa.select(*COLUMNS).where(attempts.c.rollout == rollout, attempts.c.id > after)
    if states is not None:
        query = query.where(attempts.c.state.in_([one.value for one in states]))
    rows = await connection.execute(query.order_by(attempts.c.id).limit(limit))
    return tuple(of_row(row) for row in rows)


async def confirmed_from(connection: AsyncConnection, rollout: int) -> Mapping[str | None, int]:
    """How many devices a rollout has brought to its release, by the release that they came from."""
    query = (
        sa.select(attempts.c.source, sa.func.count())
        .where(attempts.c.rollout == rollout, attempts.c.state == State.CONFIRMED.value)
        .group_by(attempts.c.source)
    )
    return {row[0]: row[1] for row in await connection.execute(query)}


async def newest_of_rollout(
    connection: AsyncConnection, rollout: int, states: frozenset[State], *, limit: int
) -> tuple[Attempt, ...]:
    """The offers of a rollout in one of `states`, those that changed last first."""
    query = sa.select(*COLUMNS).where(
        attempts.c.rollout == rollout, attempts.c.state.in_([one.value for one in states])
    )
    rows = await connection.execute(
        query.order_by(attempts.c.changed_at.desc(), attempts.c.id.desc()).limit(limit)
    )
    return tuple(of_row(row) for row in rows)


async def silent(
    connection: AsyncConnection, rollout: int, since: int, *, limit: int
) -> tuple[Attempt, ...]:
    """Offers on their way whose device has said nothing at all since `since`."""
    query = (
        sa.select(*COLUMNS)
        .join(devices, devices.c.id == attempts.c.device)
        .where(
            attempts.c.rollout == rollout,
            attempts.c.state.in_([one.value for one in IN_FLIGHT]),
            attempts.c.changed_at < since,
            sa.or_(devices.c.seen_at.is_(None), devices.c.seen_at < since),
        )
        .limit(limit)
    )
    return tuple(of_row(row) for row in await connection.execute(query))


async def lock(connection: AsyncConnection, device: str) -> bool:
    """Begin a transaction about a device's offers: others about it wait. False: no such device."""
    statement = sa.update(devices).where(devices.c.id == device).values(id=device)
    return (await connection.execute(statement)).rowcount == 1


async def quarantine(
    connection: AsyncConnection, device: str, release: str, reason: str, now: int
) -> None:
    """Do not offer the release to the device again; the first reason stays.

    A device has at most QUARANTINES_PER_DEVICE_MAX: the one that is oldest makes room.
    """
    statement = insert_into(connection, quarantines).values(
        device=device, release=release, reason=reason, since=now
    )
    if (await connection.execute(statement.on_conflict_do_nothing())).rowcount == 0:
        return
    of_device = quarantines.c.device == device
    newest = (
        sa.select(quarantines.c.release)
        .where(of_device, quarantines.c.release != release)
        .order_by(quarantines.c.since.desc(), quarantines.c.release)
        .limit(QUARANTINES_PER_DEVICE_MAX - 1)
    )
    await connection.execute(
        sa.delete(quarantines).where(
            of_device, quarantines.c.release != release, quarantines.c.release.not_in(newest)
        )
    )


async def count_quarantined(connection: AsyncConnection) -> int:
    """How many devices have a release that is not offered to them again."""
    query = sa.select(sa.func.count(sa.distinct(quarantines.c.device)))
    return int((await connection.execute(query)).scalar_one())


async def note_shown(connection: AsyncConnection, device: str, release: str, now: int) -> None:
    """The device itself names the release as what it runs."""
    await connection.execute(
        sa.update(attempts)
        .where(
            attempts.c.device == device,
            attempts.c.release == release,
            attempts.c.shown_at.is_(None),
        )
        .values(shown_at=now)
    )


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


async def list_quarantines(
    connection: AsyncConnection, *, after: tuple[str, str] = ("", ""), limit: int
) -> tuple[Quarantine, ...]:
    """Up to `limit` quarantines behind a (device, release), in that order."""
    key = sa.tuple_(quarantines.c.device, quarantines.c.release)
    query = sa.select(*_QUARANTINE_COLUMNS).where(key > after)
    rows = await connection.execute(query.order_by(*key.clauses).limit(limit))
    return tuple(Quarantine(*row) for row in rows)


async def quarantines_of(connection: AsyncConnection, device: str) -> tuple[Quarantine, ...]:
    """What a device is not offered, by release."""
    query = sa.select(*_QUARANTINE_COLUMNS).where(quarantines.c.device == device)
    rows = await connection.execute(query.order_by(quarantines.c.release))
    return tuple(Quarantine(*row) for row in rows)


def of_row(row: Sequence[Any]) -> Attempt:
    """An offer of the values of COLUMNS."""
    found = Attempt(*row)
    failure = None if found.failure is None else FailureClass(found.failure)
    return replace(found, state=State(found.state), failure=failure)

"""Offers of a rollout's release to a device, and how they are moved by what is heard.

Where they are made: grants.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.rollout.plan import FailureClass
from slipstream.server.rollout.track import (
    AWAY,
    IN_FLIGHT,
    QUARANTINED,
    Event,
    State,
    class_of,
    step,
)
from slipstream.server.store import events, quarantines
from slipstream.server.store import holds as places
from slipstream.server.store.tables import attempts, controllers, devices

# After these a device is not on its way, whatever its offer has been before.
_ENDS = frozenset({Event.FAILED, Event.CONFIRMED, Event.FELL_BACK, Event.CANCELLED})


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
class Traffic:
    """What devices fetched to install, and what full payloads would have been. Bytes."""

    fetched_bytes: int
    full_bytes: int
    devices: int = 1

    @property
    def saved_bytes(self) -> int:
        """What deltas and what was there already spared; 0 where tries cost more."""
        return max(0, self.full_bytes - self.fetched_bytes)


COLUMNS = tuple(attempts.c[name] for name in Attempt.__dataclass_fields__)


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
    if state not in AWAY:
        await places.settle(connection, attempt.device, attempt.rollout)
    if state in QUARANTINED:
        await quarantines.add(
            connection, attempt.device, attempt.release, reason or state.value, now
        )
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


async def note_traffic(connection: AsyncConnection, attempt: int, traffic: Traffic) -> None:
    """What the device says that it fetched for an offer; of several tries, the last."""
    values = {"fetched_bytes": traffic.fetched_bytes, "full_bytes": traffic.full_bytes}
    await connection.execute(sa.update(attempts).where(attempts.c.id == attempt).values(**values))


async def traffic_of(connection: AsyncConnection, rollout: int) -> Traffic:
    """What a rollout's devices fetched, all of them that said so."""
    said = attempts.c.fetched_bytes
    query = sa.select(sa.func.count(said), sa.func.sum(said), sa.func.sum(attempts.c.full_bytes))
    devices, fetched, full = (
        await connection.execute(query.where(attempts.c.rollout == rollout))
    ).one()
    return Traffic(int(fetched or 0), int(full or 0), devices)


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


def of_row(row: Sequence[Any]) -> Attempt:
    """An offer of the values of COLUMNS."""
    found = Attempt(*row)
    failure = None if found.failure is None else FailureClass(found.failure)
    return replace(found, state=State(found.state), failure=failure)

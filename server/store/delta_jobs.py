"""Jobs that build deltas: durable rows with a lease, a heartbeat and a fencing token.

    queued -> running -> done | failed | useless;  a lease that ran out makes running queued again,
                         or failed, if it was taken as often as it may be tried

Whoever takes a job gets a token that is higher than any before. What it says of the job counts only
while the row still has that token.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.limits import DELTA_TRIES_MAX
from slipstream.server.store.dialect import insert_into
from slipstream.server.store.tables import delta_jobs, devices


class JobState(StrEnum):
    """Of a job."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    USELESS = "useless"  # built, and no smaller than the full payload
    FAILED = "failed"  # for good: as often as it may be tried


@dataclass(frozen=True, slots=True)
class Job:
    """One pair of releases."""

    id: int
    product: str
    source: str
    target: str
    state: JobState
    saving_bytes: int  # by estimate, when it was queued
    tries: int
    token: int
    holder: str | None
    lease_until: int
    progress: int  # per cent
    payload_bytes: int | None
    reason: str
    created_at: int
    changed_at: int


_COLUMNS = tuple(delta_jobs.c[name] for name in Job.__dataclass_fields__)


async def enqueue(
    connection: AsyncConnection, product: str, source: str, target: str, saving: int, now: int
) -> bool:
    """Ask for a pair; False if it was asked for before, whatever became of it."""
    statement = insert_into(connection, delta_jobs).values(
        product=product,
        source=source,
        target=target,
        state=JobState.QUEUED.value,
        saving_bytes=saving,
        tries=0,
        token=0,
        lease_until=0,
        progress=0,
        reason="",
        created_at=now,
        changed_at=now,
    )
    result = await connection.execute(
        statement.on_conflict_do_nothing(index_elements=["product", "source", "target"])
    )
    return result.rowcount == 1


async def take(connection: AsyncConnection, holder: str, now: int, lease_s: int) -> Job | None:
    """Take the job that saves most, of those that wait or whose holder went away; None: none.

    A build that kills whoever runs it ends here: nobody is left to give it up.
    """
    await connection.execute(
        sa.update(delta_jobs)
        .where(
            delta_jobs.c.state == JobState.RUNNING.value,
            delta_jobs.c.lease_until <= now,
            delta_jobs.c.tries >= DELTA_TRIES_MAX,
        )
        .values(
            state=JobState.FAILED.value,
            holder=None,
            lease_until=0,
            reason=f"taken {DELTA_TRIES_MAX} times, and nobody came back with it",
            changed_at=now,
        )
    )
    free = sa.or_(
        sa.and_(delta_jobs.c.state == JobState.QUEUED.value, delta_jobs.c.lease_until <= now),
        sa.and_(delta_jobs.c.state == JobState.RUNNING.value, delta_jobs.c.lease_until <= now),
    )
    best = (
        sa.select(delta_jobs.c.id)
        .where(free)
        .order_by(delta_jobs.c.saving_bytes.desc(), delta_jobs.c.id)
        .limit(1)
        .scalar_subquery()
    )
    # The condition again: of two that found the same row, the second finds it taken.
    result = await connection.execute(
        sa.update(delta_jobs)
        .where(delta_jobs.c.id == best, free)
        .values(
            state=JobState.RUNNING.value,
            holder=holder,
            lease_until=now + lease_s,
            token=delta_jobs.c.token + 1,
            tries=delta_jobs.c.tries + 1,
            progress=0,
            changed_at=now,
        )
        .returning(*_COLUMNS)
    )
    row = result.one_or_none()
    return None if row is None else _job(row)


async def beat(
    connection: AsyncConnection, job: Job, progress: int, now: int, lease_s: int
) -> bool:
    """Keep the lease; False: the job is another's now, stop."""
    result = await connection.execute(
        sa.update(delta_jobs)
        .where(_mine(job))
        .values(progress=progress, lease_until=now + lease_s, changed_at=now)
    )
    return result.rowcount == 1


async def finish(
    connection: AsyncConnection, job: Job, payload_bytes: int | None, now: int
) -> bool:
    """The delta is published, or (None) it is no smaller than the full payload."""
    state = JobState.DONE if payload_bytes is not None else JobState.USELESS
    return await _end(connection, job, state, "", now, payload_bytes=payload_bytes, progress=100)


async def give_up(
    connection: AsyncConnection, job: Job, reason: str, now: int, again_s: int
) -> bool:
    """It did not work: again after `again_s`, or never when it was tried often enough."""
    if job.tries >= DELTA_TRIES_MAX:
        return await _end(connection, job, JobState.FAILED, reason, now)
    return await _end(connection, job, JobState.QUEUED, reason, now, lease_until=now + again_s)


async def put_back(connection: AsyncConnection, job: Job, now: int) -> bool:
    """Its holder stops in good order: another may take it at once, and it was no try."""
    return await _end(connection, job, JobState.QUEUED, "", now, tries=job.tries - 1)


async def retry(connection: AsyncConnection, job: int, now: int) -> bool:
    """An operator wants a failed job tried again."""
    result = await connection.execute(
        sa.update(delta_jobs)
        .where(delta_jobs.c.id == job, delta_jobs.c.state == JobState.FAILED.value)
        .values(state=JobState.QUEUED.value, tries=0, lease_until=0, reason="", changed_at=now)
    )
    return result.rowcount == 1


async def list_all(connection: AsyncConnection, *, limit: int) -> tuple[Job, ...]:
    """The newest jobs, newest first."""
    query = sa.select(*_COLUMNS).order_by(delta_jobs.c.id.desc()).limit(limit)
    return tuple(_job(row) for row in await connection.execute(query))


async def census(connection: AsyncConnection) -> Mapping[tuple[str, str, str], int]:
    """How many devices run each release, by product, channel and release."""
    query = (
        sa.select(devices.c.product, devices.c.channel, devices.c.release, sa.func.count())
        .where(devices.c.release.is_not(None))
        .group_by(devices.c.product, devices.c.channel, devices.c.release)
    )
    return {(row[0], row[1], row[2]): row[3] for row in await connection.execute(query)}


async def _end(
    connection: AsyncConnection,
    job: Job,
    state: JobState,
    reason: str,
    now: int,
    **more: int | None,
) -> bool:
    values = {"lease_until": 0, **more}
    result = await connection.execute(
        sa.update(delta_jobs)
        .where(_mine(job))
        .values(state=state.value, reason=reason, holder=None, changed_at=now, **values)
    )
    return result.rowcount == 1


def _mine(job: Job) -> sa.ColumnElement[bool]:
    return sa.and_(
        delta_jobs.c.id == job.id,
        delta_jobs.c.token == job.token,
        delta_jobs.c.state == JobState.RUNNING.value,
    )


def _job(row: sa.Row[tuple[object, ...]]) -> Job:
    found = Job(*tuple(row))  # type: ignore[arg-type] # in the order of its fields
    return replace(found, state=JobState(found.state))

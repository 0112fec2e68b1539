"""What became of a rollout's offers, counted by phase."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

import msgspec
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.rollout.judge import PhaseRecord, Tally
from slipstream.server.rollout.plan import FailureClass
from slipstream.server.rollout.track import FAILURES, State
from slipstream.server.store.rollouts import OpenPhase
from slipstream.server.store.tables import attempts, phases


async def of_rollout(connection: AsyncConnection, rollout: int) -> Mapping[int, Tally]:
    """What became of a rollout's offers, by phase."""
    return (await of_rollouts(connection, [rollout])).get(rollout, {})


async def of_rollouts(
    connection: AsyncConnection, ids: Collection[int]
) -> Mapping[int, Mapping[int, Tally]]:
    """What became of the offers of several rollouts, by rollout and phase; also of those to devices
    that were removed, where they had come to an end."""
    kinds = (attempts.c.rollout, attempts.c.phase, attempts.c.state, attempts.c.failure)
    query = sa.select(*kinds, sa.func.count()).where(attempts.c.rollout.in_(ids)).group_by(*kinds)
    offered: dict[tuple[int, int], int] = {}
    confirmed: dict[tuple[int, int], int] = {}
    failures: dict[tuple[int, int], dict[FailureClass, int]] = {}
    for rollout, phase, state, failure, number in await connection.execute(query):
        if state == State.CANCELLED:
            continue
        place = (rollout, phase)
        offered[place] = offered.get(place, 0) + number
        if state == State.CONFIRMED:
            confirmed[place] = confirmed.get(place, 0) + number
        elif state in FAILURES:
            kind = FailureClass(failure)
            of_phase = failures.setdefault(place, {})
            of_phase[kind] = of_phase.get(kind, 0) + number
    kept = sa.select(phases.c.rollout, phases.c.phase, phases.c.removed).where(
        phases.c.rollout.in_(ids), phases.c.removed != "{}"
    )
    for rollout, phase, removed in await connection.execute(kept):
        place = (rollout, phase)
        for outcome, number in msgspec.json.decode(removed, type=dict[str, int]).items():
            offered[place] = offered.get(place, 0) + number
            if outcome == State.CONFIRMED:
                confirmed[place] = confirmed.get(place, 0) + number
            else:
                of_phase = failures.setdefault(place, {})
                of_phase[FailureClass(outcome)] = of_phase.get(FailureClass(outcome), 0) + number
    found: dict[int, dict[int, Tally]] = {}
    for (rollout, phase), total in offered.items():
        place = (rollout, phase)
        tally = Tally(total, confirmed.get(place, 0), failures.get(place, {}))
        found.setdefault(rollout, {})[phase] = tally
    return found


def records(opened: Sequence[OpenPhase], counted: Mapping[int, Tally]) -> tuple[PhaseRecord, ...]:
    """Open phases with their tallies, as the engine judges them."""
    return tuple(
        PhaseRecord(
            members=one.opening.members,
            opened_at=one.opened_at,
            proved=one.proved,
            soaked_s=one.soaked_s,
            tally=counted.get(index, Tally()),
            forgiven=one.forgiven,
            watched_s=one.watched_s,
        )
        for index, one in enumerate(opened)
    )


async def keep_outcomes(connection: AsyncConnection, device: str) -> None:
    """Before a device is removed: what became of its offers stays in its phases' counts.

    Otherwise the failures of devices that somebody throws out would not stop a rollout any more.
    One that was on its way will not be heard of again: it counts as silent.
    """
    query = sa.select(attempts.c.rollout, attempts.c.phase, attempts.c.state, attempts.c.failure)
    outcomes: dict[tuple[int, int], Counter[str]] = {}
    for rollout, phase, state, failure in await connection.execute(
        query.where(attempts.c.device == device, attempts.c.state != State.CANCELLED.value)
    ):
        outcome = state if state == State.CONFIRMED else failure or FailureClass.SILENT.value
        outcomes.setdefault((rollout, phase), Counter())[outcome] += 1
    if not outcomes:
        return
    place = sa.tuple_(phases.c.rollout, phases.c.phase)
    kept = sa.select(phases.c.rollout, phases.c.phase, phases.c.removed)
    rows = (await connection.execute(kept.where(place.in_(list(outcomes))))).all()
    changes = [
        {
            "of": row.rollout,
            "at": row.phase,
            "counts": msgspec.json.encode(
                outcomes[row.rollout, row.phase]
                + Counter(msgspec.json.decode(row.removed, type=dict[str, int]))
            ).decode(),
        }
        for row in rows
    ]
    statement = sa.update(phases).where(
        phases.c.rollout == sa.bindparam("of"), phases.c.phase == sa.bindparam("at")
    )
    await connection.execute(statement.values(removed=sa.bindparam("counts")), changes)

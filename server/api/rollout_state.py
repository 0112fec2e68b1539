"""A rollout as it stands, for who looks: each phase with its tally, each rule with its margin."""

from collections.abc import Mapping, Sequence

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.server.api.call import missing
from slipstream.server.rollout.judge import (
    PhaseRecord,
    Tally,
    fires,
    margin,
    phase_rules,
    unmet,
)
from slipstream.server.rollout.plan import AbortRule, FailureClass, Plan
from slipstream.server.rollout.record import Rollout, Status
from slipstream.server.store import attempts, rollouts, tallies
from slipstream.server.store.attempts import Traffic
from slipstream.server.store.rollouts import OpenPhase


class ShownRule(msgspec.Struct, frozen=True):
    """An abort rule over one phase. `margin`: devices on their way that may still fail."""

    rule: AbortRule
    margin: int
    fires: str | None  # why, in words


class ShownPhase(msgspec.Struct, frozen=True):
    """A phase. Before it opens only its text is known; `missing`: what its success rule wants."""

    text: str
    opened_at: int | None = None
    members: int = 0
    offered: int = 0
    in_flight: int = 0
    confirmed: int = 0
    failures: dict[FailureClass, int] = msgspec.field(default_factory=dict)
    missing: str | None = None
    proved: bool = False
    soak_s: int = 0
    soaked_s: int = 0
    rules: tuple[ShownRule, ...] = ()


class RolloutLine(msgspec.Struct, frozen=True):
    """A rollout in a list. `phase` counts from 1; 0: none is open."""

    id: int
    name: str
    product: str
    channel: str
    release: str
    status: Status
    reason: str
    version: int
    phase: int
    phases: int
    offered: int
    confirmed: int
    failed: int
    created_at: int


class RolloutDetail(msgspec.Struct, frozen=True):
    """A rollout as it stands."""

    id: int
    status: Status
    reason: str
    version: int
    author: str
    decided_by: str
    remark: str
    created_at: int
    changed_at: int
    phase: int
    plan: Plan
    phases: tuple[ShownPhase, ...]
    traffic: Traffic
    waits_for: str | None = None  # room in a budget, as this server heard a moment ago
    notes: tuple[str, ...] = ()  # of a rollout that was just made


async def describe_rollout(connection: AsyncConnection, number: int) -> RolloutDetail:
    """A rollout with its phases and rules; 404 if there is none."""
    found = await rollouts.load(connection, ids=[number])
    if not found:
        raise missing(f"rollout {number}")
    rollout = found[0]
    papers = await rollouts.papers(connection, number)
    opened = (await rollouts.open_phases(connection, [number])).get(number, ())
    records = tallies.records(opened, await tallies.of_rollout(connection, number))
    phases = tuple(
        _show_phase(rollout.plan, index, records[index] if index < len(records) else None)
        for index in range(len(rollout.plan.phases))
    )
    return RolloutDetail(
        id=rollout.id,
        status=rollout.status,
        reason=rollout.reason,
        version=rollout.version,
        author=papers.author,
        decided_by=papers.decided_by,
        remark=papers.remark,
        created_at=rollout.created_at,
        changed_at=papers.changed_at,
        phase=rollout.phase + 1,
        plan=rollout.plan,
        phases=phases,
        traffic=await attempts.traffic_of(connection, number),
    )


def notes_on(plan: Plan, others: Sequence[tuple[str, str]], now: int) -> tuple[str, ...]:
    """What somebody who has just written a plan may not expect of it.

    `others`: (name, release) of the line's rollouts that are not over.
    """
    notes: list[str] = []
    last = plan.phases[-1]
    if last.percent != 100:
        notes.append(f"the last phase is {last}: it offers other devices nothing")
    notes += [
        f"{name} offers {release} in the same channel: a device that both have something for gets "
        "the newer release"
        for name, release in others
    ]
    if plan.start_at is not None and plan.start_at < now:
        notes.append("its start lies in the past: it begins at once")
    return tuple(notes)


def show_line(
    rollout: Rollout, opened: Sequence[OpenPhase], counted: Mapping[int, Tally]
) -> RolloutLine:
    """A rollout in a list, of its tallies by phase. `offered` counts what was taken back, too."""
    return RolloutLine(
        id=rollout.id,
        name=rollout.plan.name,
        product=rollout.plan.product,
        channel=rollout.plan.channel,
        release=rollout.plan.release,
        status=rollout.status,
        reason=rollout.reason,
        version=rollout.version,
        phase=rollout.phase + 1,
        phases=len(rollout.plan.phases),
        offered=sum(one.offered for one in opened),
        confirmed=sum(one.confirmed for one in counted.values()),
        failed=sum(one.failed for one in counted.values()),
        created_at=rollout.created_at,
    )


def _show_phase(plan: Plan, index: int, record: PhaseRecord | None) -> ShownPhase:
    phase = plan.phases[index]
    if record is None:
        return ShownPhase(str(phase), soak_s=phase.soak_s)
    tally = record.tally
    rules = tuple(
        ShownRule(rule, margin(rule, record.counted), fires(rule, record.counted))
        for rule in phase_rules(plan, phase)
    )
    return ShownPhase(
        text=str(phase),
        opened_at=record.opened_at,
        members=record.members,
        offered=tally.offered,
        in_flight=tally.in_flight,
        confirmed=tally.confirmed,
        failures=dict(tally.failures),
        missing=unmet(plan, index, record),
        proved=record.proved,
        soak_s=phase.soak_s,
        soaked_s=record.soaked_s,
        rules=rules,
    )

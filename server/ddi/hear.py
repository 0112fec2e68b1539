"""What devices say over DDI moves their offers, and is kept as their reports are.

Each call is one transaction that begins by locking the device, as in server/fleet/hear.py.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from enum import Enum, auto

import msgspec
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.errors import SlipstreamError
from slipstream.delta.limits import REASON_CHARS_MAX
from slipstream.server.ddi.feedback import (
    Feedback,
    Meaning,
    Reply,
    change_attributes,
    read_feedback,
    read_reply,
)
from slipstream.server.rollout.plan import Plan
from slipstream.server.rollout.track import Event, State
from slipstream.server.store import attempts, controllers, devices, events, polls, reports
from slipstream.server.store.attempts import Attempt
from slipstream.server.store.database import Act, Database
from slipstream.server.store.devices import Device
from slipstream.server.store.reports import Report

_KINDS = {
    Event.FETCHING: "progress",
    Event.INSTALLED: "installed",
    Event.CONFIRMED: "confirmed",
    Event.FAILED: "failed",
    Event.FELL_BACK: "fell_back",
    Event.CANCELLED: "cancelled",
}


class Outcome(Enum):
    """What became of a feedback."""

    HEARD = auto()
    AGAIN = auto()  # heard before, word for word: the answer to it was lost
    CLOSED = auto()  # the device has said its last word on this action
    UNKNOWN = auto()  # no such action of this device
    NOT_STOPPING = auto()  # a reply to a cancel that nobody asks for


class _Refused(SlipstreamError):
    """Carries an outcome out of a transaction, which is undone."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.name)
        self.outcome = outcome


async def hear_feedback(
    database: Database,
    device: str,
    number: int,
    plan: Plan,
    feedback: Feedback,
    raw: bytes,
    now: int,
) -> Outcome:
    """Hear a feedback to the deployment of that id. `raw`: the body, by which it is told again."""

    async def act(connection: AsyncConnection) -> None:
        attempt = await _find(connection, device, number)
        meaning = read_feedback(feedback, plan, attempt.state)
        await _keep(connection, attempt, plan, feedback, meaning.event, raw, now)
        await _apply(connection, attempt, plan, meaning, feedback.reason, now)

    return await _try(database, act)


async def hear_reply(
    database: Database,
    device: str,
    number: int,
    plan: Plan,
    feedback: Feedback,
    raw: bytes,
    now: int,
    *,
    asked: bool,
) -> Outcome:
    """Hear what a device says to the cancel of that id. `asked`: somebody wants it."""

    async def act(connection: AsyncConnection) -> None:
        attempt = await _find(connection, device, number)
        reply = read_reply(feedback)
        event = {Reply.ACCEPTED: Event.CANCELLED, Reply.FAILED: Event.FAILED}.get(reply)
        await _keep(connection, attempt, plan, feedback, event, raw, now)
        if not asked:
            raise _Refused(Outcome.NOT_STOPPING)
        if reply is Reply.REFUSED:
            await attempts.mark(connection, attempt.id, refused_at=now)
        elif event is not None:
            await _apply(
                connection, attempt, plan, Meaning(event, closes=True), feedback.reason, now
            )

    return await _try(database, act)


async def hear_consent(
    database: Database, device: str, number: int, lines: tuple[str, ...], now: int, *, agreed: bool
) -> Outcome:
    """Hear whether the person at the device agrees. Who does not is asked again, as in hawkBit."""

    async def act(connection: AsyncConnection) -> None:
        attempt = await _find(connection, device, number)
        if attempt.closed_at is not None:
            raise _Refused(Outcome.CLOSED)
        if agreed:
            await attempts.mark(connection, attempt.id, consent_at=now)
        said = "agreed to" if agreed else "declined"
        words = f"the person at the device {said} {attempt.release}"
        text = ": ".join((words, *lines[-1:]))[:REASON_CHARS_MAX]
        await events.add(connection, now, "consent", text, device=device, rollout=attempt.rollout)

    return await _try(database, act)


async def hear_attributes(
    database: Database, device: str, mode: str, data: Mapping[str, str]
) -> Device:
    """Change a device's attributes: the device afterwards. FormatError: too many or too long.

    Raises KeyError if the device has been removed meanwhile.
    """

    async def act(connection: AsyncConnection) -> Device:
        if not await attempts.lock(connection, device):
            raise KeyError(device)
        found = await devices.find(connection, device)
        assert found is not None
        changed = change_attributes(found.facts().attributes, mode, data)
        await devices.describe(connection, device, attributes=changed)
        await controllers.want_attributes(connection, device, wanted=False)
        again = await devices.find(connection, device)
        assert again is not None
        return again

    return await database.write(act)


async def hear_release(
    database: Database,
    device: Device,
    release: str,
    counter: int | None,
    root: str | None,
    now: int,
) -> Device:
    """Note which release a device says it runs: the device afterwards."""

    async def act(connection: AsyncConnection) -> None:
        await polls.note_release(connection, device.id, release, counter, root)
        await attempts.note_shown(connection, device.id, release, now)

    await database.write(act)
    return replace(device, release=release, counter=counter, booted_root=root, trial=False)


async def _try(database: Database, act: Act[None]) -> Outcome:
    try:
        await database.write(act)
    except _Refused as refused:
        return refused.outcome
    return Outcome.HEARD


async def _find(connection: AsyncConnection, device: str, number: int) -> Attempt:
    if not await attempts.lock(connection, device):
        raise _Refused(Outcome.UNKNOWN)
    found = await attempts.find(connection, number)
    if found is None or found.device != device:
        raise _Refused(Outcome.UNKNOWN)
    return found


async def _keep(
    connection: AsyncConnection,
    attempt: Attempt,
    plan: Plan,
    feedback: Feedback,
    event: Event | None,
    raw: bytes,
    now: int,
) -> None:
    """Keep a feedback among the device's reports, once."""
    details = {
        "action": str(attempt.id),
        "execution": feedback.execution.value,
        "finished": feedback.finished.value,
        "details": feedback.details,
    }
    report = Report(
        device=attempt.device,
        # The protocol has no key: a body that is sent again word for word is the same feedback.
        key=f"ddi-{attempt.id}-{attempt.offered_at}-{hashlib.sha256(raw).hexdigest()[:40]}",
        kind="progress" if event is None else _KINDS[event],
        release=plan.release,
        counter=plan.counter,
        booted_root=None,
        reason=feedback.reason,
        details=msgspec.json.encode(details).decode(),
        at=now,
        received_at=now,
    )
    if not await reports.add(connection, report):
        raise _Refused(Outcome.AGAIN)
    if attempt.closed_at is not None:
        raise _Refused(Outcome.CLOSED)


async def _apply(
    connection: AsyncConnection,
    attempt: Attempt,
    plan: Plan,
    meaning: Meaning,
    reason: str,
    now: int,
) -> None:
    if meaning.event is Event.CANCELLED and attempt.state is State.SILENT:
        # It speaks: the silence was none. Then the cancel is one of an offer on its way.
        await attempts.move(connection, attempt, Event.FETCHING, now)
        attempt = await _find(connection, attempt.device, attempt.id)
    if meaning.event is not None:
        await attempts.move(
            connection, attempt, meaning.event, now, said=meaning.failure, reason=reason
        )
    if meaning.closes:
        await attempts.mark(connection, attempt.id, closed_at=now)
        await controllers.want_attributes(connection, attempt.device, wanted=True)
    if meaning.runs:
        await polls.note_release(connection, attempt.device, plan.release, plan.counter, None)

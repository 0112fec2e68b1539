"""Rollouts: listed, written, decided on, moved."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated

import msgspec
from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.errors import UsageError
from slipstream.server.access import authorise_approval, authorise_author
from slipstream.server.api.call import (
    Act as Action,
)
from slipstream.server.api.call import (
    Answer,
    Call,
    Change,
    Cursor,
    Done,
    Limit,
    PageQuery,
    World,
    missing,
    number_after,
    page_of,
    taken,
)
from slipstream.server.api.plans import parse_plan
from slipstream.server.api.rollout_state import RolloutDetail, describe_rollout, notes_on, show_line
from slipstream.server.fleet.moves import carry_out, draw_phase, open_phase_as
from slipstream.server.rollout.record import Act, Rollout, Status, step
from slipstream.server.rollout.track import State
from slipstream.server.store import attempts, events, rollouts, tallies
from slipstream.server.wire import Body, Reason, refusal


class RolloutQuery(Body, frozen=True):
    """Which rollouts, newest first."""

    status: Status | None = None
    after: Cursor = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)] = 50


class AttemptQuery(Body, frozen=True):
    """Which devices of a rollout."""

    state: State | None = None
    after: Cursor = ""
    limit: Limit = 100


class Remark(Body, frozen=True):
    """Why, in words; kept with the rollout, its timeline and the audit log."""

    remark: Reason = ""


async def list_rollouts(world: World, call: Call) -> Answer:
    """Rollouts, newest first."""
    query: RolloutQuery = call.query
    async with world.database.reading() as connection:
        found = await rollouts.list_page(
            connection,
            before=number_after(query.after),
            limit=query.limit,
            statuses=None if query.status is None else {query.status},
        )
        ids = [one.id for one in found]
        opened = await rollouts.open_phases(connection, ids)
        counted = await tallies.of_rollouts(connection, ids)
    lines = tuple(show_line(one, opened.get(one.id, ()), counted.get(one.id, {})) for one in found)
    return Answer(value=page_of(lines, query.limit, lambda one: one.id))


async def show_rollout(world: World, call: Call) -> Answer:
    """A rollout: each phase with its tally, each rule with its margin. ETag: its version."""
    async with world.database.reading() as connection:
        detail = await describe_rollout(connection, int(call.places["rollout"]))
    waits_for = world.board.crowding(detail.id, call.now)
    detail = msgspec.structs.replace(detail, waits_for=waits_for)
    return Answer(value=detail, headers=_tag(detail.version))


async def list_attempts(world: World, call: Call) -> Answer:
    """The devices that a rollout has made an offer to, and what became of it."""
    query: AttemptQuery = call.query
    async with world.database.reading() as connection:
        found = await attempts.list_of_rollout(
            connection,
            int(call.places["rollout"]),
            states=None if query.state is None else frozenset({query.state}),
            after=number_after(query.after) or 0,
            limit=query.limit,
        )
    return Answer(value=page_of(found, query.limit, lambda one: one.id))


async def list_rollout_events(world: World, call: Call) -> Answer:
    """A rollout's timeline, newest first."""
    query: PageQuery = call.query
    async with world.database.reading() as connection:
        found = await events.list_of_rollout(
            connection,
            int(call.places["rollout"]),
            before=number_after(query.after),
            limit=query.limit,
        )
    return Answer(value=page_of(found, query.limit, lambda one: one.id))


async def create_rollout(world: World, call: Call) -> Action:
    """Roll a release out. It waits for approval where its plan says so, or for `start_at`.

    Otherwise its first phase opens at once. `notes` say what a reader of the plan may not expect.
    Another rollout of the same release that is not over is refused (409) unless the plan says
    `beside`: what one of them holds back the other would offer. Where the installation wants an approval of every
    rollout, its plan says so whatever was sent, and the installation's token may write none (403).
    """
    plan = parse_plan(call.body)
    if world.require_approval:
        authorise_author(call.identity)
        plan = replace(plan, needs_approval=True)
    release = (await world.catalog.read()).find(plan.product, plan.release)
    if release is None:
        raise refusal(
            web.HTTPBadRequest,
            f"the repository has no release {plan.release} of {plan.product}",
            field="$.release",
        )
    if release.counter != plan.counter:
        raise refusal(
            web.HTTPBadRequest,
            f"not the release's counter; expected {release.counter}, got {plan.counter}",
            field="$.counter",
        )
    if release.channel != plan.channel:
        raise refusal(
            web.HTTPBadRequest,
            f"{plan.release} is of channel {release.channel}: devices of another refuse it; "
            f"expected {release.channel}, got {plan.channel}",
            field="$.channel",
        )
    status = Status.WAITING if plan.needs_approval else Status.SCHEDULED
    author = call.identity.actor

    async def act(connection: AsyncConnection) -> Done:
        others = await rollouts.live_of_line(connection, plan.product, plan.channel)
        same = [f"{name} ({other})" for other, name, what in others if what == plan.release]
        if same and not plan.beside and all(name != plan.name for _, name, _ in others):
            raise taken(
                f"{plan.release} is rolled out to this channel already, by {', '.join(same)}; "
                "end that first, or say that both shall offer it",
                "$.beside",
            )
        number = await rollouts.create(connection, plan, status, call.now, author=author)
        if number is None:
            raise taken(f"rollout {plan.name!r} exists", "$.name")
        words = f"created by {author}"
        await events.add(connection, call.now, "rollout", words, rollout=number)
        detail = await describe_rollout(connection, number)
        notes = notes_on(plan, [(name, what) for _, name, what in others], call.now)
        return _done(msgspec.structs.replace(detail, notes=notes), before=None, after=plan)

    return act


def decide(act: Act) -> Change:
    """The handler of an approval or denial."""

    async def handle(world: World, call: Call) -> Action:
        rollout = await _find(world, call)
        who, remark = call.identity.actor, call.body.remark
        async with world.database.reading() as connection:
            papers = await rollouts.papers(connection, rollout.id)
        authorise_approval(call.identity, papers.author)
        reason = _reason(act, who, remark)

        async def write(connection: AsyncConnection) -> Done:
            await _move(connection, rollout, act, reason, call)
            await rollouts.sign(connection, rollout.id, who, remark)
            return await _moved(connection, rollout)

        _check(rollout, act)
        return write

    handle.__doc__ = {
        Act.APPROVE: "Let a rollout begin, with a remark. Not for its author, nor the installation's token.",
        Act.DENY: "Refuse a rollout, with a remark. Not for its author, nor the installation's token.",
    }[act]
    return handle


def move(act: Act) -> Change:
    """The handler of a pause, a resumption or an abort."""

    async def handle(world: World, call: Call) -> Action:
        rollout = await _find(world, call)
        reason = _reason(act, call.identity.actor, call.body.remark)
        _check(rollout, act)

        async def write(connection: AsyncConnection) -> Done:
            await _move(connection, rollout, act, reason, call)
            return await _moved(connection, rollout)

        return write

    handle.__doc__ = {
        Act.PAUSE: "Make no new offers until it is resumed.",
        Act.RESUME: "Go on; the failures until now no longer count for abort rules.",
        Act.ABORT: "End it. Nothing is offered any more, offers that stand are withdrawn when their device is next heard of.",
    }[act]
    return handle


async def start_rollout(world: World, call: Call) -> Action:
    """Open the first phase of a scheduled rollout, without waiting for its time."""
    rollout = await _find(world, call)
    _check(rollout, Act.START)
    return await _open(
        world, call, rollout, _reason(Act.START, call.identity.actor, call.body.remark)
    )


async def open_next_phase(world: World, call: Call) -> Action:
    """Open the next phase of a running rollout, whether or not the one before is proved.

    Who does accepts the failures until now, as who resumes one: abort rules no longer count them.
    """
    rollout = await _find(world, call)
    if rollout.status is not Status.RUNNING:
        raise taken(f"a rollout that is {_words(rollout.status)} opens no phase")
    if len(rollout.opened) == len(rollout.plan.phases):
        raise taken("all phases are open")
    remark = f": {call.body.remark}" if call.body.remark else ""
    return await _open(world, call, rollout, f"opened by {call.identity.actor}{remark}")


async def _find(world: World, call: Call) -> Rollout:
    """The rollout of a call: 404 if there is none, 412 if it is not at the version of If-Match."""
    number = int(call.places["rollout"])
    async with world.database.reading() as connection:
        found = await rollouts.load(connection, ids=[number])
    if not found:
        raise missing(f"rollout {number}")
    if call.version not in (None, found[0].version):
        raise _changed(call)
    return found[0]


def _check(rollout: Rollout, act: Act) -> None:
    try:
        step(rollout.status, act)
    except UsageError as error:
        raise taken(str(error)) from error


async def _move(
    connection: AsyncConnection, rollout: Rollout, act: Act, reason: str, call: Call
) -> None:
    if not await carry_out(connection, rollout, act, reason, call.now):
        raise _changed(call)


async def _open(world: World, call: Call, rollout: Rollout, reason: str) -> Action:
    drawn = await draw_phase(world.database, rollout)

    async def write(connection: AsyncConnection) -> Done:
        if not await open_phase_as(connection, rollout, drawn, reason, call.now, by_hand=True):
            raise _changed(call)
        return await _moved(connection, rollout)

    return write


async def _moved(connection: AsyncConnection, before: Rollout) -> Done:
    detail = await describe_rollout(connection, before.id)
    return _done(
        detail,
        before={"status": before.status, "phase": before.phase + 1},
        after={"status": detail.status, "phase": detail.phase, "reason": detail.reason},
    )


def _done(detail: RolloutDetail, *, before: object, after: object) -> Done:
    return Done(
        value=detail,
        headers=_tag(detail.version),
        thing=f"rollout {detail.id} {detail.plan.name}",
        before=before,
        after=after,
        moves=True,
    )


def _changed(call: Call) -> web.HTTPError:
    words = "the rollout has changed meanwhile: look at it again"
    if call.version is None:
        return refusal(web.HTTPConflict, words)
    return refusal(web.HTTPPreconditionFailed, words, field="If-Match")


def _tag(version: int) -> Mapping[str, str]:
    return {"ETag": f'"{version}"'}


def _reason(act: Act, who: str, remark: str) -> str:
    done = {
        Act.APPROVE: "approved",
        Act.DENY: "denied",
        Act.START: "started",
        Act.PAUSE: "paused",
        Act.RESUME: "resumed",
        Act.ABORT: "aborted",
    }[act]
    return f"{done} by {who}" + (f": {remark}" if remark else "")


def _words(status: Status) -> str:
    return status.value.replace("_", " ")

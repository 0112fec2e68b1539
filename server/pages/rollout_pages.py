"""GET /rollouts, /rollouts/ID and /rollouts/new; what their buttons do; and GET /approvals."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncConnection

from slipstream.delta.errors import UsageError
from slipstream.delta.limits import ROWS_MAX, TIMELINE_MAX
from slipstream.server.access import Deed
from slipstream.server.catalog import Catalog
from slipstream.server.pages.desk import Desk, lead_to
from slipstream.server.pages.draft import DEFAULTS, PHASE_ROWS, RULE_ROWS, Draft, read_draft
from slipstream.server.pages.rollout_view import make_card, make_live
from slipstream.server.pages.select import preview
from slipstream.server.pages.visitor import Visitor
from slipstream.server.pages.words import (
    EVENTS,
    FAILURES,
    STATES,
    URGENCIES,
    Mark,
    phase_words,
    plan_rows,
    rule_words,
    span_words,
    success_words,
)
from slipstream.server.rollout.facts import Facts
from slipstream.server.rollout.order import open_phase
from slipstream.server.rollout.plan import Phase, Plan
from slipstream.server.rollout.record import Act, Rollout, Status
from slipstream.server.rollout.track import FAILURES as FAILED
from slipstream.server.store import attempts, events, rollouts
from slipstream.server.wire import query_integer, refusal

_ACTS = {
    "start": Act.START,
    "pause": Act.PAUSE,
    "resume": Act.RESUME,
    "abort": Act.ABORT,
    "approve": Act.APPROVE,
    "deny": Act.DENY,
}
_DECISIONS = frozenset({Act.APPROVE, Act.DENY})
_FAILURES_SHOWN = 20
_LINKED = ("release", "filter")  # what a link to the form may fill in


@dataclass(frozen=True, slots=True)
class RolloutsHandler:
    """Answers the pages about rollouts."""

    desk: Desk

    def routes(self) -> list[web.RouteDef]:
        desk = self.desk
        return [
            desk.get("/rollouts", self._list),
            desk.get("/rollouts/new", self._new, Deed.ROLL_OUT),
            desk.post("/rollouts/new", self._create, Deed.ROLL_OUT),
            desk.post("/rollouts/preview", self._preview, Deed.ROLL_OUT),
            desk.get(r"/rollouts/{id:\d{1,15}}", self._show),
            desk.post(r"/rollouts/{id:\d{1,15}}/{act:\w+}", self._act, Deed.SEE),
            desk.get("/approvals", self._approvals),
        ]

    async def _list(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        now = self.desk.now()
        before = query_integer(request, "before", 0, 0, 10**9) or None
        async with self.desk.database.reading() as connection:
            found = await rollouts.list_page(connection, before=before, limit=ROWS_MAX + 1)
            shown = found[:ROWS_MAX]
            ids = [one.id for one in shown]
            opened = await rollouts.open_phases(connection, ids)
            counted = await rollouts.tallies_of(connection, ids)
        return self.desk.render(
            request,
            visitor,
            "rollouts.html",
            live="" if before else "fleet",
            cards=[
                make_card(one, opened.get(one.id, ()), counted.get(one.id, {}), now)
                for one in shown
            ],
            next=shown[-1].id if len(found) > ROWS_MAX else None,
        )

    async def _show(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        desk, now = self.desk, self.desk.now()
        rollout = await self._find(request)
        async with desk.database.reading() as connection:
            opened = (await rollouts.open_phases(connection, [rollout.id])).get(rollout.id, ())
            counted = await rollouts.tallies(connection, rollout.id)
            by_source = await attempts.confirmed_from(connection, rollout.id)
            failed = await attempts.newest_of_rollout(
                connection, rollout.id, FAILED, limit=_FAILURES_SHOWN
            )
            happened = await events.list_of_kinds(
                connection, ("phase", "rollout"), limit=TIMELINE_MAX, rollout=rollout.id
            )
        catalog, trouble = await desk.catalog_or_trouble()
        live = make_live(
            rollout,
            opened,
            counted,
            by_source,
            catalog.releases if catalog else (),
            now,
        )
        return desk.render(
            request,
            visitor,
            "rollout.html",
            live=f"rollout/{rollout.id}",
            trouble=trouble,
            rollout=rollout,
            view=live,
            plan=plan_rows(rollout.plan),
            failed=[
                (one, STATES[one.state], FAILURES[one.failure] if one.failure else "")
                for one in failed
            ],
            failed_total=live.card.failed,
            timeline=[(one, EVENTS.get(one.kind, Mark.NONE)) for one in happened],
            may_roll_out=visitor.may(Deed.ROLL_OUT),
            may_decide=visitor.may(Deed.APPROVE),
        )

    async def _act(
        self, request: web.Request, visitor: Visitor, fields: Mapping[str, str]
    ) -> web.StreamResponse:
        name = request.match_info["act"]
        rollout = await self._find(request)
        remark = " ".join(fields.get("remark", "").split())[:500]
        act = _ACTS.get(name)
        if name != "next" and act is None:
            raise refusal(web.HTTPNotFound, "There is no such page.")
        visitor.require(Deed.APPROVE if act in _DECISIONS else Deed.ROLL_OUT)
        if fields.get("version") != str(rollout.version):
            raise refusal(
                web.HTTPConflict,
                f"{rollout.plan.name} has changed since this page was loaded: look again.",
            )
        words = f"{_SAID[name]} by {visitor.identity.actor}" + (f": {remark}" if remark else "")
        if not await self._carry_out(rollout, act, words):
            raise refusal(
                web.HTTPConflict, f"{rollout.plan.name} has changed meanwhile: look again."
            )
        return lead_to(f"/rollouts/{rollout.id}")

    async def _carry_out(self, rollout: Rollout, act: Act | None, words: str) -> bool:
        desk = self.desk
        if act is None:
            if rollout.status is not Status.RUNNING or len(rollout.opened) >= len(
                rollout.plan.phases
            ):
                raise UsageError("there is no next phase to open")
            done = await desk.engine.open_next(rollout, words, desk.now())
        elif act is Act.START:
            done = await desk.engine.open_next(rollout, words, desk.now())
        else:
            done = await desk.engine.change(rollout, act, words, desk.now())
        await desk.board.refresh()
        desk.engine.wake()
        return done

    async def _approvals(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        async with self.desk.database.reading() as connection:
            found = await rollouts.list_of_status(connection, {Status.WAITING}, limit=ROWS_MAX)
            decided = await events.list_of_kinds(connection, ("rollout",), limit=TIMELINE_MAX)
        waiting = [await self._waiting(one) for one in found]
        verdicts = [
            one for one in decided if one.text.startswith(("scheduled: approved", "denied"))
        ]
        async with self.desk.database.reading() as connection:
            plans = await rollouts.plans(
                connection, [one.rollout for one in verdicts if one.rollout is not None]
            )
        return self.desk.render(
            request,
            visitor,
            "approvals.html",
            live="fleet",
            waiting=waiting,
            decided=[
                (one, plans[one.rollout].name)
                for one in verdicts
                if one.rollout is not None and one.rollout in plans
            ],
            may_decide=visitor.may(Deed.APPROVE),
        )

    async def _waiting(self, rollout: Rollout) -> Mapping[str, Any]:
        plan = rollout.plan
        matching = await preview(self.desk.database, plan.product, plan.channel, plan.condition)
        first = await asyncio.to_thread(first_phase, plan, matching.population)
        return {
            "rollout": rollout,
            "devices": len(matching.population),
            "first": first,
            "phases": [(phase_words(one), phase_rule(one)) for one in plan.phases],
            "rules": [rule_words(one) for one in plan.abort],
            "plan": plan_rows(plan),
        }

    async def _new(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        catalog = await self.desk.catalog.read()
        fields = {**DEFAULTS, **{name: request.query.get(name, "") for name in _LINKED}}
        return await self._form(request, visitor, catalog, read_draft(fields, catalog))

    async def _preview(
        self, request: web.Request, visitor: Visitor, fields: Mapping[str, str]
    ) -> web.StreamResponse:
        catalog = await self.desk.catalog.read()
        return await self._form(request, visitor, catalog, read_draft(fields, catalog), told=True)

    async def _create(
        self, request: web.Request, visitor: Visitor, fields: Mapping[str, str]
    ) -> web.StreamResponse:
        desk, now = self.desk, self.desk.now()
        catalog = await desk.catalog.read()
        draft = read_draft(fields, catalog)
        plan = draft.plan
        if plan is None:
            return await self._form(request, visitor, catalog, draft, status=400, told=True)
        status = Status.WAITING if plan.needs_approval else Status.SCHEDULED

        async def act(connection: AsyncConnection) -> int | None:
            made = await rollouts.create(connection, plan, status, now)
            if made is not None:
                words = f"created by {visitor.identity.actor}: {plan.release}"
                await events.add(connection, now, "rollout", words, rollout=made)
            return made

        made = await desk.database.write(act)
        if made is None:
            draft = replace(draft, problems={"name": "there is a rollout of that name"})
            return await self._form(request, visitor, catalog, draft, status=409, told=True)
        await desk.board.refresh()
        desk.engine.wake()
        return lead_to(f"/rollouts/{made}")

    async def _form(
        self,
        request: web.Request,
        visitor: Visitor,
        catalog: Catalog,
        draft: Draft,
        *,
        status: int = 200,
        told: bool = False,
    ) -> web.StreamResponse:
        return self.desk.render(
            request,
            visitor,
            "new_rollout.html",
            status=status,
            draft=draft,
            told=told,
            releases=catalog.releases,
            beside=await self._beside(_named(draft, catalog)),
            phase_rows=range(1, PHASE_ROWS + 1),
            rule_rows=range(1, RULE_ROWS + 1),
            classes=[(kind.value, text) for kind, text in FAILURES.items()],
            urgencies=[(kind.value, text) for kind, text in URGENCIES.items()],
        )

    async def _beside(self, draft: Draft) -> Mapping[str, Any] | None:
        """What stands beside the form: whom the plan is for."""
        plan = draft.plan
        if plan is None:
            return None
        found = await preview(self.desk.database, plan.product, plan.channel, plan.condition)
        return {
            "plan": plan,
            "whole": found.whole,
            "devices": len(found.population),
            "sample": found.sample,
            "first": await asyncio.to_thread(first_phase, plan, found.population),
        }

    async def _find(self, request: web.Request) -> Rollout:
        number = int(request.match_info["id"])
        async with self.desk.database.reading() as connection:
            found = await rollouts.load(connection, ids=[number])
        if not found:
            raise refusal(web.HTTPNotFound, f"There is no rollout {number}.")
        return found[0]


_SAID = {
    "start": "started",
    "pause": "paused",
    "resume": "resumed",
    "abort": "aborted",
    "approve": "approved",
    "deny": "denied",
    "next": "opened",
}


def _named(draft: Draft, catalog: Catalog) -> Draft:
    """The same, with some name if it has none yet: a preview need not wait for it."""
    if draft.fields.get("name", "").strip():
        return draft
    return read_draft({**draft.fields, "name": "preview"}, catalog)


def first_phase(plan: Plan, population: tuple[Facts, ...]) -> int:
    """How many devices the first phase would take now: those that run the release do not count."""
    ready = [
        one
        for one in population
        if not (one.release == plan.release or (one.counter or 0) >= plan.counter)
    ]
    return open_phase(plan, (), ready).members


def phase_rule(phase: Phase) -> str:
    """When a phase has proved itself, as a sentence."""
    rule = success_words(phase.success)
    return f"{rule}, then {span_words(phase.soak_s)} of soak" if phase.soak_s else rule

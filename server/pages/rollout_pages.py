"""GET /rollouts, /rollouts/ID and /rollouts/new; what their buttons do; and GET /approvals."""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from aiohttp import web

from slipstream.delta.limits import ROWS_MAX, TIMELINE_MAX
from slipstream.server.access import Deed
from slipstream.server.api.rollout_state import RolloutDetail
from slipstream.server.api.rollouts import Remark
from slipstream.server.catalog import Catalog
from slipstream.server.matching import population
from slipstream.server.pages.desk import Desk, lead_to
from slipstream.server.pages.draft import DEFAULTS, PHASE_ROWS, RULE_ROWS, Draft, read_draft
from slipstream.server.pages.foresee import Foreseer, Foresight, first_phase
from slipstream.server.pages.rollout_view import make_card, make_live
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
from slipstream.server.rollout.plan import FailureClass, Phase
from slipstream.server.rollout.record import Rollout, Status
from slipstream.server.rollout.track import FAILURES as FAILED
from slipstream.server.store import attempts, events, rollouts, tallies
from slipstream.server.wire import error_of, query_integer, refusal

_ACTS = frozenset({"start", "pause", "resume", "abort", "approve", "deny", "next"})
_FAILURES_SHOWN = 20
_DECIDED_SHOWN = 20
_LINKED = ("release", "filter")  # what a link to the form may fill in


@dataclass(frozen=True, slots=True)
class RolloutsHandler:
    """Answers the pages about rollouts."""

    desk: Desk
    foreseer: Foreseer

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
        before = query_integer(request, "before", 0, 0, 10**9) or None
        async with self.desk.database.reading() as connection:
            found = await rollouts.list_page(connection, before=before, limit=ROWS_MAX + 1)
            shown = found[:ROWS_MAX]
            ids = [one.id for one in shown]
            opened = await rollouts.open_phases(connection, ids)
            counted = await tallies.of_rollouts(connection, ids)
        return self.desk.render(
            request,
            visitor,
            "rollouts.html",
            live="" if before else "fleet",
            cards=[
                make_card(one, opened.get(one.id, ()), counted.get(one.id, {})) for one in shown
            ],
            next=shown[-1].id if len(found) > ROWS_MAX else None,
        )

    async def _show(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        desk, now = self.desk, self.desk.now()
        rollout = await self._find(request)
        async with desk.database.reading() as connection:
            papers = await rollouts.papers(connection, rollout.id)
            opened = (await rollouts.open_phases(connection, [rollout.id])).get(rollout.id, ())
            counted = await tallies.of_rollout(connection, rollout.id)
            traffic = await attempts.traffic_of(connection, rollout.id)
            failed = await attempts.newest_of_rollout(
                connection, rollout.id, FAILED, limit=_FAILURES_SHOWN
            )
            happened = await events.list_of_kinds(
                connection, ("phase", "rollout"), limit=TIMELINE_MAX, rollout=rollout.id
            )
        _, trouble = await desk.catalog_or_trouble()
        live = make_live(
            rollout,
            opened,
            counted,
            traffic,
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
            may_decide=visitor.may_decide(papers.author),
            papers=papers,
            waits_for=desk.board.crowding(rollout.id, now),
        )

    async def _act(
        self, request: web.Request, visitor: Visitor, fields: Mapping[str, str]
    ) -> web.StreamResponse:
        name, number = request.match_info["act"], request.match_info["id"]
        if name not in _ACTS:
            raise refusal(web.HTTPNotFound, "There is no such page.")
        remark = Remark(" ".join(fields.get("remark", "").split())[:500])
        version = fields.get("version", "")
        await self.desk.carry_out(
            f"rollout.{name}",
            visitor.identity,
            {"rollout": number},
            remark,
            version=int(version) if re.fullmatch(r"[0-9]{1,15}", version) else -1,
        )
        return lead_to(f"/rollouts/{number}")

    async def _approvals(self, request: web.Request, visitor: Visitor) -> web.StreamResponse:
        async with self.desk.database.reading() as connection:
            found = await rollouts.list_page(
                connection, before=None, limit=ROWS_MAX, statuses={Status.WAITING}
            )
            papers = {one.id: await rollouts.papers(connection, one.id) for one in found}
            decided = await rollouts.decisions(connection, limit=_DECIDED_SHOWN)
        return self.desk.render(
            request,
            visitor,
            "approvals.html",
            live="fleet",
            waiting=[await self._waiting(one, papers[one.id], visitor) for one in found],
            decided=decided,
        )

    async def _waiting(
        self, rollout: Rollout, papers: rollouts.Papers, visitor: Visitor
    ) -> Mapping[str, Any]:
        plan = rollout.plan
        matching = await population(self.desk.database, plan.condition, plan.product, plan.channel)
        first = await asyncio.to_thread(first_phase, plan, matching.devices)
        return {
            "rollout": rollout,
            "author": papers.author,
            "may_decide": visitor.may_decide(papers.author),
            "devices": len(matching.devices),
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
        catalog = await self.desk.catalog.read()
        draft = read_draft(fields, catalog)
        plan = draft.plan
        if plan is None:
            return await self._form(request, visitor, catalog, draft, status=400, told=True)
        try:
            done = await self.desk.carry_out(
                "rollout.create", visitor.identity, {}, msgspec.json.encode(plan)
            )
        except web.HTTPConflict as error:
            draft = replace(draft, problems={"name": error_of(error)})
            return await self._form(request, visitor, catalog, draft, status=409, told=True)
        assert isinstance(done.value, RolloutDetail)
        return lead_to(f"/rollouts/{done.value.id}")

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
            require_approval=self.desk.world.require_approval,
            urgencies=[(kind.value, text) for kind, text in URGENCIES.items()],
        )

    async def _beside(self, draft: Draft) -> Foresight | None:
        """What stands beside the form: whom the plan is for, and what would come of it."""
        if draft.plan is None:
            return None
        supposed = {
            FailureClass.BOOT: draft.boot_percent / 100,
            FailureClass.SILENT: draft.silent_percent / 100,
        }
        return await self.foreseer.foresee(draft.plan, supposed)

    async def _find(self, request: web.Request) -> Rollout:
        number = int(request.match_info["id"])
        async with self.desk.database.reading() as connection:
            found = await rollouts.load(connection, ids=[number])
        if not found:
            raise refusal(web.HTTPNotFound, f"There is no rollout {number}.")
        return found[0]


def _named(draft: Draft, catalog: Catalog) -> Draft:
    """The same, with some name if it has none yet: a preview need not wait for it."""
    if draft.fields.get("name", "").strip():
        return draft
    return read_draft({**draft.fields, "name": "preview"}, catalog)


def phase_rule(phase: Phase) -> str:
    """When a phase has proved itself, as a sentence."""
    rule = success_words(phase.success)
    return f"{rule}, then {span_words(phase.soak_s)} of soak" if phase.soak_s else rule

"""The actions of a device: DDI's name for offers, by their ids; and which of them is next."""

import re
from dataclasses import dataclass, replace

from aiohttp import web

from slipstream.server.catalog import CatalogReader
from slipstream.server.ddi.answers import Terms, terms_of
from slipstream.server.ddi.step import (
    Cancel,
    Confirm,
    Deploy,
    Rest,
    Step,
    bound_step,
    is_stopping,
    next_step,
    superseded,
)
from slipstream.server.ddi.visit import Reception, Visit
from slipstream.server.fleet.board import Board
from slipstream.server.fleet.offers import make_offer, prefer
from slipstream.server.fleet.polls import free_places
from slipstream.server.rollout.offer import Install, Standing
from slipstream.server.rollout.plan import Plan
from slipstream.server.rollout.track import State
from slipstream.server.store import rollouts
from slipstream.server.store.attempts import Attempt
from slipstream.server.store.controllers import Controller
from slipstream.server.store.database import Database
from slipstream.server.wire import refusal

_NUMBER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Actions:
    """Finds actions, and makes new ones."""

    database: Database
    board: Board
    catalog: CatalogReader
    reception: Reception

    async def next_of(self, visit: Visit) -> tuple[Step, Terms | None]:
        """What the device is told next. A new offer is granted before this returns it."""
        step = await self._before(visit) or await self._offer(visit)
        if isinstance(step, Deploy | Confirm):
            return step, self.terms(step.attempt, await self.plan_of(step.attempt), visit.now)
        return step, None

    async def _before(self, visit: Visit) -> Step | None:
        """What has to come before any new offer."""
        controller, view = visit.controller, self.board.view
        step = bound_step(controller.attempts, controller.statuses)
        if step is not None or not controller.attempts:
            return step
        catalog = await self.catalog.read()
        decision = prefer(view, catalog, _standing(controller), visit.now)
        return superseded(controller.attempts, decision)

    async def _offer(self, visit: Visit) -> Step:
        controller, now = visit.controller, visit.now
        catalog = await self.catalog.read()
        decision = await make_offer(self.database, self.board, catalog, _standing(controller), now)
        if not isinstance(decision, Install) or decision.rollout is None:
            if controller.holding:
                states = (one.state for one in controller.attempts)
                await free_places(self.database, visit.device, states)
            return Rest()
        if decision.fresh:
            controller = await self.reception.know(visit.device, now) or controller
        return next_step(
            controller.attempts,
            decision,
            open_window=terms_of(decision.rollout.plan, now).window != "unavailable",
            agreed=controller.auto_confirm is not None,
        )

    @staticmethod
    def terms(attempt: Attempt, plan: Plan, now: int) -> Terms:
        """What is installed already is not held back: it can only be reported on."""
        terms = terms_of(plan, now)
        if attempt.state is State.INSTALLED and terms.window is not None:
            return replace(terms, update=terms.download, window="available")
        return terms

    async def find(self, visit: Visit) -> tuple[Attempt, Plan]:
        """The action of the path, and its rollout's plan; 404 for another device's."""
        text = visit.request.match_info["action"]
        found = visit.controller.attempt(int(text)) if _NUMBER.fullmatch(text) else None
        if found is None:
            raise refusal(web.HTTPNotFound, "no such action of this device")
        return found, await self.plan_of(found)

    async def plan_of(self, attempt: Attempt) -> Plan:
        known = self.board.view.by_id.get(attempt.rollout)
        if known is not None:
            return known.plan
        async with self.database.reading() as connection:
            found = (await rollouts.plans(connection, [attempt.rollout])).get(attempt.rollout)
        if found is None:
            raise refusal(web.HTTPNotFound, "this version cannot read the action's rollout")
        return found

    async def stops(self, visit: Visit, attempt: Attempt) -> bool:
        """Whether the device is asked to stop this action."""
        if is_stopping(attempt, visit.controller.statuses[attempt.rollout]):
            return True
        step = await self._before(visit)
        return isinstance(step, Cancel) and step.attempt.id == attempt.id


def _standing(controller: Controller) -> Standing:
    return Standing(
        facts=controller.device.facts(),
        refused=controller.quarantined,
        # What lapsed is offered anew, within the bounds of a new offer.
        attempts={one.rollout: one.state for one in controller.attempts if not one.lapsed},
        foreign=True,
    )

"""hawkBit's DDI over HTTP: `/{tenant}/controller/v1/{device}/...`.

Every success is 200: rauc-hawkbit-updater takes nothing else. What a device is told next is step.py,
what its feedback means feedback.py, what is written hear.py; here requests become values and
values answers.
"""

import json
import re
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog
from aiohttp import web

from slipstream.delta.errors import FormatError
from slipstream.delta.limits import (
    ACTION_HISTORY_MAX,
    NAME_CHARS_MAX,
    POLL_BYTES_MAX,
    REASON_CHARS_MAX,
    REPORT_BYTES_MAX,
)
from slipstream.server.catalog import CatalogReader
from slipstream.server.ddi import answers, hear
from slipstream.server.ddi.actions import Actions
from slipstream.server.ddi.dirty import parse_dirty
from slipstream.server.ddi.downloads import Downloads
from slipstream.server.ddi.feedback import Feedback, parse_attributes, parse_feedback
from slipstream.server.ddi.hear import Outcome
from slipstream.server.ddi.step import (
    Cancel,
    Confirm,
    Deploy,
    Rest,
    awaits_consent,
)
from slipstream.server.ddi.visit import Reception, Visit, stranger
from slipstream.server.devices import PollLog
from slipstream.server.fleet.board import Board
from slipstream.server.fleet.engine import Engine
from slipstream.server.fleet.hear import hear_poll
from slipstream.server.metrics import Metrics
from slipstream.server.rollout.plan import Plan
from slipstream.server.rollout.track import State
from slipstream.server.store import controllers, reports
from slipstream.server.store.attempts import Attempt
from slipstream.server.store.controllers import AutoConfirm, Controller
from slipstream.server.store.database import Database
from slipstream.server.store.devices import Device
from slipstream.server.wire import answer_tagged, read_body, refusal

_log: Any = structlog.get_logger(__name__)
_NAME = re.compile(rf"[A-Za-z0-9._:@+~-]{{1,{NAME_CHARS_MAX}}}")
_ROOT = re.compile(r"[0-9a-f]{64}")
_NUMBER = re.compile(r"[0-9]{1,18}")
# Attributes in which a device says what a poll of /v1 would: docs/ddi.md.
_RELEASE, _BOOTED_ROOT = "slipstream.release", "slipstream.booted_root"
SHOW_S = 86_400  # so long after an installation a device may take until it says what it runs
_SETTLED_WELL = (State.CONFIRMED, State.INSTALLED)


@dataclass(frozen=True, slots=True)
class DdiDoor:
    """Answers hawkBit's clients."""

    database: Database
    board: Board
    engine: Engine
    polls: PollLog
    catalog: CatalogReader
    metrics: Metrics
    reception: Reception
    actions: Actions
    downloads: Downloads
    interval_s: int

    def routes(self) -> list[web.RouteDef]:
        base = "/{tenant}/controller/v1/{device}"
        artifacts = base + "/softwaremodules/{module}/artifacts"
        get, post, put = web.get, web.post, web.put
        found = [
            (get, base, self._poll),
            (get, base + "/deploymentBase/{action}", self._deployment),
            (post, base + "/deploymentBase/{action}/feedback", self._feedback),
            (get, base + "/cancelAction/{action}", self._cancel),
            (post, base + "/cancelAction/{action}/feedback", self._cancel_feedback),
            (get, base + "/installedBase/{action}", self._installed),
            (put, base + "/installedBase", self._set_installed),
            (put, base + "/configData", self._config_data),
            (get, base + "/confirmationBase", self._confirmations),
            (get, base + "/confirmationBase/{action}", self._confirmation),
            (post, base + "/confirmationBase/activateAutoConfirm", self._activate),
            (post, base + "/confirmationBase/deactivateAutoConfirm", self._deactivate),
            (post, base + "/confirmationBase/{action}/feedback", self._confirmation_feedback),
            (get, artifacts, self.downloads.list_all),
            (get, artifacts + "/{file}", self.downloads.send),
        ]
        return [make(path, _checked(handler)) for make, path, handler in found]

    # --- what to do

    async def _poll(self, request: web.Request) -> web.Response:
        visit = await self.reception.enter(request)
        self.polls.touch(visit.device, visit.now)
        step, terms = await self.actions.next_of(visit)
        self.metrics.count_poll(_COUNTED[type(step)])
        return answer_tagged(
            request,
            answers.poll_answer(
                visit.place,
                step,
                self.interval_s,
                terms=terms,
                installed=_installed(visit.controller),
                wants_attributes=_wants_attributes(visit),
            ),
        )

    async def _deployment(self, request: web.Request) -> web.Response:
        visit = await self.reception.enter(request)
        attempt, plan = await self.actions.find(visit)
        if attempt.closed_at is not None or await self.actions.stops(visit, attempt):
            raise refusal(web.HTTPNotFound, "the action is closed, or shall be stopped")
        if awaits_consent(attempt, plan, agreed=visit.controller.auto_confirm is not None):
            raise refusal(web.HTTPNotFound, "the action waits for confirmation")
        return await self._describe("deployment", visit, attempt, plan)

    async def _installed(self, request: web.Request) -> web.Response:
        visit = await self.reception.enter(request)
        attempt, plan = await self.actions.find(visit)
        if attempt.closed_at is None or attempt.state not in _SETTLED_WELL:
            raise refusal(web.HTTPNotFound, "nothing was installed by this action")
        return await self._describe("deployment", visit, attempt, plan)

    async def _describe(self, key: str, visit: Visit, attempt: Attempt, plan: Plan) -> web.Response:
        release = (await self.catalog.read()).find(plan.product, plan.release)
        if release is None or not release.artifacts:
            raise refusal(web.HTTPNotFound, f"{plan.release} is not in the repository")
        terms = self.actions.terms(attempt, plan, visit.now)
        history = await self._history(visit, attempt)
        return answer_tagged(
            visit.request,
            answers.deployment(key, attempt.id, visit.place, release, terms, history),
        )

    async def _history(self, visit: Visit, attempt: Attempt) -> tuple[str, list[str]] | None:
        text = visit.request.query.get("actionHistory", "0")
        wanted = int(text) if _NUMBER.fullmatch(text) else 0
        if wanted == 0:
            return None
        async with self.database.reading() as connection:
            kept = await reports.list_of(connection, visit.device, limit=ACTION_HISTORY_MAX)
        lines: list[str] = []
        for one in kept:
            details = msgspec.json.decode(one.details)
            if isinstance(details, dict) and details.get("action") == str(attempt.id):
                lines += reversed(details.get("details", ()))
        return attempt.state.value.upper(), lines[: min(wanted, ACTION_HISTORY_MAX)]

    # --- what became of it

    async def _feedback(self, request: web.Request) -> web.Response:
        visit = await self.reception.enter(request)
        attempt, plan = await self.actions.find(visit)
        if awaits_consent(attempt, plan, agreed=visit.controller.auto_confirm is not None):
            raise refusal(web.HTTPNotFound, "the action waits for confirmation")
        raw, feedback = await _read_feedback(request)
        outcome = await hear.hear_feedback(
            self.database, visit.device, attempt.id, plan, feedback, raw, visit.now
        )
        return self._heard(visit, attempt, feedback, outcome)

    async def _cancel(self, request: web.Request) -> web.Response:
        visit = await self.reception.enter(request)
        attempt, _ = await self.actions.find(visit)
        if not await self.actions.stops(visit, attempt):
            raise refusal(web.HTTPNotFound, "the action shall not be stopped")
        return answer_tagged(request, answers.cancel(attempt.id))

    async def _cancel_feedback(self, request: web.Request) -> web.Response:
        visit = await self.reception.enter(request)
        attempt, plan = await self.actions.find(visit)
        raw, feedback = await _read_feedback(request)
        outcome = await hear.hear_reply(
            self.database,
            visit.device,
            attempt.id,
            plan,
            feedback,
            raw,
            visit.now,
            asked=await self.actions.stops(visit, attempt),
        )
        return self._heard(visit, attempt, feedback, outcome)

    def _heard(
        self, visit: Visit, attempt: Attempt, feedback: Feedback, outcome: Outcome
    ) -> web.Response:
        match outcome:
            case Outcome.HEARD:
                self.engine.wake()
                self.metrics.count_report(f"ddi_{feedback.execution.value}", duplicate=False)
                _log.info(
                    "feedback",
                    device=visit.device,
                    release=attempt.release,
                    said=feedback.said,
                    reason=feedback.reason,
                )
            case Outcome.AGAIN:
                self.metrics.count_report("ddi", duplicate=True)
            case Outcome.CLOSED:
                raise refusal(web.HTTPGone, "the action is closed")
            case Outcome.UNKNOWN:
                raise refusal(web.HTTPNotFound, "no such action")
            case Outcome.NOT_STOPPING:
                raise _cannot_stop(visit.request)
        return web.Response()

    # --- who the device is

    async def _config_data(self, request: web.Request) -> web.Response:
        visit = await self.reception.enter(request)
        mode, data = parse_attributes(await _read(request, POLL_BYTES_MAX))
        said = None if mode == "remove" else data.get(_RELEASE)
        root = data.get(_BOOTED_ROOT)
        if said is not None:
            _check_release(said, root)
        try:
            device = await hear.hear_attributes(self.database, visit.device, mode, data)
        except KeyError as error:
            raise stranger("the device was removed") from error
        if said is not None:
            await self._runs(visit, device, said, root)
        return web.Response()

    async def _set_installed(self, request: web.Request) -> web.Response:
        visit = await self.reception.enter(request)
        body = await _read(request, POLL_BYTES_MAX)
        said = str(body.get("version"))
        _check_release(said, None)
        await self._runs(visit, visit.controller.device, said, None)
        return web.Response()

    async def _runs(self, visit: Visit, device: Device, said: str, root: str | None) -> None:
        """The device says which release it runs: that may prove an offer, or that it fell back."""
        catalog = await self.catalog.read()
        release = catalog.find(device.product, said)
        counter = None if release is None else release.counter
        device = await hear.hear_release(self.database, device, said, counter, root, visit.now)
        # One that has installed and not started yet names what it has left: that is no fall back.
        states = {
            one.rollout: one.state
            for one in visit.controller.attempts
            if one.state is not State.CONFIRMED or one.shown_at is not None or one.release == said
        }
        if await hear_poll(
            self.database,
            self.board.view,
            catalog,
            device.facts(),
            states,
            {},
            visit.now,
            trial=False,
        ):
            self.engine.wake()

    # --- whether the person at it agrees

    async def _confirmations(self, request: web.Request) -> web.Response:
        visit = await self.reception.enter(request)
        step, terms = await self.actions.next_of(visit)
        return answer_tagged(
            request,
            answers.confirmation_state(visit.place, visit.controller.auto_confirm, step, terms),
        )

    async def _confirmation(self, request: web.Request) -> web.Response:
        visit = await self.reception.enter(request)
        attempt, plan = await self._waiting(visit)
        return await self._describe("confirmation", visit, attempt, plan)

    async def _confirmation_feedback(self, request: web.Request) -> web.Response:
        visit = await self.reception.enter(request)
        attempt, _ = await self._waiting(visit)
        body = await _read(request, REPORT_BYTES_MAX)
        word = str(body.get("confirmation")).lower()
        if word not in ("confirmed", "denied"):
            raise refusal(web.HTTPBadRequest, "confirmed or denied", field="$.confirmation")
        details = body.get("details")
        lines = tuple(map(str, details)) if isinstance(details, list) else ()
        await hear.hear_consent(
            self.database, visit.device, attempt.id, lines, visit.now, agreed=word == "confirmed"
        )
        return web.Response()

    async def _waiting(self, visit: Visit) -> tuple[Attempt, Plan]:
        """The action, where it waits for consent; 410 where it is closed, 404 otherwise."""
        attempt, plan = await self.actions.find(visit)
        if attempt.closed_at is not None:
            raise refusal(web.HTTPGone, "the action is closed")
        agreed = visit.controller.auto_confirm is not None
        if await self.actions.stops(visit, attempt) or not awaits_consent(
            attempt, plan, agreed=agreed
        ):
            raise refusal(web.HTTPNotFound, "the action does not wait for confirmation")
        return attempt, plan

    async def _activate(self, request: web.Request) -> web.Response:
        visit = await self.reception.enter(request)
        body = await _read(request, POLL_BYTES_MAX)
        by = str(body.get("initiator") or visit.device)[:128]
        remark = str(body.get("remark") or "")[:REASON_CHARS_MAX]
        agreed = AutoConfirm(by, remark, visit.now)
        await self.database.write(
            lambda connection: controllers.set_auto_confirm(connection, visit.device, agreed)
        )
        return web.Response()

    async def _deactivate(self, request: web.Request) -> web.Response:
        visit = await self.reception.enter(request)
        await self.database.write(
            lambda connection: controllers.set_auto_confirm(connection, visit.device, None)
        )
        return web.Response()


def _cannot_stop(request: web.Request) -> web.HTTPError:
    reason = json.dumps({"error": "the action cannot be stopped"})
    return web.HTTPMethodNotAllowed(
        request.method, ["GET"], text=reason, content_type="application/json"
    )


def _check_release(said: str, root: str | None) -> None:
    if not _NAME.fullmatch(said):
        raise FormatError("not the name of a release", got=repr(said[:80]))
    if root is not None and not _ROOT.fullmatch(root):
        raise FormatError("not a root hash", expected="64 hexadecimal digits")


def _checked(handler: Any) -> Any:
    """The handler, with bodies that make no sense refused with 400."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            response: web.StreamResponse = await handler(request)
        except FormatError as error:
            raise refusal(web.HTTPBadRequest, str(error)) from error
        return response

    return handle


_COUNTED = {Deploy: "install", Confirm: "confirm", Cancel: "cancel", Rest: "none"}


def _wants_attributes(visit: Visit) -> bool:
    """Whether to ask for configData: once, and, of a device that says there which release it runs, until
    it names the one that it has installed. It may answer before it starts that."""
    if visit.controller.wants_attributes:
        return True
    return _RELEASE in visit.controller.device.facts().attributes and any(
        one.closed_at is not None
        and one.shown_at is None
        and one.state in _SETTLED_WELL
        and visit.now < one.closed_at + SHOW_S
        for one in visit.controller.attempts[:1]
    )


def _installed(controller: Controller) -> int | None:
    """The id of the last action, where that ended well."""
    for one in controller.attempts[:1]:
        if one.closed_at is not None and one.state in _SETTLED_WELL:
            return one.id
    return None


async def _read(request: web.Request, size_max: int) -> dict[str, Any]:
    return parse_dirty(await read_body(request, size_max))


async def _read_feedback(request: web.Request) -> tuple[bytes, Feedback]:
    raw = await read_body(request, REPORT_BYTES_MAX)
    return raw, parse_feedback(parse_dirty(raw))

"""The calls about rollouts, a row each; their handlers are in rollouts.py."""

from typing import Final

from slipstream.server.access import Deed
from slipstream.server.api import rollouts
from slipstream.server.api.call import Change, Page, PageQuery
from slipstream.server.api.rollout_state import RolloutDetail, RolloutLine
from slipstream.server.api.route import CLASH, GONE, Route
from slipstream.server.rollout.plan import Plan
from slipstream.server.rollout.record import Act
from slipstream.server.store.attempts import Attempt
from slipstream.server.store.events import Event

_ROLLOUT_ACT: Final = {
    "body": rollouts.Remark,
    "answer": RolloutDetail,
    "versioned": True,
    "refuses": frozenset({404, 409, 412}),
}


def _act(word: str, deed: Deed, summary: str, change: Change) -> Route:
    return Route(
        "POST",
        f"/rollouts/{{rollout}}/{word}",
        deed,
        f"rollout.{word}",
        summary,
        change=change,
        **_ROLLOUT_ACT,  # type: ignore[arg-type] # one dict of several types
    )


CALLS: Final = (
    Route(
        "GET",
        "/rollouts",
        Deed.SEE,
        "rollout.list",
        "List rollouts",
        look=rollouts.list_rollouts,
        query=rollouts.RolloutQuery,
        answer=Page[RolloutLine],
    ),
    Route(
        "POST",
        "/rollouts",
        Deed.ROLL_OUT,
        "rollout.create",
        "Create a rollout",
        change=rollouts.create_rollout,
        body=bytes,
        shape=Plan,
        answer=RolloutDetail,
        status=201,
        refuses=CLASH,
        tagged=True,
    ),
    Route(
        "GET",
        "/rollouts/{rollout}",
        Deed.SEE,
        "rollout.show",
        "Show a rollout",
        look=rollouts.show_rollout,
        answer=RolloutDetail,
        refuses=GONE,
        tagged=True,
    ),
    Route(
        "GET",
        "/rollouts/{rollout}/devices",
        Deed.SEE,
        "rollout.devices",
        "Devices of a rollout",
        look=rollouts.list_attempts,
        query=rollouts.AttemptQuery,
        answer=Page[Attempt],
    ),
    Route(
        "GET",
        "/rollouts/{rollout}/events",
        Deed.SEE,
        "rollout.events",
        "A rollout's timeline",
        look=rollouts.list_rollout_events,
        query=PageQuery,
        answer=Page[Event],
    ),
    _act("approve", Deed.APPROVE, "Approve a rollout", rollouts.decide(Act.APPROVE)),
    _act("deny", Deed.APPROVE, "Deny a rollout", rollouts.decide(Act.DENY)),
    _act("start", Deed.ROLL_OUT, "Start a rollout now", rollouts.start_rollout),
    _act("pause", Deed.ROLL_OUT, "Pause a rollout", rollouts.move(Act.PAUSE)),
    _act("resume", Deed.ROLL_OUT, "Resume a rollout", rollouts.move(Act.RESUME)),
    _act("abort", Deed.ROLL_OUT, "Abort a rollout", rollouts.move(Act.ABORT)),
    _act("next", Deed.ROLL_OUT, "Open the next phase", rollouts.open_next_phase),
)

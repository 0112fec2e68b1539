"""What a device that polls over DDI is told next. Pure.

At most one action at a time, as in hawkBit: a cancel before anything new, and an installation that
the device has finished but not closed before all else, because it can only be reported on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from slipstream.server.rollout.offer import Decision, Install
from slipstream.server.rollout.plan import Plan
from slipstream.server.rollout.record import OFFERING
from slipstream.server.rollout.track import State
from slipstream.server.store.attempts import Attempt

_STOPPABLE = frozenset({State.OFFERED, State.FETCHING, State.SILENT})


@dataclass(frozen=True, slots=True)
class Deploy:
    """Install what the offer names."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Confirm:
    """Ask the person at the device first."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop, and say so."""

    attempt: Attempt


@dataclass(frozen=True, slots=True)
class Rest:
    """Nothing to do."""


Step = Deploy | Confirm | Cancel | Rest


def bound_step(attempts: Sequence[Attempt], statuses: Mapping[int, str]) -> Step | None:
    """What has to come before any new offer; None where nothing has.

    `attempts` are the device's, `statuses` those of their rollouts as the database has them now:
    a server that has not read of a rollout yet must not stop what another has just begun.
    """
    running = [one for one in attempts if one.closed_at is None]
    stopping = [one for one in running if is_stopping(one, statuses[one.rollout])]
    for one in running:
        done = one.state is State.INSTALLED
        if one not in stopping and (done or (one.refused_at is not None and _runs(one))):
            return Deploy(one)
    return Cancel(stopping[0]) if stopping else None


def is_stopping(attempt: Attempt, status: str) -> bool:
    """Whether the device is asked to stop: an operator took the offer back, or its rollout, which
    has that status, does not offer now.

    What is installed is not undone by it. Who takes that back wants no word on it any more.
    """
    if attempt.closed_at is not None or attempt.refused_at is not None:
        return False
    if attempt.state is State.INSTALLED:
        return attempt.recalled_at is not None
    if attempt.state not in _STOPPABLE:
        return False
    return attempt.recalled_at is not None or status not in OFFERING


def superseded(attempts: Sequence[Attempt], decision: Decision) -> Cancel | None:
    """The cancel of an older release that a newer one's offer has to wait for."""
    if not isinstance(decision, Install) or decision.rollout is None:
        return None
    for one in attempts:
        if _runs(one) and one.release != decision.release:
            return Cancel(one)
    return None


def next_step(
    attempts: Sequence[Attempt],
    decision: Decision,
    *,
    open_window: bool,
    agreed: bool,
) -> Deploy | Confirm | Rest:
    """What follows from a decision, where nothing has to come before it.

    `open_window`: no maintenance window of the rollout is shut now. `agreed`: the person at the
    device agreed to whatever comes.
    """
    if not isinstance(decision, Install) or decision.rollout is None or not open_window:
        return Rest()
    rollout = decision.rollout
    mine = next((one for one in attempts if _runs(one) and one.rollout == rollout.id), None)
    if mine is None:
        return Rest()  # the device has said its last word on it
    return Confirm(mine) if awaits_consent(mine, rollout.plan, agreed=agreed) else Deploy(mine)


def _runs(attempt: Attempt) -> bool:
    return attempt.closed_at is None and attempt.state in _STOPPABLE


def awaits_consent(attempt: Attempt, plan: Plan, *, agreed: bool) -> bool:
    """Whether the person at the device has still to agree."""
    return plan.needs_consent and attempt.consent_at is None and not agreed

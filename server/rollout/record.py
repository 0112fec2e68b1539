"""A rollout as it stands: its plan and what has happened to it. The table of its states.

step(state, event) is the only way on; what is not in the table is refused.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from slipstream.delta.errors import UsageError
from slipstream.server.rollout.order import Opening
from slipstream.server.rollout.plan import Plan


class Status(StrEnum):
    """Of a rollout."""

    WAITING = "waiting_for_approval"  # of somebody else than its author
    SCHEDULED = "scheduled"  # approved, before its start time
    RUNNING = "running"  # it offers, and opens one phase after the other
    PAUSED = "paused"  # no device is told anything new, until somebody resumes it
    FINISHED = "finished"  # proved; it still offers to those of its last phase who come late
    ABORTED = "aborted"  # stopped for good
    DENIED = "denied"  # not approved


class Act(StrEnum):
    """What moves a rollout: operators, the clock, the engine."""

    APPROVE = "approve"
    DENY = "deny"
    START = "start"  # its time has come, or an operator does not wait for it
    PAUSE = "pause"
    RESUME = "resume"
    ABORT = "abort"
    FINISH = "finish"


OFFERING: Final = frozenset({Status.RUNNING, Status.FINISHED})
OVER: Final = frozenset({Status.ABORTED, Status.DENIED})
TRANSITIONS: Final[dict[tuple[Status, Act], Status]] = {
    (Status.WAITING, Act.APPROVE): Status.SCHEDULED,
    (Status.WAITING, Act.DENY): Status.DENIED,
    (Status.WAITING, Act.ABORT): Status.ABORTED,
    (Status.SCHEDULED, Act.START): Status.RUNNING,
    (Status.SCHEDULED, Act.ABORT): Status.ABORTED,
    (Status.RUNNING, Act.PAUSE): Status.PAUSED,
    (Status.RUNNING, Act.ABORT): Status.ABORTED,
    (Status.RUNNING, Act.FINISH): Status.FINISHED,
    (Status.PAUSED, Act.RESUME): Status.RUNNING,
    (Status.PAUSED, Act.ABORT): Status.ABORTED,
    # A device that regresses opens the verdict again.
    (Status.FINISHED, Act.PAUSE): Status.PAUSED,
    (Status.FINISHED, Act.ABORT): Status.ABORTED,
}


@dataclass(frozen=True, slots=True)
class Rollout:
    """One row of the store. `version` rises with every change: whoever changes it names it."""

    id: int
    plan: Plan
    status: Status
    opened: tuple[Opening, ...]  # one for each phase that has been opened
    version: int
    created_at: int
    reason: str = ""  # of its status, in words
    unreadable: bool = False  # by this version: its plan is a stand-in, and nothing moves it

    @property
    def phase(self) -> int:
        """Index of the newest open phase; -1 before the start."""
        return len(self.opened) - 1


def step(status: Status, act: Act) -> Status:
    """The status after an act. Raises UsageError for one that is not possible."""
    after = TRANSITIONS.get((status, act))
    if after is None:
        able = [
            one.value for (state, one) in TRANSITIONS if state is status and one is not Act.FINISH
        ]
        raise UsageError(
            f"a rollout that is {status.value.replace('_', ' ')} cannot {act.value}",
            expected=" or ".join(able) or "nothing: it is over",
        )
    return after

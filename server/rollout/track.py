"""What became of an offer: the states of one device in one rollout, and what moves them.

Reports come late, twice, out of order, or never. Therefore the states form a lattice for what a
device says: whatever the order, the same words end in the same state. Confirmed and fell back
together mean regressed, in either order. What the server does itself (a timeout, a cancel) is
undone by a device that speaks.
"""

from enum import StrEnum
from typing import Final

from slipstream.server.rollout.plan import FailureClass


class State(StrEnum):
    """Of one offer."""

    OFFERED = "offered"  # the device was told
    FETCHING = "fetching"  # it said so
    INSTALLED = "installed"  # written and switched, not yet proved
    SILENT = "silent"  # nothing was heard for the rollout's silent_after_s
    CANCELLED = "cancelled"  # taken back before it was installed
    FAILED = "failed"  # it gave up for now; it may try again by itself
    CONFIRMED = "confirmed"  # it runs the release, with the right root hash, and says it is healthy
    FELL_BACK = "fell_back"  # it tried the release and booted the one before
    REGRESSED = "regressed"  # it was confirmed and fell back later


class Event(StrEnum):
    """What moves an offer."""

    FETCHING = "fetching"
    INSTALLED = "installed"
    FAILED = "failed"
    CONFIRMED = "confirmed"
    FELL_BACK = "fell_back"
    TIMED_OUT = "timed_out"  # the server's
    CANCELLED = "cancelled"  # the operator's, acknowledged by the device where its protocol can


IN_FLIGHT: Final = frozenset({State.OFFERED, State.FETCHING, State.INSTALLED})
# A device may be out of service in these. One that is silent is the likeliest to be.
AWAY: Final = IN_FLIGHT | {State.SILENT}
SETTLED: Final = frozenset(State) - IN_FLIGHT - {State.CANCELLED}
FAILURES: Final = frozenset({State.FAILED, State.FELL_BACK, State.REGRESSED, State.SILENT})
# A release in these is never offered to the device again, unless an operator lifts it.
QUARANTINED: Final = frozenset({State.FELL_BACK, State.REGRESSED})

_OPEN = {
    Event.FETCHING: State.FETCHING,
    Event.INSTALLED: State.INSTALLED,
    Event.FAILED: State.FAILED,
    Event.CONFIRMED: State.CONFIRMED,
    Event.FELL_BACK: State.FELL_BACK,
    Event.TIMED_OUT: State.SILENT,
    Event.CANCELLED: State.CANCELLED,
}
# What is not in the table changes nothing.
TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    **{(State.OFFERED, event): state for event, state in _OPEN.items()},
    **{
        (State.FETCHING, event): state
        for event, state in _OPEN.items()
        if event is not Event.FETCHING
    },
    # A device that has installed is on its way into the release: it cannot be called back.
    (State.INSTALLED, Event.FAILED): State.FAILED,
    (State.INSTALLED, Event.CONFIRMED): State.CONFIRMED,
    (State.INSTALLED, Event.FELL_BACK): State.FELL_BACK,
    (State.INSTALLED, Event.TIMED_OUT): State.SILENT,
    **{
        (state, event): _OPEN[event]
        for state in (State.SILENT, State.CANCELLED)
        for event in (Event.INSTALLED, Event.FAILED, Event.CONFIRMED, Event.FELL_BACK)
    },
    (State.SILENT, Event.FETCHING): State.FETCHING,
    (State.SILENT, Event.CANCELLED): State.CANCELLED,
    (State.FAILED, Event.CONFIRMED): State.CONFIRMED,
    (State.FAILED, Event.FELL_BACK): State.FELL_BACK,
    (State.FAILED, Event.CANCELLED): State.CANCELLED,
    (State.CONFIRMED, Event.FELL_BACK): State.REGRESSED,
    (State.FELL_BACK, Event.CONFIRMED): State.REGRESSED,
}


def step(state: State, event: Event) -> State:
    """The state after an event; the same state where the event says nothing new."""
    return TRANSITIONS.get((state, event), state)


def class_of(state: State, said: FailureClass | None) -> FailureClass | None:
    """How a state counts; `said` is what the device gave as the class of its failure."""
    match state:
        case State.FAILED:
            return said or FailureClass.DEVICE
        case State.FELL_BACK:
            return FailureClass.ROOT if said is FailureClass.ROOT else FailureClass.BOOT
        case State.REGRESSED:
            return FailureClass.REGRESSED
        case State.SILENT:
            return FailureClass.SILENT
        case _:
            return None

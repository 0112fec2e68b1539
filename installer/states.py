"""The life of an update on a device, as one table.

States are frozen values that carry their data; TABLE says which event leads where and what
the shell does then; what is not in TABLE is refused, and REFUSED says why. `step` is pure.
docs/states.md is drawn from these tables by scripts/states.

This is not where the work is done: install.py and trial.py do it, and ask here first.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from slipstream.delta.digest import Digest
from slipstream.delta.errors import SlipstreamError
from slipstream.delta.limits import POLL_INTERVAL_S

RESUME_DELAY_S = 60.0  # an interrupted install is taken up again after this long
REBOOT_DELAY_S = 60.0  # the reboot command was given; ask again if it did nothing


@dataclass(frozen=True, slots=True)
class Transaction:
    """One release on its way into one slot. `id` depends on nothing but the rest.

    `restages` counts how often its published boot entry was lost and put back.
    """

    id: str
    manifest: Digest
    release: str
    counter: int
    slot: str
    images: tuple[str, ...]
    restages: int = 0


def transaction_id(manifest: Digest, slot: str) -> str:
    """The id of a release on its way into a slot: the same whenever it is tried."""
    return Digest.of(manifest.raw + slot.encode()).hex[:16]


class Outcome(StrEnum):
    """How a transaction ended."""

    CONFIRMED = "confirmed"
    FELL_BACK = "fell_back"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Result:
    """The end of the last transaction: what `device status` shows."""

    outcome: Outcome
    transaction: Transaction
    reason: str


# --- states


@dataclass(frozen=True, slots=True)
class Idle:
    """No transaction. `last` is how the one before ended."""

    last: Result | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """The transaction is on record; the target slot's boot entry may still be there."""

    transaction: Transaction


@dataclass(frozen=True, slots=True)
class Streaming:
    """Nothing boots the target slot any more; its images are being written."""

    transaction: Transaction


@dataclass(frozen=True, slots=True)
class Verified:
    """Every image was read back from the medium and gives its signed root."""

    transaction: Transaction


@dataclass(frozen=True, slots=True)
class Staged:
    """The boot files are in place, durable and hidden."""

    transaction: Transaction


@dataclass(frozen=True, slots=True)
class Committed:
    """The boot entry is visible: the next boot tries the release."""

    transaction: Transaction


@dataclass(frozen=True, slots=True)
class Trial:
    """The release runs and has not proved itself yet."""

    transaction: Transaction


@dataclass(frozen=True, slots=True)
class Condemned:
    """The release was found bad, for `reason`; a reboot brings the other one back."""

    transaction: Transaction
    reason: str


State = Idle | Opened | Streaming | Verified | Staged | Committed | Trial | Condemned


# --- events


@dataclass(frozen=True, slots=True)
class Open:
    """An install begins, or begins again after an interruption or for a newer release."""

    transaction: Transaction


@dataclass(frozen=True, slots=True)
class Retired:
    """The target slot's boot entry is gone, durably."""


@dataclass(frozen=True, slots=True)
class ReadBack:
    """All images stand in the slot and were read back."""


@dataclass(frozen=True, slots=True)
class BootStaged:
    """The boot files are hidden and durable."""


@dataclass(frozen=True, slots=True)
class Published:
    """The boot entry became visible: the commit point is passed."""


@dataclass(frozen=True, slots=True)
class BootedNew:
    """The device runs the transaction's release."""


@dataclass(frozen=True, slots=True)
class EntryLost:
    """The other release runs and the published entry is gone: the firmware lost it."""


@dataclass(frozen=True, slots=True)
class Confirm:
    """The release proved itself; its entry is good."""


@dataclass(frozen=True, slots=True)
class Condemn:
    """Health failed, or an operator gave the trial up."""

    reason: str


@dataclass(frozen=True, slots=True)
class Abandon:
    """An operator gives up a release that was already confirmed."""

    transaction: Transaction
    reason: str


@dataclass(frozen=True, slots=True)
class FellBack:
    """The other release runs again, because of `reason`."""

    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """The release cannot be installed: its bytes are wrong, or this device cannot hold it."""

    reason: str


Event = (
    Open
    | Retired
    | ReadBack
    | BootStaged
    | Published
    | BootedNew
    | EntryLost
    | Confirm
    | Condemn
    | Abandon
    | FellBack
    | Failed
)


class Effect(StrEnum):
    """What belongs to a step, for the shell to do.

    What begins something (retire, write, stage, publish, health, condemn, reboot) is done after
    the step is in the journal: cut in between, the journal says what to begin again. What ends
    something (raise the floor, deny, report) is done before, and the step is the last word: cut in
    between, the journal still says that it has to be done. All of it can be done twice.
    """

    RETIRE = "retire the slot's boot entry"
    WRITE = "write the images"
    STAGE = "stage the boot files"
    PUBLISH = "publish the boot entry"
    REBOOT = "reboot"
    RUN_HEALTH = "run the health commands"
    CONDEMN = "condemn the boot entry"
    RAISE_FLOOR = "raise the floor"
    DENY = "deny the release"
    REPORT = "report"


class Transition(NamedTuple):
    """Where an event leads, and what the shell does then."""

    to: type[State]
    effects: tuple[Effect, ...]


_OPEN = Transition(Opened, (Effect.RETIRE,))
_FAILED = Transition(Idle, (Effect.REPORT,))
_FELL_BACK = Transition(Idle, (Effect.DENY, Effect.REPORT))
_CONDEMNED = Transition(Condemned, (Effect.CONDEMN, Effect.REBOOT))

TABLE: dict[tuple[type[State], type[Event]], Transition] = {
    (Idle, Open): _OPEN,
    (Idle, Abandon): _CONDEMNED,
    (Opened, Open): _OPEN,
    (Opened, Retired): Transition(Streaming, (Effect.WRITE,)),
    (Opened, Failed): _FAILED,
    (Streaming, Open): _OPEN,
    (Streaming, ReadBack): Transition(Verified, (Effect.STAGE,)),
    (Streaming, Failed): _FAILED,
    (Verified, Open): _OPEN,
    (Verified, BootStaged): Transition(Staged, (Effect.PUBLISH,)),
    (Verified, Failed): _FAILED,
    (Staged, Open): _OPEN,
    (Staged, Published): Transition(Committed, (Effect.REPORT, Effect.REBOOT)),
    # The power went between the rename and its record: the entry on disk is the truth.
    (Staged, BootedNew): Transition(Trial, (Effect.RUN_HEALTH,)),
    (Staged, FellBack): _FELL_BACK,
    (Staged, Failed): _FAILED,
    (Committed, BootedNew): Transition(Trial, (Effect.RUN_HEALTH,)),
    (Committed, EntryLost): Transition(Verified, (Effect.STAGE,)),
    (Committed, FellBack): _FELL_BACK,
    (Committed, Failed): _FAILED,
    (Trial, BootedNew): Transition(Trial, (Effect.RUN_HEALTH,)),
    (Trial, EntryLost): Transition(Verified, (Effect.STAGE,)),
    (Trial, Confirm): Transition(Idle, (Effect.RAISE_FLOOR, Effect.REPORT)),
    (Trial, Condemn): _CONDEMNED,
    (Trial, FellBack): _FELL_BACK,
    (Condemned, BootedNew): _CONDEMNED,
    (Condemned, FellBack): _FELL_BACK,
}

_NO_TRANSACTION = "there is no transaction"
_ON_TRIAL = "a release waits for its trial or is in it: the target slot may be the only good one"
_NOT_PUBLISHED = "the release was not published, so nothing can have booted it"
_ORDER = "the steps of an install are taken in order"
_PUBLISHED = "the release is published: it boots, or the other one does"
_UNPROVED = "only a release that runs can prove itself"

_REFUSALS: tuple[tuple[type[Event], tuple[type[State], ...], str], ...] = (
    (Open, (Committed, Trial, Condemned), _ON_TRIAL),
    (Retired, (Idle,), _NO_TRANSACTION),
    (Retired, (Streaming, Verified, Staged, Committed, Trial, Condemned), _ORDER),
    (ReadBack, (Idle,), _NO_TRANSACTION),
    (ReadBack, (Opened, Verified, Staged, Committed, Trial, Condemned), _ORDER),
    (BootStaged, (Idle,), _NO_TRANSACTION),
    (BootStaged, (Opened, Streaming, Staged, Committed, Trial, Condemned), _ORDER),
    (Published, (Idle,), _NO_TRANSACTION),
    (Published, (Opened, Streaming, Verified, Committed, Trial, Condemned), _ORDER),
    (BootedNew, (Idle,), _NO_TRANSACTION),
    (BootedNew, (Opened, Streaming, Verified), _NOT_PUBLISHED),
    (EntryLost, (Idle,), _NO_TRANSACTION),
    (EntryLost, (Opened, Streaming, Verified, Staged), _NOT_PUBLISHED),
    (EntryLost, (Condemned,), "a condemned release is not put back"),
    (Confirm, (Idle, Opened, Streaming, Verified, Staged, Committed), _UNPROVED),
    (Confirm, (Condemned,), "it was found bad"),
    (Condemn, (Idle,), _NO_TRANSACTION),
    (Condemn, (Opened, Streaming, Verified, Staged, Committed), _UNPROVED),
    (Condemn, (Condemned,), "it was found bad already"),
    (Abandon, (Opened, Streaming, Verified, Staged), "an install is under way"),
    (Abandon, (Committed, Trial, Condemned), "the release on trial is given up by Condemn"),
    (FellBack, (Idle,), _NO_TRANSACTION),
    (FellBack, (Opened, Streaming, Verified), _NOT_PUBLISHED),
    (Failed, (Idle,), _NO_TRANSACTION),
    (Failed, (Trial, Condemned), _PUBLISHED),
)
REFUSED: dict[tuple[type[State], type[Event]], str] = {
    (state, event): why for event, states, why in _REFUSALS for state in states
}


class Refused(SlipstreamError):
    """The event does not fit the state."""


def step(state: State, event: Event) -> tuple[State, tuple[Effect, ...]]:
    """The state after `event`, and what the shell does then. Raises Refused."""
    transition = TABLE.get((type(state), type(event)))
    if transition is None:
        why = REFUSED.get((type(state), type(event)), "it is not in the table")
        raise Refused(f"{type(event).__name__} is refused in {type(state).__name__}: {why}")
    return _state_after(state, event, transition.to), transition.effects


def _state_after(state: State, event: Event, to: type[State]) -> State:
    if isinstance(event, Open | Abandon):
        transaction = event.transaction
    else:
        assert not isinstance(state, Idle)  # the table has no such row
        transaction = state.transaction
    if isinstance(event, EntryLost):
        transaction = replace(transaction, restages=transaction.restages + 1)
    if to is Idle:
        return Idle(_result(event, transaction))
    if to is Condemned:
        reason = event.reason if isinstance(event, Condemn | Abandon) else ""
        return Condemned(transaction, state.reason if isinstance(state, Condemned) else reason)
    return to(transaction)  # type: ignore[call-arg, arg-type]


def _result(event: Event, transaction: Transaction) -> Result:
    if isinstance(event, FellBack):
        return Result(Outcome.FELL_BACK, transaction, event.reason)
    if isinstance(event, Failed):
        return Result(Outcome.FAILED, transaction, event.reason)
    return Result(Outcome.CONFIRMED, transaction, "")


class Delay(NamedTuple):
    """How long the agent waits in a state: seconds, and whether to spread the fleet."""

    seconds: float
    jitter: bool


def delay_of(state: State) -> Delay:
    """The wait before the agent looks again, where no server wishes otherwise."""
    match state:
        case Idle():
            return Delay(POLL_INTERVAL_S, jitter=True)
        case Opened() | Streaming() | Verified() | Staged():
            return Delay(RESUME_DELAY_S, jitter=True)
        case Committed() | Condemned():
            return Delay(REBOOT_DELAY_S, jitter=False)
        case Trial():
            return Delay(0.0, jitter=False)

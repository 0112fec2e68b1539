"""How often an install died where it was: by SIGKILL, a lost power supply, a crash of the kernel.

attempts.json is written, durably, before an attempt begins, and says that it runs; an attempt that
ends by itself, however, takes that back. One that is found running has died. A release during
whose install the device dies DEATHS_MAX times without coming any farther is given up: otherwise a
device that is killed by its own updater is so for ever. Errors of the network and of the medium
are no deaths: they are tried again after a while, or not, as their kind says.

Deaths are kept by release, so that two that are offered in turn do not forget each other's. And
those that came again without progress count together, since the last release that was installed:
after DEATHS_ALL_MAX the fault is the device's, or the updater's, and nothing is installed any more
without a person at hand. The first death in a place is not among them: a device that is switched
off now and then has one for each release that it began and never came to the end of.

The agent's own starts are counted alike, in starts.json: each start that died in its first round
doubles the wait before the next one.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from slipstream.delta.errors import DeviceFault, SlipstreamError
from slipstream.delta.limits import (
    ATTEMPTS_KEPT_MAX,
    DEATHS_ALL_MAX,
    DEATHS_MAX,
    START_DELAY_S_MAX,
)
from slipstream.installer.device import Device
from slipstream.installer.reports import Failure, queue_report
from slipstream.installer.slots import Denied
from slipstream.installer.state_file import read_state, remove_state, write_state
from slipstream.installer.states import (
    Failed,
    Idle,
    Opened,
    Staged,
    Streaming,
    Transaction,
    Verified,
)

START_DELAY_S = 10.0  # after one death; it doubles with each


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an install came: the state, then bytes in the slot and in the spool."""

    state: str = ""
    done_bytes: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """For comparison: states in their order, then bytes."""
        order = ("streaming", "verified", "staged")
        return (order.index(self.state) if self.state in order else -1, self.done_bytes)


@dataclass(frozen=True, slots=True)
class Past:
    """Of a transaction that another one came after: how far it came, and its deaths since."""

    transaction: str
    best: Progress
    deaths: int


@dataclass(frozen=True, slots=True)
class Attempts:
    """Of one transaction: how far it ever came, and its deaths since it came so far.

    `running`: an attempt is under way, or was when the process died. `others` are the releases tried
    before it, the latest last, and `older_deaths` the repeated ones of releases that are not kept any
    more, or were given up.
    """

    transaction: str
    best: Progress
    deaths: int
    running: bool
    others: tuple[Past, ...] = ()
    older_deaths: int = 0

    @property
    def hopeless(self) -> bool:
        """Whether it died too often in the same place."""
        return self.deaths >= DEATHS_MAX

    @property
    def repeated_deaths(self) -> int:
        """Of all releases since one was installed: each death where the device had died before."""
        own = _repeated(self.deaths) + sum(_repeated(one.deaths) for one in self.others)
        return self.older_deaths + own

    @property
    def all_hopeless(self) -> bool:
        """Whether the device died too often, whatever it was that was installed."""
        return self.repeated_deaths >= DEATHS_ALL_MAX

    @property
    def words(self) -> str:
        """Such as "the device died 8 times while it was installed, at streaming, byte 0"."""
        where = f", at {self.best.state}, byte {self.best.done_bytes}" if self.best.state else ""
        if not self.hopeless and self.all_hopeless:
            return (
                f"the device died {self.repeated_deaths} times in installs, of one release or"
                " another, where it had died before, and finished none: it installs nothing any more"
                " without a person at hand"
            )
        return f"the device died {self.deaths} times while it was installed{where}"


def next_attempts(
    before: Attempts | None, transaction: str, here: Progress, left: Progress | None = None
) -> Attempts:
    """The count for an attempt that begins: pure.

    `here` is how far the disk says that it is now, `left` how far the transaction before came, where
    that is another one: None if the disk does not say.
    """
    if before is None:
        return Attempts(transaction, here, 0, running=True)
    if before.transaction != transaction:
        before = _turn_to(_ended(before, left or Progress()), transaction)
    return replace(_ended(before, here), running=True)


def _ended(before: Attempts, here: Progress) -> Attempts:
    """The attempt before is over, and came as far as `here`: did it die, and where?"""
    died = int(before.running)
    if here.rank > before.best.rank:
        return replace(before, best=here, deaths=died, running=False)
    return replace(before, deaths=before.deaths + died, running=False)


def _turn_to(before: Attempts, transaction: str) -> Attempts:
    """The same account with another release in front, as far as it is known already."""
    ended = Past(before.transaction, before.best, before.deaths)
    known = next((one for one in before.others if one.transaction == transaction), None)
    others = (*(one for one in before.others if one is not known), ended)
    dropped, kept = others[:-ATTEMPTS_KEPT_MAX], others[-ATTEMPTS_KEPT_MAX:]
    older = before.older_deaths + sum(_repeated(one.deaths) for one in dropped)
    if known is None:
        known = Past(transaction, Progress(), 0)
    return Attempts(transaction, known.best, known.deaths, False, kept, older)


def _repeated(deaths: int) -> int:
    """Of deaths in one place: those after the first, which any lost power supply may be."""
    return max(deaths - 1, 0)


def attempts_of(device: Device) -> Attempts | None:
    """What is recorded of the transaction that was tried last."""
    return read_state(_path(device), _WireAttempts, _parse, device.notices.append)


def begin_attempt(device: Device, transaction: Transaction) -> Attempts:
    """Count an attempt before it begins, durably. The caller gives up what is hopeless."""
    before = attempts_of(device)
    # The journal still is of the transaction before: it is opened anew after this.
    left = None if before is None else _progress(device, before.transaction)
    attempts = next_attempts(before, transaction.id, _progress(device, transaction.id), left)
    _write(device, attempts)
    return attempts


def end_attempt(device: Device) -> None:
    """The attempt ended by itself. Deaths before it are not forgotten: it may not have come far."""
    attempts = attempts_of(device)
    if attempts is not None and attempts.running:
        _write(device, replace(attempts, running=False))


def forget_attempts(device: Device) -> None:
    """The release is installed. Raises DeviceFault."""
    remove_state(_path(device))


def give_up(device: Device, transaction: Transaction, attempts: Attempts) -> str:
    """Say that the device died too often while this release was installed; deny it. The reason."""
    reason = f"given up: {attempts.words}"
    device.slots.deny(Denied.of(transaction, reason, device.now()))
    queue_report(device, transaction, "failed", reason, failure=Failure.DEVICE)
    state = device.journal.state
    mine = not isinstance(state, Idle) and state.transaction.id == transaction.id
    if mine and isinstance(state, Opened | Streaming | Verified | Staged):
        device.journal.record(Failed(reason))
    # The release begins anew if a person wants it; what it cost still counts against the device.
    older = attempts.older_deaths + _repeated(attempts.deaths)
    _write(device, replace(attempts, best=Progress(), deaths=0, running=False, older_deaths=older))
    return reason


@contextmanager
def ends_by_itself(device: Device) -> Iterator[None]:
    """Around an attempt: errors of ours and signals end it; an error of nobody's is a death.

    A program that ends by a traceback is started again, and would end so again.
    """
    try:
        yield
    except BaseException as error:
        if isinstance(error, SlipstreamError) or not isinstance(error, Exception):
            with suppress(SlipstreamError):  # then it counts as a death: no harm
                end_attempt(device)
        raise


# --- starts of the agent


def begin_start(device: Device) -> float:
    """Count a start of the agent; seconds to wait before its first round.

    Raises nothing: an agent whose state folder is full must still settle a trial.
    """
    path, deaths = device.state / "starts.json", 0
    with suppress(DeviceFault):
        before = read_state(path, _WireStarts, lambda wire: wire, device.notices.append)
        deaths = 0 if before is None else before.starts
        write_state(path, _WireStarts(deaths + 1))
    # The first death may be anything. No overflow: the power is of a bounded number.
    return min(START_DELAY_S * 2.0 ** min(deaths - 1, 16), START_DELAY_S_MAX) if deaths else 0.0


def end_start(device: Device) -> None:
    """The agent came through a round, or was stopped. Raises nothing."""
    with suppress(DeviceFault):
        remove_state(device.state / "starts.json")


# --- files


class _WirePast(msgspec.Struct):
    transaction: str
    state: str
    done_bytes: int
    deaths: int


class _WireAttempts(msgspec.Struct):
    transaction: str
    state: str
    done_bytes: int
    deaths: int
    running: bool
    others: tuple[_WirePast, ...] = ()
    older_deaths: int = 0


class _WireStarts(msgspec.Struct):
    starts: int


def _write(device: Device, value: Attempts) -> None:
    best = value.best
    others = tuple(
        _WirePast(one.transaction, one.best.state, one.best.done_bytes, one.deaths)
        for one in value.others
    )
    wire = _WireAttempts(
        value.transaction,
        best.state,
        best.done_bytes,
        value.deaths,
        value.running,
        others,
        value.older_deaths,
    )
    write_state(_path(device), wire)


def _parse(wire: _WireAttempts) -> Attempts:
    best = Progress(wire.state, wire.done_bytes)
    others = tuple(
        Past(one.transaction, Progress(one.state, one.done_bytes), one.deaths)
        for one in wire.others
    )
    return Attempts(wire.transaction, best, wire.deaths, wire.running, others, wire.older_deaths)


def _progress(device: Device, transaction: str) -> Progress:
    """How far the transaction came, from what is on disk."""
    state = device.journal.state
    if isinstance(state, Idle) or state.transaction.id != transaction:
        return Progress()
    if not isinstance(state, Streaming):
        return Progress(type(state).__name__.lower())
    points = {
        point.image: point.done_bytes
        for point in device.journal.checkpoints()
        if point.transaction == transaction
    }
    return Progress("streaming", sum(points.values()) + _bytes_below(device.state / "spool"))


def _bytes_below(folder: Path) -> int:
    """Bytes of the files in a folder; those that go meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:
            continue
    return total


def _path(device: Device) -> Path:
    return device.state / "attempts.json"

"""What an operator does to a trial by hand: end it, give a release up, go back."""

from slipstream.delta.errors import DeviceFault, NothingToDo
from slipstream.installer import endings
from slipstream.installer.counting import observe_counting
from slipstream.installer.device import Device
from slipstream.installer.endings import why_it_ended
from slipstream.installer.evidence import other_good, running_entry, runs_now, transaction_of
from slipstream.installer.findings import entry_of
from slipstream.installer.ports import BootEntry, EntryState
from slipstream.installer.states import (
    Abandon,
    BootedNew,
    Committed,
    Condemn,
    Condemned,
    Opened,
    Refused,
    Staged,
    Streaming,
    Transaction,
    Trial,
    Verified,
)
from slipstream.installer.unrecorded import confirm_unrecorded
from slipstream.installer.verdict import Outcome, Verdict

ROLLED_BACK = "given up by an operator"


async def confirm(device: Device) -> Outcome:
    """End the trial of the running release by hand, without its health checks.

    Raises NothingToDo if it is not on trial, Refused if it was condemned.
    """
    with device.lock():
        observe_counting(device)
        state = device.journal.state
        if isinstance(state, Staged | Committed | Trial | Condemned):
            release = state.transaction.release
            if not runs_now(device, state.transaction):
                raise NothingToDo(
                    f"release {release} does not run, so there is no trial to end",
                    hint="Reboot to try it; if the device fell back from it, `slipstream device "
                    "confirm` without --force says why",
                )
            if isinstance(state, Condemned):
                raise Refused(
                    f"release {release} was found bad: {state.reason}",
                    hint="Reboot into the other release",
                )
            if not isinstance(state, Trial):
                device.journal.record(BootedNew())
            return endings.confirm(device, state.transaction)
        entry = running_entry(device)
        if entry is None or entry.state is EntryState.GOOD:
            raise NothingToDo("the running release is not on trial")
        return confirm_unrecorded(device, entry)


async def rollback(device: Device) -> Outcome:
    """Give up the running release, or the one that the next boot would try.

    Where the running one is given up, a reboot brings the other one back. Raises DeviceFault if
    there is no other good one, Refused while an install is under way.
    """
    with device.lock():
        state = device.journal.state
        if isinstance(state, Opened | Streaming | Verified):
            raise _under_way(state.transaction)
        if isinstance(state, Staged | Committed | Trial | Condemned) and not runs_now(
            device, state.transaction
        ):
            return _take_back(device, state)
        entry = running_entry(device)
        if entry is None:
            raise DeviceFault("the running release has no boot entry that could be given up")
        _require_other(device, entry)
        if isinstance(state, Condemned):
            transaction: Transaction | None = state.transaction
        elif isinstance(state, Staged | Committed | Trial):
            transaction = state.transaction
            if not isinstance(state, Trial):
                device.journal.record(BootedNew())
            device.journal.record(Condemn(ROLLED_BACK))
        else:
            transaction = transaction_of(device, entry)
            if transaction is not None:
                device.journal.record(Abandon(transaction, ROLLED_BACK))
        device.boot.condemn(entry.slot, entry.counter)
        release = "" if transaction is None else transaction.release
        return Outcome(Verdict.CONDEMNED, release, entry.counter, ROLLED_BACK)


def _take_back(device: Device, state: Staged | Committed | Trial | Condemned) -> Outcome:
    """Another release runs: give up the one that waits for its trial, or was left already."""
    transaction = state.transaction
    entry = entry_of(transaction, device.boot.entries())
    if entry is None and isinstance(state, Staged):
        raise _under_way(transaction)
    if entry is not None:
        device.boot.condemn(transaction.slot, transaction.counter)
    left = isinstance(state, Condemned) or (entry is not None and entry.state is EntryState.BAD)
    return endings.fell_back(device, transaction, why_it_ended(state) if left else ROLLED_BACK)


def _under_way(transaction: Transaction) -> Refused:
    return Refused(
        f"an install of release {transaction.release} is under way: there is nothing to go back to",
        hint="`slipstream device install` ends it; nothing of it boots before that",
    )


def _require_other(device: Device, entry: BootEntry) -> None:
    if not other_good(device, entry):
        raise DeviceFault(
            "there is no other good release to go back to",
            got=", ".join(f"{one.name} {one.state}" for one in device.boot.entries()),
            hint="Install another release instead",
        )

"""The deadline of a release on trial: is the machine reset, which uses up one of its tries?

slipstream-trial.service asks when the deadline has come, or the health gate failed. A reset leads
somewhere only where the boot loader has something else to start in the end. Without that the same
release would be started, and reset, for ever: it stays, for a person to mend, and says so.

Takes no lock, since whoever holds it may be what hangs, and decides nothing about the release.
"""

from slipstream.installer.device import Device
from slipstream.installer.evidence import running_entry, transaction_of
from slipstream.installer.findings import NOTHING_ELSE
from slipstream.installer.ports import EntryState
from slipstream.installer.reports import Failure, queue_report

NOT_IN_TIME = f"it did not prove itself in time, and {NOTHING_ELSE}"
PROVED = "it is confirmed"


def why_to_stay(device: Device) -> str | None:
    """Why the machine is not reset, in words, and reported; None if it shall be.

    Raises DeviceFault where nothing says what runs or what else would be started: reset then.
    """
    booted, entry = device.boot.booted(), running_entry(device)
    if entry is not None and entry.state is EntryState.GOOD:
        return f"counter {entry.counter}: {PROVED}"
    # Whether or not its own entry still is there: one that was lost is put back by the release that
    # the next boot starts, if there is one.
    if booted.slot is None or device.boot.alternatives(booted.slot):
        return None
    transaction = transaction_of(device, entry or booted)
    if transaction is None:
        return f"counter {booted.counter}: {NOT_IN_TIME}"
    queue_report(device, transaction, "failed", NOT_IN_TIME, failure=Failure.BOOT)
    return f"release {transaction.release}: {NOT_IN_TIME}"

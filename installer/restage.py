"""A published boot entry that is gone, or lost its name: it is put back, once.

Firmware may lose an entry in its own rename (S11). The boot files are kept on the state partition.
"""

from slipstream.delta.errors import DeviceFault, Rejected
from slipstream.installer.attempts import begin_attempt, ends_by_itself, forget_attempts, give_up
from slipstream.installer.device import Device
from slipstream.installer.evidence import boot_files
from slipstream.installer.reports import Failure, queue_report
from slipstream.installer.staging import stage_kept_files
from slipstream.installer.states import BootStaged, Failed, Published, Transaction, Verified
from slipstream.installer.verdict import Outcome, Verdict


async def restage(device: Device, transaction: Transaction) -> Outcome:
    """Put a lost boot entry back, from the boot files that are kept on the state partition."""
    attempts = begin_attempt(device, transaction)
    if attempts.hopeless:
        reason = give_up(device, transaction, attempts)
        return Outcome(Verdict.NOTHING, transaction.release, transaction.counter, reason)
    with ends_by_itself(device):
        outcome = await _put_back(device, transaction)
    forget_attempts(device)
    return outcome


def reclaim(device: Device, transaction: Transaction) -> None:
    """S11 or a rename of ours, torn so that only the alias of the entry's name is left."""
    manifest = device.slots.manifest(transaction.manifest)
    if manifest is not None:
        files = boot_files(device, manifest, transaction.slot)
        device.boot.reclaim(transaction.slot, transaction.counter, files)


async def _put_back(device: Device, transaction: Transaction) -> Outcome:
    manifest = device.slots.manifest(transaction.manifest)
    try:
        if manifest is None:
            raise DeviceFault("its manifest is lost too")
        await stage_kept_files(device, manifest, transaction.slot)
    except (Rejected, DeviceFault) as error:
        # Not for ever: a device that only tried to put it back would never take another release.
        reason = f"its boot entry was lost and could not be put back: {error}"
        queue_report(device, transaction, "failed", reason, failure=Failure.DEVICE)
        device.journal.record(Failed(reason))
        return Outcome(Verdict.NOTHING, transaction.release, transaction.counter, reason)
    if isinstance(device.journal.state, Verified):
        device.journal.record(BootStaged())
    device.boot.publish(transaction.slot, transaction.counter)
    device.journal.record(Published())
    return Outcome(
        Verdict.REBOOT, transaction.release, transaction.counter, "its lost boot entry was put back"
    )

"""A release on trial that the journal does not know: the state folder was lost, or is an older one."""

from slipstream.delta.limits import REBOOTS_ALL_MAX
from slipstream.installer import endings
from slipstream.installer.device import Device
from slipstream.installer.endings import why_uncounted
from slipstream.installer.evidence import running_entry, transaction_of
from slipstream.installer.findings import NEVER_LEFT, NEVER_REACHED, Finding
from slipstream.installer.health import HealthResult, reason_of, run_health
from slipstream.installer.ports import BootEntry, EntryState
from slipstream.installer.reboots import reboots_of
from slipstream.installer.states import Abandon
from slipstream.installer.verdict import OnEvent, Outcome, Verdict


async def settle_unrecorded(device: Device, on_event: OnEvent) -> Outcome:
    """What the boot entries alone prove: a bad one that does not run fell back, a counted one that
    runs is on trial. The caller holds the lock. Raises DeviceFault.
    """
    running = running_entry(device)
    for entry in device.boot.entries():
        transaction = transaction_of(device, entry)
        if transaction is None or device.slots.is_denied(transaction.manifest) is not None:
            continue
        if entry.state is EntryState.BAD and entry != running:
            on_event(f"release {transaction.release}: {Finding.EXHAUSTED}, and no journal of it")
            return endings.fell_back(device, transaction, NEVER_REACHED)
    if running is None or running.state is EntryState.GOOD:
        return Outcome(Verdict.NOTHING)
    transaction = transaction_of(device, running)
    if transaction is not None and device.slots.is_denied(transaction.manifest) is not None:
        return Outcome(Verdict.NOTHING)  # an operator started a release that fell back
    on_event(f"counter {running.counter} runs on trial, and no journal of it")
    reason = why_uncounted(device, running)
    results: tuple[HealthResult, ...] = ()
    if reason is None:
        results = await run_health(device.config.health)
        reason = reason_of(results)
    if reason is None:
        return confirm_unrecorded(device, running, results)
    release = "" if transaction is None else transaction.release
    if reboots_of(device, running) >= REBOOTS_ALL_MAX:
        reason = f"{NEVER_LEFT}: {reason}"
        return Outcome(Verdict.UNHEALTHY, release, running.counter, reason, results)
    if not device.boot.alternatives(running.slot):
        return Outcome(Verdict.UNHEALTHY, release, running.counter, reason, results)
    if transaction is not None:
        device.journal.record(Abandon(transaction, reason))
    device.boot.condemn(running.slot, running.counter)
    return Outcome(Verdict.CONDEMNED, release, running.counter, reason, results)


def confirm_unrecorded(
    device: Device, entry: BootEntry, health: tuple[HealthResult, ...] = ()
) -> Outcome:
    """The running entry proved itself: end its trial, with what is on record of its release; without
    a record only the entry is renamed, and nothing is reported. Raises DeviceFault.
    """
    transaction = transaction_of(device, entry)
    if transaction is not None:
        return endings.confirm(device, transaction, health)
    device.boot.confirm(entry.slot, entry.counter)
    device.notices.append(f"confirmed counter {entry.counter}, of which no record is left")
    return Outcome(Verdict.CONFIRMED, "", entry.counter, health=health)

"""The trial of a release: what a boot proved, and what follows from it.

`settle` runs once after every boot, before the device takes another update. It decides from the
disk and not from memory, and every act in it can be done again. How a trial ends stands in endings.py.
"""

from slipstream.delta.errors import DeviceFault
from slipstream.delta.limits import REBOOTS_ALL_MAX, REBOOTS_MAX
from slipstream.installer import endings
from slipstream.installer.counting import observe_counting
from slipstream.installer.device import Device
from slipstream.installer.endings import why_it_ended, why_uncounted
from slipstream.installer.evidence import roots_of, wrong_root
from slipstream.installer.findings import (
    LOST_TWICE,
    LOST_WHILE_IT_RAN,
    NEVER_LEFT,
    NEVER_STARTED,
    NOTHING_ELSE,
    Finding,
    entry_of,
    find_out,
)
from slipstream.installer.health import HealthResult, reason_of, run_health
from slipstream.installer.ports import EntryState
from slipstream.installer.reboots import reboots_of
from slipstream.installer.reports import Failure, queue_report
from slipstream.installer.restage import reclaim, restage
from slipstream.installer.states import (
    BootedNew,
    Committed,
    Condemn,
    Condemned,
    EntryLost,
    Idle,
    Published,
    Staged,
    Transaction,
    Trial,
    Verified,
)
from slipstream.installer.unrecorded import settle_unrecorded
from slipstream.installer.verdict import OnEvent, Outcome, Verdict, silent

RESTAGES_MAX = 1  # a lost entry is put back once: firmware that loses it again will not stop


async def settle(device: Device, on_event: OnEvent = silent) -> Outcome:
    """Find out what the last boot proved; confirm, condemn, record, or put back what was lost.

    Raises Busy while another installer is at work, DeviceFault.
    """
    with device.lock():
        observe_counting(device)  # before the entry is renamed: its name is the evidence
        state = device.journal.state
        if isinstance(state, Verified | Staged | Committed | Trial | Condemned):
            reclaim(device, state.transaction)
        match state:
            case Idle():
                return await settle_unrecorded(device, on_event)
            case Verified() if state.transaction.restages:
                return await restage(device, state.transaction)
            case Staged() if entry_of(state.transaction, device.boot.entries()) is None:
                if state.transaction.restages:
                    return await restage(device, state.transaction)
                return Outcome(Verdict.NOTHING)
            case Staged() | Committed() | Trial() | Condemned():
                return await _settle_published(device, state, on_event)
            case _:  # an install that was interrupted goes on in install()
                return Outcome(Verdict.NOTHING)


async def _settle_published(
    device: Device, state: Staged | Committed | Trial | Condemned, on_event: OnEvent
) -> Outcome:
    transaction = state.transaction
    entries = device.boot.entries()
    found = find_out(transaction, device.boot.booted(), entries, roots_of(device, transaction))
    on_event(f"release {transaction.release}: {found}")
    if isinstance(state, Staged):
        # The power went between the rename and its record, or the record of its report.
        queue_report(device, transaction, "installed")
        if found in (Finding.WAITS, Finding.LOST):
            device.journal.record(Published())
    match found:
        case Finding.RUNS:
            if isinstance(state, Condemned):
                return _condemn_again(device, state)
            device.journal.record(BootedNew())
            return await _prove(device, transaction, on_event)
        case Finding.WAITS:
            return _wait(device, state)
        case Finding.EXHAUSTED:
            return endings.fell_back(device, transaction, why_it_ended(state))
        case Finding.GOOD:
            if isinstance(state, Condemned):
                device.boot.condemn(transaction.slot, transaction.counter)
                return endings.fell_back(device, transaction, state.reason)
            if not isinstance(state, Trial):
                device.journal.record(BootedNew())
            return endings.confirm(device, transaction)
        case Finding.LOST:
            if isinstance(state, Condemned):
                return endings.fell_back(device, transaction, state.reason)
            if transaction.restages >= RESTAGES_MAX:
                return endings.fell_back(device, transaction, LOST_TWICE)
            device.journal.record(EntryLost())
            return await restage(device, transaction)


async def _prove(device: Device, transaction: Transaction, on_event: OnEvent) -> Outcome:
    """S12: the new release runs: was its start counted, is it what was signed, and is it well?

    A cut, a hang or a reset boots it again while it has tries left; then the old one.
    """
    entry = entry_of(transaction, device.boot.entries())
    if entry is None:
        return _lost_while_it_ran(device, transaction)
    if entry.state is EntryState.GOOD:
        return endings.confirm(device, transaction)  # confirmed before, and cut before the record
    reason = wrong_root(device, transaction) or why_uncounted(device, entry)
    results: tuple[HealthResult, ...] = ()
    if reason is None:
        on_event(
            f"release {transaction.release}: running {len(device.config.health)} health checks"
        )
        results = await run_health(device.config.health)
        reason = reason_of(results)
    if reason is None:
        return endings.confirm(device, transaction, results)
    on_event(f"release {transaction.release}: {reason}")
    if not device.boot.alternatives(transaction.slot):
        queue_report(device, transaction, "failed", reason, failure=Failure.of_trial(reason))
        return Outcome(Verdict.UNHEALTHY, transaction.release, transaction.counter, reason, results)
    device.journal.record(Condemn(reason))  # durable before the entry goes: it is why
    device.boot.condemn(transaction.slot, transaction.counter)
    return Outcome(Verdict.CONDEMNED, transaction.release, transaction.counter, reason, results)


def _lost_while_it_ran(device: Device, transaction: Transaction) -> Outcome:
    """Rebooting brings the other release, which puts the entry back. Where it does not, because the
    boot loader has a name for it that is not ours, or nothing else to start, the device stays, and
    says so.
    """
    verdict, reason = Verdict.REBOOT, LOST_WHILE_IT_RAN
    if not device.boot.alternatives(transaction.slot):
        verdict, reason = Verdict.UNHEALTHY, f"{reason}, and {NOTHING_ELSE}"
    elif reboots_of(device, transaction) >= REBOOTS_ALL_MAX:
        verdict, reason = Verdict.UNHEALTHY, f"{reason}, and the boot loader keeps starting it"
    if verdict is Verdict.UNHEALTHY:
        queue_report(device, transaction, "failed", reason, failure=Failure.DEVICE)
    return Outcome(verdict, transaction.release, transaction.counter, reason)


def _condemn_again(device: Device, state: Condemned) -> Outcome:
    """It was found bad and runs all the same: the cut came before its entry went, or after."""
    transaction = state.transaction
    try:
        device.journal.record(BootedNew())  # durable before the entry goes: it is why
    except DeviceFault as error:
        # It was recorded once: a state folder that is full since then does not keep a bad release.
        device.notices.append(f"the trial's end is not recorded anew: {error}")
    if entry_of(transaction, device.boot.entries()) is None:
        return _lost_while_it_ran(device, transaction)
    device.boot.condemn(transaction.slot, transaction.counter)
    # Without anything else to start it would come back for ever, and with it where the boot loader
    # does not leave it: then stay, and say so.
    reason, verdict = state.reason, Verdict.CONDEMNED
    if not device.boot.alternatives(transaction.slot):
        verdict = Verdict.UNHEALTHY
    elif reboots_of(device, transaction) >= REBOOTS_ALL_MAX:
        verdict, reason = Verdict.UNHEALTHY, f"{NEVER_LEFT}: {reason}"
        queue_report(device, transaction, "failed", reason, failure=Failure.BOOT)
    return Outcome(verdict, transaction.release, transaction.counter, reason)


def _wait(device: Device, state: Staged | Committed | Trial | Condemned) -> Outcome:
    """Another release runs and this one has tries left: the next boot tries it."""
    transaction = state.transaction
    if isinstance(state, Condemned):
        device.boot.condemn(transaction.slot, transaction.counter)
        return endings.fell_back(device, transaction, state.reason)
    if reboots_of(device, transaction) >= REBOOTS_MAX:
        device.boot.condemn(transaction.slot, transaction.counter)
        return endings.fell_back(device, transaction, NEVER_STARTED)
    return Outcome(Verdict.REBOOT, transaction.release, transaction.counter)

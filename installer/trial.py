"""The trial of a release: what a boot proved, and what follows from it.

`settle` runs once after every boot, before the device takes another update. It decides from the
disk and not from memory, and every act in it can be done again: the order is always the boot
entry, then the floor, then the records and the report, and the journal's last word at the end.
Killed anywhere, it does the rest next time.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from slipstream.delta.errors import DeviceFault, NothingToDo, Rejected
from slipstream.delta.limits import REBOOTS_ALL_MAX, REBOOTS_MAX
from slipstream.installer.attempts import begin_attempt, ends_by_itself, forget_attempts, give_up
from slipstream.installer.counting import STUCK, observe_counting
from slipstream.installer.device import Device
from slipstream.installer.evidence import (
    boot_files,
    other_good,
    roots_of,
    running_entry,
    runs_now,
    transaction_of,
    wrong_root,
)
from slipstream.installer.findings import (
    LOST_TWICE,
    LOST_WHILE_IT_RAN,
    NEVER_FINISHED,
    NEVER_LEFT,
    NEVER_REACHED,
    NEVER_STARTED,
    Finding,
    entry_of,
    find_out,
)
from slipstream.installer.health import HealthResult, reason_of, run_health
from slipstream.installer.ports import BootEntry, EntryState
from slipstream.installer.reboots import reboots_of
from slipstream.installer.reports import queue_report
from slipstream.installer.slots import Denied
from slipstream.installer.staging import stage_kept_files
from slipstream.installer.states import (
    Abandon,
    BootedNew,
    BootStaged,
    Committed,
    Condemn,
    Condemned,
    Confirm,
    EntryLost,
    Failed,
    FellBack,
    Idle,
    Opened,
    Published,
    Refused,
    Staged,
    Streaming,
    Transaction,
    Trial,
    Verified,
)

RESTAGES_MAX = 1  # a lost entry is put back once: firmware that loses it again will not stop
ROLLED_BACK = "given up by an operator"

OnEvent = Callable[[str], None]


class Verdict(StrEnum):
    """What settle found and did."""

    NOTHING = "nothing"  # no trial, or an install that goes on
    CONFIRMED = "confirmed"
    CONDEMNED = "condemned"  # reboot: the other release comes back
    UNHEALTHY = "unhealthy"  # and nothing to fall back to: asked again later
    FELL_BACK = "fell back"
    REBOOT = "reboot"  # the next boot tries the release


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verdict, on which release, why, and how the health checks went."""

    verdict: Verdict
    release: str = ""
    counter: int = 0
    reason: str = ""
    health: tuple[HealthResult, ...] = ()

    @property
    def reboot_wanted(self) -> bool:
        return self.verdict in (Verdict.REBOOT, Verdict.CONDEMNED)


def silent(_: str) -> None:
    """Nobody listens."""


async def settle(device: Device, on_event: OnEvent = silent) -> Outcome:
    """Find out what the last boot proved; confirm, condemn, record, or put back what was lost.

    Raises Busy while another installer is at work, DeviceFault.
    """
    with device.lock():
        observe_counting(device)  # before the entry is renamed: its name is the evidence
        state = device.journal.state
        if isinstance(state, Verified | Staged | Committed | Trial | Condemned):
            _reclaim(device, state.transaction)
        match state:
            case Idle():
                return await _settle_unrecorded(device, on_event)
            case Verified() if state.transaction.restages:
                return await _restage(device, state.transaction)
            case Staged() if entry_of(state.transaction, device.boot.entries()) is None:
                if state.transaction.restages:
                    return await _restage(device, state.transaction)
                return Outcome(Verdict.NOTHING)
            case Staged() | Committed() | Trial() | Condemned():
                return await _settle_published(device, state, on_event)
            case _:  # an install that was interrupted goes on in install()
                return Outcome(Verdict.NOTHING)


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
            return _confirm(device, state.transaction)
        entry = running_entry(device)
        if entry is None or entry.state is EntryState.GOOD:
            raise NothingToDo("the running release is not on trial")
        return _confirm_unrecorded(device, entry)


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
    return _fell_back(device, transaction, _why(state) if left else ROLLED_BACK)


def _under_way(transaction: Transaction) -> Refused:
    return Refused(
        f"an install of release {transaction.release} is under way: there is nothing to go back to",
        hint="`slipstream device install` ends it; nothing of it boots before that",
    )


# --- a release that the journal knows


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
            device.journal.record(BootedNew())
            if isinstance(state, Condemned):
                return _condemn_again(device, state)
            return await _prove(device, transaction, on_event)
        case Finding.WAITS:
            return _wait(device, state)
        case Finding.EXHAUSTED:
            return _fell_back(device, transaction, _why(state))
        case Finding.GOOD:
            if isinstance(state, Condemned):
                device.boot.condemn(transaction.slot, transaction.counter)
                return _fell_back(device, transaction, state.reason)
            if not isinstance(state, Trial):
                device.journal.record(BootedNew())
            return _confirm(device, transaction)
        case Finding.LOST:
            if isinstance(state, Condemned):
                return _fell_back(device, transaction, state.reason)
            if transaction.restages >= RESTAGES_MAX:
                return _fell_back(device, transaction, LOST_TWICE)
            device.journal.record(EntryLost())
            return await _restage(device, transaction)


async def _prove(device: Device, transaction: Transaction, on_event: OnEvent) -> Outcome:
    """S12: the new release runs: was its start counted, is it what was signed, and is it well?

    A cut, a hang or a reset boots it again while it has tries left; then the old one.
    """
    entry = entry_of(transaction, device.boot.entries())
    if entry is None:
        return _lost_while_it_ran(device, transaction)
    if entry.state is EntryState.GOOD:
        return _confirm(device, transaction)  # confirmed before, and cut before the record
    reason = wrong_root(device, transaction) or _uncounted(device, entry)
    results: tuple[HealthResult, ...] = ()
    if reason is None:
        on_event(
            f"release {transaction.release}: running {len(device.config.health)} health checks"
        )
        results = await run_health(device.config.health)
        reason = reason_of(results)
    if reason is None:
        return _confirm(device, transaction, results)
    on_event(f"release {transaction.release}: {reason}")
    if not other_good(device, entry):
        queue_report(device, transaction, "failed", reason)
        return Outcome(Verdict.UNHEALTHY, transaction.release, transaction.counter, reason, results)
    device.journal.record(Condemn(reason))  # durable before the entry goes: it is why
    device.boot.condemn(transaction.slot, transaction.counter)
    return Outcome(Verdict.CONDEMNED, transaction.release, transaction.counter, reason, results)


def _lost_while_it_ran(device: Device, transaction: Transaction) -> Outcome:
    """Rebooting brings the other release, which puts the entry back. Where it does not, because the
    boot loader has a name for it that is not ours, the device stays, and says so.
    """
    verdict, reason = Verdict.REBOOT, LOST_WHILE_IT_RAN
    if reboots_of(device, transaction) >= REBOOTS_ALL_MAX:
        verdict, reason = Verdict.UNHEALTHY, f"{reason}, and the boot loader keeps starting it"
        queue_report(device, transaction, "failed", reason)
    return Outcome(verdict, transaction.release, transaction.counter, reason)


def _confirm(
    device: Device, transaction: Transaction, health: tuple[HealthResult, ...] = ()
) -> Outcome:
    """S13 and S14: the entry, then the floor, which risen first could leave nothing that may boot.

    A cut before the rename boots the new release on trial again, after it as good; calling again
    does the rest.
    """
    device.boot.confirm(transaction.slot, transaction.counter)
    _raise_floor(device, transaction)
    queue_report(device, transaction, "confirmed")
    if not isinstance(device.journal.state, Idle):
        device.journal.record(Confirm())
    return Outcome(Verdict.CONFIRMED, transaction.release, transaction.counter, health=health)


def _fell_back(device: Device, transaction: Transaction, reason: str) -> Outcome:
    """Remember why, deny, report: the other release runs, and this one is not tried again."""
    device.slots.deny(Denied.of(transaction, reason, device.now()))
    queue_report(device, transaction, "fell_back", reason)
    if not isinstance(device.journal.state, Idle):
        device.journal.record(FellBack(reason))
    return Outcome(Verdict.FELL_BACK, transaction.release, transaction.counter, reason)


def _condemn_again(device: Device, state: Condemned) -> Outcome:
    """It was found bad and runs all the same: the cut came before its entry went, or after."""
    transaction = state.transaction
    if entry_of(transaction, device.boot.entries()) is None:
        return _lost_while_it_ran(device, transaction)
    device.boot.condemn(transaction.slot, transaction.counter)
    entry = entry_of(transaction, device.boot.entries())
    # Without another good release it would come back for ever, and with one where the boot loader
    # does not leave it: then stay, and say so.
    reason, verdict = state.reason, Verdict.CONDEMNED
    if not other_good(device, entry):
        verdict = Verdict.UNHEALTHY
    elif reboots_of(device, transaction) >= REBOOTS_ALL_MAX:
        verdict, reason = Verdict.UNHEALTHY, f"{NEVER_LEFT}: {reason}"
        queue_report(device, transaction, "failed", reason)
    return Outcome(verdict, transaction.release, transaction.counter, reason)


def _wait(device: Device, state: Staged | Committed | Trial | Condemned) -> Outcome:
    """Another release runs and this one has tries left: the next boot tries it."""
    transaction = state.transaction
    if isinstance(state, Condemned):
        device.boot.condemn(transaction.slot, transaction.counter)
        return _fell_back(device, transaction, state.reason)
    if reboots_of(device, transaction) >= REBOOTS_MAX:
        device.boot.condemn(transaction.slot, transaction.counter)
        return _fell_back(device, transaction, NEVER_STARTED)
    return Outcome(Verdict.REBOOT, transaction.release, transaction.counter)


async def _restage(device: Device, transaction: Transaction) -> Outcome:
    """Put a lost boot entry back, from the boot files that are kept on the state partition."""
    attempts = begin_attempt(device, transaction)
    if attempts.hopeless:
        reason = give_up(device, transaction, attempts)
        return Outcome(Verdict.NOTHING, transaction.release, transaction.counter, reason)
    with ends_by_itself(device):
        outcome = await _put_back(device, transaction)
    forget_attempts(device)
    return outcome


def _reclaim(device: Device, transaction: Transaction) -> None:
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
        queue_report(device, transaction, "failed", reason)
        device.journal.record(Failed(reason))
        return Outcome(Verdict.NOTHING, transaction.release, transaction.counter, reason)
    if isinstance(device.journal.state, Verified):
        device.journal.record(BootStaged())
    device.boot.publish(transaction.slot, transaction.counter)
    device.journal.record(Published())
    return Outcome(
        Verdict.REBOOT, transaction.release, transaction.counter, "its lost boot entry was put back"
    )


# --- a release that the journal does not know: the state folder was lost or older


async def _settle_unrecorded(device: Device, on_event: OnEvent) -> Outcome:
    running = running_entry(device)
    for entry in device.boot.entries():
        transaction = transaction_of(device, entry)
        if transaction is None or device.slots.is_denied(transaction.manifest) is not None:
            continue
        if entry.state is EntryState.BAD and entry != running:
            on_event(f"release {transaction.release}: {Finding.EXHAUSTED}, and no journal of it")
            return _fell_back(device, transaction, NEVER_REACHED)
    if running is None or running.state is EntryState.GOOD:
        return Outcome(Verdict.NOTHING)
    transaction = transaction_of(device, running)
    if transaction is not None and device.slots.is_denied(transaction.manifest) is not None:
        return Outcome(Verdict.NOTHING)  # an operator started a release that fell back
    on_event(f"counter {running.counter} runs on trial, and no journal of it")
    reason = _uncounted(device, running)
    results: tuple[HealthResult, ...] = ()
    if reason is None:
        results = await run_health(device.config.health)
        reason = reason_of(results)
    if reason is None:
        return _confirm_unrecorded(device, running, results)
    release = "" if transaction is None else transaction.release
    if reboots_of(device, running) >= REBOOTS_ALL_MAX:
        reason = f"{NEVER_LEFT}: {reason}"
        return Outcome(Verdict.UNHEALTHY, release, running.counter, reason, results)
    if not other_good(device, running):
        return Outcome(Verdict.UNHEALTHY, release, running.counter, reason, results)
    if transaction is not None:
        device.journal.record(Abandon(transaction, reason))
    device.boot.condemn(running.slot, running.counter)
    return Outcome(Verdict.CONDEMNED, release, running.counter, reason, results)


def _confirm_unrecorded(
    device: Device, entry: BootEntry, health: tuple[HealthResult, ...] = ()
) -> Outcome:
    transaction = transaction_of(device, entry)
    if transaction is not None:
        return _confirm(device, transaction, health)
    device.boot.confirm(entry.slot, entry.counter)
    device.notices.append(f"confirmed counter {entry.counter}, of which no record is left")
    return Outcome(Verdict.CONFIRMED, "", entry.counter, health=health)


# --- looking, and small acts


def _why(state: Staged | Committed | Trial | Condemned) -> str:
    if isinstance(state, Condemned):
        return state.reason
    return NEVER_FINISHED if isinstance(state, Trial) else NEVER_REACHED


def _uncounted(device: Device, entry: BootEntry) -> str | None:
    """S11: why a trial that the boot loader did not count is given up; None if it counted.

    Without another good release there is nothing to go back to: then it is only said, and health
    decides.
    """
    if device.boot.counted().moved is not False:
        return None
    if other_good(device, entry):
        return STUCK
    device.notices.append(STUCK)
    return None


def _require_other(device: Device, entry: BootEntry) -> None:
    if not other_good(device, entry):
        raise DeviceFault(
            "there is no other good release to go back to",
            got=", ".join(f"{one.name} {one.state}" for one in device.boot.entries()),
            hint="Install another release instead",
        )


def _raise_floor(device: Device, transaction: Transaction) -> None:
    manifest = device.slots.manifest(transaction.manifest)
    if manifest is None:
        device.notices.append(f"no manifest of release {transaction.release}: the floor stays")
        return
    device.floors.raise_to(manifest.floor)

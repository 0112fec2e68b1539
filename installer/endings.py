"""The two ends of a trial, each in its order: confirmed, or fallen back.

The order is always the boot entry, then the floor, then the records and the report, and the
journal's last word at the end. Killed anywhere, calling again does the rest.
"""

from slipstream.installer.counting import STUCK
from slipstream.installer.device import Device
from slipstream.installer.evidence import other_good
from slipstream.installer.findings import NEVER_FINISHED, NEVER_REACHED
from slipstream.installer.health import HealthResult
from slipstream.installer.ports import BootEntry
from slipstream.installer.reports import Failure, queue_report
from slipstream.installer.slots import Denied
from slipstream.installer.states import (
    Committed,
    Condemned,
    Confirm,
    FellBack,
    Idle,
    Staged,
    Transaction,
    Trial,
)
from slipstream.installer.verdict import Outcome, Verdict


def confirm(
    device: Device, transaction: Transaction, health: tuple[HealthResult, ...] = ()
) -> Outcome:
    """S13 and S14: the entry, then the floor, which risen first could leave nothing that may boot.

    A cut before the rename boots the new release on trial again, after it as good; calling again
    does the rest.
    """
    device.boot.confirm(transaction.slot, transaction.counter)
    raise_floor(device, transaction)
    queue_report(device, transaction, "confirmed")
    if not isinstance(device.journal.state, Idle):
        device.journal.record(Confirm())
    return Outcome(Verdict.CONFIRMED, transaction.release, transaction.counter, health=health)


def fell_back(device: Device, transaction: Transaction, reason: str) -> Outcome:
    """Remember why, deny, report: the other release runs, and this one is not tried again."""
    device.slots.deny(Denied.of(transaction, reason, device.now()))
    queue_report(device, transaction, "fell_back", reason, failure=Failure.of_trial(reason))
    if not isinstance(device.journal.state, Idle):
        device.journal.record(FellBack(reason))
    return Outcome(Verdict.FELL_BACK, transaction.release, transaction.counter, reason)


def why_it_ended(state: Staged | Committed | Trial | Condemned) -> str:
    """Why a release that does not run any more, and has no tries left, was left."""
    if isinstance(state, Condemned):
        return state.reason
    return NEVER_FINISHED if isinstance(state, Trial) else NEVER_REACHED


def why_uncounted(device: Device, entry: BootEntry) -> str | None:
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


def raise_floor(device: Device, transaction: Transaction) -> None:
    """S14: to what the release's manifest says; never lowers it."""
    manifest = device.slots.manifest(transaction.manifest)
    if manifest is None:
        device.notices.append(f"no manifest of release {transaction.release}: the floor stays")
        return
    device.floors.raise_to(manifest.floor)

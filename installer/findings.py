"""What happened since the last boot: pure, from what the disk and the boot loader say.

The journal says which release was to be tried; the boot entries say how often it was; the kernel
command line and the boot loader say what runs. trial.py acts on what is found.
"""

from collections.abc import Collection
from enum import StrEnum

from slipstream.delta.digest import Digest
from slipstream.delta.errors import DeviceFault
from slipstream.installer.ports import Booted, BootEntry, EntryState
from slipstream.installer.states import Transaction

NEVER_REACHED = "tries ran out: the release never reached its health check"
NEVER_FINISHED = "tries ran out: the release hung or was reset while its health was checked"
WRONG_ROOT = "the booted root hash"  # how the reason begins
LOST_TWICE = "its boot entry was lost twice: the firmware cannot be trusted with this partition"
LOST_WHILE_IT_RAN = "its boot entry was lost while it ran"
NOTHING_ELSE = "the boot loader has nothing else to start: the device stays with it"
NEVER_LEFT = "the boot loader keeps starting it though it was given up"
NEVER_STARTED = "the boot loader keeps starting the old release though the new one has tries left"


class Finding(StrEnum):
    """What a published release is up to."""

    RUNS = "it runs"
    WAITS = "it was not tried yet, or not often enough: the next boot tries it"
    EXHAUSTED = "another release runs, and it has no tries left"
    GOOD = "another release runs, though it was confirmed"
    LOST = "another release runs, and its boot entry is gone"


def find_out(
    transaction: Transaction,
    booted: Booted,
    entries: Collection[BootEntry],
    roots: Collection[Digest],
) -> Finding:
    """What became of the transaction's release. `roots` are those of its partition images.

    Raises DeviceFault if nothing says what runs.
    """
    entry = entry_of(transaction, entries)
    if runs(transaction, booted, entry, roots):
        return Finding.RUNS
    if entry is None:
        return Finding.LOST
    match entry.state:
        case EntryState.TRIAL:
            return Finding.WAITS
        case EntryState.BAD:
            return Finding.EXHAUSTED
        case EntryState.GOOD:
            return Finding.GOOD


def runs(
    transaction: Transaction, booted: Booted, entry: BootEntry | None, roots: Collection[Digest]
) -> bool:
    """Whether the transaction's release is what runs now. Raises DeviceFault if nothing says so."""
    if booted.slot is not None:
        same = booted.counter in (None, transaction.counter)
        return booted.slot == transaction.slot and same
    if booted.root is not None:
        # A root of another slot's release, or of a system that Slipstream did not install.
        return booted.root in roots
    if entry is not None and entry.state is EntryState.TRIAL and entry.tries_done == 0:
        # The boot loader counts a try before it starts the entry. (Only where nothing else
        # speaks: firmware that cannot write the partition never counts.)
        return False
    raise DeviceFault(
        "cannot tell which release runs",
        expected="the boot loader's LoaderEntrySelected, or roothash= or usrhash= on the "
        "kernel command line",
        hint="Check [boot] entry and [boot] cmdline; on EFI systems mount efivarfs",
    )


def entry_of(transaction: Transaction, entries: Collection[BootEntry]) -> BootEntry | None:
    """The visible entry of the transaction's release.

    With doubles from a rename that was cut, the confirmed one speaks last: see confirm.
    """
    mine = [
        one for one in entries if (one.slot, one.counter) == (transaction.slot, transaction.counter)
    ]
    mine.sort(key=lambda one: one.state is EntryState.GOOD)
    return mine[0] if mine else None

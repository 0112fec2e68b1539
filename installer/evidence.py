"""What the disk, the boot loader and the records say about the releases on this device.

Reads only. findings.py draws the conclusions, trial.py acts on them.
"""

from collections.abc import Iterator
from typing import BinaryIO

from slipstream.delta.digest import Digest
from slipstream.delta.errors import DeviceFault, FormatError
from slipstream.delta.manifest import Manifest, Place
from slipstream.delta.tree import tree_of
from slipstream.installer.blocking import GoOn, unasked
from slipstream.installer.device import Device
from slipstream.installer.findings import WRONG_ROOT, entry_of, runs
from slipstream.installer.ports import Booted, BootEntry, BootFiles, EntryState
from slipstream.installer.slot import PIECE_BYTES
from slipstream.installer.states import Transaction, transaction_id


def runs_now(device: Device, transaction: Transaction) -> bool:
    """Whether the transaction's release is what runs. Raises DeviceFault if nothing says so."""
    entry = entry_of(transaction, device.boot.entries())
    return runs(transaction, device.boot.booted(), entry, roots_of(device, transaction))


def roots_of(device: Device, transaction: Transaction) -> tuple[Digest, ...]:
    """The roots of the release's partition images; none if its manifest is gone."""
    manifest = device.slots.manifest(transaction.manifest)
    if manifest is None:
        return ()
    return tuple(one.tree.root for one in manifest.images if one.place is Place.PARTITION)


def wrong_root(device: Device, transaction: Transaction) -> str | None:
    """Why the running root hash is not the release's; None if it is, or if none is known."""
    root = device.boot.booted().root
    roots = roots_of(device, transaction)
    if root is None or not roots or root in roots:
        return None
    return f"{WRONG_ROOT} {root} is none of the release's"


def running_entry(device: Device) -> BootEntry | None:
    """The entry of the booted slot; of doubles the counted one, which is what was started."""
    booted = device.boot.booted()
    mine = [one for one in device.boot.entries() if one.slot == booted.slot]
    mine.sort(key=lambda one: one.state is EntryState.GOOD)
    return mine[0] if mine else None


def other_good(device: Device, entry: BootEntry | None) -> list[BootEntry]:
    """Good entries of other slots: a release that was confirmed, to go back to.

    What a reset would lead to, of any system, is another question: BootControl.alternatives.
    """
    slot = None if entry is None else entry.slot
    good = EntryState.GOOD
    return [one for one in device.boot.entries() if one.slot != slot and one.state is good]


def transaction_of(device: Device, release: BootEntry | Booted) -> Transaction | None:
    """The transaction that made an entry, or what runs now, from the slot's record; None if that is
    gone, or of another release."""
    slot, counter = release.slot, release.counter
    if slot is None or counter is None:
        return None
    record = device.slots.record(slot)
    if record.manifest is None or record.release is None or record.counter != counter:
        return None
    return Transaction(
        id=transaction_id(record.manifest, slot),
        manifest=record.manifest,
        release=record.release,
        counter=counter,
        slot=slot,
        images=tuple(record.images),
    )


def check_kept_files(device: Device, manifest: Manifest, slot: str, go_on: GoOn = unasked) -> None:
    """The boot files that are kept on the state partition still are what was signed.

    They were verified when they came; before they are staged once more they may have lain there for
    weeks. Reads all of them, asking `go_on` now and then. Raises DeviceFault.
    """
    for image in manifest.images:
        if image.place is Place.PARTITION:
            continue
        path = device.boot_file(slot, image.name)
        try:
            with path.open("rb") as file:
                tree = tree_of(_pieces_of(file, go_on), image.tree.salt)
            if tree.tuple != image.tree:
                raise DeviceFault(
                    "a kept boot file is not what was signed",
                    where=path,
                    expected=image.tree.root,
                    got=tree.tuple.root,
                )
        except (OSError, FormatError) as error:
            raise DeviceFault("a kept boot file cannot be read", where=path, got=error) from error


def _pieces_of(file: BinaryIO, go_on: GoOn) -> Iterator[bytes]:
    while piece := file.read(PIECE_BYTES):
        go_on()
        yield piece


def boot_files(device: Device, manifest: Manifest, slot: str) -> BootFiles:
    """The release's boot files, as they are kept and verified on the state partition."""
    return BootFiles(
        manifest.boot.title,
        manifest.release,
        manifest.boot.options,
        {
            one.place: device.boot_file(slot, one.name)
            for one in manifest.images
            if one.place is not Place.PARTITION
        },
    )

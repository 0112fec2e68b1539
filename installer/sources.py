"""What a delta may start from: the images of the running slot, where they stand, and their roots.

A wrong root costs a delta that drifts, never a wrong image: every chunk is checked. Reads only.
"""

import os
from pathlib import Path

from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError
from slipstream.delta.manifest import ImageEntry, Manifest, Place
from slipstream.delta.tree import tree_of
from slipstream.installer.blocking import GoOn, in_thread
from slipstream.installer.config import PartitionPlace
from slipstream.installer.device import Device
from slipstream.installer.ports import Booted
from slipstream.installer.slot import PIECE_BYTES


def source_place(device: Device, slot: str, image: str, place: Place) -> PartitionPlace | None:
    """Where the running slot holds an image of that name; None if it does not.

    A boot file is kept on the state partition. What the factory put on the boot partition is not;
    then it is the file that the slot's own entry boots. Raises DeviceFault.
    """
    if place is Place.PARTITION:
        return device.place(slot, image)
    kept = device.boot_file(slot, image)
    if os.path.exists(kept):
        return PartitionPlace(kept)
    booted = device.boot.booted()
    if booted.slot != slot or booted.counter is None:
        return None
    path = device.boot.entry_file(slot, booted.counter, place)
    return None if path is None else PartitionPlace(path)


async def find_sources(
    device: Device, manifest: Manifest, booted: Booted
) -> dict[str, tuple[Digest, ...]]:
    """By image of the release: the roots that the running slot may hold.

    They are the booted root hash, and the slot's record; the root of a boot file that no record
    knows is computed. Nothing for a release that is not newer: it is not installed. Raises
    DeviceFault.
    """
    if booted.slot is None or (booted.counter or 0) >= manifest.counter:
        return {}
    record = device.slots.record(booted.slot)
    found = {}
    for image in manifest.images:
        place = source_place(device, booted.slot, image.name, image.place)
        if place is None:
            continue
        roots = []
        if image.place is Place.PARTITION and booted.root is not None:
            roots.append(booted.root)
        if image.name in record.images:
            roots.append(record.images[image.name])
        elif image.place is not Place.PARTITION:
            roots += await _root_of(device, Path(place.path), image)
        found[image.name] = tuple(dict.fromkeys(roots))
    return found


async def _root_of(device: Device, path: Path, image: ImageEntry) -> list[Digest]:
    """The root of a file, by the salt of the release on offer: a product's releases share it."""

    def pieces(go_on: GoOn) -> Digest:
        with path.open("rb") as file:

            def read() -> bytes:
                go_on()
                return file.read(PIECE_BYTES)

            return tree_of(iter(read, b""), image.tree.salt).tuple.root

    try:
        return [await in_thread(pieces)]
    except (OSError, FormatError) as error:
        device.notices.append(f"{path} is no source for {image.name}: {error}")
        return []

"""By what the initrd finds a release's partitions: labels and PARTUUIDs, from the root hash.

S2 of docs/boot.md takes them from the target slot before its first byte is written, S6b gives
them back when all of it was read back. In between nothing that boots can find the partitions: not
even a boot entry that should not be there. With them a signed kernel command line needs no slot in
it: `roothash=H` is enough (`usrhash=H` for usr), whichever slot H stands in.

The PARTUUID of the data is the first 128 bits of the root hash, that of the hash tree the last 128,
both written as text in the order of the hash's digits. Source: systemd,
src/veritysetup/veritysetup-generator.c (create_device and its by-partuuid paths); systemd.io,
"Discoverable Partitions Specification". Types and attributes stay as they are.
"""

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

from slipstream.delta.cmdline import kernel_words
from slipstream.delta.digest import Digest
from slipstream.delta.errors import DeviceFault, Rejected
from slipstream.delta.gpt_copy import Identity
from slipstream.delta.gpt_layout import LABEL_UNITS_MAX
from slipstream.delta.manifest import Manifest, Place
from slipstream.installer.config import Config, IdentityMode, PartitionPlace, Verity, tree_name
from slipstream.installer.device import Device
from slipstream.installer.gpt_disk import Partition, find_partition, rename_partitions
from slipstream.installer.plan import Plan

EMPTY_LABEL = "_empty"  # systemd-sysupdate's word for a partition that may be written

Say = Callable[[str], None]


def data_uuid(root: Digest) -> uuid.UUID:
    """The PARTUUID of the partition whose image has this root hash."""
    return uuid.UUID(bytes=root.raw[:16])


def tree_uuid(root: Digest) -> uuid.UUID:
    """The PARTUUID of the partition that holds that image's hash tree."""
    return uuid.UUID(bytes=root.raw[16:])


def identities_of(manifest: Manifest, verity: Verity) -> dict[str, Identity]:
    """Label and PARTUUID of every partition that the release fills, by the partition's name."""
    made = {}
    for image in manifest.images:
        if image.place is not Place.PARTITION:
            continue
        root = image.tree.root
        made[image.name] = Identity(_label(image.name, manifest.release), data_uuid(root))
        if verity is Verity.PARTITION:
            name = tree_name(image.name)
            made[name] = Identity(_label(name, manifest.release), tree_uuid(root))
    return made


def check_identity(config: Config) -> None:
    """S0: every place of the slots is a partition that can be renamed. Raises DeviceFault."""
    if config.identity is IdentityMode.GPT:
        for slot in config.slots.values():
            _partitions(slot.name, slot.partitions)


def check_unique(device: Device, plan: Plan) -> None:
    """S0: no other partition of the disk has a PARTUUID that the release needs. Raises Rejected."""
    if device.config.identity is not IdentityMode.GPT:
        return
    wanted = identities_of(plan.manifest, device.config.verity)
    mine = device.config.slots[plan.slot].partitions
    for slot in device.config.slots.values():
        others = {} if slot.partitions is mine else slot.partitions
        for name, found in _partitions(slot.name, others).items():
            if any(found.row.uuid == one.uuid for one in wanted.values()):
                raise Rejected(
                    f"slot {slot.name} holds this release's {name} already: two partitions would "
                    "have one PARTUUID",
                    where=f"release {plan.manifest.release}",
                    got=found.row.uuid,
                    hint="Publish a release whose images differ from the last one's: the version in "
                    "os-release is enough",
                )


def check_fallback(device: Device, plan: Plan, *, attended: bool) -> str | None:
    """S0: the running release finds its partitions in the backup table too: `gpt` stands on its
    kernel command line. A note of the risk where it does not and a person is at hand.

    S2 and S6b write the primary. Torn there, it boots nothing of Linux's without that word, unless
    the firmware mends it. Raises DeviceFault.
    """
    if device.config.identity is not IdentityMode.GPT or plan.active is None:
        return None
    path = device.config.boot.cmdline
    try:
        words = kernel_words(path.read_text("utf-8", "replace"))
    except OSError as error:
        raise DeviceFault(
            f"cannot read the kernel command line: {error.strerror}", where=path
        ) from error
    if "gpt" in words:
        return None
    what = (
        "the running release was started without the word gpt: a power cut while partitions are "
        "renamed could leave a partition table in which it finds nothing"
    )
    if attended:
        return what
    raise DeviceFault(
        what,
        where=path,
        expected='gpt, as [install] identity = "gpt" needs it',
        hint="Install a release with gpt on its command line by hand, or with identity left out",
    )


def unpublish(device: Device, plan: Plan, new_uuid: Callable[[], uuid.UUID], say: Say) -> None:
    """S2: nothing finds the target slot's partitions from here on. Before the first byte.

    A cut here boots the old release: its rows are the same in both copies. Idempotent: what is
    unpublished already is left as it is. Raises DeviceFault.
    """
    if device.config.identity is not IdentityMode.GPT:
        return
    found = _target_partitions(device, plan)
    for disk in _disks(found):
        rows = {one.row.number: one.row for one in found.values() if one.disk == disk}
        names = {
            number: Identity(EMPTY_LABEL, row.uuid if row.label == EMPTY_LABEL else new_uuid())
            for number, row in rows.items()
        }
        rename_partitions(disk, names, say)


def publish(device: Device, plan: Plan, say: Say) -> None:
    """S6b: the release's partitions can be found. After the read-back, before the entry is staged.

    All rows of a disk change at once. A cut here boots the old release, as no entry of the new one
    is there; calling again completes it. Raises DeviceFault.
    """
    if device.config.identity is not IdentityMode.GPT:
        return
    wanted = identities_of(plan.manifest, device.config.verity)
    found = _target_partitions(device, plan)
    for disk in _disks(found):
        names = {one.row.number: wanted[name] for name, one in found.items() if one.disk == disk}
        rename_partitions(disk, names, say)


def _target_partitions(device: Device, plan: Plan) -> dict[str, Partition]:
    """The target slot's partitions that the release fills."""
    places = device.config.slots[plan.slot].partitions
    names = identities_of(plan.manifest, device.config.verity)
    return _partitions(plan.slot, {name: places[name] for name in names})


def _partitions(slot: str, places: Mapping[str, PartitionPlace]) -> dict[str, Partition]:
    return {name: find_partition(place, f"{slot}/{name}") for name, place in places.items()}


def _disks(found: Mapping[str, Partition]) -> list[Path]:
    return sorted({one.disk for one in found.values()})


def _label(name: str, release: str) -> str:
    """systemd-sysupdate's pattern, NAME_VERSION. Names and versions are ASCII: a unit each."""
    return f"{name}_{release}"[:LABEL_UNITS_MAX]

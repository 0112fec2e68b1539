"""The guest's disk, as it leaves the factory: release 1 in slot a, slot b empty.

A GPT with an ESP (FAT32 with clusters of 4 KiB, as on a disk of usual size), two slots of a root
file system and its dm-verity hash tree, and the partition that stays. Slot a's partitions have the
UUIDs that follow from its root hash. All of it is made with files: no loop device, no root.
"""

import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from e2e.releases import Published
from slipstream.delta.errors import SlipstreamError
from slipstream.demo.tools import run_tool

MIB = 1024 * 1024
SECTOR = 512
ROOT, ROOT_VERITY = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709", "2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5"
ESP, LINUX = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"
LOADER_CONF = "timeout 0\n"
BOOT_LOADER = Path("/usr/lib/systemd/boot/efi/systemd-bootx64.efi")


@dataclass(frozen=True, slots=True)
class Partition:
    """A row of the table. Sizes in MiB."""

    name: str
    kind: str
    size_mib: int


# FAT32 has at least 65525 clusters: 288 MiB of 4 KiB.
PARTITIONS = (
    Partition("esp", ESP, 288),
    Partition("rootfs-a", ROOT, 96),
    Partition("rootfs-a-verity", ROOT_VERITY, 4),
    Partition("rootfs-b", ROOT, 96),
    Partition("rootfs-b-verity", ROOT_VERITY, 4),
    Partition("state", LINUX, 256),
)


def offset_of(name: str) -> int:
    """Where a partition begins on the disk, in bytes."""
    offset = MIB
    for one in PARTITIONS:
        if one.name == name:
            return offset
        offset += one.size_mib * MIB
    raise KeyError(name)


def partition_uuids(root: str) -> tuple[str, str]:
    """UUIDs of the data and of the hash partition of a root hash in hex, by systemd's rule.

    systemd-veritysetup-generator(8), roothash=: the first and the last 128 bits.
    """
    return str(uuid.UUID(root[:32])), str(uuid.UUID(root[-32:]))


def make_disk(
    folder: Path,
    release: Published,
    rootfs: Path,
    state: Mapping[str, bytes],
    *,
    enrol_keys: bool,
) -> Path:
    """A qcow2 disk in `folder`, over a raw one beside it. `state` are files for the state partition."""
    raw, disk = folder / "factory.raw", folder / "disk.qcow2"
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        data, tree = partition_uuids(release.root(1))
        make_table(raw, {"rootfs-a": data, "rootfs-a-verity": tree})
        _insert(raw, "esp", _make_esp(scratch, release, enrol_keys=enrol_keys))
        _insert(raw, "rootfs-a", rootfs)
        _insert(raw, "rootfs-a-verity", _make_tree(scratch, release, rootfs))
        _insert(raw, "state", _make_state(scratch, state))
    run_tool(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(raw.absolute()), "-F", "raw", str(disk)])  # fmt: skip
    return disk


def overwrite(disk: Path, offset: int, size: int) -> None:
    """Other bytes in a range of a disk that no machine uses: what a failing medium gives."""
    run_tool(["qemu-io", "-f", "qcow2", "-c", f"write -q -P 0xa5 {offset} {size}", str(disk)])


def _size_of(name: str) -> int:
    return next(one.size_mib for one in PARTITIONS if one.name == name) * MIB


def make_table(raw: Path, uuids: Mapping[str, str]) -> None:
    """An empty disk with PARTITIONS, those that are named with these UUIDs, the others by chance."""
    with raw.open("wb") as file:
        file.truncate(2 * MIB + sum(one.size_mib for one in PARTITIONS) * MIB)
    rows = ["label: gpt"]
    for one in PARTITIONS:
        row = f"start={offset_of(one.name) // SECTOR}, size={one.size_mib * MIB // SECTOR}, "
        row += f"type={one.kind}, name={one.name}"
        rows.append(row + (f", uuid={uuids[one.name]}" if one.name in uuids else ""))
    run_tool(["sfdisk", "--quiet", str(raw)], stdin="\n".join(rows) + "\n")


def _insert(raw: Path, name: str, content: Path) -> None:
    """Write a file at the beginning of a partition; holes stay holes."""
    if content.stat().st_size > _size_of(name):
        raise SlipstreamError("larger than its partition", where=name, got=content.stat().st_size)
    run_tool(["dd", f"if={content}", f"of={raw}", "bs=1M", f"seek={offset_of(name) // MIB}", "conv=notrunc,sparse", "status=none"])  # fmt: skip


def _make_esp(scratch: Path, release: Published, *, enrol_keys: bool) -> Path:
    image = scratch / "esp"
    with image.open("wb") as file:
        file.truncate(_size_of("esp"))
    run_tool(["mkfs.vfat", "-F", "32", "-s", "8", "-n", "ESP", str(image)])
    loader, conf = scratch / "systemd-boot.efi", scratch / "loader.conf"
    release.keys.sign(BOOT_LOADER, loader)
    conf.write_text(LOADER_CONF + ("secure-boot-enroll force\n" if enrol_keys else ""))
    files = {
        "EFI/BOOT/BOOTX64.EFI": loader,
        "EFI/systemd/systemd-bootx64.efi": loader,
        # On trial: its first start proves that this board counts (docs/boot.md, "The counter proof").
        "EFI/Linux/0001a+3-0.efi": release.uki(1),
        "loader/loader.conf": conf,
    } | (release.keys.updates() if enrol_keys else {})
    folders = {str(folder) for path in files for folder in Path(path).parents[:-1]}
    run_tool(["mmd", "-i", str(image), *(f"::{folder}" for folder in sorted(folders))])
    for path, source in files.items():
        run_tool(["mcopy", "-i", str(image), str(source), f"::{path}"])
    return image


def _make_tree(scratch: Path, release: Published, rootfs: Path) -> Path:
    """The hash tree of slot a, by cryptsetup's own hand; its root must be the one we publish."""
    tree, output = release.tree(1), scratch / "tree"
    data_uuid, _ = partition_uuids(tree["root"])
    words = ["veritysetup", "format", "--salt", tree["salt"], "--uuid", data_uuid]
    found = run_tool([*words, str(rootfs), str(output)])
    if f"Root hash:      \t{tree['root']}" not in found:
        raise SlipstreamError("veritysetup finds another root hash", expected=tree["root"], got=found)  # fmt: skip
    return output


def _make_state(scratch: Path, files: Mapping[str, bytes]) -> Path:
    folder, image = scratch / "files", scratch / "state"
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        (folder / path).chmod(0o600)
    with image.open("wb") as file:
        file.truncate(_size_of("state"))
    run_tool(["mkfs.ext4", "-q", "-E", "root_owner=0:0,lazy_itable_init=0", "-d", str(folder), str(image)])  # fmt: skip
    return image

"""Disk images with a GUID partition table, made by sfdisk, for tests of what reads and renames it."""

import subprocess
from pathlib import Path

MIB = 1 << 20
SECTOR = 512

# The EFI system partition, two slots of a root file system with its hash tree, and the state.
SCRIPT = """label: gpt
label-id: 11111111-2222-3333-4444-555555555555
first-lba: 64
start=64, size=64, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp
size={slot}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=rootfs-a, uuid=AAAAAAAA-0000-4000-8000-000000000001
size={tree}, type=2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5, name=rootfs-verity-a, uuid=AAAAAAAA-0000-4000-8000-000000000002
size={slot}, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name=rootfs-b, uuid=BBBBBBBB-0000-4000-8000-000000000001, attrs="GUID:60"
size={tree}, type=2C7357ED-EBD2-46D9-AEC1-23D437EC2BF5, name=rootfs-verity-b, uuid=BBBBBBBB-0000-4000-8000-000000000002
size=64, name=state
"""


def make_gpt_disk(path: Path, slot_bytes: int, tree_bytes: int) -> None:
    """A disk of six partitions at `path`, in the order of SCRIPT, without a hole between them."""
    sectors = 64 + 64 + 2 * (slot_bytes + tree_bytes) // SECTOR + 64 + 64
    with path.open("wb") as file:
        file.truncate(-(-sectors * SECTOR // 4096) * 4096)
    script = SCRIPT.format(slot=slot_bytes // SECTOR, tree=tree_bytes // SECTOR)
    done = subprocess.run(
        ["/usr/sbin/sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", path],
        input="grain: 512\n" + script, text=True, capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def places(slot_bytes: int, tree_bytes: int) -> dict[str, tuple[int, int]]:
    """First byte and bytes of each partition, by the name that SCRIPT gives it."""
    found = {}
    at = 64 * SECTOR
    for name, size in (
        ("esp", 64 * SECTOR),
        ("rootfs-a", slot_bytes),
        ("rootfs-verity-a", tree_bytes),
        ("rootfs-b", slot_bytes),
        ("rootfs-verity-b", tree_bytes),
        ("state", 64 * SECTOR),
    ):
        found[name] = (at, size)
        at += size
    return found

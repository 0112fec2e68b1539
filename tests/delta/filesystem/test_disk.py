"""Disks with partitions: tables by sfdisk, maps shifted and named, hostile tables refused."""

import struct
from pathlib import Path
from typing import NamedTuple

import pytest

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Entry, EntryKind, FileMap
from slipstream.delta.filesystem.disk import read_disk
from tests.delta.filesystem.packed_images import MemoryImage, check_map, content
from tests.delta.filesystem.plain_images import MIB, make_ext, make_fat, patched, run

GPT_SCRIPT = """label: gpt
start=2048, size=4096, type=uefi, name="ESP"
start=8192, size=8192, type=linux, name="root"
start=16384, size=8192, type=linux, name="root"
start=24576, size=8192, type=linux
start=32768, size=2048, type=swap, name="a/b"
"""
MBR_SCRIPT = """label: dos
start=2048, size=4096, type=c
start=8192, size=26624, type=f
start=10240, size=8192, type=83
start=20480, size=8192, type=83
"""


class Parts(NamedTuple):
    """Images of file systems and what is in them: file, folder/file."""

    fat: bytes
    ext: bytes
    squashfs: bytes


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    folder = tmp_path_factory.mktemp("disk") / "files"
    (folder / "folder").mkdir(parents=True)
    (folder / "file").write_bytes(b"one " * 4000)
    (folder / "folder" / "file").write_bytes(b"two " * 4000)
    squashfs = folder.with_suffix(".squashfs")
    run("mksquashfs", str(folder), str(squashfs), "-quiet", "-no-progress")
    return Parts(
        make_fat(folder.with_suffix(".fat"), folder, "-F 12", 2 * MIB).read_bytes(),
        make_ext(folder.with_suffix(".ext"), folder, "-t ext4", size=4 * MIB).read_bytes(),
        squashfs.read_bytes(),
    )


def make_disk(path: Path, script: str, contents: dict[int, bytes]) -> bytes:
    """A disk of 18 MiB: partitions by sfdisk, contents by first sector."""
    with path.open("wb") as disk:
        disk.truncate(18 * MIB)
    run("sfdisk", "--quiet", str(path), stdin=script)
    data = bytearray(path.read_bytes())
    for sector, image in contents.items():
        data[sector * 512 : sector * 512 + len(image)] = image
    return bytes(data)


def files(found: FileMap) -> dict[str, Entry]:
    return {entry.path: entry for entry in found.entries if entry.kind is EntryKind.FILE}


def check(data: bytes, names: tuple[str, ...]) -> FileMap:
    """Every partition named has both files, where the map says."""
    image = MemoryImage(data)
    found = read_disk(image)
    check_map(image, found)
    entries = files(found)
    assert entries.keys() == {
        f"{name}/{file}" for name in names for file in ("file", "folder/file")
    }
    for path, entry in entries.items():
        expected = b"two " if "folder" in path else b"one "
        assert content(image, found, entry) == expected * 4000
    return found


@pytest.fixture(scope="module")
def gpt(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("disk") / "gpt"
    contents = {2048: parts.fat, 8192: parts.ext, 16384: parts.squashfs, 24576: parts.squashfs}
    return make_disk(path, GPT_SCRIPT, contents)


def test_a_gpt_disk(gpt: bytes) -> None:
    found = check(gpt, ("ESP", "root", "root-3", "4"))

    assert found.kind == (
        "GPT disk (ESP: FAT12, 2048-byte clusters; root: ext4, 1024-byte blocks; "
        "root-3: squashfs, zlib, 131072-byte blocks; 4: squashfs, zlib, 131072-byte blocks; a_b: raw)"
    )
    assert found.notes == ["a_b: no file system or partition table is known here"]
    assert "root/directory /folder" in [entry.path for entry in found.entries]
    assert found.hints["block_size"] == 131_072


def test_a_gpt_disk_with_sectors_of_4096_bytes(parts: Parts) -> None:
    entry = struct.pack("<16s16xQQ8x72s", b"t" * 16, 16, 527, "ESP".encode("utf-16-le"))
    header = b"EFI PART".ljust(72, b"\0") + struct.pack("<QII", 2, 1, 128)
    head = bytes(4096) + header.ljust(4096, b"\0") + entry

    check(head.ljust(16 * 4096, b"\0") + parts.fat, ("ESP",))


def test_an_mbr_disk_with_logical_partitions(parts: Parts, tmp_path: Path) -> None:
    contents = {2048: parts.fat, 10240: parts.ext, 20480: parts.squashfs}
    found = check(make_disk(tmp_path / "mbr", MBR_SCRIPT, contents), ("1", "5", "6"))

    assert found.kind.startswith("MBR disk (1: FAT12")
    assert found.notes == []


def test_a_partition_behind_the_end_is_a_note(gpt: bytes) -> None:
    found = check(gpt[: 16384 * 512 - 1], ("ESP",))

    assert found.notes[:2] == [
        f"{name}: the image ends before this partition does" for name in ("root", "root-3")
    ]


FIRST_ENTRY = 1024  # of the GPT: type, id, first sector, last sector


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (512 + 72, b"\xff" * 8, "ends before what"),  # where the entries stand
        (512 + 80, b"\xff" * 4, "GPT entries"),  # how many
        (512 + 84, b"\0\0\0\0", "GPT entries"),  # how long
        (512 + 84, b"\xff" * 4, "GPT entries"),
        (FIRST_ENTRY + 40, bytes(8), "ends before it starts"),
        (FIRST_ENTRY + 40, struct.pack("<Q", 8192), "overlap"),
        (FIRST_ENTRY, bytes(128 * 128), "without partitions"),
    ],
)
def test_broken_gpts(offset: int, new: bytes, message: str, gpt: bytes) -> None:
    with pytest.raises(FormatError, match=message):
        read_disk(patched(gpt, offset, new))


def boot_record(*entries: tuple[int, int, int]) -> bytes:
    """A partition table of (type, first sector, sectors)."""
    table = b"".join(struct.pack("<4xB3xII", *entry) for entry in entries)
    return bytes(446) + table.ljust(64, b"\0") + b"\x55\xaa"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes(4096), "no partition table"),
        (boot_record(), "without partitions"),
        (boot_record((0xEE, 1, 99)), "protective"),
        (boot_record((5, 1, 9)), "ends before"),
        (boot_record((5, 1, 9)) + bytes(512), "no partition table"),
        # a chain of tables that ends where it starts
        (boot_record((5, 1, 9)) + boot_record((0, 0, 0), (5, 0, 9)), "too many"),
        (boot_record((5, 1, 9)) + boot_record((0x83, 1, 1), (5, 0, 9)), "too many"),
        (boot_record((0x83, 1, 9), (0x83, 9, 9)) + bytes(9216), "overlap"),
    ],
)
def test_broken_boot_records(data: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        read_disk(MemoryImage(data))

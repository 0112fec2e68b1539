"""The probe: each kind of image is found, and no image makes it raise or work without end."""

import functools
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipstream.delta.errors import UsageError
from slipstream.delta.filemap import EntryKind, FileMap
from slipstream.delta.filesystem.probe import read_filesystem
from tests.delta.filesystem.packed_images import MemoryImage, check_map
from tests.delta.filesystem.plain_images import (
    MIB,
    CountingImage,
    make_ext,
    make_fat,
    table_places,
)
from tests.delta.filesystem.plain_images import run as run_tool
from tests.delta.filesystem.test_cpio import SMALL as CPIO

KINDS = {
    "ext4": "ext4, 1024-byte blocks",
    "inline": "ext4, 4096-byte blocks",
    "ext2": "ext2, 1024-byte blocks",
    "fat12": "FAT12, 2048-byte clusters",
    "fat16": "FAT16, 512-byte clusters",
    "squashfs": "squashfs, zlib, 131072-byte blocks",
    "erofs": "erofs, 4096-byte blocks",
    "gpt": "GPT disk (one: FAT12, 2048-byte clusters; two: ext4, 1024-byte blocks)",
    "mbr": "MBR disk (1: FAT12, 2048-byte clusters; 2: ext4, 1024-byte blocks)",
}
READS_MAX = 10_000  # the images have some 1,000 blocks, and few of them are tables
REREAD_MAX = 4  # how often a byte may be read: as a table, as a map, as a directory, as an inode


@functools.cache
def make_image(kind: str) -> bytes:
    """A small image of each kind, with a folder in a folder and a file in many pieces."""
    with tempfile.TemporaryDirectory() as scratch:
        return _make(kind, Path(scratch))


def _make(kind: str, scratch: Path) -> bytes:
    folder, path = scratch / "files", scratch / "image"
    (folder / "outer" / "inner").mkdir(parents=True)
    (folder / "outer" / "a name that is long").write_bytes(b"some words, " * 500)
    (folder / "outer" / "inner" / "small").write_bytes(b"few words")
    with (folder / "comb").open("wb") as comb:
        for tooth in range(40):
            comb.seek(tooth * 8192)
            comb.write(b"tooth")
    match kind:
        case "ext4":
            options = "-t ext4 -b 1024 -O ^has_journal"
            return make_ext(path, folder, options, size=MIB).read_bytes()
        case "inline":
            options = "-t ext4 -b 4096 -O ^has_journal,inline_data"
            return make_ext(path, folder, options, size=MIB).read_bytes()
        case "ext2":
            return make_ext(path, folder, "-t ext2 -b 1024", size=MIB).read_bytes()
        case "fat12":
            return make_fat(path, folder, "-F 12", MIB).read_bytes()
        case "fat16":
            return make_fat(path, folder, "-F 16 -s 1", 4 * MIB).read_bytes()
        case "squashfs":
            run_tool("mksquashfs", str(folder), str(path), "-quiet", "-no-progress")
            return path.read_bytes()
        case "erofs":
            run_tool("mkfs.erofs", "-zlz4hc", str(path), str(folder))
            return path.read_bytes()
        case "gpt" | "mbr":
            label = "gpt" if kind == "gpt" else "dos"
            names = (", name=one", ", name=two") if kind == "gpt" else ("", "")
            path.write_bytes(bytes(3 * MIB))
            script = (
                f"label: {label}\nstart=256, size=2048{names[0]}\nstart=2304, size=2048{names[1]}"
            )
            run_tool("sfdisk", "--quiet", str(path), stdin=script)
            disk = bytearray(path.read_bytes())
            disk[256 * 512 : 256 * 512 + MIB] = make_image("fat12")
            disk[2304 * 512 : 2304 * 512 + MIB] = make_image("ext4")
            return bytes(disk)
        case _:
            raise AssertionError(kind)


def read_bounded(data: bytes) -> FileMap:
    """The map of any bytes; checks what holds for each."""
    image = CountingImage(data)
    found = read_filesystem(image)
    assert image.reads <= READS_MAX
    assert image.bytes_read <= REREAD_MAX * len(data) + 4096
    assert found.kind
    assert found.kind != "raw" or (not found.entries and not found.blocks and found.notes)
    check_map(MemoryImage(data), found)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_found(kind: str) -> None:
    found = read_bounded(make_image(kind))

    assert found.kind.startswith(KINDS[kind])
    files = [entry.path for entry in found.entries if entry.kind is EntryKind.FILE]
    assert any(path.endswith("outer/inner/small") for path in files)


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (b"", "known"),
        (b"\x7fELF" + bytes(9999), "known"),
        (bytes(MIB), "known"),
        (CPIO, "known"),
        (b"LUKS\xba\xbe\0\x02" + bytes(MIB), "encrypted"),
        (b"XFSB" + bytes(MIB), "XFS cannot be read: no reader for this file system; "),
        (bytes(0x10040) + b"_BHRfS_M" + bytes(MIB), "btrfs"),
        (bytes(1080) + b"\x53\xef" + bytes(MIB), "ext cannot be read: "),
        (bytes(510) + b"\x55\xaa" + bytes(MIB), "FAT cannot be read: "),
        (bytes(510) + b"\x55\xaa" + bytes(MIB), "disk cannot be read: "),
    ],
)
def test_what_cannot_be_read_is_raw_and_says_why(data: bytes, note: str) -> None:
    found = read_bounded(data)

    assert found.kind == "raw"
    assert any(note in line for line in found.notes)


@pytest.mark.parametrize(("kind", "cut"), [("ext4", 8000), ("squashfs", 200), ("erofs", 2048)])
def test_what_is_cut_short_says_how_long_it_was(kind: str, cut: int) -> None:
    data = make_image(kind)
    (note,) = read_bounded(data[:cut]).notes
    assert f"{kind[:3]}" in note
    size = int(note.split("cut short; expected ")[1].split(f" bytes, got {cut}. ")[0])
    assert len(data) - 4096 < size <= len(data)


def test_a_kernel_is_no_boot_sector() -> None:
    """It begins as a PE file does, and has the signature of a boot sector."""
    kernel = b"MZ" + bytes(508) + b"\x55\xaa" + bytes(MIB)
    assert read_bounded(kernel).notes == ["no file system or partition table is known here"]


def test_a_disk_may_begin_like_a_program() -> None:
    assert read_bounded(b"MZ" + make_image("mbr")[2:]).kind.startswith("MBR disk")


@pytest.mark.parametrize("kind", KINDS)
def test_cut_off_anywhere(kind: str) -> None:
    data = make_image(kind)
    for size in [*range(0, 8192, 500), *range(8192, len(data), len(data) // 50)]:
        read_bounded(data[:size])


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_tables(kind: str) -> None:
    data = make_image(kind)
    # A table first, then a byte of it: small tables are hit as often as large ones.
    places = [range(1024), range(1024, 2048), *table_places(read_filesystem(MemoryImage(data)))]
    byte = st.tuples(
        st.sampled_from(places), st.integers(0, 4095), st.sampled_from((0, 1, 2, 0x7F, 0xFF))
    )

    @settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
    @given(st.lists(byte, min_size=1, max_size=8))
    def damage(changes: list[tuple[range, int, int]]) -> None:
        image = bytearray(data)
        for place, offset, value in changes:
            image[place[offset % len(place)]] = value
        read_bounded(bytes(image))

    damage()


class BrokenDisk:
    """An image whose medium fails."""

    size = MIB

    def __init__(self, error: Exception) -> None:
        self.error = error

    def read(self, offset: int, size: int) -> bytes:
        raise self.error


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), UsageError("no such image")])
def test_faults_of_the_reader_pass(error: Exception) -> None:
    with pytest.raises(type(error)):
        read_filesystem(BrokenDisk(error))

"""squashfs: images of mksquashfs read back file by file, and hostile ones refused."""

import ctypes
import random
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import EntryKind, FileMap
from slipstream.delta.filesystem import squashfs_metadata
from slipstream.delta.filesystem.squashfs import read_squashfs
from slipstream.delta.packing.libraries import lzos
from tests.delta.filesystem.packed_images import (
    MemoryImage,
    check_files,
    check_map,
    make_tree,
    unpack,
)

COMPRESSORS = ("gzip", "xz", "zstd", "lz4", "lzo", "lzma")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("squashfs") / "files")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few files, for what is done to an image many times."""
    folder = tmp_path_factory.mktemp("squashfs") / "small"
    (folder / "below" / "deeper").mkdir(parents=True)
    (folder / "text").write_bytes(b"some words, " * 2000)
    (folder / "below" / "noise").write_bytes(random.Random(2).randbytes(200_000))
    (folder / "below" / "deeper" / "tail").write_bytes(b"the tail of it")
    return folder


def make_image(folder: Path, *options: str) -> MemoryImage:
    path = folder.with_suffix(".squashfs")
    path.unlink(missing_ok=True)
    subprocess.run(
        ["mksquashfs", folder, path, "-noappend", "-quiet", "-no-progress", *options],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return MemoryImage(path.read_bytes())


def check(image: MemoryImage, folder: Path) -> FileMap:
    found = read_squashfs(image)
    assert found.notes == []
    check_map(image, found)
    check_files(image, found, folder)
    for block in found.blocks:
        packed = image.read(block.place.offset, block.place.size)
        assert len(unpack(block.packing, packed, block.size)) == block.size
    return found


@pytest.mark.parametrize(
    "compressor, block",
    [*((compressor, "128K") for compressor in COMPRESSORS), ("gzip", "4K"), ("xz", "1M")],
)
def test_every_file_of_every_compressor(folder: Path, compressor: str, block: str) -> None:
    check(make_image(folder, "-comp", compressor, "-b", block), folder)


@pytest.mark.parametrize(
    "options",
    [
        ["-no-fragments"],
        ["-always-use-fragments"],
        ["-tailends", "-b", "4K"],
        ["-no-duplicates"],
        ["-no-sparse"],
        ["-no-exports", "-no-xattrs"],
        ["-noI", "-noId", "-noX"],
        ["-noD", "-noF"],
        ["-noI", "-noId", "-noX", "-noD", "-noF"],
    ],
    ids=" ".join,
)
def test_every_file_with_options(folder: Path, options: list[str]) -> None:
    check(make_image(folder, *options), folder)


def test_equal_files_share_blocks(folder: Path) -> None:
    found = check(make_image(folder), folder)
    entries = {entry.path: entry for entry in found.entries}
    assert entries["twin-1"].extents == entries["twin-2"].extents
    assert len({block.place for block in found.blocks}) == len(found.blocks)


def test_bytes_stored_as_they_are_make_no_blocks(folder: Path) -> None:
    found = check(make_image(folder, "-noI", "-noId", "-noX", "-noD", "-noF"), folder)
    assert found.blocks == []
    noise = next(entry for entry in found.entries if entry.path == "noise-131072")
    assert len(noise.extents) == 1


TABLES = (
    "inode table",
    "directory table",
    "xattr table",
    "fragment table",
    "export table",
    "id table",
    "xattr ids",
)
PLAIN_TABLES = ("superblock", "xattr header", *(f"index of {name}" for name in TABLES[3:]))


def test_entries_and_blocks_cover_the_whole_image(folder: Path) -> None:
    """Between them stand only the headers of metadata blocks."""
    image = make_image(folder)
    found = check(image, folder)
    covered = bytearray(image.size)
    for block in found.blocks:
        covered[block.place.offset : block.place.end] = b"\1" * block.place.size
    for entry in found.entries:
        for extent in entry.extents:
            if extent.block is None:
                covered[extent.place : extent.place + extent.size] = b"\1" * extent.size
    tables = {entry.path: entry for entry in found.entries if entry.kind is EntryKind.TABLE}
    assert set(tables) == {*TABLES, *PLAIN_TABLES}
    headers = sum(len(tables[name].extents) for name in TABLES)
    (bytes_used,) = struct.unpack_from("<Q", image.data, 40)
    assert covered[:bytes_used].count(0) == 2 * headers


@pytest.mark.parametrize(
    "options, hints",
    [
        (["-comp", "gzip"], {"level": 9, "window": 15, "strategies": 0}),
        (
            ["-comp", "gzip", "-Xcompression-level", "3", "-Xwindow-size", "12"],
            {"level": 3, "window": 12, "strategies": 0},
        ),
        (["-comp", "xz"], {"dict_size": 131_072, "filters": 0}),
        (
            ["-comp", "xz", "-Xbcj", "x86,arm", "-Xdict-size", "50%"],
            {"dict_size": 65_536, "filters": 1 | 8},
        ),
        (["-comp", "zstd"], {"level": 15}),
        (["-comp", "zstd", "-Xcompression-level", "6"], {"level": 6}),
        (["-comp", "lz4"], {"version": 1, "hc": 0}),
        (["-comp", "lz4", "-Xhc"], {"version": 1, "hc": 1}),
        (["-comp", "lzo"], {"algorithm": 4, "level": 8}),
        (
            ["-comp", "lzo", "-Xalgorithm", "lzo1x_1_12"],
            {"algorithm": 2, "level": 0},
        ),
        (["-comp", "lzma"], {}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_hints_are_the_options_of_the_compressor(
    small: Path, options: list[str], hints: dict[str, int]
) -> None:
    image = make_image(small, *options)
    assert read_squashfs(image).hints == hints | {"block_size": 131_072}


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    found = check(make_image(tmp_path / "files"), tmp_path / "files")
    assert [entry for entry in found.entries if entry.kind is EntryKind.FILE] == []


# --- hostile images


def mutate(image: MemoryImage, offset: int, data: bytes) -> MemoryImage:
    return MemoryImage(image.data[:offset] + data + image.data[offset + len(data) :])


@pytest.fixture(scope="module")
def plain(small: Path) -> MemoryImage:
    """An image whose metadata is stored as it is, so that a test can write to it."""
    return make_image(small, "-noI", "-noId", "-noX")


@given(st.data())
@settings(max_examples=300)
def test_flipped_bytes_raise_only_our_errors(plain: MemoryImage, data: st.DataObject) -> None:
    (inode_table,) = struct.unpack_from("<Q", plain.data, 64)
    where = st.one_of(st.integers(0, 95), st.integers(inode_table, plain.size - 1))
    image = plain
    for offset in data.draw(st.lists(where, min_size=1, max_size=3)):
        image = mutate(image, offset, data.draw(st.binary(min_size=1, max_size=8)))
    try:
        found = read_squashfs(image)
    except FormatError:
        return
    check_map(image, found)


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_broken_metadata_blocks_raise_only_our_errors(small: Path, compressor: str) -> None:
    image = make_image(small, "-comp", compressor)
    (inode_table,) = struct.unpack_from("<Q", image.data, 64)
    refused = 0
    for offset in range(inode_table, image.size):
        try:
            read_squashfs(mutate(image, offset, bytes([image.data[offset] ^ 0x55])))
        except FormatError:
            refused += 1
    assert refused


def test_metadata_of_a_library_that_is_not_here(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = make_image(small, "-comp", "lzo")

    def refuse(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    lzos.cache_clear()
    try:
        with pytest.raises(FormatError, match="lzo"):
            read_squashfs(image)
    finally:
        lzos.cache_clear()


def test_cut_short(plain: MemoryImage) -> None:
    (bytes_used,) = struct.unpack_from("<Q", plain.data, 40)
    (inode_table,) = struct.unpack_from("<Q", plain.data, 64)
    for size in (*range(200), *range(inode_table, bytes_used)):
        with pytest.raises(FormatError):
            read_squashfs(MemoryImage(plain.data[:size]))
    read_squashfs(MemoryImage(plain.data[:bytes_used]))


@pytest.mark.parametrize(
    "name, offset, value",
    [
        ("magic", 0, b"sqsh"),
        ("version", 28, struct.pack("<HH", 3, 1)),
        ("compressor", 20, struct.pack("<H", 7)),
        ("block size of 2 KiB", 12, struct.pack("<I", 2048)),
        ("block size of 2 GiB", 12, struct.pack("<I", 1 << 31)),
        ("logarithm of the block size", 22, struct.pack("<H", 40)),
        ("four billion inodes", 4, b"\xff" * 4),
        ("four billion fragments", 16, b"\xff" * 4),
        ("root inode", 32, struct.pack("<Q", 1 << 40)),
        ("root inode at the table's end", 32, struct.pack("<Q", 0xFFFF)),
        ("size of the image", 40, struct.pack("<Q", 1 << 50)),
        *[
            (f"table at {place:#x}", offset, struct.pack("<Q", place))
            for offset in (48, 64, 72, 80, 88)
            for place in (0, 1 << 31, 1 << 63, (1 << 64) - 2)
        ],
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_superblocks(plain: MemoryImage, name: str, offset: int, value: bytes) -> None:
    with pytest.raises(FormatError):
        read_squashfs(mutate(plain, offset, value))


def test_a_directory_that_holds_its_parent(plain: MemoryImage) -> None:
    (root,) = struct.unpack_from("<Q", plain.data, 32)
    name = plain.data.rindex(b"deeper")  # behind inode offset, inode number, type and size
    image = mutate(plain, name - 8, struct.pack("<H", root & 0xFFFF))
    with pytest.raises(FormatError, match="two names"):
        read_squashfs(image)


def test_directories_that_list_the_same_names(small: Path) -> None:
    """Each directory read costs its listing: so no two may share one."""
    image = make_image(small, "-noI", "-noId", "-noX")
    (inode_table,) = struct.unpack_from("<Q", image.data, 64)
    inodes = image.data[inode_table + 2 :]
    size = struct.calcsize("<HHHHIIIIHHI")
    listings = [
        inode_table + 2 + place
        for place in range(len(inodes) - size)
        if struct.unpack_from("<HH", inodes, place) == (1, 0o755)
    ]
    assert len(listings) == 3
    places = [struct.unpack_from("<IIHH", image.data, place + 16) for place in listings]
    largest = max(places, key=lambda fields: fields[2])
    for place in listings:
        image = mutate(image, place + 16, struct.pack("<IIHH", *largest))
    with pytest.raises(FormatError):
        read_squashfs(image)


def test_tables_above_the_limit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_image(folder)
    for limit in (100, 4000, 20_000):
        monkeypatch.setattr(squashfs_metadata, "SQUASHFS_TABLE_BYTES_MAX", limit)
        with pytest.raises(FormatError):
            read_squashfs(image)

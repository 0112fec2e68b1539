"""ext: images of mke2fs and debugfs read back file by file, and hostile ones refused."""

import os
import struct
from pathlib import Path

import pytest

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Entry, EntryKind, FileMap
from slipstream.delta.filesystem.ext import read_ext
from tests.delta.filesystem.packed_images import (
    MemoryImage,
    check_files,
    check_map,
    content,
    make_tree,
)
from tests.delta.filesystem.plain_images import MIB, debugfs, make_ext, patched, run

COMB_TEETH = 1500  # pieces of a file with a hole behind each: no extent joins the next


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_tree(tmp_path_factory.mktemp("ext") / "files")
    with (folder / "comb").open("wb") as comb:
        for tooth in range(COMB_TEETH):
            comb.seek(tooth * 8192)
            comb.write(b"tooth %d" % tooth)
    with (folder / "far").open("wb") as far:  # 70 MB on, ext2 has three levels of pointers
        for offset in (0, 13 << 10, 300 << 10, 70 * MIB):
            far.seek(offset)
            far.write(b"at %d" % offset)
    for size in (59, 60, 61, 100, 150):  # where inline data ends
        (folder / f"inline-{size}").write_bytes(os.urandom(size))
    return folder


def check(image: Path, folder: Path) -> FileMap:
    memory = MemoryImage(image.read_bytes())
    found = read_ext(memory)
    assert found.notes == []
    check_map(memory, found)
    check_files(memory, found, folder)
    return found


def tables(found: FileMap) -> dict[str, Entry]:
    return {entry.path: entry for entry in found.entries if entry.kind is EntryKind.TABLE}


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ("-t ext4 -b 1024", "ext4, 1024-byte blocks"),
        ("-t ext4 -b 2048", "ext4, 2048-byte blocks"),
        ("-t ext4 -b 4096", "ext4, 4096-byte blocks"),
        ("-t ext4 -b 65536 -O ^has_journal", "ext4, 65536-byte blocks"),
        ("-t ext4 -b 1024 -g 1024", "ext4, 1024-byte blocks"),  # 64 groups
        ("-t ext4 -b 4096 -O inline_data", "ext4, 4096-byte blocks"),
        ("-t ext4 -b 4096 -O inline_data -I 512", "ext4, 4096-byte blocks"),
        ("-t ext4 -b 1024 -g 512 -O meta_bg,^resize_inode", "ext4, 1024-byte blocks"),
        ("-t ext4 -b 1024 -g 1024 -O ^flex_bg,^64bit", "ext4, 1024-byte blocks"),
        ("-t ext4 -b 1024 -g 2048 -O sparse_super2", "ext4, 1024-byte blocks"),
        ("-t ext4 -b 4096 -O ^metadata_csum,uninit_bg", "ext4, 4096-byte blocks"),
        ("-t ext4 -b 4096 -O ^has_journal,large_dir", "ext4, 4096-byte blocks"),
        ("-t ext4 -b 4096 -O ^extents,^64bit", "ext4, 4096-byte blocks"),
        ("-t ext3 -b 1024", "ext3, 1024-byte blocks"),
        ("-t ext3 -b 4096", "ext3, 4096-byte blocks"),
        ("-t ext2 -b 1024", "ext2, 1024-byte blocks"),
        ("-t ext2 -b 4096 -I 128", "ext2, 4096-byte blocks"),
        ("-t ext2 -b 1024 -r 0", "ext2, 1024-byte blocks"),
    ],
)
def test_every_file_is_where_its_extents_say(
    options: str, kind: str, folder: Path, tmp_path: Path
) -> None:
    found = check(make_ext(tmp_path / "image", folder, options), folder)

    assert found.kind == kind
    named = tables(found)
    folders = {f"directory /{path}" for path in ("lost+found", "deep", "deep/deeper/many", "")}
    assert {"superblock", "group descriptors", "block bitmap", "inode table 0"} <= named.keys()
    assert ("journal" in named) == ("ext2" not in options and "^has_journal" not in options)
    if "inline_data" not in options:
        assert folders | {"directory /empty"} <= named.keys()


def test_tables_are_where_dumpe2fs_says(folder: Path, tmp_path: Path) -> None:
    image = make_ext(tmp_path / "image", folder, "-t ext4 -b 1024 -g 1024 -O ^resize_inode")
    said = run("dumpe2fs", str(image)).stdout
    groups = [line for line in said.splitlines() if "uperblock at" in line]
    named = tables(read_ext(MemoryImage(image.read_bytes())))

    superblocks = [int(line.split(" at ")[1].split(",")[0]) for line in groups]
    assert [extent.place // 1024 for extent in named["superblock"].extents] == superblocks
    places = {
        extent.place // 1024 + block
        for name, entry in named.items()
        if name.startswith("inode table")
        for extent in entry.extents
        for block in range(extent.size // 1024)
    }
    ranges = [
        line.split(" at ")[1].split()[0] for line in said.splitlines() if "Inode table" in line
    ]
    expected = [range(int(first), int(last) + 1) for first, last in (r.split("-") for r in ranges)]
    assert places == {block for blocks in expected for block in blocks}


def test_an_indexed_directory(folder: Path, tmp_path: Path) -> None:
    image = make_ext(tmp_path / "image", folder, "-t ext4 -b 1024")
    run("e2fsck", "-fyD", str(image), check=False)  # says that it changed something
    said = run("debugfs", "-R", "htree_dump /deep/deeper/many", str(image)).stdout
    assert "Indirect levels" in said

    check(image, folder)


def test_a_used_file_system_with_scattered_files(folder: Path, tmp_path: Path) -> None:
    image = make_ext(tmp_path / "image", folder, "-t ext2 -b 1024", size=16 * MIB)
    rest = tmp_path / "rest"
    run("cp", "-a", str(folder), str(rest))  # with its hard links
    for number in range(0, 700, 2):
        (rest / f"deep/deeper/many/a-rather-long-name-of-a-small-file-{number:04}").unlink()
    gone = [
        f"rm /deep/deeper/many/a-rather-long-name-of-a-small-file-{n:04}" for n in range(0, 700, 2)
    ]
    commands = "\n".join([*gone, f"write {folder}/text-300000 scattered"])
    run("debugfs", "-w", "-f", "-", str(image), stdin=commands)
    (rest / "scattered").write_bytes((folder / "text-300000").read_bytes())

    found = check(image, rest)

    (scattered,) = [entry for entry in found.entries if entry.path == "scattered"]
    assert len(scattered.extents) > 10


def test_preallocated_blocks_are_zeros_and_left_out(folder: Path, tmp_path: Path) -> None:
    image = make_ext(tmp_path / "image", folder, "-t ext4 -b 4096")
    debugfs(image, "fallocate /text-20000 5 99", "sif /text-20000 size 200000")
    memory = MemoryImage(image.read_bytes())
    found = read_ext(memory)

    (entry,) = [entry for entry in found.entries if entry.path == "text-20000"]
    assert entry.size == 200_000
    assert content(memory, found, entry) == (folder / "text-20000").read_bytes().ljust(
        200_000, b"\0"
    )
    assert sum(extent.size for extent in entry.extents) <= 20_480


def test_encrypted_files_are_left_out_and_said(folder: Path, tmp_path: Path) -> None:
    image = make_ext(tmp_path / "image", folder, "-t ext4 -O encrypt")
    debugfs(image, "sif /text-100 flags 0x80800", "sif /deep flags 0x80800")
    found = read_ext(MemoryImage(image.read_bytes()))

    assert found.notes == ["encrypted files and folders left out: 2"]
    paths = [entry.path for entry in found.entries]
    assert "text-1" in paths
    assert "text-100" not in paths
    assert not any("deep" in path for path in paths)


def test_a_dirty_journal_is_said(folder: Path, tmp_path: Path) -> None:
    image = make_ext(tmp_path / "image", folder, "-t ext4")
    debugfs(image, "feature needs_recovery")

    assert "journal" in read_ext(MemoryImage(image.read_bytes())).notes[0]


def test_clusters_are_refused(folder: Path, tmp_path: Path) -> None:
    image = make_ext(tmp_path / "image", folder, "-t ext4 -O bigalloc -C 16384")
    with pytest.raises(FormatError, match="bigalloc"):
        read_ext(MemoryImage(image.read_bytes()))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of 2 MiB to damage: a deep extent tree, a folder in a folder."""
    folder = tmp_path_factory.mktemp("ext") / "small"
    (folder / "outer" / "inner").mkdir(parents=True)
    (folder / "outer" / "file").write_bytes(b"content" * 100)
    (folder / "other").mkdir()
    with (folder / "comb").open("wb") as comb:
        for tooth in range(100):
            comb.seek(tooth * 8192)
            comb.write(b"tooth")
    return make_ext(
        folder.with_suffix(".ext4"),
        folder,
        "-t ext4 -b 1024 -O ^has_journal",
        size=2 * MIB,
    )


def inode_place(image: Path, path: str) -> int:
    said = run("debugfs", "-R", f"imap {path}", str(image)).stdout
    # Inode 12 is part of block group 0\n\tlocated at block 43, offset 0x0b00
    block, offset = said.split("located at block ")[1].split(", offset ")
    return int(block) * 1024 + int(offset, 16)


def test_a_directory_below_itself(small: Path, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(small.read_bytes())
    debugfs(image, "ln /outer /outer/inner/again")
    with pytest.raises(FormatError, match="two names"):
        read_ext(MemoryImage(image.read_bytes()))


def test_two_directories_with_one_block(small: Path) -> None:
    data = small.read_bytes()
    one, two = inode_place(small, "/other") + 40, inode_place(small, "/outer/inner") + 40
    with pytest.raises(FormatError, match="listed twice"):
        read_ext(patched(data, one, data[two : two + 60]))


def test_an_extent_tree_that_is_its_own_branch(small: Path) -> None:
    data = small.read_bytes()
    root = inode_place(small, "/comb") + 40
    (branch,) = struct.unpack_from("<I", data, root + 12 + 4)
    node = struct.pack("<HHHHI", 0xF30A, 1, 4, 1, 0) + struct.pack("<IIHH", 0, branch, 0, 0)
    deeper = struct.pack("<HHHHI", 0xF30A, 1, 4, 2, 0) + struct.pack("<IIHH", 0, branch, 0, 0)
    looped = patched(data, branch * 1024, node).data
    with pytest.raises(FormatError, match="read twice"):
        read_ext(patched(looped, root, deeper))
    with pytest.raises(FormatError, match="broken extent tree"):
        read_ext(MemoryImage(looped))  # of the wrong depth


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (0, b"\xff\xff", "extent tree"),
        (2, b"\xff\xff", "extent tree"),  # count
        (6, b"\x06", "extent tree"),  # depth
        (16, b"\xff\xff\xff\x7f", "outside"),  # block of the only branch
        (20, b"\xff\xff", "outside"),
        (16, bytes(4), "outside"),  # block 0
    ],
)
def test_broken_extent_roots(offset: int, new: bytes, message: str, small: Path) -> None:
    place = inode_place(small, "/comb") + 40 + offset
    with pytest.raises(FormatError, match=message):
        read_ext(patched(small.read_bytes(), place, new))


def test_inode_tables_that_overlap(small: Path) -> None:
    # Else many groups could name one table, and a small image cost long work.
    image = small.with_suffix(".groups")
    run("mke2fs", "-q", "-F", "-t", "ext2", "-b", "1024", "-g", "1024", str(image), "4096")
    data = image.read_bytes()
    with pytest.raises(FormatError, match="overlap"):
        read_ext(patched(data, 2048 + 32 + 8, data[2048 + 8 : 2048 + 12]))


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (128, b"\xff\xff", "without attributes"),  # length of the inode's extra fields
        (160, bytes(4), "without attributes"),  # magic
        (164, bytes(4), "cut off"),  # no attribute
        (164 + 2, b"\xff\xff", "cut off"),  # offset of the value
        (164 + 8, b"\xff\xff\xff\xff", "cut off"),  # size of the value
    ],
)
def test_broken_inline_data(offset: int, new: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "inline").write_bytes(b"inline" * 20)
    image = make_ext(tmp_path / "image", tmp_path / "files", "-t ext4 -b 1024 -O inline_data")
    data = image.read_bytes()
    with pytest.raises(FormatError, match=message):
        read_ext(patched(data, inode_place(image, "/inline") + offset, new))


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (0x00, b"\xff\xff\xff\xff", "inode count"),
        (0x04, b"\xff\xff\xff\xff", "cut short"),
        (0x04, bytes(4), "block count"),
        (0x14, b"\x07", "first block"),
        (0x18, b"\x07", "block size"),
        (0x20, bytes(4), "blocks of a group"),
        (0x20, b"\xff\xff\xff\xff", "blocks of a group"),
        (0x28, bytes(4), "inodes of a group"),
        (0x28, b"\xff\xff\xff\xff", "inodes of a group"),
        (0x38, b"\0\0", "superblock"),
        (0x58, b"\x90\x00", "power of two"),
        (0x58, b"\xff\xff", "inode size"),
        (0x60, b"\xff\xff\xff\xff", "features"),
        (0xFE, b"\0\0", "descriptor size"),
    ],
)
def test_broken_superblocks(offset: int, new: bytes, message: str, small: Path) -> None:
    with pytest.raises(FormatError, match=message):
        read_ext(patched(small.read_bytes(), 1024 + offset, new))


def test_cut_off(small: Path) -> None:
    data = small.read_bytes()
    for size in (0, 1024, 1500, 2048, 4096, len(data) - 1):
        with pytest.raises(FormatError):
            read_ext(MemoryImage(data[:size]))


def test_more_behind_the_file_system_does_not_matter(small: Path) -> None:
    data = small.read_bytes()  # such as a hash tree
    assert read_ext(MemoryImage(data + b"x" * 5000)) == read_ext(MemoryImage(data))

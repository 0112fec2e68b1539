"""FAT: images of mkfs.vfat and mtools read back file by file, and hostile ones refused."""

import random
from pathlib import Path

import pytest

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import EntryKind, FileMap
from slipstream.delta.filesystem.fat import read_fat
from tests.delta.filesystem.packed_images import MemoryImage, check_files, check_map
from tests.delta.filesystem.plain_images import MIB, make_fat, patched, run

NAMES = (
    "UPPER.TXT",
    "lower.txt",
    "UPPER.low",
    "noend",
    "a",
    "Mixed Case and spaces.efi",
    "two.dots.conf",
    "grün-名前.bin",
    "name " * 50 + "ends",  # 254 characters
    "thirteen.char",
    "twenty-six-characters.long",
    "é.txt",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fat") / "files"
    (folder / "EFI" / "Linux" / "deep er").mkdir(parents=True)
    (folder / "empty folder").mkdir()
    chance = random.Random(1)
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(chance.randbytes(number * 700))
    for size in (0, 1, 511, 512, 513, 4096, 4097, 300_000):
        (folder / "EFI" / f"{size}.efi").write_bytes(chance.randbytes(size))
    for number in range(150):  # more records than a cluster holds
        name = f"a-rather-long-name-{number:03}.conf"
        (folder / "EFI" / "Linux" / "deep er" / name).write_bytes(chance.randbytes(number))
    return folder


def check(image: Path, folder: Path) -> FileMap:
    memory = MemoryImage(image.read_bytes())
    found = read_fat(memory)
    assert found.notes == []
    check_map(memory, found)
    check_files(memory, found, folder)
    return found


@pytest.mark.parametrize(
    ("options", "size", "kind"),
    [
        ("-F 12", 2 * MIB, "FAT12, 2048-byte clusters"),
        ("-F 12 -s 1 -f 1", 1 * MIB, "FAT12, 512-byte clusters"),
        ("-F 16", 16 * MIB, "FAT16, 2048-byte clusters"),
        ("-F 16 -S 4096 -s 1", 32 * MIB, "FAT16, 4096-byte clusters"),
        ("-F 32 -s 2", 72 * MIB, "FAT32, 1024-byte clusters"),
    ],
)
def test_every_file_is_where_its_extents_say(
    options: str, size: int, kind: str, folder: Path, tmp_path: Path
) -> None:
    found = check(make_fat(tmp_path / "image", folder, options, size), folder)

    assert found.kind == kind
    tables = {entry.path for entry in found.entries if entry.kind is EntryKind.TABLE}
    assert tables == {
        "boot sector",
        "file allocation table",
        *("directory /", "directory /EFI", "directory /EFI/Linux", "directory /empty folder"),
        "directory /EFI/Linux/deep er",
    }


def test_a_fat32_with_fewer_clusters_than_microsoft_allows(tmp_path: Path) -> None:
    image = tmp_path / "image"  # small boot partitions are such; Linux mounts them, mtools do not
    run("mkfs.vfat", "-C", "-F", "32", "-s", "8", str(image), "40960")

    found = check(image, tmp_path / "nothing")

    assert found.kind == "FAT32, 4096-byte clusters"


@pytest.mark.parametrize(("options", "size"), [("-F 12", 2 * MIB), ("-F 16 -s 1", 4 * MIB)])
def test_deleted_files_are_gone_and_scattered_ones_whole(
    options: str, size: int, folder: Path, tmp_path: Path
) -> None:
    image = make_fat(tmp_path / "image", folder, options, size)
    rest = tmp_path / "rest"
    run("cp", "-a", str(folder), str(rest))
    for number in range(0, 150, 2):
        name = f"EFI/Linux/deep er/a-rather-long-name-{number:03}.conf"
        run("mdel", "-i", str(image), f"::/{name}")
        (rest / name).unlink()
    large = rest / "fills what is left"
    large.write_bytes(random.Random(2).randbytes(600_000))
    run("mcopy", "-i", str(image), str(large), "::/")

    found = check(image, rest)

    (entry,) = [entry for entry in found.entries if entry.path == large.name]
    assert len(entry.extents) > 10


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """FAT16 with 512-byte clusters: /outer is cluster 2, /outer/inner 3, the file from 4 on."""
    folder = tmp_path_factory.mktemp("fat") / "small"
    (folder / "outer" / "inner").mkdir(parents=True)
    (folder / "outer" / "inner" / "file").write_bytes(b"content" * 200)
    path = make_fat(folder.with_suffix(".fat"), folder, "-F 16 -s 1", 4 * MIB)
    data = path.read_bytes()
    assert [data[table(data) + 2 * cluster] for cluster in (4, 5, 6)] == [5, 6, 0xFF]
    return data


def table(data: bytes) -> int:
    """Offset of the file allocation table."""
    return int.from_bytes(data[14:16], "little") * 512


def record(data: bytes, name: bytes) -> int:
    """Offset of the record with this short name."""
    return data.index(name.ljust(11))


@pytest.mark.parametrize(
    ("cluster", "successor", "message"),
    [
        (4, 4, "two chains"),
        (5, 4, "two chains"),
        (5, 2, "two chains"),  # a directory's
        (5, 0, "leaves"),  # free
        (5, 1, "leaves"),
        (5, 0xFFF7, "leaves"),  # bad
        (5, 0xFFFF, "ends before"),
        (2, 2, "two chains"),
    ],
)
def test_broken_chains(cluster: int, successor: int, message: str, small: bytes) -> None:
    image = patched(small, table(small) + 2 * cluster, successor.to_bytes(2, "little"))
    with pytest.raises(FormatError, match=message):
        read_fat(image)


def test_a_directory_below_itself(small: bytes) -> None:
    with pytest.raises(FormatError, match="two chains"):
        read_fat(patched(small, record(small, b"INNER") + 26, b"\x02"))


def test_a_directory_larger_than_the_format_allows(small: bytes) -> None:
    chain = b"".join((cluster + 1).to_bytes(2, "little") for cluster in range(2, 4200))
    image = patched(small, table(small) + 2 * 2, chain + b"\xff\xff")
    with pytest.raises(FormatError, match="/outer: directory size"):
        read_fat(image)


def test_a_size_beyond_the_chain(small: bytes) -> None:
    with pytest.raises(FormatError, match="ends before"):
        read_fat(patched(small, record(small, b"FILE") + 28, b"\xff\xff\xff\xff"))


def test_a_long_name_of_another_record_is_not_believed(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / "a long name.conf").write_bytes(b"x")
    data = make_fat(tmp_path / "image", folder, "-F 12", MIB).read_bytes()
    image = patched(data, data.index(b"ALONGN~1CON"), b"OTHER   TXT")

    assert [entry.path for entry in read_fat(image).entries if entry.size == 1] == ["OTHER.TXT"]


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (11, b"\0\0", "sector size"),
        (13, b"\x03", "sectors of a cluster"),
        (14, b"\0\0", "allocation tables"),
        (16, b"\0", "allocation tables"),
        (16, b"\xff", "allocation tables"),
        (19, b"\xff\xff", "size of the file system"),
        (19, b"\x01\0", "size of the file system"),
        (22, b"\x01\0", "allocation table"),
        (510, b"\0", "boot sector"),
    ],
)
def test_broken_boot_sectors(offset: int, new: bytes, message: str, small: bytes) -> None:
    with pytest.raises(FormatError, match=message):
        read_fat(patched(small, offset, new))


def test_cut_off(small: bytes) -> None:
    for size in (0, 100, 511, 512, 5000, len(small) - 1):
        with pytest.raises(FormatError):
            read_fat(MemoryImage(small[:size]))

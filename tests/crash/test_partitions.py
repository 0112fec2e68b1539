"""The judge's reader of partition tables and hash trees, against the tools; and that it refuses."""

import subprocess
from pathlib import Path

import pytest

from tests.crash.partitions import NotFound, find_root, hash_tree, is_superblock, tables
from tests.crash.record import DISK
from tests.crash.repository import PARTITIONS, SLOT_BYTES, TREE_BYTES, Repository
from tests.crash.story import SMALL, resting
from tests.installer.lab import SALT
from tests.partition_tables import places

PLACES = places(SLOT_BYTES, TREE_BYTES)
WHERE = (PLACES["rootfs-b"][0], PLACES["rootfs-verity-b"][0])


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Release 2 runs from slot b."""
    return resting(tmp_path_factory.mktemp("disk") / "device", SMALL, PARTITIONS).slots[DISK]


@pytest.fixture(scope="module")
def root(disk: bytes) -> str:
    row = next(row for row in tables(disk)[0] or () if row.label == "rootfs_2.0")
    tree = next(row for row in tables(disk)[0] or () if row.label == "rootfs-verity_2.0")
    return row.uuid.hex + tree.uuid.hex


def test_sfdisk_finds_the_same(disk: bytes, tmp_path: Path) -> None:
    (tmp_path / DISK).write_bytes(disk)
    done = subprocess.run(
        ["/usr/sbin/sfdisk", "--dump", tmp_path / DISK], check=True, capture_output=True, text=True
    )
    theirs = [line for line in done.stdout.splitlines() if "start=" in line]
    ours, backup = tables(disk)
    assert ours == backup
    assert ours is not None
    assert len(theirs) == len(ours) == 6
    for line, row in zip(theirs, ours, strict=True):
        words = dict(word.strip().split("=") for word in line.partition(": ")[2].split(", "))
        assert int(words["start"]) * 512 == row.offset
        assert int(words["size"]) * 512 == row.size
        assert words["uuid"].lower() == str(row.uuid)
        assert words["type"].lower() == str(row.type)
        assert words["name"].strip('"') == row.label


def test_veritysetup_accepts_what_counts_as_whole(disk: bytes, root: str, tmp_path: Path) -> None:
    for name in ("rootfs-b", "rootfs-verity-b"):
        offset, size = PLACES[name]
        (tmp_path / name).write_bytes(disk[offset : offset + size])
    words = ["/usr/sbin/veritysetup", "verify", "rootfs-b", "rootfs-verity-b", root]
    subprocess.run(words, check=True, capture_output=True, cwd=tmp_path)
    tree = (tmp_path / "rootfs-verity-b").read_bytes()
    blocks = int.from_bytes(tree[72:80], "little")
    assert is_superblock(tree, blocks, SALT)
    assert not is_superblock(tree, blocks + 1, SALT)
    image = (tmp_path / "rootfs-b").read_bytes()[: blocks * 4096]
    assert tree[4096:].startswith(hash_tree(image, SALT))


def torn(disk: bytes, offset: int) -> bytes:
    return disk[:offset] + bytes([disk[offset] ^ 1]) + disk[offset + 1 :]


@pytest.mark.parametrize("offset", [512 + 60, 1024 + 5])
def test_a_torn_copy_counts_no_more(disk: bytes, root: str, offset: int) -> None:
    cmdline = f"roothash={root} gpt"
    assert find_root(disk, cmdline) == WHERE
    primary = torn(disk, offset)
    assert tables(primary)[0] is None
    assert find_root(primary, cmdline) == WHERE
    with pytest.raises(NotFound, match="Linux does not look"):
        find_root(primary, f"roothash={root}")
    backup = torn(disk, len(disk) - 512 + 60)
    assert tables(backup)[1] is None
    assert find_root(backup, f"roothash={root}") == WHERE
    with pytest.raises(NotFound, match="neither copy"):
        find_root(torn(primary, len(disk) - 512 + 60), cmdline)


def test_a_release_of_another_root_is_not_found(disk: bytes, root: str) -> None:
    with pytest.raises(NotFound, match="0 partitions"):
        find_root(disk, f"roothash={root[::-1]} gpt")


def test_a_slot_without_its_tree_is_not_whole(disk: bytes) -> None:
    repository = Repository(PARTITIONS)
    for counter in (1, 2):
        repository.publish(counter)
    assert repository.whole("b", {DISK: disk}.__getitem__) == 2
    assert repository.whole("b", {DISK: torn(disk, WHERE[1] + 5000)}.__getitem__) == 0
    repository.close()

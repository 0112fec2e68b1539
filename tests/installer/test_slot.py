"""Places of images: what is refused, what is written, what comes back."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from slipstream.delta.errors import DeviceFault, WrongDevice
from slipstream.delta.limits import BLOCK_BYTES, CHUNK_BYTES
from slipstream.installer import slot
from slipstream.installer.config import PartitionPlace
from slipstream.installer.slot import (
    check_places,
    open_boot_file,
    open_partition,
    open_source,
)

SIZE = 64 * BLOCK_BYTES


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(2 * SIZE))
    return path


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Offset and size of every write."""
    seen: list[tuple[int, int]] = []
    real = os.pwrite

    def pwrite(descriptor: int, data: bytes, offset: int) -> int:
        seen.append((offset, len(data)))
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    return seen


def test_a_region_is_read_and_written_within_its_bounds(disk: Path) -> None:
    before = disk.read_bytes()
    target = open_partition(PartitionPlace(disk, SIZE, SIZE), "b/rootfs", SIZE, [])
    data = os.urandom(SIZE)

    assert target.read(0, SIZE) == before[SIZE:]
    assert target.write(0, data) == SIZE
    target.close()
    target.close()

    assert disk.read_bytes() == before[:SIZE] + data


@pytest.mark.parametrize("offset, size", [(-1, 4), (0, SIZE + 1), (SIZE, 1), (SIZE - 1, 2)])
def test_bytes_outside_are_refused(disk: Path, offset: int, size: int) -> None:
    target = open_partition(PartitionPlace(disk, 0, SIZE), "b/rootfs", SIZE, [])

    with pytest.raises(WrongDevice, match="outside"):
        target.read(offset, size)
    with pytest.raises(WrongDevice, match="outside"):
        target.write(offset, bytes(size))
    target.close()


def test_only_blocks_that_differ_are_written(disk: Path, writes: list[tuple[int, int]]) -> None:
    data = bytearray(disk.read_bytes()[:SIZE])
    for block in (3, 4, 9, 63):
        data[block * BLOCK_BYTES] ^= 1
    target = open_partition(PartitionPlace(disk, 0, SIZE), "b/rootfs", SIZE, [])

    assert target.write(0, bytes(data)) == 4 * BLOCK_BYTES
    assert writes == [
        (3 * BLOCK_BYTES, 2 * BLOCK_BYTES),
        (9 * BLOCK_BYTES, BLOCK_BYTES),
        (63 * BLOCK_BYTES, BLOCK_BYTES),
    ]
    assert target.write(0, bytes(data)) == 0
    target.close()


def test_short_writes_are_gone_on_with(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, data[:777], offset))
    target = open_partition(PartitionPlace(disk, 0, SIZE), "b/rootfs", SIZE, [])
    data = os.urandom(SIZE)

    target.write(0, data)

    assert target.read(0, SIZE) == data
    target.close()


@pytest.mark.parametrize("size", [1, BLOCK_BYTES, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES])
@pytest.mark.parametrize("direct", [True, False])
def test_read_back_gives_the_bytes_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, direct: bool
) -> None:
    if not direct:
        monkeypatch.setattr(slot.Target, "_open_direct", lambda _: None)
    path = tmp_path / "disk.img"
    data = os.urandom(3 * CHUNK_BYTES)
    path.write_bytes(data)
    target = open_partition(PartitionPlace(path, BLOCK_BYTES), "b/rootfs", size, [])

    pieces = list(target.read_back(size))

    assert b"".join(pieces) == data[BLOCK_BYTES : BLOCK_BYTES + size]
    assert {len(piece) for piece in pieces[:-1]} <= {slot.PIECE_BYTES}
    target.close()


def test_what_was_never_written_is_zeros_that_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(4 * CHUNK_BYTES)
        file.seek(CHUNK_BYTES + BLOCK_BYTES)
        file.write(b"x" * BLOCK_BYTES)
    target = open_partition(PartitionPlace(path, BLOCK_BYTES), "b/rootfs", 1, [])
    read: list[tuple[int, int]] = []
    real = os.pread

    def pread(descriptor: int, size: int, offset: int) -> bytes:
        read.append((offset, size))
        return real(descriptor, size, offset)

    monkeypatch.setattr(os, "pread", pread)

    def places() -> list[bytes]:  # before the data, across it, behind it, to the end
        return [
            target.read(0, CHUNK_BYTES - BLOCK_BYTES),
            target.read(CHUNK_BYTES - 1, BLOCK_BYTES + 2),
            target.read(2 * CHUNK_BYTES, BLOCK_BYTES),
            target.read(4 * CHUNK_BYTES - 2 * BLOCK_BYTES, BLOCK_BYTES),
        ]

    assert places() == [
        bytes(CHUNK_BYTES - BLOCK_BYTES),
        b"\0" + b"x" * BLOCK_BYTES + b"\0",
        bytes(BLOCK_BYTES),
        bytes(BLOCK_BYTES),
    ]
    assert read == [(CHUNK_BYTES + BLOCK_BYTES - 1, BLOCK_BYTES + 2)]
    target.write(2 * CHUNK_BYTES, b"y" * BLOCK_BYTES)
    assert places()[2] == b"y" * BLOCK_BYTES
    path.write_bytes(b"")  # somebody cuts the file off: that is no hole
    with pytest.raises(DeviceFault, match="ends early"):
        target.read(0, BLOCK_BYTES)
    target.close()


@pytest.mark.parametrize("direct", [True, False])
def test_read_back_begins_when_all_that_was_written_is_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direct: bool
) -> None:
    if not direct:
        monkeypatch.setattr(slot.Target, "_open_direct", lambda _: None)
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(2 * CHUNK_BYTES))
    target = open_partition(PartitionPlace(path), "b/rootfs", 1, [])
    calls: list[str] = []

    def note(name: str) -> None:
        real = getattr(os, name)

        def noted(*words: Any) -> Any:
            calls.append(name)
            return real(*words)

        monkeypatch.setattr(os, name, noted)

    for name in ("pwrite", "fdatasync", "posix_fadvise", "pread", "preadv"):
        note(name)
    target.write(0, b"x" * BLOCK_BYTES)
    written = len(calls)

    assert calls[-1] == "pwrite"
    back = b"".join(target.read_back(CHUNK_BYTES))
    assert back == (b"x" * BLOCK_BYTES).ljust(CHUNK_BYTES, b"\0")
    # Advice and direct reads are about clean pages: what is dirty would be read from memory, and
    # what the medium only acknowledged is not yet on it.
    assert calls[written] == "fdatasync"
    assert calls[written + 1] == ("preadv" if direct else "posix_fadvise")
    target.close()


def test_the_running_slot_is_refused_also_behind_a_symlink(disk: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(disk)
    running = [PartitionPlace(disk, 0, SIZE)]

    for place in (PartitionPlace(disk, 0, SIZE), PartitionPlace(link, BLOCK_BYTES, SIZE)):
        with pytest.raises(DeviceFault, match="running slot"):
            open_partition(place, "b/rootfs", SIZE, running)


def test_regions_of_one_file_may_be_both_slots_but_not_overlap(disk: Path) -> None:
    first, second = PartitionPlace(disk, 0, SIZE), PartitionPlace(disk, SIZE, SIZE)

    check_places([("a", first), ("b", second)])
    open_partition(second, "b/rootfs", SIZE, [first]).close()
    with pytest.raises(DeviceFault, match="b and a share bytes"):
        check_places([("a", first), ("b", PartitionPlace(disk, SIZE - BLOCK_BYTES, SIZE))])


def test_an_image_larger_than_the_partition_is_refused(disk: Path) -> None:
    with pytest.raises(WrongDevice, match="larger than the partition"):
        open_partition(PartitionPlace(disk, SIZE), "b/rootfs", SIZE + 1, [])


@pytest.mark.parametrize(
    "place, message",
    [
        (lambda p: PartitionPlace(p / "absent"), "cannot be opened"),
        (PartitionPlace, "cannot be opened"),  # a folder
        (lambda p: PartitionPlace(Path("/dev/null")), "cannot be a slot"),
        (lambda p: PartitionPlace(p / "disk.img", 0, 3 * SIZE), "smaller than"),
        (lambda p: PartitionPlace(p / "disk.img", 2 * SIZE), "smaller than"),
    ],
)
def test_what_is_no_slot_is_refused(
    disk: Path, tmp_path: Path, place: object, message: str
) -> None:
    assert callable(place)
    with pytest.raises(DeviceFault, match=message):
        open_partition(place(tmp_path), "b/rootfs", 1, [])


def test_a_boot_file_has_the_size_of_its_image(tmp_path: Path) -> None:
    path = tmp_path / "files" / "b" / "kernel"
    first = open_boot_file(path, "b/kernel", 5000)
    first.write(0, b"x" * 5000)
    first.close()

    target = open_boot_file(path, "b/kernel", 100)

    assert target.size == 100
    assert list(target.read_back(100)) == [b"x" * 100]
    assert path.stat().st_size == 100
    assert path.stat().st_mode & 0o777 == 0o600
    target.close()


def test_a_boot_file_is_not_written_through_a_symlink(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"keep")
    (tmp_path / "kernel").symlink_to(victim)

    with pytest.raises(DeviceFault, match="cannot be made"):
        open_boot_file(tmp_path / "kernel", "b/kernel", 10)
    assert victim.read_bytes() == b"keep"


def test_a_source_is_not_writable(disk: Path) -> None:
    source = open_source(PartitionPlace(disk, 0, SIZE), "a/rootfs")

    with pytest.raises(DeviceFault, match="writing"):
        source.write(0, bytes(BLOCK_BYTES))
    source.close()


# --- block devices: only as root, where loop devices can be made


@pytest.fixture
def loop(disk: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("loop devices need root")
    made = subprocess.run(
        ["losetup", "--find", "--show", disk], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"no loop devices here: {made.stderr.strip()}")
    yield Path(made.stdout.strip())
    subprocess.run(["losetup", "--detach", made.stdout.strip()], check=True)


def test_a_block_device_is_written_and_read_back(loop: Path, disk: Path) -> None:
    target = open_partition(PartitionPlace(loop), "b/rootfs", SIZE, [])
    data = os.urandom(SIZE)

    target.write(0, data)
    assert b"".join(target.read_back(SIZE)) == data
    assert target.size == 2 * SIZE
    target.close()

    assert disk.read_bytes()[:SIZE] == data


def test_a_block_device_is_known_by_its_number(loop: Path, tmp_path: Path) -> None:
    link = tmp_path / "by-partlabel"
    link.symlink_to(loop)

    with pytest.raises(DeviceFault, match="running slot"):
        open_partition(PartitionPlace(link), "b/rootfs", 1, [PartitionPlace(loop)])


def test_a_held_block_device_is_refused(loop: Path) -> None:
    holder = os.open(loop, os.O_RDWR | os.O_EXCL)
    try:
        with pytest.raises(DeviceFault, match="busy"):
            open_partition(PartitionPlace(loop), "b/rootfs", 1, [])
    finally:
        os.close(holder)


def test_what_is_mounted_is_refused(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: Path
) -> None:
    """The list of mounts says that the loop device is mounted; its backing file is refused too."""
    number = loop.stat().st_rdev
    table = tmp_path / "mountinfo"
    device = f"{os.major(number)}:{os.minor(number)}"
    table.write_text(f"36 35 {device} / /mnt rw,noatime shared:1 - ext4 {loop} rw\n")
    monkeypatch.setattr(slot, "MOUNTINFO", table)

    for path in (loop, disk):
        with pytest.raises(DeviceFault, match=r"it is mounted.*umount /mnt"):
            open_partition(PartitionPlace(path), "b/rootfs", 1, [])

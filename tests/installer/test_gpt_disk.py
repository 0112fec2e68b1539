"""gpt_disk.py: partitions of a disk in use are renamed; the power is cut and sectors torn everywhere."""

import fcntl
import os
import random
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from slipstream.delta.errors import DeviceFault, FormatError
from slipstream.delta.gpt import Gpt, read_gpt
from slipstream.delta.gpt_copy import GptCopy, Identity
from slipstream.installer import gpt_disk
from slipstream.installer.config import PartitionPlace
from slipstream.installer.gpt_disk import find_partition, rename_partitions
from tests.delta.gpt_disks import Bytes
from tests.partition_tables import SECTOR, make_gpt_disk, places

SLOT, TREE = 64 * 1024, 16 * 1024
PLACES = places(SLOT, TREE)
NEW = {
    4: Identity("rootfs_2.0", uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")),
    5: Identity("rootfs-verity_2.0", uuid.UUID("fedcba98-7654-3210-fedc-ba9876543210")),
}


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    make_gpt_disk(path, SLOT, TREE)
    with path.open("r+b") as file:
        for offset, size in PLACES.values():
            file.seek(offset)
            file.write(random.Random(offset).randbytes(size))
    return path


@dataclass
class Recorder:
    """What was written to one disk, in order; None is a sync."""

    path: Path
    log: list[tuple[int, bytes] | None] = field(default_factory=list)

    def __enter__(self) -> "Recorder":
        self._real = os.pwrite, os.fdatasync
        os.pwrite, os.fdatasync = self._write, self._sync
        return self

    def __exit__(self, *_: object) -> None:
        os.pwrite, os.fdatasync = self._real

    def _write(self, descriptor: int, data: Any, offset: int) -> int:
        self.log.append((offset, bytes(data)))
        return self._real[0](descriptor, data, offset)

    def _sync(self, descriptor: int) -> None:
        self.log.append(None)
        self._real[1](descriptor)

    def states(self, before: bytes) -> Iterator[bytes]:
        """Every disk that a power cut may leave: of the sectors written since the last sync any may
        be new, old, or (one at a time) nothing but garbage."""
        durable = bytearray(before)
        pending: dict[int, bytes] = {}
        for entry in [*self.log, None]:
            if entry is not None:
                offset, data = entry
                assert offset % SECTOR == len(data) % SECTOR == 0
                for at in range(0, len(data), SECTOR):
                    pending[offset + at] = data[at : at + SECTOR]
                continue
            yield from _mixtures(durable, pending)
            for at, sector in pending.items():
                durable[at : at + SECTOR] = sector
            pending.clear()
            yield bytes(durable)


def _mixtures(durable: bytearray, pending: dict[int, bytes]) -> Iterator[bytes]:
    changed = [at for at, sector in pending.items() if durable[at : at + SECTOR] != sector]
    if len(changed) <= 6:
        choices: list[tuple[bool, ...]] = list(product((False, True), repeat=len(changed)))
    else:
        chance = random.Random(len(changed))
        choices = [tuple(chance.random() < 0.5 for _ in changed) for _ in range(64)]
        choices += [tuple(i < n for i in range(len(changed))) for n in range(len(changed) + 1)]
    for choice in choices:
        state = bytearray(durable)
        for at, taken in zip(changed, choice, strict=True):
            if taken:
                state[at : at + SECTOR] = pending[at]
        yield bytes(state)
        for at in changed:
            yield bytes(state[:at]) + b"\xff" * SECTOR + bytes(state[at + SECTOR :])


def identity(copy: GptCopy) -> dict[int, Identity]:
    return {row.number: Identity(row.label, row.uuid) for row in copy.rows}


def survives(state: bytes, before: GptCopy) -> Gpt:
    """One valid copy at the least; the other rows as they were; the new names all there or not."""
    gpt = read_gpt(Bytes(state))
    copy = gpt.counting
    old, now = identity(before), identity(copy)
    for number in range(1, 129):
        at = (number - 1) * 128
        if number not in NEW:
            assert copy.entries[at : at + 128] == before.entries[at : at + 128], number
    names = [now[number] for number in NEW]
    assert names in (list(NEW.values()), [old[number] for number in NEW])
    return gpt


@pytest.mark.parametrize(
    "spoilt", [None, SECTOR + 60, 2 * SECTOR + 60, -SECTOR + 60, -2 * SECTOR + 60]
)
def test_a_cut_anywhere_leaves_one_whole_table_and_the_next_run_completes(
    disk: Path, spoilt: int | None, tmp_path: Path
) -> None:
    raw = bytearray(disk.read_bytes())
    before = read_gpt(Bytes(bytes(raw))).counting
    if spoilt is not None:
        raw[spoilt % len(raw)] ^= 0x10
        disk.write_bytes(raw)
    said: list[str] = []
    with Recorder(disk) as recorder:
        assert rename_partitions(disk, NEW, said.append)
    assert bool(said) == (spoilt is not None)
    done = disk.read_bytes()
    assert done[: 64 * SECTOR][:SECTOR] == raw[:SECTOR]

    states = set(recorder.states(bytes(raw)))
    assert len(states) > 20
    again = tmp_path / "again"
    for number, state in enumerate(sorted(states)):
        survives(state, before)
        if number % 7 == 0:  # a run of the installer for each takes long
            again.write_bytes(state)
            rename_partitions(again, NEW, lambda _: None)
            assert again.read_bytes() == done
            assert not rename_partitions(again, NEW, lambda _: None)


def test_both_copies_in_one_go_would_be_found_out(disk: Path) -> None:
    """The test above can fail: without the sync between the copies some state has no table."""
    raw = disk.read_bytes()
    before = read_gpt(Bytes(raw)).counting
    with Recorder(disk) as recorder:
        rename_partitions(disk, NEW, lambda _: None)
    recorder.log = [entry for entry in recorder.log if entry is not None]

    def all_survive() -> None:
        for state in recorder.states(raw):
            survives(state, before)

    with pytest.raises(FormatError):
        all_survive()


def test_every_write_is_the_backup_s_or_after_it_is_durable(disk: Path) -> None:
    raw = disk.read_bytes()
    with Recorder(disk) as recorder:
        rename_partitions(disk, NEW, lambda _: None)
    shape = [
        "sync" if one is None else "primary" if one[0] < PLACES["esp"][0] else "backup"
        for one in recorder.log
    ]
    assert [word for i, word in enumerate(shape) if i == 0 or shape[i - 1] != word] == [
        "backup", "sync", "primary", "sync",
    ]  # fmt: skip
    assert len(raw) == disk.stat().st_size
    for offset, size in PLACES.values():
        assert disk.read_bytes()[offset : offset + size] == raw[offset : offset + size]


def test_a_medium_that_lies_is_found_out(disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "pwrite", lambda _fd, data, _offset: len(data))
    with pytest.raises(DeviceFault, match="reads back"):
        rename_partitions(disk, NEW, lambda _: None)


@pytest.mark.parametrize(
    "call", ["open", "pread", "preadv", "pwrite", "fdatasync", "lseek", "flock"]
)
def test_every_call_that_fails_is_a_device_fault(
    disk: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = read_gpt(Bytes(disk.read_bytes())).counting
    module: Any = fcntl if call == "flock" else os
    real: Callable[..., Any] = getattr(module, call)
    for number in range(1, 200):
        calls = 0

        def failing(*arguments: Any, **rest: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:  # noqa: B023 - called in this round only
                raise OSError(5, "Input/output error")
            return real(*arguments, **rest)

        with monkeypatch.context() as patch:
            patch.setattr(module, call, failing)
            try:
                rename_partitions(disk, NEW, lambda _: None)
            except DeviceFault:
                survives(disk.read_bytes(), before)
            else:
                survives(disk.read_bytes(), before)
        if calls < number:
            break
    assert calls < number
    assert number > 1
    rename_partitions(disk, NEW, lambda _: None)
    assert list(identity(read_gpt(Bytes(disk.read_bytes())).counting).values())[3:5] == [
        *NEW.values()
    ]


def test_copies_that_differ_elsewhere_are_left_alone(disk: Path) -> None:
    raw = disk.read_bytes()
    gpt = read_gpt(Bytes(raw))
    assert isinstance(gpt.backup, GptCopy)
    held = Bytes(raw)
    held.put(gpt.backup.renamed({2: Identity("someone else's", uuid.UUID(int=9))}))
    disk.write_bytes(held.raw)
    with pytest.raises(DeviceFault, match="partition 2"):
        rename_partitions(disk, NEW, lambda _: None)
    assert disk.read_bytes() == bytes(held.raw)


def test_a_held_lock_is_waited_for_and_then_named(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpt_disk, "DISK_LOCK_DELAY_S", 0.0)
    with disk.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DeviceFault, match="lock"):
            rename_partitions(disk, NEW, lambda _: None)
    assert rename_partitions(disk, NEW, lambda _: None)


def test_finds_the_row_of_a_region(disk: Path) -> None:
    offset, size = PLACES["rootfs-b"]
    found = find_partition(PartitionPlace(disk, offset, size), "b/rootfs")
    assert (found.disk, found.row.number, found.row.label) == (disk, 4, "rootfs-b")


@pytest.mark.parametrize("shift, grow", [(512, 0), (0, 512), (0, -512)])
def test_a_region_that_is_no_row_is_refused(disk: Path, shift: int, grow: int) -> None:
    offset, size = PLACES["rootfs-b"]
    with pytest.raises(DeviceFault, match="no partition"):
        find_partition(PartitionPlace(disk, offset + shift, size + grow), "b/rootfs")


def test_what_is_no_partition_is_refused(disk: Path, tmp_path: Path) -> None:
    with pytest.raises(DeviceFault, match="only a partition"):
        find_partition(PartitionPlace(disk), "b/rootfs")
    plain = tmp_path / "plain"
    plain.write_bytes(bytes(1 << 20))
    with pytest.raises(DeviceFault, match="no sound partition table"):
        find_partition(PartitionPlace(plain, 0, 4096), "b/rootfs")
    with pytest.raises(DeviceFault, match="looked at"):
        find_partition(PartitionPlace(tmp_path / "none"), "b/rootfs")


def test_a_grown_image_is_refused_with_the_way_out(disk: Path) -> None:
    with disk.open("ab") as file:
        file.truncate(disk.stat().st_size + 64 * SECTOR)
    offset, size = PLACES["rootfs-b"]
    with pytest.raises(DeviceFault, match="sfdisk --no-reread --relocate gpt-bak-std"):
        find_partition(PartitionPlace(disk, offset, size), "b/rootfs")


class BlockDevice:
    """What stat says of a device file, over what it says of the file that stands for it."""

    def __init__(self, number: int) -> None:
        self.st_mode = 0o060600
        self.st_rdev = number


def test_finds_the_row_of_a_partition_by_sysfs(
    disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device files are simulated; docs/boot.md says where real ones are used."""
    offset, size = PLACES["rootfs-verity-b"]
    folder = tmp_path / "devices/block/disk"
    (folder / "disk5").mkdir(parents=True)
    (folder / "dev").write_text("8:0\n")
    for key, value in (("partition", 5), ("start", offset // 512), ("size", size // 512)):
        (folder / "disk5" / key).write_text(f"{value}\n")
    sysfs = tmp_path / "sysfs"
    sysfs.mkdir()
    (sysfs / "8:5").symlink_to(folder / "disk5")
    monkeypatch.setattr(gpt_disk, "SYSFS", sysfs)
    monkeypatch.setattr(gpt_disk, "DEV", tmp_path)
    numbers = {str(tmp_path / "disk5"): os.makedev(8, 5), str(disk): os.makedev(8, 0)}
    real = os.stat
    monkeypatch.setattr(
        os,
        "stat",
        lambda p, **r: BlockDevice(numbers[str(p)]) if str(p) in numbers else real(p, **r),
    )

    found = find_partition(PartitionPlace(tmp_path / "disk5"), "b/rootfs-verity")
    assert (found.disk, found.row.number) == (disk, 5)

    with pytest.raises(DeviceFault, match="region of a partition"):
        find_partition(PartitionPlace(tmp_path / "disk5", 4096, 4096), "b/rootfs-verity")
    (folder / "disk5/partition").write_text("4\n")
    with pytest.raises(DeviceFault, match="by the kernel 4"):
        find_partition(PartitionPlace(tmp_path / "disk5"), "b/rootfs-verity")
    (folder / "disk5/partition").unlink()
    with pytest.raises(DeviceFault, match="whole disk"):
        find_partition(PartitionPlace(tmp_path / "disk5"), "b/rootfs-verity")
    numbers[str(disk)] = os.makedev(8, 16)
    (folder / "disk5/partition").write_text("5\n")
    with pytest.raises(DeviceFault, match="another disk"):
        find_partition(PartitionPlace(tmp_path / "disk5"), "b/rootfs-verity")

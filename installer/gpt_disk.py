"""Renames partitions on a disk in use: both copies of its partition table, one after the other.

A place of the configuration is a partition: a block device that sysfs knows as one, or a region of
a disk image that is exactly a row of its table. What is renamed are labels and unique GUIDs of
rows; every other byte of both copies stays (delta/gpt_copy.py).

Order: a copy that is missing or damaged is mended first, so that two are there; then the backup is
written, made durable and read back; then the primary. A power cut leaves at least one valid copy,
and that has all of the new names or none.

The kernel is told nothing. Places and sizes are as before, and it uses the names only while it looks
for its root: at the next boot. (BLKRRPART is refused on a disk in use anyway.) udev looks at the
table again when the disk is closed, and moves its links; while it is written a lock on the disk
keeps udev away (systemd, "Locking Block Device Access").
"""

import contextlib
import fcntl
import os
import shlex
import stat
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slipstream.delta.errors import DeviceFault, FormatError
from slipstream.delta.gpt import Gpt, read_gpt
from slipstream.delta.gpt_copy import GptCopy, Identity
from slipstream.delta.gpt_layout import Row
from slipstream.delta.limits import DISK_LOCK_ATTEMPTS_MAX, DISK_LOCK_DELAY_S
from slipstream.installer.config import PartitionPlace
from slipstream.installer.slot import Target

SYSFS = Path("/sys/dev/block")
DEV = Path("/dev")
_BLKSSZGET = 0x1268  # linux/fs.h: bytes of a logical sector
_SYSFS_SECTOR_BYTES = 512  # what `start` and `size` count in, whatever the disk's sectors are
_CONFIGURE = "Correct [slots], or leave [install] identity out"


@dataclass(frozen=True, slots=True)
class Partition:
    """A place as a row of a table: which disk, which row."""

    name: str
    disk: Path
    row: Row


@dataclass(frozen=True, slots=True)
class _Span:
    """Bytes of a disk; `number` is what the kernel calls the partition, where it knows it."""

    disk: Path
    offset: int
    size: int
    number: int | None


def find_partition(place: PartitionPlace, name: str) -> Partition:
    """The row of a place, in a table that can be renamed safely. Raises DeviceFault.

    `name` is slot and image, for messages.
    """
    span = _span_of(place, name)
    with _opened(span.disk, os.O_RDONLY) as disk:
        gpt = disk.read_table()
    row = gpt.counting.row_at(span.offset, span.size)
    if row is None or span.number not in (None, row.number):
        raise DeviceFault(
            "it is no partition of its disk's GUID partition table",
            where=f"{name} ({place.path})",
            expected=f"a row with bytes {span.offset}..{span.offset + span.size - 1} of {span.disk}",
            got="none" if row is None else f"row {row.number}, by the kernel {span.number}",
            hint=_CONFIGURE,
        )
    _check_table(gpt, span.disk)
    return Partition(name, span.disk, row)


def rename_partitions(
    disk_path: Path, identities: Mapping[int, Identity], say: Callable[[str], None]
) -> bool:
    """Give rows, by number, other labels and GUIDs; False if both copies had them already.

    Mends a copy that is missing, and says so. Raises DeviceFault: the table cannot be written, does
    not read back, or its copies differ in other rows too.
    """
    with _opened(disk_path, os.O_RDWR) as disk:
        gpt = disk.read_table()
        _check_table(gpt, disk_path)
        wanted = _renamed(gpt.counting, identities, disk_path)
        mended = gpt.mended()
        if mended is None and not gpt.differing() and wanted.entries == gpt.counting.entries:
            return False
        _refuse_other_differences(gpt, identities, disk_path)
        if mended is not None:
            lost = gpt.backup if gpt.counting.is_primary else gpt.primary
            say(f"{disk_path}: mended the partition table: {lost}")
            disk.put(mended, header_first=True)
            gpt = disk.read_table()
        for copy in (gpt.backup, gpt.primary):
            if isinstance(copy, FormatError):  # it was read back a moment ago
                raise _damaged(disk_path, str(copy))
            disk.put(_renamed(copy, identities, disk_path))
        after = disk.read_table()
        if after.differing() or after.mended() or after.counting.entries != wanted.entries:
            raise _damaged(disk_path, "other rows than were written")
        return True


class _OpenDisk:
    """A disk while its table is read or written: a delta.gpt.Disk."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._sector_bytes = _sector_bytes(descriptor)
        self.size = os.lseek(descriptor, 0, os.SEEK_END)
        self._whole = Target(str(path), descriptor, 0, self.size)

    def read(self, offset: int, size: int) -> bytes:
        return self._whole.read(offset, size)

    def read_table(self) -> Gpt:
        try:
            return read_gpt(self, self._sector_bytes)
        except FormatError as error:
            raise DeviceFault(
                f"no sound partition table: {error}",
                where=self._path,
                hint=f"Look at it with `sfdisk --verify {self._path}`, and mend it by hand; "
                + _CONFIGURE,
            ) from error

    def put(self, copy: GptCopy, *, header_first: bool = False) -> None:
        """Write one copy, rows then header, durably, and read it back from the medium.

        A cut in here leaves a copy whose checksums are wrong, or the old one, or the new one. With
        `header_first`, for a copy that was none, what a cut leaves says where its rows belong.
        """
        begin, size = copy.span
        for offset, raw in reversed(copy.dump()) if header_first else copy.dump():
            self._whole.write(offset, raw)
            if header_first:
                self._whole.sync()
        got = bytearray()
        # read_back makes all of the disk's writes durable first.
        for piece in Target(str(self._path), self._descriptor, begin, size).read_back(size):
            got += piece
        for offset, raw in copy.dump():
            if got[offset - begin : offset - begin + len(raw)] != raw:
                raise _damaged(self._path, f"other bytes at {offset}")


@contextmanager
def _opened(path: Path, flags: int) -> Iterator[_OpenDisk]:
    """The disk, locked against udev while it is written. Not O_EXCL: its partitions are mounted."""
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(path, flags | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            if flags != os.O_RDONLY:
                _lock(path, descriptor)
            disk = _OpenDisk(path, descriptor)
        except OSError as error:
            raise _fault(path, "the disk cannot be opened", error) from error
        yield disk


def _lock(path: Path, descriptor: int) -> None:
    for _ in range(DISK_LOCK_ATTEMPTS_MAX):
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(DISK_LOCK_DELAY_S)
    raise DeviceFault(
        "another program holds the disk's lock",
        where=path,
        hint="Wait for it (a partitioning tool, udev); `lslocks` names it",
    )


def _sector_bytes(descriptor: int) -> int | None:
    """The logical sector of a block device; None for an image, which does not say."""
    if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
        return None
    size: int = struct.unpack("i", fcntl.ioctl(descriptor, _BLKSSZGET, bytes(4)))[0]
    return size


def _span_of(place: PartitionPlace, name: str) -> _Span:
    where = f"{name} ({place.path})"
    try:
        found = os.stat(place.path)
        if stat.S_ISBLK(found.st_mode):
            return _span_of_device(found.st_rdev, place, where)
    except (OSError, ValueError) as error:
        raise DeviceFault("it cannot be looked at", where=where, got=error) from error
    if place.size is None:
        raise _no_partition(where, "a whole file")
    return _Span(place.path.resolve(), place.offset, place.size, None)


def _span_of_device(device: int, place: PartitionPlace, where: str) -> _Span:
    """Source: Linux, Documentation/ABI/stable/sysfs-block, and block/partitions/core.c."""
    folder = (SYSFS / f"{os.major(device)}:{os.minor(device)}").resolve()
    if not (folder / "partition").exists():
        raise _no_partition(where, "a whole disk, or a mapped device")
    if place.offset or place.size is not None:
        raise _no_partition(where, "a region of a partition")
    number, start, size = (
        int((folder / key).read_text()) for key in ("partition", "start", "size")
    )
    disk = DEV / folder.parent.name.replace("!", "/")
    major, _, minor = (folder.parent / "dev").read_text().strip().partition(":")
    if os.stat(disk).st_rdev != os.makedev(int(major), int(minor)):
        raise DeviceFault("its disk's device file is another disk's", where=where, got=disk)
    return _Span(disk, start * _SYSFS_SECTOR_BYTES, size * _SYSFS_SECTOR_BYTES, number)


def rewrite_command(disk: Path) -> str:
    """What writes both copies anew from the one that counts, each in its place: sfdisk, which is a
    part of util-linux (Debian: the package fdisk)."""
    return f"sfdisk --no-reread --relocate gpt-bak-std {shlex.quote(str(disk))}"


def _no_partition(where: str, got: str) -> DeviceFault:
    return DeviceFault(
        "only a partition has a label and a PARTUUID",
        where=where,
        expected='a partition, as [install] identity = "gpt" needs it',
        got=got,
        hint=_CONFIGURE,
    )


def _check_table(gpt: Gpt, disk: Path) -> None:
    """Both copies are there or can be made, where firmware and kernel look for them."""
    if not gpt.backup_is_last:
        raise DeviceFault(
            "the partition table's backup is not at the end of the disk, where it is looked for "
            "when the primary is lost",
            where=disk,
            hint=f"Move it there: {rewrite_command(disk)}",
        )
    try:
        gpt.mended()
    except FormatError as error:
        raise DeviceFault(
            f"a copy of the partition table is lost and cannot be made anew: {error}",
            where=disk,
            hint=f"Look at it with `sfdisk --verify {disk}`, and mend it by hand",
        ) from error


def _renamed(copy: GptCopy, identities: Mapping[int, Identity], disk: Path) -> GptCopy:
    try:
        return copy.renamed(identities)
    except FormatError as error:
        raise DeviceFault(f"the partitions cannot be renamed: {error}", where=disk) from error


def _refuse_other_differences(gpt: Gpt, identities: Mapping[int, Identity], disk: Path) -> None:
    """Two valid copies differ after a cut between them: then in the names of these rows alone."""
    if isinstance(gpt.primary, FormatError) or isinstance(gpt.backup, FormatError):
        return
    ours, theirs = (copy.renamed(identities).entries for copy in (gpt.primary, gpt.backup))
    if ours != theirs:
        raise DeviceFault(
            "the two copies of the partition table differ, and not by an interrupted update",
            where=disk,
            got=", ".join(f"partition {number}" for number in gpt.differing()),
            hint=f"`sfdisk --dump {disk}` shows the primary, which is what runs now; if it is right, "
            f"this writes the backup anew from it: {rewrite_command(disk)}",
        )


def _damaged(disk: Path, got: str) -> DeviceFault:
    return DeviceFault(
        "the partition table reads back differently from what was written",
        where=disk,
        got=got,
        hint="The medium is damaged: check it (dmesg), replace it if it goes on",
    )


def _fault(path: Path, what: str, error: OSError) -> DeviceFault:
    return DeviceFault(
        what, where=path, got=os.strerror(error.errno or 0), hint="Run the installer as root"
    )

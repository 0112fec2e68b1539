"""One image's place on the device: open it, know it for what it is, read, write, read back.

A place is a block device, a region of a regular file, or a boot file on the state partition.
Everything is checked on the open descriptor, never on the path: a path may be a symlink that
is turned between check and use. What could be running is refused: the active slot's places,
whatever is mounted, whatever another process holds (O_EXCL on a block device).

Nothing is verified here: stream.py hands over bytes that were.
"""

import contextlib
import errno
import mmap
import os
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import DeviceFault, SlipstreamError, WrongDevice
from slipstream.delta.limits import BLOCK_BYTES, CHUNK_BYTES, IMAGE_BYTES_MAX, KIB
from slipstream.installer.config import PartitionPlace

MOUNTINFO = Path("/proc/self/mountinfo")
# Passes over a whole image go in such pieces: below allocator.py's LARGE_BLOCK_BYTES, so that
# their memory is used again. A fresh 512 KiB buffer costs 128 page faults: 0.3 s of processor
# time for each pass over 503 MB, more than reading them from the page cache.
PIECE_BYTES = 128 * KIB
_HINTS = {
    errno.EIO: "The medium does not take or give the bytes: check the disk, then install again",
    errno.ENOSPC: "Make room there, then install again",
    errno.EROFS: "It is read-only: check the disk's write protection and its log",
    errno.EBUSY: "Something else uses it: see `lsblk` and /proc/mounts",
    errno.EACCES: "Run the installer as root",
    errno.EPERM: "Run the installer as root",
    errno.ENOENT: "Check the path in the section [slots] of the device configuration",
    errno.ENXIO: "Check the path in the section [slots] of the device configuration",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """What bytes a place really is: device and inode (device 0, rdev for block), and the range."""

    device: int
    number: int
    range: ByteRange

    def overlaps(self, other: "Identity") -> bool:
        """Whether both name at least one common byte."""
        same = (self.device, self.number) == (other.device, other.number)
        return same and self.range.overlaps(other.range)


class Target:
    """An open place: implements ports.SlotTarget."""

    def __init__(self, name: str, descriptor: int, offset: int, size: int) -> None:
        self._name = name
        self._descriptor = descriptor
        self._offset = offset
        self._size = size
        self._regular = stat.S_ISREG(os.fstat(descriptor).st_mode)

    @property
    def name(self) -> str:
        return self._name

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes. Raises DeviceFault."""
        self._check_range(offset, size)
        if size and self._in_hole(offset, size):
            return bytes(size)
        pieces = []
        try:
            while size:
                piece = os.pread(self._descriptor, size, self._offset + offset)
                if not piece:
                    raise DeviceFault("it ends early", where=self._name, got=f"byte {offset}")
                pieces.append(piece)
                offset += len(piece)
                size -= len(piece)
        except OSError as error:
            raise _fault(self._name, f"reading at byte {offset} failed", error) from error
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def write(self, offset: int, data: bytes) -> int:
        """Write the 4 KiB blocks of `data` that differ from what stands. Bytes written."""
        self._check_range(offset, len(data))
        written = 0
        view = memoryview(data)
        while view:
            piece, view = view[:PIECE_BYTES], view[PIECE_BYTES:]
            standing = self.read(offset, len(piece))
            for start, end in _differing_runs(standing, piece):
                self._write_all(offset + start, piece[start:end])
                written += end - start
            offset += len(piece)
        return written

    def sync(self) -> None:
        """All that was written is on the medium when this returns. Raises DeviceFault."""
        try:
            os.fdatasync(self._descriptor)
        except OSError as error:
            # After a failed fsync Linux may have dropped the dirty pages: writing again is
            # not enough, so the install fails here and the next scan finds what is missing.
            raise _fault(self._name, "making the bytes durable failed", error) from error

    def read_back(self, size: int) -> Iterator[bytes]:
        """The first `size` bytes in pieces, past the page cache where the file system can."""
        self._check_range(0, size)
        self.sync()
        direct = self._open_direct()
        if direct is None:
            with contextlib.suppress(OSError):  # advice: no harm where it is not taken
                os.posix_fadvise(self._descriptor, self._offset, size, os.POSIX_FADV_DONTNEED)
            for offset in range(0, size, PIECE_BYTES):
                yield self.read(offset, min(PIECE_BYTES, size - offset))
            return
        try:
            yield from self._read_direct(direct, size)
        finally:
            os.close(direct)

    def close(self) -> None:
        """Idempotent."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _check_range(self, offset: int, size: int) -> None:
        if offset < 0 or size < 0 or offset + size > self._size:
            raise WrongDevice(
                "bytes outside of the slot",
                where=self._name,
                expected=f"within {self._size} bytes",
                got=f"{size} at byte {offset}",
            )

    def _in_hole(self, offset: int, size: int) -> bool:
        """Whether a regular file has nothing there: zeros that need not be read.

        Reading a hole fills the page cache with zeros first: 1 s of processor time for an empty
        slot of 503 MB. A file system that is wrong about its holes is found out by what is
        checked anyway: sources by the chunks made of them, slots by the read-back.
        """
        if not self._regular:
            return False
        begin = self._offset + offset
        try:
            return os.lseek(self._descriptor, begin, os.SEEK_DATA) >= begin + size
        except OSError as error:  # ENXIO: no data from there to the end of the file
            return error.errno == errno.ENXIO and begin + size <= os.fstat(self._descriptor).st_size

    def _write_all(self, offset: int, view: memoryview) -> None:
        try:
            while view:
                count = os.pwrite(self._descriptor, view, self._offset + offset)
                view = view[count:]
                offset += count
        except OSError as error:
            raise _fault(self._name, f"writing at byte {offset} failed", error) from error

    def _open_direct(self) -> int | None:
        # By the descriptor's own link: the same file, whatever the path names by now.
        try:
            flags = os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC
            return os.open(f"/proc/self/fd/{self._descriptor}", flags)
        except OSError:
            return None

    def _read_direct(self, descriptor: int, size: int) -> Iterator[bytes]:
        """A thread reads the next chunk into one buffer while the caller hashes the other."""
        # Direct reads need aligned memory, which an anonymous map is, and whole blocks.
        with (
            mmap.mmap(-1, 2 * CHUNK_BYTES) as buffer,
            memoryview(buffer) as view,
            view[:CHUNK_BYTES] as even,
            view[CHUNK_BYTES:] as odd,
            ThreadPoolExecutor(1, "read back") as reader,
        ):
            ahead = reader.submit(self._fill, descriptor, even, 0, size)
            for offset in range(0, size, CHUNK_BYTES):
                count, end = ahead.result(), min(offset + CHUNK_BYTES, size)
                half, other = (odd, even) if offset // CHUNK_BYTES % 2 else (even, odd)
                if end < size:
                    ahead = reader.submit(self._fill, descriptor, other, end, size)
                for at in range(offset, end, PIECE_BYTES):
                    upto = min(at + PIECE_BYTES, end)
                    if offset + count >= end:
                        yield bytes(half[at - offset : upto - offset])
                    else:  # a medium with larger blocks than ours
                        yield self.read(at, upto - at)

    def _fill(self, descriptor: int, buffer: memoryview, offset: int, size: int) -> int:
        """Read at most a chunk. Bytes read; none where the medium does not take such a read."""
        whole = -(-min(CHUNK_BYTES, size - offset) // BLOCK_BYTES) * BLOCK_BYTES
        try:
            with buffer[:whole] as part:
                return os.preadv(descriptor, [part], self._offset + offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise _fault(self._name, "reading back failed", error) from error
            return 0


def open_partition(
    place: PartitionPlace, name: str, size: int, running: Iterable[PartitionPlace]
) -> Target:
    """Open a slot's partition for an image of `size` bytes.

    `running` are the places that must not be written: the active slot's. Raises WrongDevice
    when the image does not fit, DeviceFault when the place is not what it should be.
    """
    try:
        # O_EXCL without O_CREAT: on a block device, fail while it is mounted or held by
        # another exclusive opener (open(2)); without meaning for a regular file on Linux.
        descriptor = os.open(place.path, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
    except OSError as error:
        raise _fault(f"{name} ({place.path})", "it cannot be opened", error) from error
    try:
        identity = _identity_of(descriptor, place, name)
        for other in running:
            if identity.overlaps(identify(other, name)):
                raise DeviceFault(
                    "it is the running slot",
                    where=f"{name} ({place.path})",
                    got=other.path,
                    hint="Check the section [slots] of the device configuration",
                )
        _refuse_mounted(descriptor, name)
        if identity.range.size < size:
            raise WrongDevice(
                "the image is larger than the partition",
                where=f"{name} ({place.path})",
                expected=f"at most {identity.range.size} bytes",
                got=size,
            )
    except BaseException:
        os.close(descriptor)
        raise
    return Target(name, descriptor, place.offset, identity.range.size)


def open_boot_file(path: Path, name: str, size: int) -> Target:
    """Open (make) a boot file of exactly `size` bytes on the state partition; space is taken now."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, size)
            os.ftruncate(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        raise _fault(f"{name} ({path})", "the boot file cannot be made", error) from error
    return Target(name, descriptor, 0, size)


def open_source(place: PartitionPlace, name: str) -> Target:
    """Open a place of the active slot for reading: the source of a delta. Raises DeviceFault."""
    try:
        descriptor = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _fault(f"{name} ({place.path})", "it cannot be opened", error) from error
    try:
        identity = _identity_of(descriptor, place, name)
    except BaseException:
        os.close(descriptor)
        raise
    return Target(name, descriptor, place.offset, identity.range.size)


def identify(place: PartitionPlace, name: str) -> Identity:
    """What a place is at this moment. Raises DeviceFault."""
    target = None
    try:
        descriptor = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            target = _identity_of(descriptor, place, name)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _fault(f"{name} ({place.path})", "it cannot be opened", error) from error
    return target


def check_places(places: Iterable[tuple[str, PartitionPlace]]) -> None:
    """Refuse a configuration in which two names share bytes. Raises DeviceFault."""
    known: list[tuple[str, Identity]] = []
    for name, place in places:
        identity = identify(place, name)
        for other, theirs in known:
            if identity.overlaps(theirs):
                raise DeviceFault(
                    f"{name} and {other} share bytes",
                    where=place.path,
                    hint="Check the section [slots] of the device configuration",
                )
        known.append((name, identity))


def _identity_of(descriptor: int, place: PartitionPlace, name: str) -> Identity:
    where = f"{name} ({place.path})"
    found = os.fstat(descriptor)
    if stat.S_ISBLK(found.st_mode):
        device, number = 0, found.st_rdev
    elif stat.S_ISREG(found.st_mode):
        device, number = found.st_dev, found.st_ino
    else:
        raise DeviceFault(
            "it cannot be a slot", where=where, expected="a block device or a regular file"
        )
    end = os.lseek(descriptor, 0, os.SEEK_END)
    size = end - place.offset if place.size is None else place.size
    if size <= 0 or place.offset + size > end or end > IMAGE_BYTES_MAX:
        raise DeviceFault(
            "it is smaller than the configuration says",
            where=where,
            expected=f"{place.offset + max(size, 1)} bytes",
            got=end,
        )
    return Identity(device, number, ByteRange(place.offset, size))


def _refuse_mounted(descriptor: int, name: str) -> None:
    found = os.fstat(descriptor)
    for mounted, point in _mounted_devices():
        taken = stat.S_ISBLK(found.st_mode) and mounted == found.st_rdev
        if not taken and stat.S_ISREG(found.st_mode):
            taken = _backing_file(mounted) == (found.st_dev, found.st_ino)
        if taken:
            raise DeviceFault(
                "it is mounted", where=name, got=point, hint=f"Unmount it: umount {point}"
            )


def _mounted_devices() -> Iterator[tuple[int, str]]:
    """Device number and mount point of every mount (proc(5), mountinfo fields 3 and 5)."""
    with MOUNTINFO.open() as lines:
        for line in lines:
            fields = line.split()
            major, _, minor = fields[2].partition(":")
            yield os.makedev(int(major), int(minor)), fields[4]


def _backing_file(device: int) -> tuple[int, int] | None:
    """Device and inode of the regular file behind a mounted loop device."""
    link = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
    for folder in (link, link / ".."):  # a loop device, or a partition of one
        try:
            text = (folder / "loop/backing_file").read_text().rstrip("\n")
            found = os.stat(text)
        except OSError:
            continue
        return found.st_dev, found.st_ino
    return None


def _differing_runs(standing: bytes, data: memoryview) -> Iterator[tuple[int, int]]:
    """Ranges of whole blocks in which the two differ, neighbours joined."""
    if standing == data:
        return
    start = None
    for offset in range(0, len(data), BLOCK_BYTES):
        end = offset + BLOCK_BYTES
        if standing[offset:end] != data[offset:end]:
            start = offset if start is None else start
        elif start is not None:
            yield start, offset
            start = None
    if start is not None:
        yield start, len(data)


def _fault(where: str, what: str, error: OSError) -> SlipstreamError:
    number = error.errno or 0
    return DeviceFault(what, where=where, got=os.strerror(number), hint=_HINTS.get(number))

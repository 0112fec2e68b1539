"""Bytes fetched ahead of the slot, durable at every frame end.

Append-only segment files. Each holds records; a record is the frame's number, its encoded size,
and its bytes as they came. The end of the file is the truth of how far the last one got: there
is no second file that could disagree with it. Knows no network and no digests of frames: the
frame source checks them.

    segment   "SLIPSPL1", 32 bytes digest of the payload's index, then records
    record    frame number u32, encoded size u32 (little-endian), then at most that many bytes
"""

import os
import shutil
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from slipstream.delta.digest import Digest
from slipstream.delta.durable import sync_folder
from slipstream.delta.errors import DeviceFault
from slipstream.delta.limits import (
    FRAME_ENCODED_BYTES_MAX,
    FRAMES_MAX,
    SPOOL_SEGMENT_BYTES,
    SPOOL_SEGMENTS_MAX,
)

_MAGIC = b"SLIPSPL1"
_RECORD = struct.Struct("<II")
_SUFFIX = ".spool"


@dataclass(frozen=True, slots=True)
class _Record:
    """Where a frame's bytes stand: `offset` within its segment's file."""

    segment: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Tail:
    """A frame that has begun: `have` of its `size` bytes are there."""

    frame: int
    size: int
    have: int


class Spool:
    """Frames of one payload, by number, in a folder of their own.

    Opening reads what is there; segments of another payload, and any bytes that are no records,
    are removed. All errors of the file system are DeviceFault. Not thread-safe, but for
    sync_tail(), which may run in a thread while frames are read and released.
    """

    def __init__(self, folder: Path, identity: Digest) -> None:
        self._folder = folder
        self._header = _MAGIC + identity.raw
        self._frames: dict[int, _Record] = {}
        self._sizes: dict[int, int] = {}  # bytes of each segment
        self._descriptor: int | None = None  # of the segment that is written: the highest
        self._tail: Tail | None = None
        with self._translated():
            _make_durably(folder)
            self._open_segments()

    def __contains__(self, frame: int) -> bool:
        """Whether the whole of a frame is here."""
        return frame in self._frames

    @property
    def frames(self) -> tuple[int, ...]:
        """Numbers of the frames that are here whole, in the order of their arrival."""
        return tuple(self._frames)

    @property
    def tail(self) -> Tail | None:
        """The frame that was begun and not finished."""
        return self._tail

    @property
    def held_bytes(self) -> int:
        """Bytes on disk, records and headers."""
        return sum(self._sizes.values())

    def read(self, frame: int) -> bytes:
        """The encoded bytes of a frame that is here whole."""
        record = self._frames[frame]
        with self._translated():
            data = self._read(record.segment, record.offset, record.size)
        if len(data) != record.size:
            raise DeviceFault("the spool lost bytes", where=self._path(record.segment))
        return data

    def read_tail(self) -> bytes:
        """The bytes of the unfinished frame that are here."""
        if self._tail is None:
            return b""
        segment = max(self._sizes)
        with self._translated():
            return self._read(segment, self._sizes[segment] - self._tail.have, self._tail.have)

    def begin(self, frame: int, size: int) -> None:
        """Start a frame of `size` bytes; an unfinished one is dropped."""
        self.drop_tail()
        with self._translated():
            if self._descriptor is None or self._sizes[max(self._sizes)] >= SPOOL_SEGMENT_BYTES:
                self._start_segment()
            self._write(_RECORD.pack(frame, size))
        self._tail = Tail(frame, size, 0)

    def append(self, data: bytes | memoryview) -> None:
        """Add bytes to the frame that was begun; never more than its size."""
        tail = self._tail
        if tail is None or tail.have + len(data) > tail.size:
            raise ValueError("no frame was begun, or these bytes are too many for it")
        with self._translated():
            self._write(data)
        self._tail = Tail(tail.frame, tail.size, tail.have + len(data))

    def sync_tail(self) -> None:
        """Make the begun frame's bytes durable. Blocks: for a thread."""
        if self._descriptor is not None:
            with self._translated():
                os.fdatasync(self._descriptor)

    def finish(self) -> None:
        """The begun frame is whole, checked and durable: from now on it is here."""
        tail = self._tail
        if tail is None or tail.have != tail.size:
            raise ValueError("the frame is not whole")
        segment = max(self._sizes)
        self._frames[tail.frame] = _Record(segment, self._sizes[segment] - tail.size, tail.size)
        self._tail = None

    def drop_tail(self) -> None:
        """Remove the unfinished frame, if there is one."""
        if self._tail is None or self._descriptor is None:
            return
        segment = max(self._sizes)
        kept = self._sizes[segment] - self._tail.have - _RECORD.size
        with self._translated():
            os.ftruncate(self._descriptor, kept)
        self._sizes[segment] = kept
        self._tail = None

    def drop(self, frame: int) -> None:
        """Forget a whole frame whose bytes turned out bad; its room is freed with its segment."""
        self._frames.pop(frame, None)

    def release(self, before: int) -> None:
        """Drop frames below `before`, and every segment that holds nothing else."""
        self._frames = {n: record for n, record in self._frames.items() if n >= before}
        needed = {record.segment for record in self._frames.values()}
        if self._tail is not None:
            needed.add(max(self._sizes))
        with self._translated():
            for segment in sorted(set(self._sizes) - needed):
                if self._descriptor is not None and segment == max(self._sizes):
                    self._close_descriptor()
                self._path(segment).unlink(missing_ok=True)
                del self._sizes[segment]

    def discard(self) -> None:
        """Remove everything: the payload is installed or given up."""
        self.drop_tail()
        self.release(FRAMES_MAX)
        self.close()

    def close(self) -> None:
        """Give the files back; what is in them stays."""
        self._close_descriptor()

    def _open_segments(self) -> None:
        numbers = sorted(_segment_number(path) for path in self._folder.glob(f"*{_SUFFIX}"))
        for number in numbers[SPOOL_SEGMENTS_MAX:]:
            self._path(number).unlink()
        numbers = numbers[:SPOOL_SEGMENTS_MAX]
        for number in numbers:
            self._open_segment(number, last=number == numbers[-1])

    def _open_segment(self, number: int, *, last: bool) -> None:
        """Read the records of a segment; cut what is none off its end."""
        path = self._path(number)
        with path.open("r+b") as file:
            length = os.fstat(file.fileno()).st_size
            if file.read(len(self._header)) != self._header:
                path.unlink()
                return
            at = len(self._header)
            while at + _RECORD.size <= length:
                file.seek(at)
                frame, size = _RECORD.unpack(file.read(_RECORD.size))
                if frame >= FRAMES_MAX or not 0 < size <= FRAME_ENCODED_BYTES_MAX:
                    break
                have = min(size, length - at - _RECORD.size)
                if have < size:
                    # Only the newest segment can be continued.
                    if last:
                        self._tail = Tail(frame, size, have)
                        at = length
                    break
                self._frames[frame] = _Record(number, at + _RECORD.size, size)
                at += _RECORD.size + size
            if at < length:
                os.ftruncate(file.fileno(), at)
            self._sizes[number] = at
        if last:
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)

    def _start_segment(self) -> None:
        self._close_descriptor()
        number = max(self._sizes, default=0) + 1
        self._descriptor = os.open(
            self._path(number),
            os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC,
            0o600,
        )
        self._sizes[number] = 0
        self._write(self._header)
        # The name must be durable before the first frame end says that bytes behind it are.
        sync_folder(self._folder)

    def _write(self, data: bytes | memoryview) -> None:
        if self._descriptor is None:
            raise ValueError("the spool is closed")
        view = memoryview(data)
        segment = max(self._sizes)
        while view:
            written = os.write(self._descriptor, view)
            self._sizes[segment] += written
            view = view[written:]

    def _read(self, segment: int, offset: int, size: int) -> bytes:
        with self._path(segment).open("rb") as file:
            file.seek(offset)
            return file.read(size)

    def _close_descriptor(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:08d}{_SUFFIX}"

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DeviceFault(
                "the spool cannot be used",
                where=self._folder,
                got=error.strerror or str(error),
                hint="Make room in the state folder, or check its disk",
            ) from error


def keep_spools(parent: Path, kept: Collection[Digest]) -> None:
    """Remove every spool below `parent` but those of these payloads, and what else is there.

    A spool's folder is named by spool_folder(). What cannot be removed stays for the next time.
    """
    folders = {spool_folder(parent, identity) for identity in kept}
    with suppress(OSError):
        for path in list(parent.iterdir()):
            if path not in folders:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


def spool_folder(parent: Path, identity: Digest) -> Path:
    """Where the spool of a payload stands: 16 digits tell two payloads of an image apart."""
    return parent / identity.hex[:16]


def _make_durably(folder: Path) -> None:
    if not folder.is_dir():
        _make_durably(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def _segment_number(path: Path) -> int:
    stem = path.name.removesuffix(_SUFFIX)
    return int(stem) if stem.isascii() and stem.isdigit() else 0

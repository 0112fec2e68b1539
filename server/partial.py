"""What a build has done so far, beside its output: interrupted, the next one goes on from there.

The folder `.NAME.parts/` belongs to the build that writes NAME, one process at a time. It holds
the scratch file, and `frames`: a key, then a record for each piece of the plan that was encoded, in
order: length, checksum, and the frames as msgpack, which are checked as they are made again. The
key stands for all that frames follow from; under another key nothing is taken over. A record that a
crash cut short ends the file.
"""

import fcntl
import os
import secrets
import shutil
import struct
import zlib
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from slipstream.delta.byterange import ByteRange
from slipstream.delta.digest import DIGEST_BYTES, Digest
from slipstream.delta.encode import EncodedFrame
from slipstream.delta.errors import FormatError, Rejected, UsageError

_HEAD = struct.Struct("<II")  # length and CRC-32 of a record
_RECORD = msgspec.msgpack.Decoder(tuple[EncodedFrame, ...])


def parts_folder(output: Path) -> Path:
    """Where a build of `output` keeps what the next one can go on with, if it was interrupted."""
    return output.with_name(f".{output.name}.parts")


class PartialBuild:
    """The folder of a build, held while it runs.

    Behind `open`: `take` for every piece, in order, until it gives None; from then on `keep` what
    was encoded instead, in the same order. Leaving it removes the folder, unless the build was
    interrupted and has frames to show for it.
    """

    def __init__(self, output: Path) -> None:
        """UsageError where another process writes the same output; OSError."""
        self._folder = parts_folder(output)
        self._folder.mkdir(exist_ok=True)
        self._frames = (self._folder / "frames").open("a+b")
        try:
            fcntl.flock(self._frames, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._frames.close()
            raise UsageError(
                "another build writes this output", where=output, hint="Wait for it, or end it"
            ) from error
        for left in self._folder.glob("scratch.*"):  # by a build that was killed
            left.unlink()
        # A name of its own: who has an earlier one open still does not take this one for it.
        self.scratch = (self._folder / f"scratch.{secrets.token_hex(8)}").open("w+b")
        self._taking = False
        self._position = 0  # behind the last record taken or kept

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.scratch.close()
        Path(self.scratch.name).unlink()
        # What would fail the same way again, a full disk among it, has no use for the frames.
        ended = error is None or isinstance(error, OSError | UsageError | Rejected)
        if ended or self._position <= DIGEST_BYTES:
            shutil.rmtree(self._folder)
        self._frames.close()

    def open(self, key: Digest) -> int:
        """Go on with what was done under the same key: bytes of records that stand, maybe 0."""
        self._frames.seek(0)
        if self._frames.read(DIGEST_BYTES) != key.raw:
            self._frames.truncate(0)
            self._frames.write(key.raw)
            self._frames.flush()
        self._position = DIGEST_BYTES
        size = os.fstat(self._frames.fileno()).st_size - DIGEST_BYTES
        self._taking = size > 0
        return size

    def take(self, target: ByteRange) -> tuple[EncodedFrame, ...] | None:
        """The frames of the next piece, which makes `target`; None once there are no more."""
        if not self._taking:
            return None
        record = self._read_record()
        frames = () if record is None else _parse_record(record, target)
        if record is None or not frames:
            self._taking = False
            self._frames.truncate(self._position)
            return None
        self._position += _HEAD.size + len(record)
        return frames

    def _read_record(self) -> bytes | None:
        """The record at the position; None if it is not there as it was written."""
        self._frames.seek(self._position)
        head = self._frames.read(_HEAD.size)
        if len(head) < _HEAD.size:
            return None
        size, checksum = _HEAD.unpack(head)
        if size > os.fstat(self._frames.fileno()).st_size - self._position:
            return None
        record = self._frames.read(size)
        return record if len(record) == size and zlib.crc32(record) == checksum else None

    def keep(self, frames: tuple[EncodedFrame, ...]) -> None:
        """Append the frames of the next piece. OSError."""
        record = msgspec.msgpack.encode(frames)
        # At the end of the file, wherever reading was: it is open for appending.
        self._frames.write(_HEAD.pack(len(record), zlib.crc32(record)) + record)
        self._frames.flush()
        self._position += _HEAD.size + len(record)


def _parse_record(record: bytes, target: ByteRange) -> tuple[EncodedFrame, ...]:
    """The frames of a record; none if it is no record of frames that make `target`."""
    try:
        frames = _RECORD.decode(record)
    except (msgspec.MsgspecError, FormatError):
        return ()
    position = target.offset
    for one in frames:
        if one.frame.target.offset != position or len(one.encoded) != one.frame.encoded.size:
            return ()
        position = one.frame.target.end
    return frames if position == target.end else ()

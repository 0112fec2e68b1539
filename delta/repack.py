"""Content of frames to target bytes: what was unpacked for matching is packed again.

Frames come in target order, and so do the pieces that come out. Blocks are packed within their
frame. A long stream is fed to one encoder over several frames, which gives its bytes late: they
are due in the order of the frames, and bytes of frames that stand between wait for them.

After an interruption nothing of an encoder is left. It is made again from the target itself: what
the frames before account for stands there, unpacks to all the content that was fed, and is fed
again. That costs processor time, never download. Which frames belong together was checked with
the table (frame_table.py). Layout: docs/format.md, 6.4.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError
from slipstream.delta.frame import Frame, Part
from slipstream.delta.limits import (
    HELD_BYTES_MAX,
    KIB,
    PACK_AHEAD_BYTES_MAX,
    UNPACK_MEMORY_BYTES_MAX,
)
from slipstream.delta.packing.pack import PackCursor, pack
from slipstream.delta.packing.unpack import UnpackCursor

_FEED_BYTES = 256 * KIB


@dataclass(frozen=True, slots=True)
class Piece:
    """Target bytes and their place."""

    offset: int
    data: bytes


@dataclass(slots=True)
class _Due:
    """Target bytes that come next: known already, or awaited from the encoder."""

    target: ByteRange
    data: bytes | None


class Repacker:
    """Turns the contents of frames into pieces of the target, in order.

    `frames` is the whole table; `read_target` gives target bytes (offset, size) that were made.
    Frames must rise. One may be left out if its target stands, but for those of a long stream: of
    these only the first ones. Close it when done.
    """

    def __init__(self, frames: Sequence[Frame], read_target: Callable[[int, int], bytes]) -> None:
        self._frames = frames
        self._read_target = read_target
        self._encoder: PackCursor | None = None
        self._next = -1  # the frame that the encoder takes next
        self._dues: deque[_Due] = deque()
        self._made = bytearray()  # of the encoder, not due yet
        self._skip = 0  # bytes of the encoder that stand in the target already

    def feed(self, number: int, content: bytes) -> list[Piece]:
        """The pieces that frame `number` completes. FormatError, and what packing raises.

        After an error of a long stream nothing of it comes any more: `drop` it.
        """
        frame = self._frames[number]
        part = frame.long_part
        if part is None:
            return self._feed_whole(number, frame, content)
        if part.begins:
            encoder = self._open(part)
        elif self._encoder is not None and self._follows(number):
            encoder = self._encoder
        else:
            encoder = self._resume(number, part)
        self._dues.append(_Due(frame.target, None))
        self._next = number + 1
        self._take(encoder.feed(content))
        if part.ends:
            self._take(encoder.finish())
        pieces = list(self._delivered())
        if part.ends:
            if self._dues or self._made:
                raise _other_length(number)
            self._stop()
        self._check_held(number)
        return pieces

    @property
    def due_offset(self) -> int | None:
        """The first target byte that earlier frames still owe; None where they owe nothing."""
        return self._dues[0].target.offset if self._dues else None

    def drop(self) -> None:
        """Give up what earlier frames still owe, and the encoder."""
        self._dues.clear()
        self._stop()

    def _feed_whole(self, number: int, frame: Frame, content: bytes) -> list[Piece]:
        data = b"".join(_pack_parts(frame, content)) if frame.parts else content
        if len(data) != frame.target.size:
            raise _other_length(number)
        if not self._dues:
            return [Piece(frame.target.offset, data)]
        self._dues.append(_Due(frame.target, data))
        self._check_held(number)
        return []

    def _check_held(self, number: int) -> None:
        waiting = sum(len(due.data) for due in self._dues if due.data is not None)
        if waiting + len(self._made) > HELD_BYTES_MAX:
            raise FormatError(
                "too many bytes wait for a long stream, or for its frames",
                where=f"frame {number}",
                expected=f"at most {HELD_BYTES_MAX}",
                got=f"{waiting} and {len(self._made)}",
            )

    def _take(self, made: bytes) -> None:
        """The next bytes of the encoder, but for those that stand already."""
        skipped = min(self._skip, len(made))
        self._skip -= skipped
        self._made += memoryview(made)[skipped:]

    def _delivered(self) -> Iterator[Piece]:
        """The dues that can be met, in order."""
        while self._dues:
            due = self._dues[0]
            if due.data is not None:
                yield Piece(due.target.offset, due.data)
                self._dues.popleft()
                continue
            data = bytes(self._made[: due.target.size])
            del self._made[: len(data)]
            if data:
                yield Piece(due.target.offset, data)
            if len(data) < due.target.size:
                due.target = ByteRange(due.target.offset + len(data), due.target.size - len(data))
                return
            self._dues.popleft()

    def _open(self, part: Part) -> PackCursor:
        """A new encoder for the stream of a long part."""
        assert part.recipe is not None  # a part without is whole
        if self._dues:
            raise FormatError("long stream begins before the one before it was complete")
        self._stop()
        self._encoder = PackCursor(part.recipe)
        return self._encoder

    def _stop(self) -> None:
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None
        self._made.clear()
        self._skip = 0

    def _follows(self, number: int) -> bool:
        """Whether the frames since the last one fed are no part of the long stream."""
        return all(self._frames[between].long_part is None for between in range(self._next, number))

    def _resume(self, number: int, part: Part) -> PackCursor:
        """A new encoder, brought to where frame `number` begins by what stands in the target."""
        encoder = self._open(part)
        targets: list[ByteRange] = []
        content_size = 0
        for earlier in range(number - 1, -1, -1):
            frame = self._frames[earlier]
            if frame.long_part is not None:
                targets.append(frame.target)
                content_size += frame.content_size
                if frame.long_part.begins:
                    break
        self._skip = sum(target.size for target in targets)
        for content in _unpacked(part, targets[::-1], self._read_target, content_size):
            self._take(encoder.feed(content))
            self._check_held(number)
        return encoder


def _unpacked(
    part: Part, targets: list[ByteRange], read: Callable[[int, int], bytes], size: int
) -> Iterator[bytes]:
    """The first `size` bytes of content of the packed bytes that stand in target ranges."""
    assert part.recipe is not None
    decoder = UnpackCursor(part.recipe.packing, UNPACK_MEMORY_BYTES_MAX)
    left = size
    for target in targets:
        for offset in range(target.offset, target.end, _FEED_BYTES):
            packed = read(offset, min(_FEED_BYTES, target.end - offset))
            while left:
                content = decoder.feed(packed, min(left, _FEED_BYTES))
                packed = b""
                if not content:
                    break
                left -= len(content)
                yield content
    if left:
        raise FormatError("what stands in the target unpacks to less than was made of it")


def _pack_parts(frame: Frame, content: bytes) -> Iterator[bytes]:
    """What each part of a frame becomes. Bytes dropped behind a part are what its encoder saw ahead."""
    offset = 0
    for part in frame.parts:
        end = offset + part.size
        if part.recipe is not None:
            ahead = content[end : end + PACK_AHEAD_BYTES_MAX]
            packed = pack(part.recipe, content[offset:end], part.packed_size, ahead)
            if len(packed) != part.packed_size:
                raise FormatError(
                    "content packs to another length",
                    where=f"target offset {frame.target.offset}",
                    expected=part.packed_size,
                    got=len(packed),
                )
            yield packed
        elif part.packed_size:
            yield content[offset:end]
        offset = end


def _other_length(number: int) -> FormatError:
    return FormatError("content packs to another length", where=f"frame {number}")

"""Content of frames to target bytes: what was unpacked for matching is packed again.

Two stages, because a stream may stand in the blocks of a compressed file system: content becomes
middle bytes (a frame's `parts`), these become target bytes (its `outer` parts). Either may be
nothing. Frames come in target order, and so do the pieces that come out.

Blocks are packed within their frame. A long stream is fed to one encoder over several frames,
which gives its bytes late: they are due in the order of the frames, and bytes of frames that stand
between wait for them.

After an interruption nothing of an encoder is left. It is made again from the target itself: what
the frames before account for stands there, unpacks to all the content that was fed, and is fed
again. That costs processor time, never download. Layout: docs/format.md, 6.4.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from slipstream.delta.errors import FormatError
from slipstream.delta.frame import Frame, FrameKind, Part, Parts, make_frame
from slipstream.delta.limits import (
    EARLY_BYTES_MAX,
    HELD_BYTES_MAX,
    KIB,
    PACK_PIECE_BYTES,
)
from slipstream.delta.packing.pack import Data, PackCursor, pack_exactly
from slipstream.delta.packing.recipe import Recipe, decoder_memory_bytes
from slipstream.delta.packing.unpack import UnpackCursor, unpack

_FEED_BYTES = 256 * KIB

Read = Callable[[int, int], bytes]
Content: TypeAlias = tuple[Part, memoryview]


@dataclass(frozen=True, slots=True)
class Piece:
    """Target bytes and their place."""

    offset: int
    data: bytes


class Repacker:
    """Turns the contents of frames into pieces of the target, in order.

    `frames` is the whole table; `read_target` gives target bytes (offset, size) that were made.
    Frames must rise. One may be left out if its target stands, but for those of a long stream: of
    these only the first ones, up to one that is owed nothing. Close it when done.
    """

    def __init__(self, frames: Sequence[Frame], read_target: Read) -> None:
        self._frames = frames
        self._read_target = read_target
        self._stream = _LongStream()
        self._last = _LastStage()
        self._next = -1  # the frame that the long stream takes next

    def feed(self, number: int, content: bytes) -> list[Piece]:
        """The pieces that frame `number` completes. FormatError, and what packing raises.

        After an error nothing of a long stream comes any more, but where the parts of a frame
        between its own do not pack: then all is as before, and the frame may be `lose`d.
        """
        frame = self._frames[number]
        if not frame.parts and not frame.outer and not self._stream.is_open:
            return [Piece(frame.target.offset, content)]
        packed = list(_packed_whole(frame, content))
        try:
            return self._feed(number, frame, packed)
        except BaseException:
            self.drop()
            raise

    def lose(self, number: int) -> list[Piece]:
        """Frame `number`, no part of a long stream, could not be made: zeros come instead, in order.

        FormatError where too much waits then: nothing of the long stream comes any more.
        """
        size = self._frames[number].target.size
        if not self._stream.is_open:
            return [Piece(self._frames[number].target.offset, bytes(size))]
        plain = make_frame(FrameKind.ZERO, self._frames[number].target)
        try:
            return self._feed(number, plain, [bytes(size)])
        except BaseException:
            self.drop()
            raise

    def resumes(self, number: int) -> bool:
        """Whether frame `number` goes on with a long stream whose encoder is not there."""
        long = self._frames[number].long_part
        if long is None or long.begins:
            return False
        return not (self._stream.is_open and self._follows(number))

    def resume(self, number: int) -> None:
        """Make its encoder. FormatError, and what unpacking and packing raise; then all is dropped."""
        long = self._frames[number].long_part
        assert long is not None  # it `resumes`
        try:
            self._resume(number, long)
        except BaseException:
            self.drop()
            raise

    def _feed(self, number: int, frame: Frame, packed: Sequence[bytes | Content]) -> list[Piece]:
        """`packed` is what the whole parts become, and the content of the long one."""
        long = frame.long_part
        if long is not None and long.begins:
            self._stream.open(long)
        elif long is not None and self.resumes(number):
            self._resume(number, long)
        self._last.expect(frame)
        for one in packed:
            if isinstance(one, bytes):
                self._stream.wait(one)
            else:
                self._stream.feed(*one)
                self._next = number + 1
        pieces = list(self._last.take(self._stream.ready()))
        if long is not None and long.ends:
            self._stream.close()
        if not self._stream.is_open and self._last.due_offset is not None:
            raise FormatError("content packs to another length", where=f"frame {number}")
        if self._stream.held_bytes + self._last.held_bytes > HELD_BYTES_MAX:
            raise FormatError(
                "too many bytes wait for a long stream, or for its frames",
                where=f"frame {number}",
                expected=f"at most {HELD_BYTES_MAX}",
                got=self._stream.held_bytes + self._last.held_bytes,
            )
        return pieces

    @property
    def due_offset(self) -> int | None:
        """The first target byte that earlier frames still owe; None where they owe nothing."""
        return self._last.due_offset

    def drop(self) -> None:
        """Give up what earlier frames still owe, and the encoder."""
        self._stream.drop()
        self._last.drop()

    def _follows(self, number: int) -> bool:
        """Whether the frames since the last one fed are no part of the long stream."""
        return all(self._frames[between].long_part is None for between in range(self._next, number))

    def _resume(self, number: int, long: Part) -> None:
        """A new encoder, brought to where frame `number` begins by what stands in the target."""
        if self._frames[number].owed:
            raise FormatError("long stream resumed within a block", where=f"frame {number}")
        before: list[Frame] = []
        for earlier in range(number - 1, -1, -1):
            frame = self._frames[earlier]
            if frame.long_part is not None:
                before.append(frame)
                if frame.long_part.begins:
                    break
        before.reverse()
        self._last.drop()
        self._stream.open(long)
        assert long.recipe is not None  # a part without is whole
        parts = [part for part in (frame.long_part for frame in before) if part is not None]
        packed = (
            piece for group in _groups(before) for piece in _standing(group, self._read_target)
        )
        self._stream.skip(sum(part.packed_size for part in parts))
        for content in _unpacked(long.recipe, packed, sum(part.size for part in parts)):
            self._stream.prime(content)
        self._next = number


class _LongStream:
    """The first stage: middle bytes in order, most known at once, those of a long stream late."""

    def __init__(self) -> None:
        self._encoder: PackCursor | None = None
        self._dues: deque[bytes | int] = deque()  # bytes, or how many the encoder owes
        self._owed = 0  # by the encoder, in all
        self._made = bytearray()  # of the encoder, not given yet
        self._skip = 0  # bytes of the encoder that stand in the target already

    @property
    def is_open(self) -> bool:
        return self._encoder is not None

    @property
    def held_bytes(self) -> int:
        waiting = sum(len(due) for due in self._dues if isinstance(due, bytes))
        return waiting + len(self._made)

    def open(self, part: Part) -> None:
        """Begin with the stream of a long part."""
        if self._dues:
            raise FormatError("long stream begins before the one before it was complete")
        self.drop()
        assert part.recipe is not None  # a part without is whole
        self._encoder = PackCursor(part.recipe)

    def skip(self, size: int) -> None:
        """Throw the next `size` bytes of the encoder away."""
        self._skip = size

    def prime(self, content: Data) -> None:
        """Content of frames before."""
        assert self._encoder is not None
        for begin in range(0, len(content), PACK_PIECE_BYTES):
            self._take(self._encoder.feed(content[begin : begin + PACK_PIECE_BYTES]))

    def feed(self, part: Part, content: Data) -> None:
        """Content of a long part; its bytes are due from now on."""
        assert self._encoder is not None
        self._dues.append(part.packed_size)
        self._owed += part.packed_size
        self.prime(content)
        if part.ends:
            self._take(self._encoder.finish())

    def wait(self, data: bytes) -> None:
        """Bytes that come behind all that is due."""
        self._dues.append(data)

    def ready(self) -> Iterator[bytes]:
        """The bytes that can be given, in order."""
        while self._dues:
            due = self._dues[0]
            if isinstance(due, bytes):
                self._dues.popleft()
                yield due
                continue
            data = bytes(self._made[:due])
            del self._made[: len(data)]
            self._owed -= len(data)
            if data:
                yield data
            if len(data) < due:
                self._dues[0] = due - len(data)
                return
            self._dues.popleft()

    def close(self) -> None:
        """The stream has ended: all of its bytes were due, and came."""
        if self._dues or self._made:
            raise FormatError("long stream packs to another length")
        self.drop()

    def drop(self) -> None:
        if self._encoder is not None:
            self._encoder.close()
            self._encoder = None
        self._dues.clear()
        self._made.clear()
        self._skip = self._owed = 0

    def _take(self, made: bytes) -> None:
        """The next bytes of the encoder, but for those that stand already; FormatError for more than
        can be of the content so far."""
        skipped = min(self._skip, len(made))
        self._skip -= skipped
        self._made += memoryview(made)[skipped:]
        if len(self._made) > self._owed + EARLY_BYTES_MAX:
            raise FormatError(
                "long stream packs to more than its parts say",
                expected=f"at most {self._owed} and {EARLY_BYTES_MAX} bytes",
                got=len(self._made),
            )


class _LastStage:
    """The second stage: middle bytes to target bytes, as far as they are there."""

    def __init__(self) -> None:
        # Target offset and part, of which nothing came out yet.
        self._dues: deque[tuple[int, Part]] = deque()
        self._middle = bytearray()

    @property
    def due_offset(self) -> int | None:
        return self._dues[0][0] if self._dues else None

    @property
    def held_bytes(self) -> int:
        return len(self._middle)

    def expect(self, frame: Frame) -> None:
        """The frame whose middle bytes follow those of the frames before."""
        if not self._dues:
            self._middle.clear()
        offset = frame.target.offset
        for part in _outer_of(frame):
            self._dues.append((offset, part))
            offset += part.packed_size

    def take(self, middle: Iterator[bytes]) -> Iterator[Piece]:
        """The pieces that can be made with these bytes and those before."""
        for data in middle:
            self._middle += data
            while self._dues and (piece := self._make(*self._dues[0])) is not None:
                if piece.data:
                    yield piece
            if self._middle and not self._dues:
                raise FormatError("content packs to another length")

    def drop(self) -> None:
        self._dues.clear()
        self._middle.clear()

    def _make(self, offset: int, part: Part) -> Piece | None:
        """What comes of the first part now; None as long as bytes of it are missing."""
        if part.recipe is not None:
            if len(self._middle) < part.size + part.ahead_bytes:
                return None
            made = _packed(part, self._middle, 0)
            del self._middle[: part.size]
            self._dues.popleft()
            return Piece(offset, made)
        if not self._middle:
            return None
        made = bytes(self._middle[: part.size])
        del self._middle[: len(made)]
        self._dues.popleft()
        given = made if part.packed_size else b""
        if len(made) < part.size:
            rest = part.size - len(made)
            left = Part(rest, rest if part.packed_size else 0)
            self._dues.appendleft((offset + len(given), left))
        return Piece(offset, given)


def _outer_of(frame: Frame) -> Parts:
    """The outer parts of a frame; one plain part where its middle bytes are the target."""
    if frame.outer or not frame.target.size:
        return frame.outer
    return (Part(frame.target.size, frame.target.size),)


def _packed_whole(frame: Frame, content: bytes) -> Iterator[bytes | Content]:
    """What the whole parts of a frame become; of the long one its content."""
    offset = 0
    for part in frame.parts or (Part(len(content), len(content)),):
        if part.is_whole:
            yield _packed(part, content, offset)
        else:
            yield part, memoryview(content)[offset : offset + part.size]
        offset += part.size


def _packed(part: Part, content: bytes | bytearray, offset: int) -> bytes:
    """What a whole part becomes, whose content begins at `offset`."""
    end = offset + part.size
    if part.recipe is None:
        return bytes(content[offset:end]) if part.packed_size else b""
    ahead = bytes(content[end : end + part.ahead_bytes])
    return pack_exactly(part.recipe, bytes(content[offset:end]), part.packed_size, ahead)


def _groups(frames: Sequence[Frame]) -> Iterator[list[Frame]]:
    """Frames of a long stream, each with those behind it whose bytes go to its outer parts."""
    group: list[Frame] = []
    for frame in frames:
        if group and not frame.owed:
            yield group
            group = []
        group.append(frame)
    if group:
        yield group


def _standing(group: Sequence[Frame], read: Read) -> Iterator[bytes]:
    """Packed bytes of the long parts of a group, from the target bytes that stand."""
    skip = 0
    for part in group[0].parts:
        if not part.is_whole:
            break
        skip += part.packed_size
    left = sum(frame.long_part.packed_size for frame in group if frame.long_part is not None)
    for data in (data for frame in group for data in _middle(frame, read)):
        piece = data[skip : skip + left]
        skip = max(0, skip - len(data))
        left -= len(piece)
        if piece:
            yield piece


def _middle(frame: Frame, read: Read) -> Iterator[bytes]:
    """The middle bytes that a frame made, from the target bytes that stand."""
    offset = frame.target.offset
    for part in _outer_of(frame):
        end = offset + part.packed_size
        if part.recipe is not None:
            yield unpack(part.recipe.packing, read(offset, part.packed_size), part.size)
        elif not part.packed_size:
            yield bytes(part.size)  # it was no part of a stream, it only takes up its place
        else:
            for begin in range(offset, end, _FEED_BYTES):
                yield read(begin, min(_FEED_BYTES, end - begin))
        offset = end


def _unpacked(recipe: Recipe, packed: Iterator[bytes], size: int) -> Iterator[bytes]:
    """The first `size` bytes of content of packed bytes."""
    decoder = UnpackCursor(recipe.packing, decoder_memory_bytes(recipe))
    for piece in packed:
        while size and (content := decoder.feed(piece, min(size, _FEED_BYTES))):
            piece = b""
            size -= len(content)
            yield content
    content = decoder.early(size) if size else b""
    size -= len(content)
    for begin in range(0, len(content), _FEED_BYTES):
        yield content[begin : begin + _FEED_BYTES]
    if size:
        raise FormatError("what stands in the target unpacks to less than was made of it")

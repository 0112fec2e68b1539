"""The frame table: thousands of rows, kept packed and decoded on demand.

A frame as a Python value takes 500 bytes or more, a row a dozen; a table may hold 262,144.
So the table stays as it was read, with a mark every 1024 bytes, and behaves as a sequence of
frames. Every row was decoded and checked once, by `read_table`, before anyone sees it.

Rows hold lengths only: target and encoded offsets are running sums, so frames that overlap, or
leave a gap, or stand out of order cannot be written down. Layout: docs/format.md, 4.2.
"""

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import assert_never, overload

from slipstream.delta.byterange import ByteRange
from slipstream.delta.codec import Codec
from slipstream.delta.digest import DIGEST_BYTES, Digest
from slipstream.delta.errors import FormatError
from slipstream.delta.frame import (
    Frame,
    FrameKind,
    Part,
    Stream,
    make_frame,
    packed_size,
    resume_memory_bytes,
)
from slipstream.delta.limits import (
    EARLY_BYTES_MAX,
    FRAME_PARTS_MAX,
    FRAME_SOURCES_MAX,
    HELD_BYTES_MAX,
    LONG_STREAM_BYTES_FREE,
    LONG_STREAM_RATIO_MAX,
)
from slipstream.delta.packing.recipe import Recipe, pack_memory_bytes
from slipstream.delta.rows import (
    read_choice,
    read_extents,
    read_number,
    write_extents,
    write_number,
)
from slipstream.delta.stream_table import StreamTable, unpacking_bytes

_MARK_BYTES = 1024  # of rows: some 80 frames, or the one with very many sources
_PACKED = 0x80  # set in the kind of a frame that has parts, ...
_PACKED_TWICE = 0x40  # ... and of one that has outer parts
_BEGINS, _ENDS = 1, 2  # flags of a part
_KINDS = tuple(FrameKind)
_CODECS = tuple(Codec)
_WITH_SOURCES = {FrameKind.COPY, FrameKind.DIFF, FrameKind.PREFIX}


@dataclass(slots=True)
class _Place:
    """Where a row stands: in the table, and in the sums that its offsets follow from."""

    row: int = 0
    position: int = 0  # byte of the table
    target: int = 0
    encoded: int = 0
    source: int = 0  # end of the source extent before
    digest: int = 0  # byte of the digests
    owed: int = 0  # packed bytes that outer parts wait for

    def copy(self) -> "_Place":
        return replace(self)


class FrameTable(Sequence[Frame]):
    """Checked frames in target order, as a sequence. Made by `read_table`.

    Any thread may read it: the frames decoded last, from one mark to the next, are remembered
    in one assignment.
    """

    __slots__ = ("_count", "_digests", "_firsts", "_marks", "_recent", "_recipes", "_rows")

    def __init__(
        self,
        rows: bytes,
        digests: bytes,
        recipes: tuple[Recipe, ...],
        count: int,
        marks: tuple[_Place, ...],
    ) -> None:
        self._rows = rows
        self._digests = digests
        self._recipes = recipes
        self._count = count
        self._marks = marks
        self._firsts = [mark.row for mark in marks] + [count]
        self._recent: tuple[int, list[Frame]] = (-1, [])

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> Frame: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Frame, ...]: ...
    def __getitem__(self, index: int | slice) -> Frame | tuple[Frame, ...]:
        if isinstance(index, slice):
            return tuple(self._frame(row) for row in range(*index.indices(self._count)))
        row = index + self._count if index < 0 else index
        if not 0 <= row < self._count:
            raise IndexError(f"frame {index} of {self._count}")
        return self._frame(row)

    def __iter__(self) -> Iterator[Frame]:
        for row in range(self._count):
            yield self._frame(row)

    def _frame(self, row: int) -> Frame:
        mark = bisect_right(self._firsts, row) - 1
        first = self._firsts[mark]
        recent, frames = self._recent
        if recent != mark:
            place = self._marks[mark].copy()
            rows = self._firsts[mark + 1] - first
            frames = [
                _read_row(self._rows, self._digests, self._recipes, place) for _ in range(rows)
            ]
            self._recent = (mark, frames)
        return frames[row - first]


@dataclass(frozen=True, slots=True)
class TableSums:
    """What the rows add up to, in bytes.

    `memory_bytes` is the most that decoding holds: at the hungriest frame, with the cursors that
    are open while it is decoded, and the encoder of a long stream that goes on behind it, or that
    is made again there, with the decoder for what stands.
    `last_reads` says for each long stream that is read the last frame that reads it.
    """

    target_size: int
    body_size: int
    memory_bytes: int
    last_reads: dict[int, int]


def read_table(
    rows: bytes,
    digests: bytes,
    count: int,
    streams: StreamTable,
    *,
    recipes: tuple[Recipe, ...] = (),
    position: int = 0,
) -> tuple[FrameTable, TableSums]:
    """Check every row and give the table; FormatError for anything but `count` sound frames.

    The rows stand in `rows` from `position` on, and use up the rest of it and the whole of
    `digests`; no extent may end behind the last of `streams`. `recipes` are what parts name by
    number.
    """
    place = _Place(position=position)
    marks = [place.copy()]
    memories = array("Q")
    reads: dict[int, tuple[int, int]] = {}  # of each long stream: first and last frame
    under_way = _UnderWay()
    for row in range(count):
        if place.position - marks[-1].position >= _MARK_BYTES:
            marks.append(place.copy())
        try:
            frame = _read_row(rows, digests, recipes, place)
        except FormatError as error:
            raise FormatError(f"frame {row}: {error}") from error
        for source in frame.sources:
            if source.end > streams.end:
                raise FormatError(
                    "source extent past the end of the space",
                    where=f"frame {row}",
                    expected=f"at most {streams.end}",
                    got=source.end,
                )
        memories.append(under_way.take(row, frame))
        for number in streams.long_read_by(frame.sources):
            reads[number] = (reads.get(number, (row, row))[0], row)
    under_way.check_ended()
    if place.owed:
        raise FormatError("outer parts that nothing fills", expected=f"{place.owed} more bytes")
    if place.position != len(rows) or place.digest != len(digests):
        raise FormatError(
            "frame table has bytes behind its last row",
            expected=f"{place.position} bytes and {place.digest} of digests",
            got=f"{len(rows)} and {len(digests)}",
        )
    table = FrameTable(rows, digests, recipes, count, tuple(marks))
    for number, (first, last) in reads.items():
        cursor_bytes = streams[number].cursor_bytes
        for row in range(first, last + 1):
            memories[row] += cursor_bytes
    memory = max(max(memories, default=0), under_way.resume_bytes) + streams.block_bytes
    last_reads = {number: last for number, (_, last) in reads.items()}
    return table, TableSums(place.target, place.encoded, memory, last_reads)


class _UnderWay:
    """The long stream that the target's encoder is in, while the frames are gone through."""

    def __init__(self) -> None:
        self._recipe: Recipe | None = None
        self._waiting_bytes = 0  # target bytes between its frames: they may wait for the encoder
        self._block_bytes = 0  # the most that unpacking an outer part of its frames takes
        self._content = self._packed = 0  # bytes of its parts so far
        self.resume_bytes = 0  # the most that resuming takes at any frame: then no cursor is open

    def take(self, row: int, frame: Frame) -> int:
        """What is held while `frame` is decoded, in bytes; FormatError for a part too many.

        One encoder runs at a time, from the part that begins to the one that ends.
        """
        part = frame.long_part
        if part is None:
            if self._recipe is None:
                return frame.memory_bytes
            self._waiting_bytes = min(HELD_BYTES_MAX, self._waiting_bytes + frame.target.size)
            encoder = pack_memory_bytes(self._recipe, frame.content_size)
            return frame.memory_bytes + encoder + self._waiting_bytes + EARLY_BYTES_MAX
        if part.begins != (self._recipe is None) or (
            not part.begins and part.recipe != self._recipe
        ):
            raise FormatError(
                "part of a long stream in the wrong place",
                where=f"frame {row}",
                expected="a beginning" if self._recipe is None else f"more of {self._recipe}",
                got=part.recipe,
            )
        if part.begins:
            self._content = self._packed = 0
        self._content += part.size
        self._packed += part.packed_size
        content_max = LONG_STREAM_BYTES_FREE + LONG_STREAM_RATIO_MAX * self._packed
        if self._content > content_max:
            raise FormatError(
                "long stream of impossibly much content for what it packs to",
                where=f"frame {row}",
                expected=f"at most {content_max} bytes",
                got=self._content,
            )
        memory = frame.memory_bytes
        if not part.begins and not frame.owed:  # a device may begin here
            resumed = resume_memory_bytes(part, frame.parts, frame.encoded.size, self._block_bytes)
            resumed += self._waiting_bytes + EARLY_BYTES_MAX
            self.resume_bytes = max(self.resume_bytes, resumed)
        memory += self._waiting_bytes + frame.owed  # the latter of blocks that are not complete
        for outer in frame.outer:
            if outer.recipe is not None:
                block_bytes = unpacking_bytes(outer.packed_size, outer.size)
                self._block_bytes = max(self._block_bytes, block_bytes)
        self._recipe = None if part.ends else part.recipe
        if part.ends:
            self._waiting_bytes = self._block_bytes = 0
        return memory + EARLY_BYTES_MAX

    def check_ended(self) -> None:
        """FormatError if frames are missing."""
        if self._recipe is not None:
            raise FormatError("long stream without an end", got=self._recipe)


def write_table(frames: Iterable[Frame], recipes: Sequence[Recipe] = ()) -> tuple[bytes, bytes]:
    """Rows and digests of frames; FormatError unless their ranges follow one another.

    `recipes` are all that parts use, in the order in which the payload lists them.
    """
    numbers = {recipe: number for number, recipe in enumerate(recipes, 1)}
    rows = bytearray()
    digests = bytearray()
    target = encoded = source_end = owed = 0
    for row, frame in enumerate(frames):
        if (frame.target.offset, frame.encoded.offset) != (target, encoded):
            raise FormatError(
                "frame does not follow the one before",
                where=f"frame {row}",
                expected=f"target offset {target}, encoded offset {encoded}",
                got=f"{frame.target.offset}, {frame.encoded.offset}",
            )
        if frame.owed != owed:
            raise FormatError(
                "frame is owed another number of bytes",
                where=f"frame {row}",
                expected=owed,
                got=frame.owed,
            )
        target, encoded, owed = frame.target.end, frame.encoded.end, frame.waiting
        flags = (_PACKED if frame.parts else 0) | (_PACKED_TWICE if frame.outer else 0)
        rows.append(frame.kind | flags)
        if frame.kind is FrameKind.ZERO:
            write_number(rows, frame.target.size)
        if frame.kind in _WITH_SOURCES:
            source_end = write_extents(rows, frame.sources, source_end)
        for stream in frame.streams:
            rows.append(stream.codec)
            write_number(rows, stream.encoded_size)
            write_number(rows, stream.size)
        if frame.kind is FrameKind.DIFF:
            write_number(rows, frame.content_size)
        for parts in (frame.parts, frame.outer):
            if parts:
                _write_parts(rows, parts, numbers)
        if frame.digest is not None:
            digests += frame.digest.raw
    return bytes(rows), bytes(digests)


def _write_parts(rows: bytearray, parts: tuple[Part, ...], numbers: dict[Recipe, int]) -> None:
    write_number(rows, len(parts))
    for part in parts:
        if part.recipe is None:
            # Two numbers for what stands as it is (0), and for what is dropped (1).
            write_number(rows, 0 if part.packed_size else 1)
            write_number(rows, part.size)
            continue
        flags = (_BEGINS if part.begins else 0) | (_ENDS if part.ends else 0)
        write_number(rows, numbers[part.recipe] << 2 | flags)
        write_number(rows, part.size)
        write_number(rows, part.packed_size)


def _read_parts(rows: bytes, place: _Place, recipes: tuple[Recipe, ...]) -> tuple[Part, ...]:
    count = read_number(rows, place)
    if not 1 <= count <= FRAME_PARTS_MAX:
        raise FormatError("too many parts", expected=f"1..{FRAME_PARTS_MAX}", got=count)
    parts = []
    for _ in range(count):
        number, flags = divmod(read_number(rows, place), 4)
        size = read_number(rows, place)
        if number == 0:
            if flags > 1:
                raise FormatError("unknown kind of part", expected="0 or 1", got=flags)
            parts.append(Part(size, 0 if flags else size))
            continue
        if number > len(recipes):
            raise FormatError("no such recipe", expected=f"1..{len(recipes)}", got=number)
        packed_size = read_number(rows, place)
        begins, ends = bool(flags & _BEGINS), bool(flags & _ENDS)
        parts.append(Part(size, packed_size, recipes[number - 1], begins, ends))
    return tuple(parts)


def _read_row(rows: bytes, digests: bytes, recipes: tuple[Recipe, ...], place: _Place) -> Frame:
    """The frame at `place`, which moves on behind it."""
    kind, flags = _read_kind(rows, place)
    sources: tuple[ByteRange, ...] = ()
    streams: tuple[Stream, ...] = ()
    match kind:
        case FrameKind.ZERO:
            size = read_number(rows, place)
        case FrameKind.COPY:
            sources = read_extents(rows, place, FRAME_SOURCES_MAX)
            size = sum(source.size for source in sources)
        case FrameKind.DATA:
            streams = (_read_stream(rows, place),)
            size = streams[0].size
        case FrameKind.DIFF:
            sources = read_extents(rows, place, FRAME_SOURCES_MAX)
            streams = tuple(_read_stream(rows, place) for _ in range(3))
            size = read_number(rows, place)
        case FrameKind.PREFIX:
            sources = read_extents(rows, place, FRAME_SOURCES_MAX)
            streams = (_read_stream(rows, place),)
            size = streams[0].size
        case _:
            assert_never(kind)
    parts = _read_parts(rows, place, recipes) if flags & _PACKED else ()
    outer = _read_parts(rows, place, recipes) if flags & _PACKED_TWICE else ()
    owed = place.owed
    size = packed_size(outer, 0) if outer or owed else packed_size(parts, size)
    digest = None
    if streams:
        end = place.digest + DIGEST_BYTES
        digest = Digest(digests[place.digest : end])
        place.digest = end
    frame = make_frame(
        kind,
        ByteRange(place.target, size),
        sources=sources,
        encoded_offset=place.encoded,
        digest=digest,
        streams=streams,
        parts=parts,
        outer=outer,
        owed=owed,
    )
    place.owed = frame.waiting
    place.row += 1
    place.target, place.encoded = frame.target.end, frame.encoded.end
    return frame


def _read_kind(rows: bytes, place: _Place) -> tuple[FrameKind, int]:
    """The kind of a frame, and the flags beside it."""
    if place.position >= len(rows):
        raise FormatError("frame table cut short", where=f"byte {place.position}")
    flags = rows[place.position] & (_PACKED | _PACKED_TWICE)
    kind = rows[place.position] - flags
    if kind >= len(_KINDS):
        raise FormatError("unknown frame kind", expected=f"0..{len(_KINDS) - 1}", got=kind)
    place.position += 1
    return _KINDS[kind], flags


def _read_stream(rows: bytes, place: _Place) -> Stream:
    codec = _CODECS[read_choice(rows, place, len(_CODECS), "codec")]
    encoded_size = read_number(rows, place)
    return Stream(codec, encoded_size, read_number(rows, place))

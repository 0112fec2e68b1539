"""The frame table: thousands of rows, kept packed and decoded on demand.

A frame as a Python value takes 500 bytes or more, a row a dozen; a table may hold 262,144.
So the table stays as it was read, with a mark every 1024 bytes, and behaves as a sequence of
frames. Every row was decoded and checked once, by `read_table`, before anyone sees it.

Rows hold lengths only: target and encoded offsets are running sums, so frames that overlap, or
leave a gap, or stand out of order cannot be written down. Layout: docs/format.md, 4.2.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import assert_never, overload

from slipstream.delta.byterange import ByteRange
from slipstream.delta.codec import Codec
from slipstream.delta.digest import DIGEST_BYTES, Digest
from slipstream.delta.errors import FormatError
from slipstream.delta.frame import Frame, FrameKind, Stream, make_frame
from slipstream.delta.limits import FRAME_SOURCES_MAX

_MARK_BYTES = 1024  # of rows: some 80 frames, or the one with very many sources
_NUMBER_BYTES_MAX = 7  # 49 bits: any length, and any distance between two source extents
_KINDS = tuple(FrameKind)
_CODECS = tuple(Codec)
_WITH_SOURCES = {FrameKind.COPY, FrameKind.DIFF}


@dataclass(slots=True)
class _Place:
    """Where a row stands: in the table, and in the sums that its offsets follow from."""

    row: int = 0
    position: int = 0  # byte of the table
    target: int = 0
    encoded: int = 0
    source: int = 0  # end of the source extent before
    digest: int = 0  # byte of the digests

    def copy(self) -> "_Place":
        return replace(self)


class FrameTable(Sequence[Frame]):
    """Checked frames in target order, as a sequence. Made by `read_table`.

    Any thread may read it: the frames decoded last, from one mark to the next, are remembered
    in one assignment.
    """

    __slots__ = ("_count", "_digests", "_firsts", "_marks", "_recent", "_rows")

    def __init__(self, rows: bytes, digests: bytes, count: int, marks: tuple[_Place, ...]) -> None:
        self._rows = rows
        self._digests = digests
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
            frames = [_read_row(self._rows, self._digests, place) for _ in range(rows)]
            self._recent = (mark, frames)
        return frames[row - first]


@dataclass(frozen=True, slots=True)
class TableSums:
    """What the rows add up to, in bytes; `memory_bytes` is the hungriest frame's."""

    target_size: int
    body_size: int
    memory_bytes: int


def read_table(
    rows: bytes, digests: bytes, count: int, source_size: int
) -> tuple[FrameTable, TableSums]:
    """Check every row and give the table; FormatError for anything but `count` sound frames.

    The whole of `rows` and `digests` must be used up; no extent may end behind `source_size`.
    """
    place = _Place()
    marks = [place.copy()]
    memory = 0
    for row in range(count):
        if place.position - marks[-1].position >= _MARK_BYTES:
            marks.append(place.copy())
        try:
            frame = _read_row(rows, digests, place)
        except FormatError as error:
            raise FormatError(f"frame {row}: {error}") from error
        for source in frame.sources:
            if source.end > source_size:
                raise FormatError(
                    "source extent past the end of the source",
                    where=f"frame {row}",
                    expected=f"at most {source_size}",
                    got=source.end,
                )
        memory = max(memory, frame.memory_bytes)
    if place.position != len(rows) or place.digest != len(digests):
        raise FormatError(
            "frame table has bytes behind its last row",
            expected=f"{place.position} bytes and {place.digest} of digests",
            got=f"{len(rows)} and {len(digests)}",
        )
    table = FrameTable(rows, digests, count, tuple(marks))
    return table, TableSums(place.target, place.encoded, memory)


def write_table(frames: Iterable[Frame]) -> tuple[bytes, bytes]:
    """Rows and digests of frames; FormatError unless their ranges follow one another."""
    rows = bytearray()
    digests = bytearray()
    target = encoded = source_end = 0
    for row, frame in enumerate(frames):
        if (frame.target.offset, frame.encoded.offset) != (target, encoded):
            raise FormatError(
                "frame does not follow the one before",
                where=f"frame {row}",
                expected=f"target offset {target}, encoded offset {encoded}",
                got=f"{frame.target.offset}, {frame.encoded.offset}",
            )
        target, encoded = frame.target.end, frame.encoded.end
        rows.append(frame.kind)
        if frame.kind is FrameKind.ZERO:
            _write_number(rows, frame.target.size)
        if frame.kind in _WITH_SOURCES:
            _write_number(rows, len(frame.sources))
        for source in frame.sources:
            distance = source.offset - source_end
            _write_number(rows, 2 * distance if distance >= 0 else -2 * distance - 1)
            _write_number(rows, source.size)
            source_end = source.end
        for stream in frame.streams:
            rows.append(stream.codec)
            _write_number(rows, stream.encoded_size)
            _write_number(rows, stream.size)
        if frame.digest is not None:
            digests += frame.digest.raw
    return bytes(rows), bytes(digests)


def _read_row(rows: bytes, digests: bytes, place: _Place) -> Frame:
    """The frame at `place`, which moves on behind it."""
    kind = _KINDS[_read_choice(rows, place, len(_KINDS), "frame kind")]
    sources: tuple[ByteRange, ...] = ()
    streams: tuple[Stream, ...] = ()
    match kind:
        case FrameKind.ZERO:
            size = _read_number(rows, place)
        case FrameKind.COPY:
            sources = _read_sources(rows, place)
            size = sum(source.size for source in sources)
        case FrameKind.DATA:
            streams = (_read_stream(rows, place),)
            size = streams[0].size
        case FrameKind.DIFF:
            sources = _read_sources(rows, place)
            streams = tuple(_read_stream(rows, place) for _ in range(3))
            size = streams[1].size + streams[2].size
        case _:
            assert_never(kind)
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
    )
    place.row += 1
    place.target, place.encoded = frame.target.end, frame.encoded.end
    return frame


def _read_sources(rows: bytes, place: _Place) -> tuple[ByteRange, ...]:
    count = _read_number(rows, place)
    if count > FRAME_SOURCES_MAX:
        raise FormatError(
            "too many source extents", expected=f"at most {FRAME_SOURCES_MAX}", got=count
        )
    sources = []
    for _ in range(count):
        folded = _read_number(rows, place)
        distance = folded >> 1 if folded & 1 == 0 else -(folded + 1 >> 1)
        source = ByteRange(place.source + distance, _read_number(rows, place))
        place.source = source.end
        sources.append(source)
    return tuple(sources)


def _read_stream(rows: bytes, place: _Place) -> Stream:
    codec = _CODECS[_read_choice(rows, place, len(_CODECS), "codec")]
    encoded_size = _read_number(rows, place)
    return Stream(codec, encoded_size, _read_number(rows, place))


def _read_choice(rows: bytes, place: _Place, count: int, what: str) -> int:
    if place.position >= len(rows):
        raise FormatError("frame table cut short", where=f"byte {place.position}")
    choice = rows[place.position]
    if choice >= count:
        raise FormatError(f"unknown {what}", expected=f"0..{count - 1}", got=choice)
    place.position += 1
    return choice


def _read_number(rows: bytes, place: _Place) -> int:
    """A length of 7 bits a byte, low bits first, in the fewest bytes (docs/format.md, 4.1)."""
    number = 0
    start = place.position
    for count, byte in enumerate(rows[start : start + _NUMBER_BYTES_MAX]):
        number |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            if byte == 0 and count:
                raise FormatError("number in more bytes than it needs", where=f"byte {start}")
            place.position = start + count + 1
            return number
    raise FormatError("number cut short or too large", where=f"byte {start}")


def _write_number(rows: bytearray, number: int) -> None:
    while number >= 0x80:
        rows.append(number & 0x7F | 0x80)
        number >>= 7
    rows.append(number)

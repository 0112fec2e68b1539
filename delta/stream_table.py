"""The packed streams that a payload's frames read from, and the addresses of their content.

Frames read from one space of bytes (docs/format.md, 4.4): first the source image, behind it the
target image as far as it is made, behind that the content of each stream of this table. A stream
is named by where its packed bytes stand in that same space, always before its own content: so
streams nest, but never in a circle and never deep.

Rows stay packed, as in frame_table.py, and were all checked once. Not here: unpacking (space.py).
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from operator import or_

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.limits import (
    BLOCK_CONTENT_BYTES_MAX,
    IMAGE_BYTES_MAX,
    KIB,
    LONG_STREAMS_MAX,
    MOVE_BYTES,
    PACKED_BLOCK_BYTES_MAX,
    STREAM_DEPTH_MAX,
    STREAM_SOURCES_MAX,
    STREAMS_MAX,
    UNPACK_AHEAD_BYTES,
    UNPACK_CACHE_BYTES,
    UNPACK_MEMORY_BYTES_MAX,
    UNPACK_WINDOW_BYTES_MAX,
)
from slipstream.delta.moves import (
    MOVED_CODES,
    Moved,
    Shifts,
    code_of,
    read_stream_moved,
    same_kind,
    write_stream_moved,
)
from slipstream.delta.rows import (
    read_choice,
    read_extents,
    read_number,
    write_extents,
    write_number,
)

# Numbers of packings in payloads (docs/format.md, 4.4); 0 is content that nothing reads.
PACKINGS = (
    None,
    Packing.ZLIB,
    Packing.XZ,
    Packing.ZSTD,
    Packing.LZ4,
    Packing.LZO,
    Packing.LZ4_PADDED,
    Packing.MICROLZMA,
    Packing.DEFLATE,
    Packing.ZSTD_PADDED,
    Packing.GZIP,
    Packing.LZMA_ALONE,
    Packing.LZ4_LEGACY,
)
_RECENT_MAX = 64  # rows that are kept decoded
_CODES = {packing: code for code, packing in enumerate(PACKINGS)}
# May be long: read with a cursor.
STREAMED = frozenset({Packing.GZIP, Packing.XZ, Packing.ZSTD, Packing.LZ4_LEGACY})


@dataclass(frozen=True, slots=True)
class PackedStream:
    """One packed stretch; raises FormatError unless it is consistent. Sizes in bytes.

    packing         how to unpack it; None: nothing reads it, it only keeps later addresses, but for
                    a stretch of which nothing is packed and numbers are moved
    sources         where the packed bytes stand in the space, to be joined in this order
    size            of the content
    memory_bytes    most that its decoder may hold; 0 for content unpacked at once
    window_bytes    content that is kept behind the farthest byte read; 0 likewise
    moved           what of it is moved, without a packing
    """

    packing: Packing | None
    sources: tuple[ByteRange, ...]
    size: int
    memory_bytes: int = 0
    window_bytes: int = 0
    moved: Moved | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.size <= IMAGE_BYTES_MAX:
            raise FormatError("stream of impossible size", got=self.size)
        if self.moved is not None:
            self._check_moved(self.moved)
        if self.is_read != bool(self.sources):
            raise FormatError("stream with the wrong sources", got=len(self.sources))
        if any(source.size == 0 for source in self.sources):
            raise FormatError("empty source extent of a stream")
        if self.is_long and self.packing not in STREAMED:
            raise FormatError(
                f"{self.packing} content too long to be unpacked at once",
                expected=f"at most {BLOCK_CONTENT_BYTES_MAX} bytes",
                got=self.size,
            )
        if not self.is_long and self.packed_size > PACKED_BLOCK_BYTES_MAX:
            raise FormatError(
                "packed bytes too long to be unpacked at once",
                expected=f"at most {PACKED_BLOCK_BYTES_MAX} bytes",
                got=self.packed_size,
            )
        if self.is_long == (self.memory_bytes + self.window_bytes == 0) or (
            self.memory_bytes > UNPACK_MEMORY_BYTES_MAX
            or self.window_bytes > UNPACK_WINDOW_BYTES_MAX
        ):
            raise FormatError(
                "stream with impossible decoder memory or window",
                expected=f"at most {UNPACK_MEMORY_BYTES_MAX} and {UNPACK_WINDOW_BYTES_MAX} bytes"
                if self.is_long
                else "none",
                got=f"{self.memory_bytes} and {self.window_bytes}",
            )

    def _check_moved(self, moved: Moved) -> None:
        if self.packing is not None or self.size != self.packed_size:
            raise FormatError(
                "moved stream that is packed, or of another size than its sources",
                expected=self.packed_size,
                got=self.size,
            )
        if self.size > BLOCK_CONTENT_BYTES_MAX or moved.needed_bytes > self.size:
            raise FormatError(
                "moved stream too long, or shorter than what is moved in it",
                expected=f"at least {moved.needed_bytes}, at most {BLOCK_CONTENT_BYTES_MAX} bytes",
                got=self.size,
            )

    @property
    def is_read(self) -> bool:
        """Whether there is content, not just addresses."""
        return self.packing is not None or self.moved is not None

    @property
    def held_bytes(self) -> int:
        """Most that unpacking it at once holds."""
        held = unpacking_bytes(self.packed_size, self.size)
        return held + (MOVE_BYTES if self.moved is not None else 0)

    @property
    def packed_size(self) -> int:
        """Bytes of the packed stream."""
        return sum(source.size for source in self.sources)

    @property
    def is_long(self) -> bool:
        """Whether it is unpacked with a cursor, not as a whole."""
        return self.packing is not None and self.size > BLOCK_CONTENT_BYTES_MAX

    @property
    def cursor_bytes(self) -> int:
        """Memory that a cursor on it holds: decoder, window, and what it is ahead of its reader."""
        return self.memory_bytes + self.window_bytes + UNPACK_AHEAD_BYTES if self.is_long else 0


def unpacking_bytes(packed_size: int, size: int) -> int:
    """What unpacking a single block holds: both in pieces and joined, content also in the decoder's
    window, and copied out."""
    return 2 * packed_size + 4 * size + 256 * KIB


@dataclass(slots=True)
class _Place:
    position: int
    source: int


class StreamTable:
    """Checked streams by address, in order of their content. Made by `read_streams`.

    `base` is the address of the first content, `end` the one behind the last; `long` are the
    numbers of long streams, `block_bytes` what unpacking the others may hold, `blocks_size` the
    bytes of their contents; `shifts` are those that moved streams name.
    """

    __slots__ = (
        "_bases",
        "_befores",
        "_depth",
        "_depths",
        "_held",
        "_long",
        "_positions",
        "_recent",
        "_rows",
        "base",
        "blocks_size",
        "end",
        "long",
        "shifts",
    )

    def __init__(
        self, rows: bytes, base: int, count: int = 0, shifts: tuple[Shifts, ...] = ()
    ) -> None:
        """For `count` streams, to be taken in by `append`."""
        self.shifts = shifts
        self.base = base
        self.end = base
        self.long: list[int] = []
        self._rows = rows
        self._bases = array("Q")
        self._positions = array("Q")
        # The rows read last are remembered: one may have thousands of numbers.
        self._recent = lru_cache(_RECENT_MAX)(self._read)
        self._befores = array("Q")
        self._depths = _Fold(count, max)  # of each that reads another: how deep they are nested
        self._long = _Fold(count, or_)  # bits of the long streams that are read along with it
        self._depth = 0  # the greatest
        self._held = 0  # the most that unpacking a single block holds
        self.blocks_size = 0

    def _check_shifts(self, moved: Moved, number: int) -> None:
        if moved.shifts >= len(self.shifts):
            raise FormatError(
                "stream moved by shifts that are not there",
                where=f"stream {number}",
                expected=f"fewer than {len(self.shifts)}",
                got=moved.shifts,
            )
        if not same_kind(moved, self.shifts[moved.shifts]):
            raise FormatError(
                "stream moved by shifts of another kind",
                where=f"stream {number}",
                got=moved.shifts,
            )

    def append(self, place: "_Place") -> None:
        """Take in the row at `place`, which moves on behind it; FormatError."""
        number = len(self._bases)
        begin, before = place.position, place.source
        try:
            stream = _read_row(self._rows, place)
        except FormatError as error:
            raise FormatError(f"stream {number}: {error}") from error
        if stream.moved is not None:
            self._check_shifts(stream.moved, number)
        reach = max((source.end for source in stream.sources), default=0)
        if reach > self.end or self.end + stream.size > IMAGE_BYTES_MAX:
            raise FormatError(
                "stream that reads past its own beginning",
                where=f"stream {number}",
                expected=f"at most {self.end}",
                got=reach,
            )
        depth, read_along = 1, 0
        for source in stream.sources:
            first, end = self._numbers(source)
            if first < end:
                depth = max(depth, 1 + (self._depths.over(first, end) or 1))
                read_along |= self._long.over(first, end)
        if depth > STREAM_DEPTH_MAX:
            raise FormatError(
                "streams nested too deep",
                where=f"stream {number}",
                expected=f"at most {STREAM_DEPTH_MAX}",
                got=depth,
            )
        self._positions.append(begin)
        self._befores.append(before)
        self._bases.append(self.end)
        self.end += stream.size
        if stream.is_long:
            if len(self.long) == LONG_STREAMS_MAX:
                raise FormatError("too many long streams", expected=f"at most {LONG_STREAMS_MAX}")
            read_along |= 1 << len(self.long)
            self.long.append(number)
        elif stream.is_read:
            self._held = max(self._held, stream.held_bytes)
            self.blocks_size += stream.size
        self._depth = max(self._depth, depth)
        if depth > 1:
            self._depths.put(number, depth)
        if read_along:
            self._long.put(number, read_along)

    @property
    def block_bytes(self) -> int:
        """Most that unpacking blocks holds, one in another, with the cache of their contents."""
        return UNPACK_CACHE_BYTES + self._depth * self._held if self._held else 0

    def __len__(self) -> int:
        return len(self._bases)

    def __getitem__(self, number: int) -> PackedStream:
        return self._recent(number)

    def _read(self, number: int) -> PackedStream:
        return _read_row(self._rows, _Place(self._positions[number], self._befores[number]))

    def content(self, number: int) -> ByteRange:
        """The addresses of a stream's content."""
        after = self._bases[number + 1] if number + 1 < len(self._bases) else self.end
        return ByteRange(self._bases[number], after - self._bases[number])

    def at(self, address: int) -> int:
        """The number of the stream whose content holds this address; FormatError for none."""
        if not self.base <= address < self.end:
            raise FormatError(
                "address outside of all streams",
                expected=f"{self.base}..{self.end}",
                got=address,
            )
        return bisect_right(self._bases, address) - 1

    def long_read_by(self, extents: Iterable[ByteRange]) -> set[int]:
        """The numbers of the long streams that reading these extents reads, nested ones too."""
        bits = 0
        for extent in extents:
            bits |= self._long.over(*self._numbers(extent))
        return {number for bit, number in enumerate(self.long) if bits >> bit & 1}

    def _numbers(self, extent: ByteRange) -> tuple[int, int]:
        """The first stream that an extent reads, and the one behind the last."""
        if extent.end <= self.base or not extent.size:
            return 0, 0
        first = bisect_right(self._bases, extent.offset) - 1
        return max(0, first), bisect_left(self._bases, extent.end)


class _Fold:
    """A number for each stream, and what folding any stretch of them gives, in few steps.

    A hostile table may have a million extents over all streams: they are not gone through one by
    one. (A segment tree: node n folds nodes 2n and 2n + 1, the numbers themselves are its leaves.)
    """

    def __init__(self, count: int, fold: Callable[[int, int], int]) -> None:
        self._count = count
        self._fold = fold
        self._nodes = array("Q", bytes(16 * count))

    def put(self, number: int, value: int) -> None:
        """Set a number, 0 before; less than 2^64."""
        node = number + self._count
        self._nodes[node] = value
        while node > 1:
            node //= 2
            self._nodes[node] = self._fold(self._nodes[2 * node], self._nodes[2 * node + 1])

    def over(self, first: int, end: int) -> int:
        """The numbers from `first` to before `end`, folded; 0 for none."""
        folded = 0
        low, high = first + self._count, end + self._count
        while low < high:
            if low & 1:
                folded = self._fold(folded, self._nodes[low])
                low += 1
            if high & 1:
                high -= 1
                folded = self._fold(folded, self._nodes[high])
            low, high = low // 2, high // 2
        return folded


def read_streams(
    rows: bytes, position: int, count: int, base: int, shifts: tuple[Shifts, ...] = ()
) -> tuple[StreamTable, int]:
    """The `count` streams that stand in `rows` from `position` on, and the position behind them.

    FormatError unless each is sound and reads only what stands before its own content.
    """
    if count > STREAMS_MAX:
        raise FormatError("too many streams", expected=f"at most {STREAMS_MAX}", got=count)
    table = StreamTable(rows, base, count, shifts)
    place = _Place(position, 0)
    for _ in range(count):
        table.append(place)
    return table, place.position


def write_streams(rows: bytearray, streams: Iterable[PackedStream]) -> None:
    """Append streams as `read_streams` reads them."""
    before = 0
    for stream in streams:
        rows.append(_CODES[stream.packing] if stream.moved is None else code_of(stream.moved))
        if stream.is_read:
            before = write_extents(rows, stream.sources, before)
        if stream.moved is not None:
            write_stream_moved(rows, stream.moved)
            continue
        write_number(rows, stream.size)
        if stream.is_long:
            write_number(rows, stream.memory_bytes)
            write_number(rows, stream.window_bytes)


def _read_row(rows: bytes, place: _Place) -> PackedStream:
    code = rows[place.position] if place.position < len(rows) else None
    if code in MOVED_CODES:
        place.position += 1
        sources = read_extents(rows, place, STREAM_SOURCES_MAX)
        size = sum(source.size for source in sources)
        moved = read_stream_moved(code, rows, place)
        return PackedStream(None, sources, size, moved=moved)
    packing = PACKINGS[read_choice(rows, place, len(PACKINGS), "packing")]
    sources = ()
    if packing is not None:
        sources = read_extents(rows, place, STREAM_SOURCES_MAX)
    size = read_number(rows, place)
    memory = window = 0
    if packing is not None and size > BLOCK_CONTENT_BYTES_MAX:
        memory, window = read_number(rows, place), read_number(rows, place)
    return PackedStream(packing, sources, size, memory, window)

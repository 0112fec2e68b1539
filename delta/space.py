"""The space of bytes that frames read from: source, target so far, and unpacked streams.

One object for one pass of a payload. Source and target are read through functions of the caller;
what is packed there is unpacked here: blocks as a whole, with a small cache, long streams with a
cursor that keeps a window behind its farthest byte. Going back behind the window starts the stream
again: slow, never wrong; an encoder plans frames so that it does not happen, and a payload that
makes it happen again and again is refused. Numbers in modules and programs are moved (moves.py).

Nothing read here is believed: chunks are checked against the tree. Layout: docs/format.md, 4.4.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Container, Iterable, Iterator
from itertools import islice

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError
from slipstream.delta.limits import (
    KIB,
    LONG_STREAM_BYTES_FREE,
    LONG_STREAM_RATIO_MAX,
    MOVE_WORK_BYTES_FREE,
    MOVE_WORK_FACTOR,
    UNPACK_CACHE_BYTES,
    UNPACK_RESTARTS_MAX,
    UNPACK_WORK_BYTES_FREE,
    UNPACK_WORK_FACTOR,
)
from slipstream.delta.moves import move
from slipstream.delta.packing.unpack import UnpackCursor, unpack
from slipstream.delta.stream_table import PackedStream, StreamTable

Read = Callable[[int, int], bytes]

_FEED_BYTES = 64 * KIB  # packed bytes given to a cursor's decoder at a time
_STEP_BYTES = 256 * KIB  # content taken from it at a time


class Space:
    """Reads any addresses of a payload's space.

    `read_source` and `read_target` give exactly the bytes at (offset, size) of their image, or
    raise, also where nothing is made yet. Not for several threads at once.
    """

    def __init__(
        self,
        source_size: int,
        target_size: int,
        streams: StreamTable,
        read_source: Read,
        read_target: Read,
    ) -> None:
        self._source_size = source_size
        self._images_size = source_size + target_size
        self._streams = streams
        self._read_source = read_source
        self._read_target = read_target
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._blocks_size = 0
        self._cursors: dict[int, _Cursor] = {}
        self._worked = self._unpacked = self._moved = (
            0  # content of blocks, long streams, moved ones
        )
        content = streams.blocks_size + target_size
        self._work_max = UNPACK_WORK_BYTES_FREE + UNPACK_WORK_FACTOR * content
        free = UNPACK_WORK_BYTES_FREE + len(streams.long) * LONG_STREAM_BYTES_FREE
        self._unpacked_max = free + UNPACK_WORK_FACTOR * self._images_size
        self._moved_max = MOVE_WORK_BYTES_FREE + MOVE_WORK_FACTOR * self._images_size
        self._restarts = 0

    def read(self, extents: Iterable[ByteRange]) -> bytes:
        """The bytes of all extents, joined; FormatError, and what the two functions raise."""
        pieces = [piece for extent in extents for piece in self._pieces(extent)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _pieces(self, extent: ByteRange) -> Iterator[bytes]:
        position = extent.offset
        while position < extent.end:
            if position < self._source_size:
                end = min(extent.end, self._source_size)
                yield self._read_source(position, end - position)
            elif position < self._images_size:
                end = min(extent.end, self._images_size)
                yield self._read_target(position - self._source_size, end - position)
            else:
                number = self._streams.at(position)
                content = self._streams.content(number)
                end = min(extent.end, content.end)
                yield self._read_stream(number, position - content.offset, end - position)
            position = end

    def _read_stream(self, number: int, offset: int, size: int) -> bytes:
        stream = self._streams[number]
        if not stream.is_read:
            raise FormatError("frame reads a stream that is not there", where=f"stream {number}")
        if stream.is_long:
            return self._cursor(number, stream).read(offset, size)
        return self._block(number, stream)[offset : offset + size]

    def _block(self, number: int, stream: PackedStream) -> bytes:
        block = self._blocks.get(number)
        if block is not None:
            self._blocks.move_to_end(number)
            return block
        self._note_work(stream)
        block = self._unpack(stream, self.read(stream.sources))
        if len(block) != stream.size:
            raise FormatError(
                "packed stream unpacks to another size",
                where=f"stream {number}",
                expected=stream.size,
                got=len(block),
            )
        self._blocks[number] = block
        self._blocks_size += len(block)
        while self._blocks_size > UNPACK_CACHE_BYTES and len(self._blocks) > 1:
            _, dropped = self._blocks.popitem(last=False)
            self._blocks_size -= len(dropped)
        return block

    def _unpack(self, stream: PackedStream, packed: bytes) -> bytes:
        if stream.moved is not None:
            return move(packed, stream.moved, self._streams.shifts[stream.moved.shifts])
        assert stream.packing is not None
        return unpack(stream.packing, packed, stream.size)

    def _cursor(self, number: int, stream: PackedStream) -> "_Cursor":
        if number not in self._cursors:
            self._cursors[number] = _Cursor(self, stream)
        return self._cursors[number]

    def _note_work(self, stream: PackedStream) -> None:
        """A block is unpacked, or moved; FormatError once that is far too much for one payload:
        blocks in blocks, read crosswise, would be unpacked again and again."""
        self._worked += stream.size
        if self._worked > self._work_max:
            raise FormatError(
                "packed blocks are unpacked over and over",
                expected=f"at most {self._work_max} bytes of content",
            )
        self._moved += stream.size if stream.moved is not None else 0
        if self._moved > self._moved_max:
            raise FormatError(
                "numbers are moved over and over",
                expected=f"at most {self._moved_max} bytes in which some are",
            )

    def note_unpacked(self, size: int) -> None:
        """So much content comes of a long stream; FormatError once that is far more than what stands
        packed in images of this size: streams in streams may each be a bomb."""
        self._unpacked += size
        if self._unpacked > self._unpacked_max:
            raise FormatError(
                "long streams unpack to impossibly much",
                expected=f"at most {self._unpacked_max} bytes of content",
            )

    def note_restart(self) -> None:
        """A cursor begins again; FormatError once that is too often for one payload."""
        self._restarts += 1
        if self._restarts > UNPACK_RESTARTS_MAX:
            raise FormatError(
                "packed streams are read back and forth",
                expected=f"at most {UNPACK_RESTARTS_MAX} times from the beginning again",
            )

    def keep_cursors(self, numbers: Container[int]) -> None:
        """Drop the cursors of all other streams, with their decoders and windows."""
        for number in [one for one in self._cursors if one not in numbers]:
            del self._cursors[number]


class _Cursor:
    """Reads one long stream, mostly forwards."""

    def __init__(self, space: Space, stream: PackedStream) -> None:
        assert stream.packing is not None
        self._packing = stream.packing
        self._space = space
        self._stream = stream
        self._kept_bytes = stream.window_bytes + _STEP_BYTES
        self._start()

    def _start(self) -> None:
        self._decoder = UnpackCursor(self._packing, self._stream.memory_bytes)
        self._packed = self._packed_pieces()
        self._window: deque[bytes] = deque()  # content from _begin to _end
        self._begin = self._end = 0
        self._fed = 0  # packed bytes

    def read(self, offset: int, size: int) -> bytes:
        if offset < self._begin:
            self._space.note_restart()
            self._start()
        pieces = []
        # All pieces but the last of the stream have one size.
        first = min(max(0, offset - self._begin) // _STEP_BYTES, len(self._window))
        position = self._begin + first * _STEP_BYTES
        for piece in islice(self._window, first, first + size // _STEP_BYTES + 2):
            pieces.append(_overlap(piece, position, offset, size))
            position += len(piece)
        while self._end < offset + size:
            position = self._end
            pieces.append(_overlap(self._advance(), position, offset, size))
        return b"".join(pieces)

    def _advance(self) -> bytes:
        """The next piece of content, which is in the window then."""
        wanted = min(_STEP_BYTES, self._stream.size - self._end)
        made = bytearray()
        packed: bytes | None = b""
        while len(made) < wanted:
            some = self._decoder.feed(packed or b"", wanted - len(made))
            made += some
            packed = b"" if some else next(self._packed, None)
            self._fed += len(packed or b"")
            if packed is None or (self._decoder.eof and len(made) < wanted):
                raise FormatError(
                    "packed stream ends early",
                    expected=f"{self._stream.size} bytes of content",
                    got=self._end + len(made),
                )
        self._window.append(bytes(made))
        self._end += len(made)
        self._space.note_unpacked(len(made))
        if self._end > LONG_STREAM_BYTES_FREE + LONG_STREAM_RATIO_MAX * self._fed:
            raise FormatError("stream that unpacks to impossibly much", got=self._end)
        # The farthest byte asked for lies up to a step before the end.
        while self._end - self._begin - len(self._window[0]) > self._kept_bytes:
            self._begin += len(self._window.popleft())
        return self._window[-1]

    def _packed_pieces(self) -> Iterator[bytes]:
        for source in self._stream.sources:
            for offset in range(source.offset, source.end, _FEED_BYTES):
                yield self._space.read([ByteRange(offset, min(_FEED_BYTES, source.end - offset))])


def _overlap(piece: bytes, position: int, offset: int, size: int) -> bytes:
    """The part of a piece that stands at `position` that lies in `size` bytes from `offset` on."""
    begin = max(0, offset - position)
    return piece[begin : max(begin, offset + size - position)]

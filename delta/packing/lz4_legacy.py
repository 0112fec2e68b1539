"""The legacy framing of LZ4: what `lz4 -l` writes, and Linux kernels and initrds are packed with.

Magic, then blocks: the packed size, 4 bytes, and a raw LZ4 block. Every block but the last holds
8 MiB of content. Nothing says where a stream ends: the last block is not full, or what stands
behind it is no size of a block. (lz4: doc/lz4_Frame_format.md, Legacy frame. A kernel image has the
content's size there.)

Content comes, and packed bytes come, a block at a time; `early` looks into a block that is not whole.
"""

import ctypes
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from slipstream.delta.errors import FormatError
from slipstream.delta.limits import KIB, LZ4_LEGACY_BLOCK_BYTES, LZ4_LEGACY_PACKED_BYTES_MAX
from slipstream.delta.packing.headers import LZ4_LEGACY_MAGIC
from slipstream.delta.packing.liblz4 import LibLz4

_SIZE_BYTES = 4
_CUT_BYTES = 128 * KIB  # content between two cuts, about
_CUT_PACKED_BYTES = 64  # or so few packed bytes


class LegacyEncoder:
    """One stream of blocks of level `level`, as LibLz4.compress has it. Holds the content of one."""

    def __init__(self, library: LibLz4, level: int) -> None:
        self._library = library
        self._level = level
        self._content = bytearray(LZ4_LEGACY_BLOCK_BYTES)
        self._filled = 0
        self._head = LZ4_LEGACY_MAGIC

    def feed(self, piece: bytes) -> bytes:
        """The blocks that `piece` completes."""
        made: list[bytes] = []
        with memoryview(piece) as rest:
            position = 0
            while position < len(piece):
                part = rest[position : position + LZ4_LEGACY_BLOCK_BYTES - self._filled]
                self._content[self._filled : self._filled + len(part)] = part
                self._filled += len(part)
                position += len(part)
                if self._filled == LZ4_LEGACY_BLOCK_BYTES:
                    made += self._block()
        return b"".join(made)

    def finish(self, last: bytes) -> bytes:
        """The rest; of no content at all the magic alone."""
        made = [self.feed(last), *(self._block() if self._filled else ()), self._head]
        self._head = b""
        return b"".join(made)

    def close(self) -> None:
        pass

    def _block(self) -> tuple[bytes, bytes, bytes]:
        head, self._head = self._head, b""
        packed = self._library.compress_part(self._content, self._filled, self._level)
        self._filled = 0
        return head, len(packed).to_bytes(_SIZE_BYTES, "little"), packed


class LegacyDecoder:
    """In the manner of zlib's and lzma's decoders: `decompress`, `eof`, `unused_data`.

    Holds one block, packed and unpacked: of streams with at most `content_max` bytes no more than
    that. A stream whose last block is full ends only with bytes behind it.
    """

    def __init__(self, library: LibLz4, content_max: int = LZ4_LEGACY_BLOCK_BYTES) -> None:
        self._library = library
        self._packed = bytearray()
        self._has_magic = False
        self._blocks = 0
        # A byte more than there may be shows a longer one.
        self._content = ctypes.create_string_buffer(min(LZ4_LEGACY_BLOCK_BYTES, content_max + 1))
        self._given = self._filled = 0  # of the content
        self._ended = False

    @property
    def eof(self) -> bool:
        """Whether all content of the stream was given out."""
        return self._ended and self._given == self._filled

    @property
    def unused_data(self) -> bytes:
        """Once `eof`: what was fed beyond the stream."""
        return bytes(self._packed)

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        """Some content, at most `max_length` bytes; none only if more data is needed, or at the end.

        FormatError.
        """
        self._packed += data
        if self._given == self._filled and not self._ended:
            self._next()
        size = min(max_length, self._filled - self._given)
        content = ctypes.string_at(ctypes.addressof(self._content) + self._given, size)
        self._given += size
        return content

    def early(self, size_max: int) -> bytes:
        """The first content of a block of which not all was fed; `decompress` gives it again."""
        if self._ended or self._given < self._filled or len(self._packed) <= _SIZE_BYTES:
            return b""
        packed_size = min(self._block_size(), len(self._packed) - _SIZE_BYTES)
        size = self._library.decompress_first(self._packed, _SIZE_BYTES, packed_size, self._content)
        return ctypes.string_at(self._content, min(size, size_max))

    def _next(self) -> None:
        """Unpack the next block, if all of it is there."""
        if not self._has_magic:
            if len(self._packed) < len(LZ4_LEGACY_MAGIC):
                return
            if not self._packed.startswith(LZ4_LEGACY_MAGIC):
                raise FormatError("not a legacy lz4 stream", got=self._packed[:4].hex())
            del self._packed[: len(LZ4_LEGACY_MAGIC)]
            self._has_magic = True
        if len(self._packed) < _SIZE_BYTES:
            return
        size = self._block_size()
        if not 1 <= size <= LZ4_LEGACY_PACKED_BYTES_MAX:
            if not self._blocks:
                raise FormatError("legacy lz4 stream without a block", got=size)
            self._ended = True
            return
        if len(self._packed) < _SIZE_BYTES + size:
            return
        self._filled = self._library.decompress_part(self._packed, _SIZE_BYTES, size, self._content)
        self._given = 0
        self._blocks += 1
        self._ended = self._filled < LZ4_LEGACY_BLOCK_BYTES
        del self._packed[: _SIZE_BYTES + size]

    def _block_size(self) -> int:
        return int.from_bytes(self._packed[:_SIZE_BYTES], "little")


def legacy_cuts(
    library: LibLz4, read: Callable[[int, int], bytes], packed_size: int, edges: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """Cuts of a stream, (content, packed): its first packed bytes give at least so much content.

    `read` gives packed bytes (offset, size) of the stream, which was unpacked before. There is a cut
    at each of the rising `edges`, where a block ends, and often enough between. One long run, and a
    kernel has 24 MB of zeros, is known when all of its length was read, and not before: cuts within
    it come behind that, a byte apart. FormatError.
    """
    last = (0, 0)
    for content, packed in _measured(library, read, packed_size, edges):
        for some in range(last[0] + _CUT_BYTES, content, _CUT_BYTES):
            last = (some, max(packed, last[1] + 1))
            yield last
        if content > last[0]:
            last = (content, max(packed, last[1] + 1))
            yield last


def _measured(
    library: LibLz4, read: Callable[[int, int], bytes], packed_size: int, edges: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """What the first packed bytes give, at some places."""
    out = ctypes.create_string_buffer(LZ4_LEGACY_BLOCK_BYTES)
    made = 0
    begin = len(LZ4_LEGACY_MAGIC)
    while begin < packed_size:
        begin += _SIZE_BYTES
        size = int.from_bytes(read(begin - _SIZE_BYTES, _SIZE_BYTES), "little")
        block = bytearray(read(begin, size))
        inside = edges[bisect_left(edges, begin + 1) : bisect_left(edges, begin + size)]
        low = (0, 0)
        for end in (*(edge - begin for edge in inside), size):
            high = (library.decompress_first(block, 0, end, out), end)
            for content, packed in (*_between(library, block, out, low, high), high):
                yield made + content, begin + packed
            low = high
        made += low[0]
        begin += size


def _between(
    library: LibLz4,
    block: bytearray,
    out: "ctypes.Array[ctypes.c_char]",
    low: tuple[int, int],
    high: tuple[int, int],
) -> Iterator[tuple[int, int]]:
    """The places between two of a block, of which one gives much more than the other."""
    if high[0] - low[0] <= _CUT_BYTES or high[1] - low[1] <= _CUT_PACKED_BYTES:
        return
    half = (low[1] + high[1]) // 2
    middle = (library.decompress_first(block, 0, half, out), half)
    yield from _between(library, block, out, low, middle)
    yield middle
    yield from _between(library, block, out, middle, high)

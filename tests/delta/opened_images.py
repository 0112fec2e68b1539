"""Images of plain stretches, packed blocks and packed files in blocks, with all that is opened of them.

A work space in memory: `BASE` bytes of a source, the image, then the contents one after another.
"""

import random
import zlib
from dataclasses import dataclass, field

from slipstream.delta.byterange import ByteRange
from slipstream.delta.filemap import Packing
from slipstream.delta.packing.headers import gzip_header_size
from slipstream.delta.packing.libraries import available
from slipstream.delta.packing.recipe import Packer, Recipe
from slipstream.delta.partition import Cut
from slipstream.delta.unfold import OpenBlock, Opened

BASE = 1000
_ZLIB = next(name for name in sorted(available()) if name.startswith("zlib "))
BLOCK_RECIPE = Recipe(Packer.ZLIB, (6, 15, 8, 0), _ZLIB)
FILE_RECIPE = Recipe(Packer.GZIP_ZLIB, (6, 8), _ZLIB)
_FEED_BYTES = 256


def pattern(seed: int, size: int) -> bytes:
    """Bytes that pack to half their size, made in no time."""
    return random.Random(seed).randbytes(size // 2 + 1).hex().encode()[:size]


def gzipped(content: bytes) -> bytes:
    """A gzip file that FILE_RECIPE makes, but for its header of 10 bytes."""
    encoder = zlib.compressobj(6, wbits=31)
    return encoder.compress(content) + encoder.flush()


def marks_of(packed: bytes, header: int) -> tuple[Cut, ...]:
    """How much content each first part of a gzip file gives."""
    decoder = zlib.decompressobj(31)
    made = 0
    marks = []
    for first in range(0, len(packed), _FEED_BYTES):
        made += len(decoder.decompress(packed[first : first + _FEED_BYTES]))
        if first + _FEED_BYTES > header and not decoder.eof:
            marks.append(Cut(made, first + _FEED_BYTES - header))
    return tuple(marks)


@dataclass
class OpenedImage:
    """An image that is put together from pieces, in order."""

    image: bytearray = field(default_factory=bytearray)
    _outer: list[tuple[ByteRange, bytes]] = field(default_factory=list)
    _inner: list[tuple[list[tuple[bool, ByteRange]], bytes]] = field(default_factory=list)
    _apart: set[int] = field(default_factory=set)

    def add_plain(self, data: bytes) -> None:
        """Bytes that stand as they are."""
        self.image += data

    def add_block(self, content: bytes) -> int:
        """A packed block; its number."""
        packed = zlib.compress(content, 6)
        self._outer.append((ByteRange(len(self.image), len(packed)), content))
        self.image += packed
        return len(self._outer) - 1

    def add_file(self, content: bytes, block_bytes: int, between: bytes = b"") -> None:
        """A gzip file in packed blocks of so many bytes of it, every third as it stands; with
        other bytes between the blocks. 0: it stands in the image in one piece."""
        packed = gzipped(content)
        places: list[
            tuple[bool, ByteRange]
        ] = []  # of a block's content, by number, or of the image
        for number, first in enumerate(range(0, len(packed), block_bytes or len(packed))):
            piece = packed[first : first + (block_bytes or len(packed))]
            if not block_bytes or number % 3 == 2:
                places.append((False, ByteRange(len(self.image), len(piece))))
                self.image += piece
            else:
                places.append((True, ByteRange(self.add_block(piece), len(piece))))
            self.image += between
        self._inner.append((places, content))

    def add_file_apart(self, content: bytes, tail_bytes: int, *, tail_first: bool) -> None:
        """A gzip file whose end stands elsewhere: behind other bytes, or before all else of it."""
        packed = gzipped(content)
        body, tail = packed[:-tail_bytes], packed[-tail_bytes:]
        stands = {}
        for piece in (tail, body) if tail_first else (body, tail):
            stands[piece] = (False, ByteRange(len(self.image), len(piece)))
            self.image += piece + b"inode" * 13
        self._apart.add(len(self._inner))
        self._inner.append(([stands[body], stands[tail]], content))

    def opened(self) -> tuple[Opened, Opened, bytes]:
        """Blocks of the image, streams in them, and the whole work space."""
        space = bytearray(BASE) + self.image
        outer = []
        for place, content in self._outer:
            at = ByteRange(len(space), len(content))
            moved = ByteRange(BASE + place.offset, place.size)
            outer.append(OpenBlock((moved,), at, Packing.ZLIB, end=place.end, recipe=BLOCK_RECIPE))
            space += content
        direct, inner = list(outer), []
        for number, (places, content) in enumerate(self._inner):
            stands = tuple(
                ByteRange(outer[one.offset].content.offset, one.size)
                if in_block
                else ByteRange(BASE + one.offset, one.size)
                for in_block, one in places
            )
            packed = gzipped(content)
            block = OpenBlock(
                stands,
                ByteRange(len(space), len(content)),
                Packing.GZIP,
                end=len(self.image),
                memory_bytes=64 << 10,
                recipe=FILE_RECIPE,
                header_bytes=gzip_header_size(packed),
                marks=marks_of(packed, gzip_header_size(packed)),
                is_apart=number in self._apart,
            )
            (inner if len(stands) > 1 else direct).append(block)
            space += content
        return Opened.of(direct), Opened.of(inner), bytes(space)

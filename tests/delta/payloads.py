"""Payloads made by hand, frame by frame, so that a test knows every byte of them.

maker = Maker(source, target_size)
at = maker.stream(Packing.ZLIB, [ByteRange(0, 700)], content)     address of its content
maker.diff([ByteRange(at, 4096)], content, made, parts=[...])
maker.long(recipe, contents)                                      a frame for each content
made = maker.finish()                                             made.index, made.raw, ...
"""

import itertools
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate

import bsdiff4.core
import numpy as np

from slipstream.delta.byterange import ByteRange
from slipstream.delta.codec import Codec, compress, decompress
from slipstream.delta.decode import FrameDecoder
from slipstream.delta.digest import Digest
from slipstream.delta.filemap import Packing
from slipstream.delta.frame import Frame, FrameKind, Part, Stream, make_frame
from slipstream.delta.limits import KIB, LZ4_LEGACY_BLOCK_BYTES, MIB, UNPACK_MEMORY_BYTES_MAX
from slipstream.delta.moves import Moved, Shifts
from slipstream.delta.packing.libraries import available
from slipstream.delta.packing.pack import pack
from slipstream.delta.packing.recipe import Packer, Recipe, library_of
from slipstream.delta.packing.unpack import UnpackCursor
from slipstream.delta.payload import HEADER_BYTES, Index, dump_index, parse_index
from slipstream.delta.prefix import compress_behind
from slipstream.delta.sparsify import write_numbers
from slipstream.delta.stream_table import PackedStream

ALONE = tuple(codec for codec in Codec if codec is not Codec.LZMA2_PREFIX)  # need no source
_FEED_BYTES = 512  # packed bytes between two places where a long stream may be cut


@dataclass(frozen=True)
class Made:
    """A payload, what it is made from and what it makes. `raw` is index and body."""

    index: Index
    raw: bytes
    source: bytes
    target: bytes

    @property
    def body(self) -> bytes:
        return self.raw[len(self.index.raw) :]

    def encoded(self, number: int) -> bytes:
        """The encoded bytes of a frame."""
        place = self.index.frames[number].encoded
        return self.body[place.offset : place.end]


class Maker:
    """Collects frames in target order. `target_size` is needed for addresses of streams."""

    def __init__(self, source: bytes | None = b"", target_size: int = 0) -> None:
        self.source = source
        self.target = bytearray()
        self.frames: list[Frame] = []
        self.streams: list[PackedStream] = []
        self.shifts: list[Shifts] = []
        self._body = bytearray()
        self._target_size = target_size

    @property
    def base(self) -> int:
        """Address of the first target byte."""
        return len(self.source or b"")

    def stream(
        self,
        packing: Packing | None,
        sources: Sequence[ByteRange],
        size: int,
        *,
        memory_bytes: int = 0,
        window_bytes: int = 0,
    ) -> int:
        """Add a stream; the address of its content."""
        address = self.base + self._target_size + sum(one.size for one in self.streams)
        self.streams.append(PackedStream(packing, tuple(sources), size, memory_bytes, window_bytes))
        return address

    def moved(self, sources: Sequence[ByteRange], moved: Moved) -> int:
        """Add a stream in which numbers are moved; the address of its content."""
        address = self.base + self._target_size + sum(one.size for one in self.streams)
        size = sum(source.size for source in sources)
        self.streams.append(PackedStream(None, tuple(sources), size, moved=moved))
        return address

    def zero(self, size: int) -> None:
        self._add(FrameKind.ZERO, bytes(size))

    def copy(self, sources: Sequence[ByteRange], content: bytes, **rest: object) -> None:
        """`content` is what stands at the sources."""
        self._add(FrameKind.COPY, content, sources=sources, **rest)

    def data(self, content: bytes, codec: Codec = Codec.ZSTD, **rest: object) -> None:
        self._add(FrameKind.DATA, content, pieces=[(codec, content)], **rest)

    def diff(
        self,
        sources: Sequence[ByteRange],
        read: bytes,
        content: bytes,
        codecs: Sequence[Codec] = (Codec.ZSTD,) * 3,
        **rest: object,
    ) -> None:
        """`read` is what stands at the sources."""
        control, values, extra = bsdiff4.core.diff(read, content)
        written = (*write_numbers(control, values, 4), extra)
        pieces = list(zip(codecs, written, strict=True))
        self._add(FrameKind.DIFF, content, sources=sources, pieces=pieces, behind=read, **rest)

    def prefix(
        self, sources: Sequence[ByteRange], read: bytes, content: bytes, **rest: object
    ) -> None:
        """`read` is what stands at the sources."""
        pieces = [(Codec.LZMA2_PREFIX, content)]
        self._add(FrameKind.PREFIX, content, sources=sources, pieces=pieces, behind=read, **rest)

    def edit(self, source: ByteRange, read: bytes, content: bytes, **rest: object) -> None:
        """A diff between bytes of one length: a single instruction."""
        assert source.size == len(read) == len(content)
        control = struct.pack("<QQQ", len(read), 0, 0)
        changed = np.frombuffer(content, np.uint8) - np.frombuffer(read, np.uint8)
        written = (*write_numbers(control, changed.tobytes(), 4), b"")
        pieces = [(Codec.ZSTD, one) for one in written]
        self._add(FrameKind.DIFF, content, sources=[source], pieces=pieces, **rest)

    def packed(self, recipe: Recipe, content: bytes) -> bytes:
        """A data frame of one block that is packed again; what it is packed to."""
        made = pack(recipe, content, 0)
        self.data(content, made=made, parts=[Part(len(content), len(made), recipe)])
        return made

    def long(
        self,
        recipe: Recipe,
        contents: Sequence[bytes],
        *,
        edited: tuple[int, bytes] | None = None,
        said: Recipe | None = None,
    ) -> bytes:
        """A long stream, a frame for each of `contents`; what it is packed to.

        Data frames, or edits of other content of the same length: `edited` is its address, and its
        bytes. `said` is the recipe that the payload names, if it is a wrong one.
        """
        made, parts = long_parts(recipe, contents)
        fed = done = 0
        for part, content in zip(parts, contents, strict=True):
            end = done + part.packed_size
            rest = {"made": made[done:end], "parts": [replace(part, recipe=said or recipe)]}
            if edited is None:
                self.data(content, **rest)
            else:
                place = ByteRange(edited[0] + fed, len(content))
                self.edit(place, edited[1][fed : fed + len(content)], content, **rest)
            fed, done = fed + len(content), end
        return made

    def long_in_blocks(
        self,
        inner: Recipe,
        outer: Recipe,
        contents: Sequence[bytes],
        *,
        before: bytes,
        behind: bytes,
        block_bytes: int = 128 * KIB,
    ) -> bytes:
        """Data frames of a long stream inside a file that stands in packed blocks; the target.

        Blocks belong to the frame that their first byte comes from; later frames fill them.
        """
        packed, long = long_parts(inner, contents)
        middle = before + packed + behind
        blocks = pieces(middle, block_bytes)
        first = done = owed = 0
        made = bytearray()
        for number, (part, content) in enumerate(zip(long, contents, strict=True)):
            parts = [part]
            if number == 0:
                content, parts = before + content, [Part(len(before), len(before)), part]
            if number == len(long) - 1:
                content, parts = content + behind, [*parts, Part(len(behind), len(behind))]
            done += sum(one.packed_size for one in parts)
            last = -(-done // block_bytes)
            packed_blocks = [pack(outer, block, 0) for block in blocks[first:last]]
            sizes = list(zip(blocks[first:last], packed_blocks, strict=True))
            outers = [Part(len(block), len(one), outer) for block, one in sizes]
            target = b"".join(packed_blocks)
            self.data(content, made=target, parts=parts, outer=outers, owed=owed)
            made += target
            owed = self.frames[-1].waiting
            first = last
        return bytes(made)

    def finish(self) -> Made:
        """The payload. Fails unless the target has the size that was said beforehand."""
        assert not self.streams or len(self.target) == self._target_size
        digest = None if self.source is None else Digest.of(self.source)
        target = bytes(self.target)
        raw = dump_index(
            self.base,
            digest,
            len(target),
            Digest.of(target),
            self.frames,
            self.streams,
            self.shifts,
        )
        return Made(parse_index(raw), raw + self._body, self.source or b"", target)

    def _add(
        self,
        kind: FrameKind,
        content: bytes,
        *,
        sources: Sequence[ByteRange] = (),
        pieces: Sequence[tuple[Codec, bytes]] = (),
        behind: bytes = b"",
        made: bytes | None = None,
        parts: Sequence[Part] = (),
        outer: Sequence[Part] = (),
        owed: int = 0,
    ) -> None:
        made = content if made is None else made
        coded = [
            compress_behind(piece, behind)
            if codec is Codec.LZMA2_PREFIX
            else compress(codec, piece, 1)  # quick, not small
            for codec, piece in pieces
        ]
        encoded = b"".join(coded)
        frame = make_frame(
            kind,
            ByteRange(len(self.target), len(made)),
            sources=sources,
            encoded_offset=len(self._body),
            digest=Digest.of(encoded) if pieces else None,
            streams=[
                Stream(codec, len(one), len(piece))
                for (codec, piece), one in zip(pieces, coded, strict=True)
            ],
            parts=parts,
            outer=outer,
            owed=owed,
        )
        self.frames.append(frame)
        self._body += encoded
        self.target += made


def recipe_of(packer: Packer, *parameters: int) -> Recipe:
    """A recipe with a library of this machine: of two versions, the older."""
    name = library_of(packer)
    found = sorted(one for one in available() if one.partition(" ")[0] == name)
    assert found, f"{name} is needed for this test"
    return Recipe(packer, parameters, found[0])


# One of each that packs blocks: packer, then its parameters.
BLOCK_RECIPES = [
    (Packer.ZLIB, 9, 15, 8, 0),
    (Packer.GZIP_GNU, 9),
    (Packer.XZ, 0, 0, 64 * KIB, 1, 0, 0, 0),
    (Packer.ZSTD, 3, 0, 0, 0, 0, 0),
    (Packer.LZ4, 0),
]
# One of each that may be long: packer, then its parameters (delta/packing/recipe.py).
LONG_RECIPES = {
    "GNU gzip": (Packer.GZIP_GNU, 6),
    "gzip of zlib": (Packer.GZIP_ZLIB, 6, 8),
    "xz": (Packer.XZ, 1, 0, 256 * KIB, 1, 0, 0, 0),
    "xz in blocks": (Packer.XZ, 1, 0, 256 * KIB, 4, 0, 256 * KIB, 28),
    "zstd": (Packer.ZSTD, 3, 1, 0, 1, 0, 0),
    "lz4 -l": (Packer.LZ4_LEGACY, 9),
}


@cache
def text(seed: int, size: int) -> bytes:
    """Lines of words: packs to about a third."""
    generator = random.Random(seed)
    words = [generator.randbytes(generator.randint(1, 6)).hex() for _ in range(900)]
    line = " ".join(generator.choices(words, k=size // 6 + 1))
    return line.encode()[:size].ljust(size, b".")


@cache
def noise(seed: int, size: int) -> bytes:
    """Hexadecimal digits: packs to somewhat more than half, in any part."""
    return random.Random(seed).randbytes(size // 2 + 1).hex().encode()[:size]


def touched(content: bytes, seed: int, every: int) -> bytes:
    """The content with a few bytes changed, here and there."""
    generator = random.Random(seed)
    data = bytearray(content)
    for at in range(generator.randrange(every), len(data) - 8, every):
        data[at : at + 8] = b"%08x" % generator.getrandbits(32)
    return bytes(data)


def pieces(data: bytes, *sizes: int) -> list[bytes]:
    """Data cut into pieces of these sizes, again and again."""
    cuts = []
    done = 0
    for size in itertools.cycle(sizes):
        cuts.append(data[done : done + size])
        done += size
        if done >= len(data):
            return cuts
    raise AssertionError


def long_parts(recipe: Recipe, contents: Sequence[bytes]) -> tuple[bytes, list[Part]]:
    """What contents, joined, are packed to, and a part for each of them.

    Each accounts for as few packed bytes as may be, so that a resumed encoder is tried hard.
    """
    packed = pack(recipe, b"".join(contents), 0)
    ends = list(accumulate(len(content) for content in contents))
    cuts = [*_cuts(recipe, packed, ends[:-1]), len(packed)]
    parts = []
    done = 0
    for number, (content, cut) in enumerate(zip(contents, cuts, strict=True)):
        last = number == len(contents) - 1
        parts.append(Part(len(content), cut - done, recipe, begins=number == 0, ends=last))
        done = cut
    return packed, parts


def _cuts(recipe: Recipe, packed: bytes, contents: Sequence[int]) -> list[int]:
    """How many of the packed bytes unpack to at least so much content, in steps."""
    cursor = UnpackCursor(recipe.packing, UNPACK_MEMORY_BYTES_MAX)
    cuts: list[int] = []
    made = early = fed = 0
    for wanted in contents:
        while made + early < wanted or fed <= (cuts[-1] if cuts else 0):
            piece = packed[fed : fed + _FEED_BYTES]
            assert piece, "content that its packed bytes do not hold"
            fed += len(piece)
            while some := cursor.feed(piece, MIB):
                made += len(some)
                piece = b""
            early = len(cursor.early(LZ4_LEGACY_BLOCK_BYTES))
        cuts.append(fed)
    return cuts


def everything() -> Made:
    """A small payload with streams, blocks, parts of both stages, a long stream, and reading of the target."""
    block, long = recipe_of(*BLOCK_RECIPES[0]), recipe_of(*LONG_RECIPES["gzip of zlib"])
    content = text(1, 9000)
    packed = pack(block, content, 0)
    stream = pieces(text(2, 60_000), 9000)
    size = 3 * len(packed) + 100 + len(pack(long, b"".join(stream), 0))
    maker = Maker(packed, size)
    at = maker.stream(block.packing, [ByteRange(0, len(packed))], len(content))
    maker.packed(block, content)
    maker.copy(
        [ByteRange(at, len(content))],
        content,
        made=packed,
        outer=[Part(len(content), len(packed), block)],
    )
    maker.long(long, stream)
    maker.zero(100)
    maker.copy([ByteRange(maker.base, len(packed))], packed)
    return maker.finish()


def with_table(made: Made, change: Callable[[bytearray], None]) -> bytes:
    """The index of a payload, with changes in its table."""
    raw = bytearray(made.index.raw)
    _, table_size, encoded_size = struct.unpack_from("<III", raw, 24)
    table = bytearray(
        decompress(Codec.ZSTD, bytes(raw[HEADER_BYTES : HEADER_BYTES + encoded_size]), table_size)
    )
    change(table)
    encoded = compress(Codec.ZSTD, bytes(table))
    digests = raw[HEADER_BYTES + encoded_size :]
    struct.pack_into("<II", raw, 28, len(table), len(encoded))
    struct.pack_into("<I", raw, 12, HEADER_BYTES + len(encoded) + len(digests))
    return bytes(raw[:HEADER_BYTES]) + encoded + bytes(digests)


def run(made: Made, numbers: Sequence[int] | None = None, standing: bytes | None = None) -> bytes:
    """Decode frames, all or those of `numbers`, over what stands of the target already."""
    target = bytearray(bytes(len(made.target)) if standing is None else standing)

    def read_source(offset: int, size: int) -> bytes:
        return made.source[offset : offset + size]

    def read_target(offset: int, size: int) -> bytes:
        return bytes(target[offset : offset + size])

    with FrameDecoder(made.index, read_source, read_target) as decoder:
        for number in range(len(made.index.frames)) if numbers is None else numbers:
            for piece in decoder.feed(number, made.encoded(number)):
                target[piece.offset : piece.offset + len(piece.data)] = piece.data
        assert decoder.due_offset is None
    return bytes(target)

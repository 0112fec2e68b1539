"""One frame: what its parts must agree on."""

from dataclasses import replace

import pytest

from slipstream.delta.byterange import ByteRange
from slipstream.delta.codec import Codec, codec_memory_bytes
from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError
from slipstream.delta.frame import (
    Frame,
    FrameKind,
    Part,
    Stream,
    content_size,
    frame_memory_bytes,
    make_frame,
    packed_size,
)
from slipstream.delta.limits import (
    FRAME_CODED_TARGET_BYTES_MAX,
    FRAME_ENCODED_BYTES_MAX,
    FRAME_PARTS_MAX,
    FRAME_SOURCE_BYTES_MAX,
    FRAME_SOURCES_MAX,
    FRAME_TARGET_BYTES_MAX,
    KIB,
    MIB,
    NUMBERS_BYTES_MAX,
)
from slipstream.delta.packing.recipe import Packer, Recipe, pack_memory_bytes

DIGEST = Digest(bytes(32))
SOURCE = ByteRange(4096, 500)
NUMBERS = Stream(Codec.BZ2, 40, 48)
VALUES = Stream(Codec.LZMA2, 30, 300)
EXTRA = Stream(Codec.NONE, 7, 7)
BLOCK = Recipe(Packer.LZ4, (0,), "liblz4 1.9.4")
STREAMED = Recipe(Packer.GZIP_GNU, (6,), "gzip 1.12")


def zero(size: int = 4096) -> Frame:
    return make_frame(FrameKind.ZERO, ByteRange(0, size))


def copy(*sources: ByteRange) -> Frame:
    size = sum(source.size for source in sources)
    return make_frame(FrameKind.COPY, ByteRange(0, size), sources=sources)


def data(stream: Stream) -> Frame:
    target = ByteRange(8192, stream.size)
    return make_frame(FrameKind.DATA, target, digest=DIGEST, streams=[stream])


def diff(
    *streams: Stream, sources: tuple[ByteRange, ...] = (SOURCE,), size: int | None = None
) -> Frame:
    """Without a size: no byte of the difference is zero."""
    target = ByteRange(0, streams[1].size + streams[2].size if size is None else size)
    return make_frame(FrameKind.DIFF, target, sources=sources, digest=DIGEST, streams=streams)


def packed(*parts: Part, outer: tuple[Part, ...] = (), size: int | None = None) -> Frame:
    """A data frame with parts. Without a size: of the target size that follows from them."""
    content = content_size(parts, content_size(outer, 0))
    target = packed_size(outer, packed_size(parts, content)) if size is None else size
    return make_frame(
        FrameKind.DATA,
        ByteRange(0, target),
        digest=DIGEST,
        streams=[Stream(Codec.ZSTD, 9, content)],
        parts=parts,
        outer=outer,
    )


def test_what_follows_from_the_parts() -> None:
    frame = diff(NUMBERS, VALUES, EXTRA, size=900)
    assert frame.target == ByteRange(0, 900)
    assert frame.content_size == 900
    assert frame.encoded == ByteRange(0, 77)
    assert frame.source_size == 500
    assert data(VALUES).target == ByteRange(8192, 300)
    assert copy(SOURCE, SOURCE).target.size == 1000
    assert zero().encoded.size == 0


def test_memory_counts_every_buffer_once_and_the_hungriest_codec() -> None:
    frame = diff(NUMBERS, VALUES, EXTRA, size=900)
    buffers = 900 + 500 + 77 + (48 + 300 + 7) + 32 * 48 + 900
    assert frame.memory_bytes == buffers + codec_memory_bytes(Codec.BZ2, 48) + 48
    assert zero(5).memory_bytes == 5
    assert copy(SOURCE).memory_bytes == 1000
    assert data(EXTRA).memory_bytes == 7 + 7 + 7
    assert frame_memory_bytes(frame.kind, frame.target, frame.sources, frame.streams) == (
        frame.memory_bytes
    )


def test_memory_of_sources_that_are_read_for_little() -> None:
    """They are in pieces and joined before anything else is there."""
    much = ByteRange(0, 4 * MIB)
    numbers, nothing = Stream(Codec.NONE, 3, 3), Stream(Codec.NONE, 0, 0)
    frame = diff(numbers, nothing, EXTRA, sources=(much,))
    assert frame.memory_bytes == 2 * 4 * MIB + 10


def test_memory_of_packing_is_that_of_the_hungriest_block_and_of_the_stream() -> None:
    whole = Part(MIB, 900_000, BLOCK)
    frame = packed(Part(70_000, 70_000), whole, Part(5, 3, BLOCK))
    content, target = 70_000 + MIB + 5, 70_000 + 900_000 + 3
    block = MIB + 64 * KIB + 900_000 + pack_memory_bytes(BLOCK, MIB)
    assert frame.memory_bytes == content + 3 * target + block

    long = Part(MIB, 900_000, STREAMED, ends=False)
    encoder = pack_memory_bytes(STREAMED, MIB)
    plain = MIB + 3 * 900_000 + MIB + 64 * KIB + 900_000
    assert packed(long).memory_bytes == plain + encoder

    twice = packed(whole, outer=(Part(900_000, 800_000, BLOCK),))
    assert twice.memory_bytes == MIB + 2 * 900_000 + 800_000 + block


def test_parts_become_the_target_in_two_stages() -> None:
    inner = (Part(100, 100), Part(4000, 900, BLOCK), Part(77, 0))
    frame = packed(*inner, outer=(Part(700, 250, BLOCK), Part(300, 300)))
    assert frame.content_size == 4177
    assert frame.target.size == 550
    assert frame.long_part is None
    assert packed(outer=(Part(700, 250, BLOCK),)).content_size == 700

    long = Part(4000, 900, STREAMED, begins=False)
    assert packed(Part(5, 5), long, Part(6, 6)).long_part == long


def test_an_encoder_that_looks_ahead_says_how_far() -> None:
    looking = Recipe(Packer.LZ4_DEST, (0, 4096, 0), "liblz4 1.9.4")
    assert Part(9000, 4096, looking).ahead_bytes == 4096
    assert Part(9000, 4096, BLOCK).ahead_bytes == Part(9, 9).ahead_bytes == 0


def test_frames_at_their_limits() -> None:
    zero(FRAME_TARGET_BYTES_MAX)
    copy(*[ByteRange(0, 1)] * FRAME_SOURCES_MAX)
    data(Stream(Codec.ZSTD, 20, FRAME_CODED_TARGET_BYTES_MAX))
    largest = ByteRange(0, FRAME_SOURCE_BYTES_MAX)
    numbers = Stream(Codec.ZSTD, 1, NUMBERS_BYTES_MAX)
    diff(numbers, VALUES, EXTRA, sources=(largest,), size=FRAME_CODED_TARGET_BYTES_MAX)
    packed(Part(FRAME_CODED_TARGET_BYTES_MAX, 1, BLOCK))
    packed(Part(1, FRAME_CODED_TARGET_BYTES_MAX, BLOCK))
    packed(*[Part(1, 1)] * FRAME_PARTS_MAX)


@pytest.mark.parametrize(
    "codec, encoded, size",
    [
        (Codec.ZSTD, -1, 10),
        (Codec.ZSTD, 10, -1),
        (Codec.ZSTD, FRAME_ENCODED_BYTES_MAX + 1, 10),
        (Codec.ZSTD, 10, FRAME_CODED_TARGET_BYTES_MAX + 1),
        (Codec.ZSTD, 2**64 - 1, 10),
        (Codec.ZSTD, 10, 2**64 - 1),
        (Codec.NONE, 10, 11),
        (Codec.NONE, 11, 10),
    ],
)
def test_impossible_streams_are_refused(codec: Codec, encoded: int, size: int) -> None:
    with pytest.raises(FormatError):
        Stream(codec, encoded, size)


IMPOSSIBLE = {
    "zero with a source": lambda: make_frame(FrameKind.ZERO, ByteRange(0, 500), sources=[SOURCE]),
    "zero with a stream": lambda: make_frame(
        FrameKind.ZERO, ByteRange(0, 7), digest=DIGEST, streams=[EXTRA]
    ),
    "zero with a digest": lambda: replace(zero(), digest=DIGEST),
    "zero of nothing": lambda: zero(0),
    "zero too long": lambda: zero(FRAME_TARGET_BYTES_MAX + 1),
    "copy of nothing": copy,
    "copy too long": lambda: copy(ByteRange(0, FRAME_TARGET_BYTES_MAX), ByteRange(0, 1)),
    "copy with an empty source": lambda: copy(SOURCE, ByteRange(0, 0)),
    "copy of too many sources": lambda: copy(*[ByteRange(0, 1)] * (FRAME_SOURCES_MAX + 1)),
    "copy with a stream": lambda: make_frame(
        FrameKind.COPY, ByteRange(0, 500), sources=[SOURCE], digest=DIGEST, streams=[EXTRA]
    ),
    "copy of another size": lambda: make_frame(
        FrameKind.COPY, ByteRange(0, 501), sources=[SOURCE]
    ),
    "data without stream": lambda: make_frame(FrameKind.DATA, ByteRange(0, 7), digest=DIGEST),
    "data with two streams": lambda: make_frame(
        FrameKind.DATA, ByteRange(0, 7), digest=DIGEST, streams=[EXTRA, EXTRA]
    ),
    "data with a source": lambda: make_frame(
        FrameKind.DATA, ByteRange(0, 7), sources=[SOURCE], digest=DIGEST, streams=[EXTRA]
    ),
    "data without digest": lambda: replace(data(EXTRA), digest=None),
    "data of another size": lambda: make_frame(
        FrameKind.DATA, ByteRange(0, 8), digest=DIGEST, streams=[EXTRA]
    ),
    "data of nothing": lambda: data(Stream(Codec.ZSTD, 9, 0)),
    "diff without source": lambda: diff(NUMBERS, VALUES, EXTRA, sources=()),
    "diff without digest": lambda: replace(diff(NUMBERS, VALUES, EXTRA), digest=None),
    "diff of two streams": lambda: diff(NUMBERS, VALUES, EXTRA, EXTRA),
    "diff that reads too much": lambda: diff(
        NUMBERS, VALUES, EXTRA, sources=(ByteRange(0, FRAME_SOURCE_BYTES_MAX), ByteRange(0, 1))
    ),
    "diff of too many numbers": lambda: diff(
        Stream(Codec.ZSTD, 9, NUMBERS_BYTES_MAX + 1), VALUES, EXTRA
    ),
    "diff of less than its bytes": lambda: diff(NUMBERS, VALUES, EXTRA, size=306),
    "diff of nothing": lambda: diff(NUMBERS, Stream(Codec.NONE, 0, 0), Stream(Codec.NONE, 0, 0)),
    "diff too long": lambda: diff(NUMBERS, VALUES, EXTRA, size=FRAME_CODED_TARGET_BYTES_MAX + 1),
    "encoded too long": lambda: diff(
        NUMBERS, Stream(Codec.ZSTD, 9 * MIB, 9), Stream(Codec.ZSTD, 8 * MIB, 9)
    ),
    "encoded of another size": lambda: replace(data(EXTRA), encoded=ByteRange(0, 8)),
    "memory too small": lambda: replace(data(EXTRA), memory_bytes=20),
    "memory too large": lambda: replace(data(EXTRA), memory_bytes=2**64),
    "part of no content": lambda: Part(0, 1, BLOCK),
    "part packed to nothing": lambda: Part(1, 0, BLOCK),
    "plain part of another size": lambda: Part(5, 4),
    "plain part that goes on": lambda: Part(5, 5, ends=False),
    "long part of a block": lambda: Part(5, 5, BLOCK, begins=False),
    "long part of zlib": lambda: Part(
        5, 5, Recipe(Packer.ZLIB, (9, 15, 8, 0), "zlib 1.2.13"), ends=False
    ),
    "long part of a zstd block": lambda: Part(
        5, 5, Recipe(Packer.ZSTD, (3, 0, 0, 0, 0, 0), "libzstd 1.5.4"), ends=False
    ),
    "target of another size": lambda: packed(Part(50, 20, BLOCK), size=21),
    "target of nothing": lambda: packed(Part(50, 0)),
    "parts of less than the content": lambda: replace(
        packed(Part(50, 50), Part(50, 50)), parts=(Part(50, 50),)
    ),
    "outer parts of less than the middle": lambda: packed(
        Part(50, 20, BLOCK), outer=(Part(19, 5, BLOCK),), size=5
    ),
    "too many parts": lambda: packed(*[Part(1, 1)] * (FRAME_PARTS_MAX + 1)),
    "too much content": lambda: packed(Part(FRAME_CODED_TARGET_BYTES_MAX + 1, 1, BLOCK)),
    "too much between the stages": lambda: packed(
        Part(5, FRAME_CODED_TARGET_BYTES_MAX + 1, BLOCK),
        outer=(Part(FRAME_CODED_TARGET_BYTES_MAX + 1, 5, BLOCK),),
    ),
    "two long parts": lambda: packed(
        Part(5, 5, STREAMED, begins=False), Part(5, 5, STREAMED, ends=False)
    ),
    "long part that is packed last": lambda: packed(outer=(Part(5, 5, STREAMED, ends=False),)),
    "zero with parts": lambda: make_frame(FrameKind.ZERO, ByteRange(0, 5), parts=[Part(5, 5)]),
    "zero with outer parts": lambda: make_frame(
        FrameKind.ZERO, ByteRange(0, 5), outer=[Part(5, 5)]
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_frames_are_refused(name: str) -> None:
    with pytest.raises(FormatError):
        IMPOSSIBLE[name]()

"""One frame: what its parts must agree on."""

from dataclasses import replace

import pytest

from slipstream.delta.byterange import ByteRange
from slipstream.delta.codec import Codec, codec_memory_bytes
from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError
from slipstream.delta.frame import Frame, FrameKind, Stream, frame_memory_bytes, make_frame
from slipstream.delta.limits import (
    CONTROL_BYTES_MAX,
    FRAME_CODED_TARGET_BYTES_MAX,
    FRAME_ENCODED_BYTES_MAX,
    FRAME_SOURCE_BYTES_MAX,
    FRAME_SOURCES_MAX,
    FRAME_TARGET_BYTES_MAX,
    MIB,
)

DIGEST = Digest(bytes(32))
SOURCE = ByteRange(4096, 500)
CONTROL = Stream(Codec.BZ2, 40, 48)
DIFF = Stream(Codec.LZMA2, 30, 300)
EXTRA = Stream(Codec.NONE, 7, 7)


def zero(size: int = 4096) -> Frame:
    return make_frame(FrameKind.ZERO, ByteRange(0, size))


def copy(*sources: ByteRange) -> Frame:
    size = sum(source.size for source in sources)
    return make_frame(FrameKind.COPY, ByteRange(0, size), sources=sources)


def data(stream: Stream) -> Frame:
    target = ByteRange(8192, stream.size)
    return make_frame(FrameKind.DATA, target, digest=DIGEST, streams=[stream])


def diff(*streams: Stream, sources: tuple[ByteRange, ...] = (SOURCE,)) -> Frame:
    target = ByteRange(0, streams[1].size + streams[2].size)
    return make_frame(FrameKind.DIFF, target, sources=sources, digest=DIGEST, streams=streams)


def test_what_follows_from_the_parts() -> None:
    frame = diff(CONTROL, DIFF, EXTRA)
    assert frame.target == ByteRange(0, 307)
    assert frame.encoded == ByteRange(0, 77)
    assert frame.source_size == 500
    assert data(DIFF).target == ByteRange(8192, 300)
    assert copy(SOURCE, SOURCE).target.size == 1000
    assert zero().encoded.size == 0


def test_memory_counts_every_buffer_once_and_the_hungriest_codec() -> None:
    frame = diff(CONTROL, DIFF, EXTRA)
    buffers = 307 + 500 + 77 + (48 + 300 + 7)
    assert frame.memory_bytes == buffers + codec_memory_bytes(Codec.BZ2, 48) + 48
    assert zero(5).memory_bytes == 5
    assert copy(SOURCE).memory_bytes == 1000
    assert data(EXTRA).memory_bytes == 7 + 7 + 7
    assert frame_memory_bytes(frame.kind, frame.target, frame.sources, frame.streams) == (
        frame.memory_bytes
    )


def test_frames_at_their_limits() -> None:
    zero(FRAME_TARGET_BYTES_MAX)
    copy(*[ByteRange(0, 1)] * FRAME_SOURCES_MAX)
    data(Stream(Codec.ZSTD, 20, FRAME_CODED_TARGET_BYTES_MAX))
    largest = ByteRange(0, FRAME_SOURCE_BYTES_MAX)
    diff(Stream(Codec.ZSTD, 1, CONTROL_BYTES_MAX), DIFF, EXTRA, sources=(largest,))


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
    "diff without source": lambda: diff(CONTROL, DIFF, EXTRA, sources=()),
    "diff without digest": lambda: replace(diff(CONTROL, DIFF, EXTRA), digest=None),
    "diff of two streams": lambda: diff(CONTROL, DIFF, EXTRA, EXTRA),
    "diff that reads too much": lambda: diff(
        CONTROL, DIFF, EXTRA, sources=(ByteRange(0, FRAME_SOURCE_BYTES_MAX), ByteRange(0, 1))
    ),
    "diff with part of an instruction": lambda: diff(Stream(Codec.ZSTD, 9, 49), DIFF, EXTRA),
    "diff of too many instructions": lambda: diff(
        Stream(Codec.ZSTD, 9, CONTROL_BYTES_MAX + 24), DIFF, EXTRA
    ),
    "diff of nothing": lambda: diff(CONTROL, Stream(Codec.NONE, 0, 0), Stream(Codec.NONE, 0, 0)),
    "diff too long": lambda: diff(CONTROL, Stream(Codec.ZSTD, 9, 5 * MIB), Stream(Codec.ZSTD, 9, 4 * MIB)),
    "encoded too long": lambda: diff(
        CONTROL, Stream(Codec.ZSTD, 9 * MIB, 9), Stream(Codec.ZSTD, 8 * MIB, 9)
    ),
    "encoded of another size": lambda: replace(data(EXTRA), encoded=ByteRange(0, 8)),
    "memory too small": lambda: replace(data(EXTRA), memory_bytes=20),
    "memory too large": lambda: replace(data(EXTRA), memory_bytes=2**64),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_frames_are_refused(name: str) -> None:
    with pytest.raises(FormatError):
        IMPOSSIBLE[name]()

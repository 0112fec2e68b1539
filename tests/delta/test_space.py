"""The space that frames read: every area, every packing, cursors back and forth, and bombs."""

import gzip
import lzma
import random
import tracemalloc
import zlib
from collections.abc import Sequence

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta import space as space_module
from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.limits import (
    BLOCK_CONTENT_BYTES_MAX,
    KIB,
    LONG_STREAM_BYTES_FREE,
    MIB,
    UNPACK_CACHE_BYTES,
    UNPACK_RESTARTS_MAX,
    UNPACK_WORK_FACTOR,
)
from slipstream.delta.space import Space
from slipstream.delta.stream_table import PackedStream, StreamTable, read_streams, write_streams

TARGET = random.Random(2).randbytes(5000)


def text(seed: int, size: int) -> bytes:
    """Compresses to about half."""
    return random.Random(seed).randbytes(size // 2).hex().encode()[:size]


class Images:
    """Source and target in memory, and how much of them was read."""

    def __init__(self, source: bytes, target: bytes = TARGET) -> None:
        self.source, self.target = source, target
        self.read_bytes = 0

    def read_source(self, offset: int, size: int) -> bytes:
        self.read_bytes += size
        return self.source[offset : offset + size]

    def read_target(self, offset: int, size: int) -> bytes:
        return self.target[offset : offset + size]

    def space(self, *streams: PackedStream) -> Space:
        sizes = len(self.source), len(self.target)
        return Space(*sizes, self.table(*streams), self.read_source, self.read_target)

    def table(self, *streams: PackedStream) -> StreamTable:
        rows = bytearray()
        write_streams(rows, streams)
        return read_streams(bytes(rows), 0, len(streams), len(self.source) + len(self.target))[0]


def read(space: Space, *extents: tuple[int, int]) -> bytes:
    return space.read([ByteRange(*extent) for extent in extents])


CONTENT = text(1, 60_000)
BLOCKS = {
    Packing.ZLIB: zlib.compress(CONTENT),
    Packing.XZ: lzma.compress(CONTENT, check=lzma.CHECK_CRC32),
    Packing.ZSTD: zstandard.compress(CONTENT),
    Packing.GZIP: gzip.compress(CONTENT, mtime=0),
    Packing.LZMA_ALONE: lzma.compress(CONTENT, lzma.FORMAT_ALONE),
    Packing.ZSTD_PADDED: bytes(77) + zstandard.compress(CONTENT),
    Packing.DEFLATE: bytes(77) + zlib.compress(CONTENT)[2:-4],
}


@pytest.mark.parametrize("packing", BLOCKS, ids=str)
def test_extents_reach_over_source_target_and_content(packing: Packing) -> None:
    packed = BLOCKS[packing]
    images = Images(packed)
    place = ByteRange(0, len(packed))
    space = images.space(PackedStream(packing, (place,), len(CONTENT)))
    whole = packed + TARGET + CONTENT

    assert read(space, (0, len(whole))) == whole
    assert read(space, (len(packed) - 3, 6), (len(whole) - 9, 9), (5, 1)) == (
        whole[len(packed) - 3 : len(packed) + 3] + whole[-9:] + whole[5:6]
    )
    assert read(space) == b""


def test_what_lies_behind_everything_is_refused() -> None:
    space = Images(b"source").space()
    with pytest.raises(FormatError, match="outside of all streams"):
        read(space, (6 + len(TARGET) - 1, 2))


def test_content_that_only_takes_up_addresses_is_not_read() -> None:
    space = Images(b"source").space(PackedStream(None, (), 100))
    with pytest.raises(FormatError, match="a stream that is not there"):
        read(space, (6 + len(TARGET), 1))


def test_packed_bytes_may_be_scattered_and_nested() -> None:
    """A gzip file of two extents inside a zlib block that stands partly in the target."""
    inner = gzip.compress(CONTENT, mtime=0)
    outer = zlib.compress(inner[5000:] + inner[:5000])
    images = Images(outer[:100], outer[100:])
    base = len(outer)
    cut = base + len(inner) - 5000
    space = images.space(
        PackedStream(Packing.ZLIB, (ByteRange(0, base),), len(inner)),
        PackedStream(
            Packing.GZIP,
            (ByteRange(cut, 5000), ByteRange(base, len(inner) - 5000)),
            len(CONTENT),
        ),
    )
    assert read(space, (base + len(inner) + 7, 900)) == CONTENT[7:907]


def test_blocks_are_unpacked_once_while_they_are_used() -> None:
    count = UNPACK_CACHE_BYTES // BLOCK_CONTENT_BYTES_MAX + 1
    content = bytes(BLOCK_CONTENT_BYTES_MAX)
    packed = zlib.compress(content)
    images = Images(packed)
    stream = PackedStream(Packing.ZLIB, (ByteRange(0, len(packed)),), len(content))
    space = images.space(*[stream] * count)
    base = len(packed) + len(TARGET)
    for number in range(count):
        read(space, (base + number * len(content), 5), (base + number * len(content) + 9, 5))
    assert images.read_bytes == count * len(packed)
    read(space, (base + len(content), 5))  # the second is still there, the first is not
    assert images.read_bytes == count * len(packed)
    read(space, (base, 5))
    assert images.read_bytes == (count + 1) * len(packed)


def test_blocks_that_are_read_over_and_over_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than are kept, read in turns: every read unpacks one again."""
    monkeypatch.setattr(space_module, "UNPACK_WORK_BYTES_FREE", 0)
    count = UNPACK_CACHE_BYTES // BLOCK_CONTENT_BYTES_MAX + 1
    size = BLOCK_CONTENT_BYTES_MAX
    packed = zlib.compress(bytes(size))
    stream = PackedStream(Packing.ZLIB, (ByteRange(0, len(packed)),), size)
    space = Images(packed).space(*[stream] * count)
    base = len(packed) + len(TARGET)

    for _ in range(UNPACK_WORK_FACTOR):
        for number in range(count):
            assert read(space, (base + number * size, 5)) == bytes(5)
    with pytest.raises(FormatError, match="over and over"):
        read(space, (base, 5))


@pytest.mark.parametrize("packing", BLOCKS, ids=str)
@pytest.mark.parametrize("shift", [-1, 1])
def test_blocks_of_another_size_are_refused(packing: Packing, shift: int) -> None:
    packed = BLOCKS[packing]
    stream = PackedStream(packing, (ByteRange(0, len(packed)),), len(CONTENT) + shift)
    with pytest.raises(FormatError):
        read(Images(packed).space(stream), (len(packed) + len(TARGET), 1))


@given(data=st.data(), packing=st.sampled_from(sorted(BLOCKS, key=str)))
@settings(max_examples=150, deadline=None)
def test_hostile_packed_bytes_raise_only_format_errors(
    data: st.DataObject, packing: Packing
) -> None:
    packed = bytearray(BLOCKS[packing])
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(packed) - 1))
        packed[at : at + 4] = data.draw(st.binary(min_size=1, max_size=4))
    size = data.draw(st.sampled_from([1, len(CONTENT), BLOCK_CONTENT_BYTES_MAX]))
    stream = PackedStream(packing, (ByteRange(0, len(packed)),), size)
    try:
        content = read(Images(bytes(packed)).space(stream), (len(packed) + len(TARGET), size))
    except FormatError:
        return
    assert len(content) == size


BOMBS = {
    Packing.ZLIB: zlib.compress(bytes(64 * MIB), 9),
    Packing.XZ: lzma.compress(
        bytes(64 * MIB), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": MIB}]
    ),
    Packing.ZSTD: zstandard.compress(bytes(64 * MIB)),
    Packing.GZIP: gzip.compress(bytes(64 * MIB), mtime=0),
}


@pytest.mark.parametrize("packing", BOMBS, ids=str)
def test_a_block_that_is_a_bomb_keeps_to_the_declared_memory(packing: Packing) -> None:
    packed = BOMBS[packing]
    images = Images(packed)
    stream = PackedStream(packing, (ByteRange(0, len(packed)),), BLOCK_CONTENT_BYTES_MAX)
    space = images.space(stream)
    tracemalloc.start()
    with pytest.raises(FormatError):
        read(space, (len(packed) + len(TARGET), 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < images.table(stream).block_bytes


# --- long streams

LONG = text(3, 3 * MIB)
PACKED = {
    Packing.GZIP: gzip.compress(LONG, 1),
    Packing.XZ: lzma.compress(LONG, preset=0),
    Packing.ZSTD: zstandard.compress(LONG, 1),
}
DECODER_BYTES = 9 * MIB


class LongRig:
    """One long stream in the source."""

    def __init__(
        self,
        packing: Packing,
        packed: bytes | None = None,
        *,
        window_bytes: int = MIB,
        memory_bytes: int = DECODER_BYTES,
        size: int = len(LONG),
    ) -> None:
        packed = PACKED[packing] if packed is None else packed
        self.images = Images(packed)
        self.base = len(packed) + len(TARGET)
        place = ByteRange(0, len(packed))
        self.stream = PackedStream(packing, (place,), size, memory_bytes, window_bytes)
        self.space = self.images.space(self.stream)
        self.passes_bytes = len(packed)

    def read(self, offset: int, size: int) -> bytes:
        return read(self.space, (self.base + offset, size))


@pytest.mark.parametrize("packing", PACKED, ids=str)
def test_a_long_stream_is_unpacked_once_when_it_is_read_forwards(packing: Packing) -> None:
    rig = LongRig(packing)
    generator = random.Random(4)
    position = 0
    while position < len(LONG):
        begin = max(0, position - generator.randrange(MIB))
        size = min(generator.choice([1, 4096, 100_000, MIB]), len(LONG) - begin)
        assert rig.read(begin, size) == LONG[begin : begin + size]
        position = max(position + 1, begin + size)
    assert rig.images.read_bytes <= rig.passes_bytes


@given(
    reads=st.lists(
        st.tuples(st.integers(0, len(LONG) - 1), st.integers(1, MIB)), min_size=1, max_size=6
    ),
    packing=st.sampled_from(sorted(PACKED, key=str)),
    window_bytes=st.sampled_from([1, 100 * KIB, 8 * MIB]),
)
@settings(max_examples=30, deadline=None)
def test_a_long_stream_may_be_read_anywhere(
    reads: Sequence[tuple[int, int]], packing: Packing, window_bytes: int
) -> None:
    rig = LongRig(packing, window_bytes=window_bytes)
    for offset, size in reads:
        size = min(size, len(LONG) - offset)
        assert rig.read(offset, size) == LONG[offset : offset + size]


def test_within_its_window_a_stream_is_not_begun_with_again() -> None:
    rig = LongRig(Packing.GZIP, window_bytes=2 * MIB)
    rig.read(5 * MIB // 2, 1)
    for offset in range(5 * MIB // 2, MIB, -100_000):
        assert rig.read(offset, 5) == LONG[offset : offset + 5]
    assert rig.images.read_bytes <= rig.passes_bytes
    before = rig.images.read_bytes
    assert rig.read(0, 5) == LONG[:5]
    assert rig.images.read_bytes > before


def test_a_stream_that_is_read_back_and_forth_is_given_up() -> None:
    rig = LongRig(Packing.GZIP, window_bytes=1)
    for _ in range(UNPACK_RESTARTS_MAX):
        rig.read(2 * MIB, 1)
        rig.read(0, 1)
    rig.read(2 * MIB, 1)
    with pytest.raises(FormatError, match="back and forth"):
        rig.read(0, 1)


def test_cursors_that_are_not_kept_begin_again_and_hold_nothing() -> None:
    rig = LongRig(Packing.GZIP)
    rig.read(2 * MIB, 1)
    rig.space.keep_cursors({0})
    rig.read(2 * MIB, 1)
    assert rig.images.read_bytes <= rig.passes_bytes
    rig.space.keep_cursors(set())
    assert rig.read(2 * MIB, 1) == LONG[2 * MIB : 2 * MIB + 1]
    assert rig.images.read_bytes > rig.passes_bytes


@pytest.mark.parametrize("packing", PACKED, ids=str)
@pytest.mark.parametrize("kept", [1, 100, MIB])
def test_a_long_stream_that_is_cut_short_is_refused(packing: Packing, kept: int) -> None:
    cut = PACKED[packing][:kept]
    with pytest.raises(FormatError):
        LongRig(packing, cut).read(len(LONG) - 1, 1)


@pytest.mark.parametrize("packing", PACKED, ids=str)
def test_a_long_stream_with_less_content_than_it_says_is_refused(packing: Packing) -> None:
    rig = LongRig(packing, PACKED[packing] + bytes(100_000), size=len(LONG) + 1)
    assert rig.read(len(LONG) - 5, 5) == LONG[-5:]
    with pytest.raises(FormatError, match="ends early"):
        rig.read(len(LONG) - 5, 6)


@pytest.mark.parametrize("packing", [Packing.XZ, Packing.ZSTD], ids=str)
def test_a_decoder_that_wants_more_than_was_declared_is_refused(packing: Packing) -> None:
    window_log = 24
    sliding = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << window_log}]
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=window_log)
    encoder = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    greedy = {
        Packing.XZ: lzma.compress(LONG, filters=sliding),
        Packing.ZSTD: encoder.compress(LONG) + encoder.flush(),
    }[packing]
    assert LongRig(packing, greedy, memory_bytes=20 * MIB).read(0, 5) == LONG[:5]
    with pytest.raises(FormatError):
        LongRig(packing, greedy, memory_bytes=4 * MIB).read(0, 5)


@pytest.mark.parametrize("packing", PACKED, ids=str)
def test_a_long_stream_that_is_a_bomb_keeps_to_the_declared_memory(
    monkeypatch: pytest.MonkeyPatch, packing: Packing
) -> None:
    monkeypatch.setattr(space_module, "LONG_STREAM_BYTES_FREE", 64 * MIB)
    decoder_bytes = 3 * MIB
    rig = LongRig(packing, BOMBS[packing], size=64 * MIB, memory_bytes=decoder_bytes)
    tracemalloc.start()
    for offset in range(0, 64 * MIB, MIB):
        assert not any(rig.read(offset, 50_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < rig.stream.cursor_bytes + 2 * 50_000
    assert peak > rig.stream.window_bytes


@pytest.mark.parametrize("packing", PACKED, ids=str)
def test_a_long_stream_that_is_a_bomb_is_given_up(packing: Packing) -> None:
    rig = LongRig(packing, BOMBS[packing], size=64 * MIB)
    free = LONG_STREAM_BYTES_FREE - MIB
    assert not any(rig.read(free, 50_000))  # so much a stream may begin with
    with pytest.raises(FormatError, match="impossibly much"):
        rig.read(63 * MIB, 1)


def test_long_streams_that_are_small_bombs_together_are_given_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The same packed bytes as many streams, and begun with again: work is bounded by the images."""
    monkeypatch.setattr(space_module, "UNPACK_WORK_BYTES_FREE", 0)
    monkeypatch.setattr(space_module, "UNPACK_WORK_FACTOR", 1)
    size = LONG_STREAM_BYTES_FREE
    packed = BOMBS[Packing.GZIP][: 40 * KIB]
    stream = PackedStream(Packing.GZIP, (ByteRange(0, len(packed)),), size, DECODER_BYTES, 1)
    space = Images(packed).space(*[stream] * 2)
    base = len(packed) + len(TARGET)
    for number in range(2):
        assert read(space, (base + number * size + size - 1, 1)) == b"\0"
    with pytest.raises(FormatError, match="impossibly much"):
        read(space, (base, 1))


def test_a_read_longer_than_the_window_holds_its_bytes_twice_and_no_more() -> None:
    rig = LongRig(Packing.GZIP, window_bytes=1)
    tracemalloc.start()
    assert rig.read(MIB, 2 * MIB) == LONG[MIB:]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2 * 2 * MIB + 2 * MIB  # the expected bytes are a copy too

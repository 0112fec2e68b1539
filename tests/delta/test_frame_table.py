"""The packed table: round trips, sequence manners, and rows no writer makes."""

import random
import tracemalloc
from bisect import bisect_right
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.byterange import ByteRange
from slipstream.delta.codec import Codec
from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.frame import (
    Frame,
    FrameKind,
    Part,
    Stream,
    content_size,
    make_frame,
    packed_size,
)
from slipstream.delta.frame_table import TableSums, read_table, write_table
from slipstream.delta.limits import (
    EARLY_BYTES_MAX,
    FRAME_PARTS_MAX,
    FRAME_SOURCES_MAX,
    HELD_BYTES_MAX,
    IMAGE_BYTES_MAX,
    KIB,
    MIB,
    RESUME_BYTES,
)
from slipstream.delta.packing.recipe import (
    Packer,
    Recipe,
    decoder_memory_bytes,
    pack_memory_bytes,
)
from slipstream.delta.stream_table import (
    PackedStream,
    StreamTable,
    read_streams,
    write_streams,
)

SOURCE_SIZE = 1 << 40
NO_STREAMS = StreamTable(b"", SOURCE_SIZE)


def random_frames(count: int, seed: int) -> list[Frame]:
    generator = random.Random(seed)
    frames: list[Frame] = []
    target = encoded = 0
    for _ in range(count):
        kind = generator.choice(list(FrameKind))
        sources: list[ByteRange] = []
        streams: list[Stream] = []
        if kind in {FrameKind.COPY, FrameKind.DIFF, FrameKind.PREFIX}:
            for _ in range(generator.choice([1, 1, 2, 9])):
                place = generator.choice([target % 1000, generator.randrange(1 << 39)])
                sources.append(ByteRange(place, generator.randint(1, 9000)))
        if kind is FrameKind.DATA:
            streams = [random_stream(generator, generator.randint(1, 70000))]
        if kind is FrameKind.PREFIX:
            size = generator.randint(1, 70000)
            streams = [Stream(Codec.LZMA2_PREFIX, generator.randint(1, 5000), size)]
        if kind is FrameKind.DIFF:
            streams = [random_stream(generator, generator.randint(1, 500))]
            streams += [random_stream(generator, generator.randint(1, 300)) for _ in range(2)]
        size = {
            FrameKind.ZERO: generator.choice([1, 127, 128, 4096, 1 << 20]),
            FrameKind.COPY: sum(source.size for source in sources),
            FrameKind.DATA: sum(stream.size for stream in streams),
            FrameKind.PREFIX: sum(stream.size for stream in streams),
            FrameKind.DIFF: sum(stream.size for stream in streams[1:]) + target % 77,
        }[kind]
        frame = make_frame(
            kind,
            ByteRange(target, size),
            sources=sources,
            encoded_offset=encoded,
            digest=Digest(generator.randbytes(32)) if streams else None,
            streams=streams,
        )
        frames.append(frame)
        target, encoded = frame.target.end, frame.encoded.end
    return frames


def random_stream(generator: random.Random, size: int) -> Stream:
    codec = generator.choice([codec for codec in Codec if codec is not Codec.LZMA2_PREFIX])
    return Stream(codec, size if codec is Codec.NONE else generator.randint(1, 5000), size)


@pytest.mark.parametrize("count", [0, 1, 2, 64, 65, 300, 1000])
def test_round_trip_and_sequence_manners(count: int) -> None:
    frames = random_frames(count, seed=count)
    table, sums = read_table(*write_table(frames), count, NO_STREAMS)
    assert list(table) == frames
    assert len(table) == count
    assert tuple(reversed(table)) == tuple(reversed(frames))
    assert table[:] == tuple(frames)
    assert table[1:-1:2] == tuple(frames[1:-1:2])
    assert table[count:] == ()
    for row in random.Random(1).sample(range(count), min(count, 20)):
        assert table[row] == frames[row]
        assert table[row - count] == frames[row]
        middle = frames[row].target.offset + frames[row].target.size // 2
        assert bisect_right(table, middle, key=lambda frame: frame.target.offset) == row + 1
    for beyond in (count, -count - 1, 2**70):
        with pytest.raises(IndexError):
            table[beyond]
    assert sums.target_size == (frames[-1].target.end if frames else 0)
    assert sums.body_size == (frames[-1].encoded.end if frames else 0)
    assert sums.memory_bytes == max((frame.memory_bytes for frame in frames), default=0)


@given(seed=st.integers(0, 2**32), count=st.integers(0, 80))
@settings(max_examples=60, deadline=None)
def test_any_frames_round_trip(seed: int, count: int) -> None:
    frames = random_frames(count, seed)
    rows, digests = write_table(frames)
    table, _ = read_table(rows, digests, count, NO_STREAMS)
    assert list(table) == frames
    assert write_table(table) == (rows, digests)


@given(rows=st.binary(max_size=60), digests=st.integers(0, 3), count=st.integers(0, 9))
@settings(max_examples=500, deadline=None)
def test_hostile_rows_are_refused_or_are_the_only_spelling(
    rows: bytes, digests: int, count: int
) -> None:
    try:
        table, _ = read_table(rows, bytes(32 * digests), count, NO_STREAMS)
    except FormatError:
        return
    assert write_table(table) == (rows, bytes(32 * digests))


def test_a_table_of_many_frames_stays_packed() -> None:
    """A frame as a value takes a kilobyte; the table keeps a row's bytes and a mark per 1024 of them."""
    rows, digests = write_table(random_frames(2000, seed=1))
    tracemalloc.start()
    table, _ = read_table(rows, digests, 2000, NO_STREAMS)
    for _ in table:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2000 * 120


# --- rows by hand


def number(value: int) -> bytes:
    """As many 7-bit groups as it takes: also for lengths that no reader accepts."""
    groups = [value >> shift & 0x7F for shift in range(0, max(1, value.bit_length()), 7)]
    return bytes([group | 0x80 for group in groups[:-1]] + groups[-1:])


ZERO, COPY, DATA, DIFF, PREFIX = (bytes([kind]) for kind in FrameKind)
RAW = bytes([Codec.NONE])
EXTENT = number(0) + number(500)
HUGE = [2**44 + 1, 2**49 - 1, 2**49, 2**63, 2**64 - 1, 2**200]

GOOD = {
    "zero": (ZERO + number(4096), 0),
    "copy": (COPY + number(2) + EXTENT + number(999) + number(7), 0),
    "data": (DATA + RAW + number(5) + number(5), 1),
    "diff": (DIFF + number(1) + EXTENT + (RAW + number(24) + number(24)) * 3 + number(48), 1),
}

BAD = {
    "unknown kind": b"\4" + number(1),
    "kind of all bits": b"\xff" + number(1),
    "unknown codec": DATA + b"\5" + number(5) + number(5),
    "zero of nothing": ZERO + number(0),
    "number in two bytes for one": ZERO + b"\x85\x00",
    "number in seven bytes for one": ZERO + b"\x85" + b"\x80" * 5 + b"\x00",
    "number that never ends": ZERO + b"\x80" * 40,
    "no source": COPY + number(0),
    "too many sources": COPY + number(FRAME_SOURCES_MAX + 1) + EXTENT * (FRAME_SOURCES_MAX + 1),
    "huge source count": COPY + number(2**48) + EXTENT,
    "empty source": COPY + number(2) + EXTENT + number(0) + number(0),
    "source before the source": COPY + number(1) + number(1) + number(5),
    "second source before the source": COPY + number(2) + EXTENT + number(2 * 501 - 1) + number(5),
    "source past its end": COPY + number(1) + number(2 * SOURCE_SIZE) + number(1),
    "source that ends past its end": COPY + number(1) + number(2 * SOURCE_SIZE - 2) + number(2),
    "source past all sizes": COPY + number(1) + number(2 * IMAGE_BYTES_MAX) + number(1),
    "uncompressed with two lengths": DATA + RAW + number(5) + number(6),
    "diff of less than its bytes": DIFF
    + number(1)
    + EXTENT
    + (RAW + number(24) * 2) * 3
    + number(47),
    **{
        f"diff of {huge}": DIFF + number(1) + EXTENT + (RAW + number(24) * 2) * 3 + number(huge)
        for huge in HUGE
    },
    **{f"zero of {huge}": ZERO + number(huge) for huge in HUGE},
    **{f"copy of {huge}": COPY + number(1) + number(0) + number(huge) for huge in HUGE},
    **{f"source at {huge}": COPY + number(1) + number(2 * huge) + number(1) for huge in HUGE},
    **{f"encoded {huge}": DATA + b"\1" + number(huge) + number(5) for huge in HUGE},
    **{f"decoded {huge}": DATA + b"\1" + number(5) + number(huge) for huge in HUGE},
    "too long by one": ZERO + number((8 << 20) + 1),
}


@pytest.mark.parametrize("name", GOOD)
def test_rows_made_by_hand_are_good(name: str) -> None:
    rows, digests = GOOD[name]
    table, _ = read_table(rows, bytes(32 * digests), 1, NO_STREAMS)
    assert write_table(table) == (rows, bytes(32 * digests))


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
def test_rows_that_no_writer_makes_are_refused(name: str, first: bool) -> None:
    rows = BAD[name] if first else ZERO + number(1) + BAD[name]
    with pytest.raises(FormatError):
        read_table(rows, bytes(32), 1 if first else 2, NO_STREAMS)
    # Whatever the number of digests: it is the row that is refused.
    with pytest.raises(FormatError):
        read_table(rows, b"", 1 if first else 2, NO_STREAMS)


@pytest.mark.parametrize("name", ["too many sources", "huge source count"])
def test_the_source_count_is_refused_before_the_extents_are_read(name: str) -> None:
    with pytest.raises(FormatError, match="too many source extents"):
        read_table(BAD[name], b"", 1, NO_STREAMS)


@pytest.mark.parametrize("name", GOOD)
def test_rows_cut_short_at_every_byte_are_refused(name: str) -> None:
    rows, digests = GOOD[name]
    for size in range(len(rows)):
        with pytest.raises(FormatError):
            read_table(rows[:size], bytes(32 * digests), 1, NO_STREAMS)


@pytest.mark.parametrize("name", GOOD)
def test_rows_and_digests_are_used_up(name: str) -> None:
    rows, digests = GOOD[name]
    for count in (0, 2, 2**20, 2**32 - 1):
        with pytest.raises(FormatError):
            read_table(rows, bytes(32 * digests), count, NO_STREAMS)
    with pytest.raises(FormatError, match="behind its last row"):
        read_table(rows + b"\0", bytes(32 * digests), 1, NO_STREAMS)
    for other in (digests + 1, digests - 1):
        with pytest.raises(FormatError):
            read_table(rows, bytes(32 * max(0, other) + (other < 0)), 1, NO_STREAMS)


def test_targets_past_all_sizes_are_refused() -> None:
    """2^21 frames of 8 MiB would make 16 TiB: the sum is checked, not only the parts."""
    encoded = make_frame(FrameKind.ZERO, ByteRange(IMAGE_BYTES_MAX - 5, 5))
    assert encoded.target.end == IMAGE_BYTES_MAX
    with pytest.raises(FormatError, match="out of bounds"):
        make_frame(FrameKind.ZERO, ByteRange(IMAGE_BYTES_MAX - 5, 6))


def test_a_source_may_end_with_the_space() -> None:
    rows = COPY + number(1) + number(0) + number(500)
    read_table(rows, b"", 1, StreamTable(b"", 500))
    with pytest.raises(FormatError, match="past the end of the space"):
        read_table(rows, b"", 1, StreamTable(b"", 499))


def frame_at(target: int, encoded: int = 0) -> Frame:
    stream = Stream(Codec.NONE, 10, 10)
    return make_frame(
        FrameKind.DATA,
        ByteRange(target, 10),
        encoded_offset=encoded,
        digest=Digest(bytes(32)),
        streams=[stream],
    )


@pytest.mark.parametrize(
    "frames",
    [
        [frame_at(10)],
        [frame_at(0, 5)],
        [frame_at(0), frame_at(11, 10)],
        [frame_at(0), frame_at(9, 10)],
        [frame_at(0), frame_at(0, 10)],
        [frame_at(10, 10), frame_at(0, 0)],
        [frame_at(0), frame_at(10, 0)],
        [frame_at(0), frame_at(10, 9)],
        [frame_at(0), frame_at(10, 11)],
    ],
    ids=["late", "late body", "gap", "overlap", "twice", "order", "same body", "overlap", "hole"],
)
def test_frames_that_do_not_follow_one_another_are_not_written(frames: list[Frame]) -> None:
    with pytest.raises(FormatError, match="does not follow"):
        write_table(frames)


# --- parts

BLOCK = Recipe(Packer.LZ4, (0,), "liblz4 1.9.4")
GZIP = Recipe(Packer.GZIP_GNU, (6,), "gzip 1.12")
XZ = Recipe(Packer.XZ, (6, 0, 8 * MIB, 4, 0, 0, 0), "liblzma 5.4.1")
RECIPES = (BLOCK, GZIP, XZ)


def packed(
    *parts: Part, outer: tuple[Part, ...] = (), sources: tuple[ByteRange, ...] = ()
) -> Frame:
    """A data frame, or a copy of sources, with its place still to be set."""
    content = content_size(parts, content_size(outer, 0))
    return make_frame(
        FrameKind.COPY if sources else FrameKind.DATA,
        ByteRange(0, packed_size(outer, packed_size(parts, content))),
        sources=sources,
        digest=None if sources else Digest(bytes(32)),
        streams=[] if sources else [Stream(Codec.ZSTD, 9, content)],
        parts=parts,
        outer=outer,
    )


def plain(size: int = 1000, sources: tuple[ByteRange, ...] = ()) -> Frame:
    return packed(Part(size, size), sources=sources)


def long(recipe: Recipe, *, begins: bool = False, ends: bool = False) -> Frame:
    return packed(Part(5000, 900, recipe, begins, ends))


def placed(*frames: Frame) -> list[Frame]:
    """The frames one behind the other."""
    found: list[Frame] = []
    target = encoded = 0
    for frame in frames:
        place = ByteRange(target, frame.target.size), ByteRange(encoded, frame.encoded.size)
        found.append(replace(frame, target=place[0], encoded=place[1]))
        target, encoded = place[0].end, place[1].end
    return found


def read_again(*frames: Frame, streams: StreamTable = NO_STREAMS) -> tuple[list[Frame], TableSums]:
    held = placed(*frames)
    table, sums = read_table(*write_table(held, RECIPES), len(held), streams, recipes=RECIPES)
    assert list(table) == held
    assert write_table(table, RECIPES) == write_table(held, RECIPES)
    return held, sums


def test_frames_with_parts_round_trip() -> None:
    whole = (Part(100, 100), Part(4096, 700, BLOCK), Part(64, 0), Part(9000, 2000, XZ))
    _, sums = read_again(
        plain(),
        packed(*whole),
        packed(*whole, outer=(Part(2000, 333, BLOCK), Part(800, 800))),
        packed(outer=(Part(2000, 333, BLOCK), Part(5, 0))),
        packed(Part(500, 90, GZIP), sources=(ByteRange(7, 500),)),
        long(GZIP, begins=True),
        plain(),
        long(GZIP),
        packed(Part(3, 3), Part(9, 4, GZIP, begins=False), Part(64, 9, BLOCK)),
        long(XZ, begins=True),
        long(XZ, ends=True),
    )
    assert sums.target_size == 1000 + 2800 + 1133 + 333 + 90 + 4 * 900 + 1000 + 16


PARTS_BEFORE = bytes([FrameKind.DATA | 0x80]) + b"\1" + number(9) + number(5000)
HAND_MADE = {
    "plain": number(1) + number(0) + number(5000),
    "packed": number(1) + number(1 << 2 | 3) + number(5000) + number(7),
    "dropped": number(2) + number(0) + number(4999) + number(1) + number(1),
}
BAD_PARTS = {
    "no parts": number(0),
    "too many parts": number(FRAME_PARTS_MAX + 1) + (number(0) + number(1)) * 5000,
    "huge count": number(2**48),
    "no such recipe": number(1) + number(4 << 2 | 3) + number(5000) + number(7),
    "huge recipe": number(1) + number(2**48 | 3) + number(5000) + number(7),
    "unknown kind": number(1) + number(2) + number(5000),
    "less than the content": number(1) + number(0) + number(4999),
    "more than the content": number(1) + number(0) + number(5001),
    "empty part": number(2) + number(0) + number(0) + number(0) + number(5000),
    "packed to nothing": number(1) + number(1 << 2 | 3) + number(5000) + number(0),
    "packed to too much": number(1) + number(1 << 2 | 3) + number(5000) + number(8 * MIB + 1),
    "all dropped": number(1) + number(1) + number(5000),
    "long part of a block": number(1) + number(1 << 2 | 1) + number(5000) + number(7),
    **{f"content of {huge}": number(1) + number(0) + number(huge) for huge in HUGE},
    **{
        f"packed to {huge}": number(1) + number(1 << 2 | 3) + number(5000) + number(huge)
        for huge in HUGE
    },
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_parts_made_by_hand_are_good(name: str) -> None:
    rows = PARTS_BEFORE + HAND_MADE[name]
    table, _ = read_table(rows, bytes(32), 1, NO_STREAMS, recipes=RECIPES)
    assert write_table(table, RECIPES) == (rows, bytes(32))
    for size in range(len(rows)):
        with pytest.raises(FormatError):
            read_table(rows[:size], bytes(32), 1, NO_STREAMS, recipes=RECIPES)


@pytest.mark.parametrize("name", BAD_PARTS)
def test_parts_that_no_writer_makes_are_refused(name: str) -> None:
    with pytest.raises(FormatError):
        read_table(PARTS_BEFORE + BAD_PARTS[name], bytes(32), 1, NO_STREAMS, recipes=RECIPES)


@pytest.mark.parametrize("flags", [0x80, 0x40, 0xC0])
def test_a_zero_frame_has_no_parts(flags: int) -> None:
    rows = bytes([FrameKind.ZERO | flags]) + number(5) + (number(1) + number(0) + number(5)) * 2
    for size in range(len(rows) + 1):
        with pytest.raises(FormatError):
            read_table(rows[:size], b"", 1, NO_STREAMS, recipes=RECIPES)


@given(rows=st.binary(max_size=60), count=st.integers(0, 4))
@settings(max_examples=500, deadline=None)
def test_hostile_parts_are_refused_or_are_the_only_spelling(rows: bytes, count: int) -> None:
    rows = PARTS_BEFORE + rows
    try:
        table, _ = read_table(rows, bytes(32), count, NO_STREAMS, recipes=RECIPES)
    except FormatError:
        return
    assert write_table(table, RECIPES) == (rows, bytes(32))


WRONG_ORDER = {
    "without a beginning": (long(GZIP), long(GZIP, ends=True)),
    "without an end": (long(GZIP, begins=True), long(GZIP)),
    "begun twice": (long(GZIP, begins=True), long(GZIP, begins=True), long(GZIP, ends=True)),
    "ended twice": (long(GZIP, begins=True), long(GZIP, ends=True), long(GZIP, ends=True)),
    "one inside another": (
        long(GZIP, begins=True),
        long(XZ, begins=True),
        long(XZ, ends=True),
        long(GZIP, ends=True),
    ),
    "of two recipes": (long(GZIP, begins=True), long(XZ, ends=True)),
}


@pytest.mark.parametrize("name", WRONG_ORDER)
def test_long_streams_out_of_order_are_refused(name: str) -> None:
    with pytest.raises(FormatError, match="long stream"):
        read_again(*WRONG_ORDER[name])
    with pytest.raises(FormatError, match="long stream"):
        read_again(plain(), *WRONG_ORDER[name], plain())


def test_a_long_stream_of_impossibly_much_content_is_refused() -> None:
    """Packing it again would take an age, for a byte of target each."""
    part = Part(8 * MIB, 1, GZIP, ends=False)
    more = replace(part, begins=False)
    last = Part(MIB, 1, GZIP, begins=False)
    read_again(packed(part), packed(more), packed(replace(last, size=190)))
    with pytest.raises(FormatError, match="impossibly much content"):
        read_again(packed(part), packed(more), packed(last))
    enough = replace(more, packed_size=MIB // 64)
    read_again(packed(part), packed(enough), packed(last))


# --- memory of the whole


def streams_of(*streams: PackedStream) -> StreamTable:
    rows = bytearray()
    write_streams(rows, streams)
    return read_streams(bytes(rows), 0, len(streams), SOURCE_SIZE)[0]


def cursor(memory_bytes: int, *sources: ByteRange) -> PackedStream:
    place = sources or (ByteRange(0, 500),)
    return PackedStream(Packing.XZ, place, 2 * MIB, memory_bytes, MIB)


def test_a_cursor_counts_while_it_is_alive() -> None:
    """From the first frame that reads it to the last: whatever stands before and behind."""
    streams = streams_of(cursor(30 * MIB))
    reading = plain(1000, (ByteRange(SOURCE_SIZE + 7, 1000),))
    small, large = plain(), plain(4 * MIB)
    alone = reading.memory_bytes + streams[0].cursor_bytes
    between = large.memory_bytes + streams[0].cursor_bytes

    assert read_again(small, reading, large, streams=streams)[1].memory_bytes == alone
    assert read_again(large, reading, streams=streams)[1].memory_bytes == alone
    _, sums = read_again(small, reading, large, reading, small, streams=streams)
    assert sums.memory_bytes == between
    assert sums.last_reads == {0: 3}
    assert read_again(small, large, streams=streams)[1].last_reads == {}


def test_cursors_that_are_alive_together_count_together() -> None:
    streams = streams_of(cursor(30 * MIB), cursor(40 * MIB))
    first, second = (
        plain(10, (ByteRange(streams.content(number).offset, 10),)) for number in range(2)
    )
    one, two = (streams[number].cursor_bytes for number in range(2))
    base = first.memory_bytes

    assert read_again(first, second, streams=streams)[1].memory_bytes == base + two
    assert read_again(first, second, first, streams=streams)[1].memory_bytes == base + one + two
    _, sums = read_again(first, first, second, second, streams=streams)
    assert (sums.memory_bytes, sums.last_reads) == (base + two, {0: 1, 1: 3})


def test_a_cursor_that_another_stream_is_read_from_counts_too() -> None:
    outer = cursor(30 * MIB)
    inner = cursor(5 * MIB, ByteRange(SOURCE_SIZE + 100, 900))
    streams = streams_of(outer, inner)
    frame = plain(10, (ByteRange(streams.content(1).offset, 10),))
    _, sums = read_again(frame, plain(), frame, streams=streams)

    assert sums.last_reads == {0: 2, 1: 2}
    assert sums.memory_bytes == (plain().memory_bytes + outer.cursor_bytes + inner.cursor_bytes)


def test_blocks_count_while_any_is_read() -> None:
    block = PackedStream(Packing.ZLIB, (ByteRange(0, 500),), 4096)
    streams = streams_of(block)
    assert read_again(plain(), streams=streams)[1].memory_bytes == (
        plain().memory_bytes + streams.block_bytes
    )


def test_an_encoder_counts_as_long_as_its_stream_goes_on() -> None:
    encoder = pack_memory_bytes(XZ, 0)
    begin, end = long(XZ, begins=True), long(XZ, ends=True)
    assert begin.memory_bytes > encoder
    between = plain(2 * MIB)

    assert read_again(between, begin, end)[1].memory_bytes == resumed(end)
    waiting = between.target.size
    _, sums = read_again(begin, between, end)
    assert sums.memory_bytes == between.memory_bytes + encoder + waiting + EARLY_BYTES_MAX
    _, sums = read_again(begin, *[between] * 9, end)
    assert sums.memory_bytes == (between.memory_bytes + encoder + HELD_BYTES_MAX + EARLY_BYTES_MAX)
    _, sums = read_again(begin, end, between)
    assert sums.memory_bytes == max(resumed(end), between.memory_bytes)


def resumed(frame: Frame, *, outer: int = 0) -> int:
    """What beginning with a frame of 5000 bytes that go on with XZ holds."""
    coders = pack_memory_bytes(XZ, 0) + decoder_memory_bytes(XZ)
    held = frame.content_size + 900 + frame.encoded.size + coders + RESUME_BYTES
    return held + outer + EARLY_BYTES_MAX


def test_the_decoder_of_a_stream_that_is_resumed_counts() -> None:
    begin, end = long(XZ, begins=True), long(XZ, ends=True)
    assert read_again(begin, end)[1].memory_bytes == resumed(end)
    # The blocks that it stands in are unpacked for it.
    begin = packed(Part(5000, 900, XZ, ends=False), outer=(Part(900, 700, BLOCK),))
    end = packed(Part(5000, 900, XZ, begins=False), outer=(Part(900, 100, BLOCK),))
    unpacking = 2 * 700 + 4 * 900 + 256 * KIB
    assert read_again(begin, end)[1].memory_bytes == resumed(end, outer=unpacking)
    # Where blocks wait for it, a device does not begin.
    begin = packed(Part(5000, 100, XZ, ends=False), outer=(Part(900, 700, BLOCK),))
    end = make_frame(
        FrameKind.DATA,
        ByteRange(0, 0),
        digest=end.digest,
        streams=end.streams,
        parts=(Part(5000, 800, XZ, begins=False),),
        owed=800,
    )
    _, sums = read_again(begin, end)
    waiting = max(begin.memory_bytes, end.memory_bytes + 800)
    assert sums.memory_bytes == waiting + EARLY_BYTES_MAX

"""The table of streams: round trips, nesting, and rows no writer makes."""

import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.btf import BtfShifts, MovedBtf, Shifts
from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.limits import (
    BLOCK_CONTENT_BYTES_MAX,
    IMAGE_BYTES_MAX,
    KIB,
    LONG_STREAMS_MAX,
    MIB,
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
from slipstream.delta.stream_table import (
    PACKINGS,
    STREAMED,
    PackedStream,
    StreamTable,
    read_streams,
    write_streams,
)

BASE = 10_000_000


def block(*sources: ByteRange, size: int = 4096, packing: Packing = Packing.ZLIB) -> PackedStream:
    return PackedStream(packing, sources or (ByteRange(100, 50),), size)


def long(*sources: ByteRange, size: int = 5 * MIB) -> PackedStream:
    return PackedStream(Packing.XZ, sources or (ByteRange(0, 2 * MIB),), size, 3 * MIB, MIB)


def gap(size: int = 1000) -> PackedStream:
    return PackedStream(None, (), size)


def table_of(*streams: PackedStream, base: int = BASE) -> StreamTable:
    rows = bytearray(b"before")
    write_streams(rows, streams)
    table, position = read_streams(bytes(rows), 6, len(streams), base)
    assert position == len(rows)
    return table


def test_streams_keep_their_order_and_addresses() -> None:
    streams = [block(), gap(7), long(), block(packing=Packing.LZ4_PADDED)]
    table = table_of(*streams)

    assert [table[number] for number in range(len(table))] == streams
    contents = [table.content(number) for number in range(len(table))]
    assert contents[0].offset == table.base == BASE
    assert all(before.end == after.offset for before, after in pairwise(contents))
    assert [content.size for content in contents] == [4096, 7, 5 * MIB, 4096]
    assert contents[-1].end == table.end
    assert table.long == [2]
    for number, content in enumerate(contents):
        assert table.at(content.offset) == table.at(content.end - 1) == number
    for outside in (BASE - 1, table.end, 0, IMAGE_BYTES_MAX):
        with pytest.raises(FormatError, match="outside of all streams"):
            table.at(outside)


def test_no_streams_end_where_they_begin() -> None:
    table = table_of()
    assert (len(table), table.base, table.end, table.block_bytes) == (0, BASE, BASE, 0)
    assert table.long_read_by([ByteRange(0, BASE)]) == set()


@pytest.mark.parametrize("packing", [one for one in PACKINGS if one is not None])
def test_every_packing_has_its_number(packing: Packing) -> None:
    assert table_of(block(packing=packing))[0].packing is packing


@given(seed=st.integers(0, 2**32), count=st.integers(0, 40))
@settings(max_examples=60, deadline=None)
def test_any_streams_round_trip(seed: int, count: int) -> None:
    generator = random.Random(seed)
    streams = []
    for _ in range(count):
        sources = [
            ByteRange(generator.randrange(BASE - 9000), generator.randint(1, 9000))
            for _ in range(generator.randint(1, 3))
        ]
        match generator.randrange(3):
            case 0:
                streams.append(gap(generator.randint(1, 1 << 30)))
            case 1:
                packing = generator.choice([one for one in PACKINGS if one is not None])
                streams.append(block(*sources, size=generator.randint(1, MIB), packing=packing))
            case _:
                size = generator.randint(BLOCK_CONTENT_BYTES_MAX + 1, 1 << 36)
                packing = generator.choice(sorted(STREAMED, key=str))
                streams.append(PackedStream(packing, tuple(sources), size, 1, 0))
    table = table_of(*streams)
    assert [table[number] for number in range(count)] == streams


@given(rows=st.binary(max_size=60), count=st.integers(0, 6))
@settings(max_examples=500, deadline=None)
def test_hostile_rows_are_refused_or_are_the_only_spelling(rows: bytes, count: int) -> None:
    try:
        table, position = read_streams(rows, 0, count, BASE)
    except FormatError:
        return
    written = bytearray()
    write_streams(written, [table[number] for number in range(count)])
    assert written == rows[:position]


# --- what streams read


def test_a_stream_reads_only_what_stands_before_its_own_content() -> None:
    table_of(block(ByteRange(BASE - 50, 50)))
    table_of(block(), block(ByteRange(BASE, 4096)))
    for streams in (
        [block(ByteRange(BASE - 49, 50))],
        [block(ByteRange(BASE, 10))],
        [block(), block(ByteRange(BASE, 4097))],
        [block(ByteRange(BASE + 4096, 50)), block(ByteRange(BASE, 50))],
        [long(ByteRange(BASE, 50))],
    ):
        with pytest.raises(FormatError, match="past its own beginning"):
            table_of(*streams)


def nested(depth: int) -> list[PackedStream]:
    streams = [block()]
    while len(streams) < depth:
        streams.append(block(ByteRange(BASE + 4096 * (len(streams) - 1), 4000)))
    return streams


def test_streams_nest_no_deeper_than_the_limit() -> None:
    table_of(*nested(STREAM_DEPTH_MAX))
    with pytest.raises(FormatError, match="nested too deep"):
        table_of(*nested(STREAM_DEPTH_MAX + 1))


def test_an_extent_over_many_streams_is_as_deep_as_the_deepest_of_them() -> None:
    deep = nested(STREAM_DEPTH_MAX)
    everything = ByteRange(BASE, 4096 * (len(deep) + 3))
    with pytest.raises(FormatError, match="nested too deep"):
        table_of(*deep, block(), block(), gap(4096), block(everything))
    table_of(*deep, block(), block(ByteRange(BASE + 4096 * len(deep), 4096)))


def test_long_streams_are_found_through_what_reads_them() -> None:
    """An .xz module of an initrd, behind other blocks: reading it runs the initrd's cursor."""
    initrd = long(ByteRange(0, 3 * MIB))
    inside = ByteRange(BASE + 4096 + MIB, 60_000)
    module = long(inside, size=2 * MIB)
    document = block(ByteRange(BASE + 4096 + 3 * MIB, 900))
    table = table_of(block(), initrd, gap(5), module, document)
    content = [table.content(number) for number in range(len(table))]

    assert table.long_read_by([content[0], content[2]]) == set()
    assert table.long_read_by([ByteRange(0, BASE)]) == set()
    assert table.long_read_by([content[1]]) == {1}
    assert table.long_read_by([ByteRange(content[0].offset, content[0].size + 1)]) == {1}
    assert table.long_read_by([content[3]]) == {1, 3}
    assert table.long_read_by([content[4]]) == {1}
    assert table.long_read_by([content[0], ByteRange(content[3].end - 1, 1)]) == {1, 3}


def test_extents_over_everything_are_not_gone_through_stream_by_stream() -> None:
    """A frame may have 4096 of them, and a payload 260,000 streams."""
    streams = [long(size=MIB + 1) for _ in range(LONG_STREAMS_MAX)]
    table = table_of(*streams, *[gap()] * 3000)
    everything = ByteRange(BASE, table.end - BASE)
    assert table.long_read_by([everything] * STREAM_SOURCES_MAX) == set(range(LONG_STREAMS_MAX))


# --- memory


def test_memory_of_blocks_grows_with_their_nesting() -> None:
    largest = 2 * 50 + 4 * 4096 + 256 * KIB
    assert table_of(block(), block()).block_bytes == UNPACK_CACHE_BYTES + largest
    assert table_of(gap(), long()).block_bytes == 0
    two = table_of(block(), block(ByteRange(BASE, 50)))
    assert two.block_bytes == UNPACK_CACHE_BYTES + 2 * largest


def test_memory_of_a_cursor_is_decoder_window_and_what_it_is_ahead() -> None:
    assert long().cursor_bytes == 3 * MIB + MIB + UNPACK_AHEAD_BYTES
    assert block().cursor_bytes == gap().cursor_bytes == 0


def test_a_table_of_many_streams_stays_packed() -> None:
    rows = bytearray()
    write_streams(rows, [block(ByteRange(100 * number, 90)) for number in range(4000)])
    tracemalloc.start()
    read_streams(bytes(rows), 0, 4000, BASE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4000 * 120


# --- limits


def test_streams_at_their_limits() -> None:
    block(*[ByteRange(0, 1)] * STREAM_SOURCES_MAX, size=BLOCK_CONTENT_BYTES_MAX)
    block(ByteRange(0, PACKED_BLOCK_BYTES_MAX))
    widest = (UNPACK_MEMORY_BYTES_MAX, UNPACK_WINDOW_BYTES_MAX)
    PackedStream(Packing.GZIP, (ByteRange(0, 1 << 40),), IMAGE_BYTES_MAX, *widest)
    PackedStream(Packing.GZIP, (ByteRange(0, 5),), MIB + 1, 0, 1)


IMPOSSIBLE = {
    "no content": lambda: block(size=0),
    "too much content": lambda: gap(IMAGE_BYTES_MAX + 1),
    "gap with packed bytes": lambda: PackedStream(None, (ByteRange(0, 5),), 5),
    "nothing packed": lambda: PackedStream(Packing.ZLIB, (), 5),
    "empty extent": lambda: block(ByteRange(0, 5), ByteRange(9, 0)),
    "block with a decoder": lambda: replace(block(), memory_bytes=1),
    "block with a window": lambda: replace(block(), window_bytes=1),
    "block of too many packed bytes": lambda: block(ByteRange(0, PACKED_BLOCK_BYTES_MAX + 1)),
    "long without memory": lambda: PackedStream(Packing.XZ, (ByteRange(0, 5),), MIB + 1),
    "long with too large a decoder": lambda: replace(
        long(), memory_bytes=UNPACK_MEMORY_BYTES_MAX + 1
    ),
    "long with too large a window": lambda: replace(
        long(), window_bytes=UNPACK_WINDOW_BYTES_MAX + 1
    ),
    **{
        f"long {packing}": lambda packing=packing: PackedStream(
            packing, (ByteRange(0, 5),), MIB + 1, 1, 1
        )
        for packing in PACKINGS
        if packing is not None and packing not in STREAMED
    },
}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_streams_are_refused(name: str) -> None:
    with pytest.raises(FormatError):
        IMPOSSIBLE[name]()


def test_too_many_streams_are_refused_before_they_are_read() -> None:
    with pytest.raises(FormatError, match="too many streams"):
        read_streams(b"", 0, STREAMS_MAX + 1, 0)
    with pytest.raises(FormatError, match="cut short"):
        read_streams(b"", 0, STREAMS_MAX, 0)
    table_of(*[long()] * LONG_STREAMS_MAX)
    with pytest.raises(FormatError, match="too many long streams"):
        table_of(*[long()] * (LONG_STREAMS_MAX + 1))


def test_contents_beyond_all_images_are_refused() -> None:
    table_of(gap(IMAGE_BYTES_MAX - BASE))
    with pytest.raises(FormatError):
        table_of(gap(IMAGE_BYTES_MAX - BASE + 1))


ROW = bytearray()
write_streams(ROW, [block(), long()])


@pytest.mark.parametrize("size", range(len(ROW)))
def test_rows_cut_short_at_every_byte_are_refused(size: int) -> None:
    with pytest.raises(FormatError):
        read_streams(bytes(ROW[:size]), 0, 2, BASE)


def test_an_unknown_packing_is_refused() -> None:
    with pytest.raises(FormatError, match="stream 0: unknown packing"):
        read_streams(bytes([len(PACKINGS)]) + bytes(ROW[1:]), 0, 1, BASE)


# --- moved modules

SHIFTS = (BtfShifts(Shifts((5,), (3,)), Shifts((7, 9), (1, -1))), BtfShifts())


def module(*sources: ByteRange, shifts: int = 0, types: int = 40) -> PackedStream:
    held = sources or (ByteRange(100, 50),)
    own = BtfShifts(types=Shifts((1000,), (70,)))
    size = sum(source.size for source in held)
    return PackedStream(None, held, size, moved=MovedBtf(shifts, ByteRange(4, types), own))


def moved_rows(*streams: PackedStream) -> bytes:
    rows = bytearray()
    write_streams(rows, streams)
    return bytes(rows)


def test_moved_streams_round_trip_among_others() -> None:
    held = [
        block(),
        module(),
        gap(),
        module(ByteRange(BASE, 2000), ByteRange(7, 9), shifts=1),
        long(),
    ]
    rows = moved_rows(*held)
    table, position = read_streams(rows, 0, len(held), BASE, SHIFTS)
    assert position == len(rows)
    assert [table[number] for number in range(len(held))] == held
    assert table.shifts == SHIFTS
    assert table.content(1).size == 50
    # One level in the content of another, and room for the numbers.
    most = max(6 * 2009 + 256 * KIB + MOVE_BYTES, 6 * 4096 + 256 * KIB)
    assert table.block_bytes == UNPACK_CACHE_BYTES + 2 * most


def test_moved_streams_read_the_long_ones_below_them() -> None:
    table = read_streams(moved_rows(long(), module(ByteRange(BASE + 50, 99))), 0, 2, BASE, SHIFTS)[
        0
    ]
    assert table.long_read_by([ByteRange(BASE + 5 * MIB, 1)]) == {0}


def test_every_cut_of_a_moved_row() -> None:
    rows = moved_rows(module())
    for size in range(len(rows)):
        with pytest.raises(FormatError):
            read_streams(rows[:size], 0, 1, BASE, SHIFTS)


def test_shifts_that_are_not_there() -> None:
    with pytest.raises(FormatError, match="shifts that are not there"):
        read_streams(moved_rows(module(shifts=2)), 0, 1, BASE, SHIFTS)
    with pytest.raises(FormatError, match="shifts that are not there"):
        read_streams(moved_rows(module()), 0, 1, BASE)


@pytest.mark.parametrize(
    "make",
    [
        lambda: module(types=47),
        lambda: module(ByteRange(0, BLOCK_CONTENT_BYTES_MAX + 1)),
        lambda: replace(module(), size=49),
        lambda: replace(module(), packing=Packing.ZLIB),
        lambda: replace(module(), sources=()),
        lambda: replace(module(), memory_bytes=1),
        lambda: module(ByteRange(0, 0)),
    ],
    ids=["types past the end", "too long", "other size", "packed", "nothing", "memory", "empty"],
)
def test_moved_streams_that_cannot_be(make: Callable[[], PackedStream]) -> None:
    with pytest.raises(FormatError):
        make()


@given(st.binary(max_size=40))
def test_hostile_moved_rows(rows: bytes) -> None:
    try:
        table, _ = read_streams(b"\x80" + rows, 0, 1, BASE, SHIFTS)
    except FormatError:
        return
    assert table[0].size == table.content(0).size

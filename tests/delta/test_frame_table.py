"""The packed table: round trips, sequence manners, and rows no writer makes."""

import random
import tracemalloc
from bisect import bisect_right

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.byterange import ByteRange
from slipstream.delta.codec import Codec
from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError
from slipstream.delta.frame import Frame, FrameKind, Stream, make_frame
from slipstream.delta.frame_table import read_table, write_table
from slipstream.delta.limits import FRAME_SOURCES_MAX, IMAGE_BYTES_MAX
from slipstream.delta.stream_table import StreamTable

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
        if kind in {FrameKind.COPY, FrameKind.DIFF}:
            for _ in range(generator.choice([1, 1, 2, 9])):
                place = generator.choice([target % 1000, generator.randrange(1 << 39)])
                sources.append(ByteRange(place, generator.randint(1, 9000)))
        if kind is FrameKind.DATA:
            streams = [random_stream(generator, generator.randint(1, 70000))]
        if kind is FrameKind.DIFF:
            streams = [random_stream(generator, 24 * generator.randint(1, 50))]
            streams += [random_stream(generator, generator.randint(1, 300)) for _ in range(2)]
        size = {
            FrameKind.ZERO: generator.choice([1, 127, 128, 4096, 1 << 20]),
            FrameKind.COPY: sum(source.size for source in sources),
            FrameKind.DATA: sum(stream.size for stream in streams),
            FrameKind.DIFF: sum(stream.size for stream in streams[1:]),
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
    codec = generator.choice(list(Codec))
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


ZERO, COPY, DATA, DIFF = (bytes([kind]) for kind in FrameKind)
RAW = bytes([Codec.NONE])
EXTENT = number(0) + number(500)
HUGE = [2**44 + 1, 2**49 - 1, 2**49, 2**63, 2**64 - 1, 2**200]

GOOD = {
    "zero": (ZERO + number(4096), 0),
    "copy": (COPY + number(2) + EXTENT + number(999) + number(7), 0),
    "data": (DATA + RAW + number(5) + number(5), 1),
    "diff": (DIFF + number(1) + EXTENT + (RAW + number(24) + number(24)) * 3, 1),
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
    "part of an instruction": DIFF + number(1) + EXTENT + (RAW + number(25) + number(25)) * 3,
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

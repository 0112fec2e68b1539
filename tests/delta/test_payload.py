"""The index: round trips, and every field of it wrong."""

import random
import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta import limits
from slipstream.delta.byterange import ByteRange
from slipstream.delta.codec import Codec, compress
from slipstream.delta.digest import Digest
from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.frame import Part
from slipstream.delta.limits import (
    FRAME_TABLE_BYTES_MAX,
    FRAMES_MAX,
    IMAGE_BYTES_MAX,
    INDEX_BYTES_MAX,
    RECIPES_MAX,
    STREAMS_MAX,
)
from slipstream.delta.packing.recipe import Packer, Recipe
from slipstream.delta.payload import (
    HEADER_BYTES,
    INDEX_PREFIX_BYTES,
    MAGIC,
    VERSION,
    Frame,
    FrameKind,
    Index,
    Stream,
    dump_index,
    make_frame,
    parse_index,
    parse_index_size,
)
from slipstream.delta.stream_table import PackedStream

SOURCE, TARGET = Digest(b"s" * 32), Digest(b"t" * 32)
FORMAT_PAGE = Path(__file__).parents[2] / "docs" / "format.md"
HEADER = struct.Struct("<8sHHIIIIIIIQQQ32s32s")
FIELDS = [
    "magic",
    "version",
    "kind",
    "index_size",
    "frame_count",
    "stream_count",
    "recipe_count",
    "table_size",
    "table_encoded_size",
    "shifts_count",
    "source_size",
    "target_size",
    "body_size",
    "source_digest",
    "target_digest",
]


SOURCE_SIZE, TARGET_SIZE, BODY_SIZE = 20480, 17984, 615
RECIPE = Recipe(Packer.ZLIB, (9, 15, 8, 0), "zlib 1.2.13")
STREAM = PackedStream(Packing.ZLIB, (ByteRange(8192, 1500),), 4096)


def five_frames() -> list[Frame]:
    """One of each kind and one that packs again, with the numbers of docs/format.md, 5."""
    numbers = Stream(Codec.ZSTD, 30, 48)
    values, extra = Stream(Codec.LZMA2, 20, 1200), Stream(Codec.NONE, 96, 96)
    return [
        make_frame(FrameKind.ZERO, ByteRange(0, 4096)),
        make_frame(FrameKind.COPY, ByteRange(4096, 8192), sources=[ByteRange(4096, 8192)]),
        make_frame(
            FrameKind.DATA,
            ByteRange(12288, 1000),
            digest=Digest(b"\xaa" * 32),
            streams=[Stream(Codec.ZSTD, 300, 1000)],
        ),
        make_frame(
            FrameKind.DIFF,
            ByteRange(13288, 3096),
            sources=[ByteRange(16384, 4096), ByteRange(0, 512)],
            encoded_offset=300,
            digest=Digest(b"\xbb" * 32),
            streams=[numbers, values, extra],
        ),
        make_frame(
            FrameKind.DIFF,
            ByteRange(16384, 1600),
            sources=[ByteRange(SOURCE_SIZE + TARGET_SIZE, 4096)],
            encoded_offset=446,
            digest=Digest(b"\xcc" * 32),
            streams=[
                Stream(Codec.NONE, 9, 9),
                Stream(Codec.LZMA2, 60, 700),
                Stream(Codec.NONE, 100, 100),
            ],
            parts=[Part(100, 100), Part(4096, 1500, RECIPE)],
        ),
    ]


def dump_five() -> bytes:
    return dump_index(SOURCE_SIZE, SOURCE, TARGET_SIZE, TARGET, five_frames(), [STREAM])


def with_header(raw: bytes, **change: object) -> bytes:
    values = dict(zip(FIELDS, HEADER.unpack(raw[:HEADER_BYTES]), strict=True))
    return HEADER.pack(*(values | change).values()) + raw[HEADER_BYTES:]


def with_table(table: bytes, digests: bytes, **change: object) -> bytes:
    """A delta index around a table of frames encoded by someone else."""
    size = HEADER_BYTES + len(table) + len(digests)
    lengths = {"index_size": size, "table_encoded_size": len(table)}
    lengths |= {"stream_count": 0, "recipe_count": 0}
    return with_header(dump_five()[:HEADER_BYTES] + table + digests, **(lengths | change))


def test_the_struct_of_this_test_is_the_header() -> None:
    raw = dump_five()
    assert HEADER.size == HEADER_BYTES
    assert with_header(raw) == raw


def test_round_trip_of_one_of_each_kind() -> None:
    raw = dump_five()
    assert parse_index_size(raw[:INDEX_PREFIX_BYTES]) == len(raw)
    index = parse_index(raw)
    assert list(index.frames) == five_frames()
    assert (index.source_size, index.source_digest) == (SOURCE_SIZE, SOURCE)
    assert (index.target_size, index.target_digest) == (TARGET_SIZE, TARGET)
    assert index.body_size == BODY_SIZE
    assert index.payload_size == len(raw) + BODY_SIZE
    assert index.digest == Digest.of(raw)
    assert index.raw == raw
    assert [index.streams[number] for number in range(len(index.streams))] == [STREAM]
    assert (index.recipes, index.libraries) == ((RECIPE,), ("zlib 1.2.13",))
    hungriest = max(frame.memory_bytes for frame in five_frames())
    assert index.memory_bytes == hungriest + index.streams.block_bytes
    assert dump_index(SOURCE_SIZE, SOURCE, TARGET_SIZE, TARGET, index.frames, [STREAM]) == raw


def test_a_full_payload_names_no_source() -> None:
    frames = [five_frames()[0]]
    index = parse_index(dump_index(0, None, 4096, TARGET, frames))
    assert (index.source_size, index.source_digest) == (0, None)


def test_a_delta_may_start_from_an_empty_source() -> None:
    frames = [five_frames()[0]]
    index = parse_index(dump_index(0, Digest.of(b""), 4096, TARGET, frames))
    assert index.source_digest == Digest.of(b"")


@pytest.mark.parametrize("source", [None, SOURCE])
def test_an_empty_target_has_no_frames(source: Digest | None) -> None:
    index = parse_index(dump_index(0, source, 0, Digest.of(b""), []))
    assert (len(index.frames), index.body_size, index.memory_bytes) == (0, 0, 0)


def test_frames_take_few_bytes() -> None:
    """On thin links the table counts: a copy below 10 bytes, a diff below 32 + 28."""
    generator = random.Random(1)
    copies, diffs = [], []
    target = encoded = 0
    for _ in range(2000):
        size = 4096 * generator.randint(1, 50)
        place = ByteRange(4096 * generator.randrange(1 << 18), size)
        copies.append(make_frame(FrameKind.COPY, ByteRange(target, size), sources=[place]))
        target += size
    raw = dump_index(1 << 40, SOURCE, target, TARGET, copies)
    assert (len(raw) - HEADER_BYTES) / len(copies) < 10
    target = 0
    for _ in range(2000):
        sizes = [generator.randint(1, 9999)] + [generator.randint(1, 99999) for _ in range(2)]
        streams = [Stream(Codec.LZMA2, size // 4 + 1, size) for size in sizes]
        frame = make_frame(
            FrameKind.DIFF,
            ByteRange(target, sum(sizes[1:])),
            sources=[ByteRange(4096 * generator.randrange(1 << 18), sum(sizes[1:]))],
            encoded_offset=encoded,
            digest=Digest(generator.randbytes(32)),
            streams=streams,
        )
        diffs.append(frame)
        target, encoded = frame.target.end, frame.encoded.end
    raw = dump_index(1 << 40, SOURCE, target, TARGET, diffs)
    assert (len(raw) - HEADER_BYTES) / len(diffs) < 60


# --- the prefix


@pytest.mark.parametrize("size", range(INDEX_PREFIX_BYTES))
def test_a_short_prefix_is_refused(size: int) -> None:
    with pytest.raises(FormatError, match="cut short"):
        parse_index_size(dump_five()[:size])


@pytest.mark.parametrize(
    "change",
    [
        {"magic": b"SLP\r\n\x1a\n\0"},
        {"magic": MAGIC.replace(b"\r\n", b"\n\n")},
        {"magic": bytes([MAGIC[0] & 0x7F]) + MAGIC[1:]},
        {"magic": bytes(8)},
        {"version": 0},
        {"version": 1},
        {"version": 3},
        {"version": 65535},
        {"index_size": 0},
        {"index_size": HEADER_BYTES - 1},
        {"index_size": INDEX_BYTES_MAX + 1},
        {"index_size": 2**32 - 1},
    ],
    ids=str,
)
def test_a_bad_prefix_is_refused(change: dict[str, object]) -> None:
    raw = with_header(dump_five(), **change)
    with pytest.raises(FormatError):
        parse_index_size(raw[:INDEX_PREFIX_BYTES])
    with pytest.raises(FormatError):
        parse_index(raw)


# --- the whole index


def test_cut_short_at_every_byte() -> None:
    raw = dump_five()
    for size in range(len(raw)):
        with pytest.raises(FormatError):
            parse_index(raw[:size])


def test_cut_short_at_every_byte_with_a_length_to_match() -> None:
    raw = dump_five()
    for size in range(HEADER_BYTES, len(raw)):
        with pytest.raises(FormatError):
            parse_index(with_header(raw[:size], index_size=size))


@pytest.mark.parametrize("junk", [b"\0", bytes(32), dump_five()], ids=len)
def test_junk_behind_the_end_is_refused(junk: bytes) -> None:
    raw = dump_five() + junk
    with pytest.raises(FormatError, match="another length"):
        parse_index(raw)
    with pytest.raises(FormatError):
        parse_index(with_header(raw, index_size=len(raw)))


def test_every_flipped_bit_is_refused_or_shows_in_the_digest() -> None:
    """What still parses is for the signed digest to refuse; no other error may come out."""
    raw = bytearray(dump_five())
    good = Digest.of(raw)
    parsed = 0
    for bit in range(8 * len(raw)):
        raw[bit // 8] ^= 1 << bit % 8
        try:
            index = parse_index(bytes(raw))
        except FormatError:
            pass
        else:
            parsed += 1
            assert index.digest != good
        raw[bit // 8] ^= 1 << bit % 8
    # Two digests of the header, three of frames, numbers of the recipe, and little else.
    assert 8 * 160 <= parsed <= 8 * 160 + 340


@pytest.mark.parametrize(
    "change",
    [
        {"kind": 0},
        {"kind": 0, "source_digest": bytes(32)},
        {"kind": 2},
        {"kind": 65535},
        {"shifts_count": 1},
        {"shifts_count": 2**32 - 1},
        {"frame_count": 0},
        {"frame_count": 4},
        {"frame_count": 6},
        {"frame_count": FRAMES_MAX + 1},
        {"frame_count": 2**32 - 1},
        {"stream_count": 0},
        {"stream_count": 2},
        {"stream_count": STREAMS_MAX + 1},
        {"stream_count": 2**32 - 1},
        {"recipe_count": 0},
        {"recipe_count": 2},
        {"recipe_count": RECIPES_MAX + 1},
        {"recipe_count": 2**32 - 1},
        {"table_size": 0},
        {"table_size": FRAME_TABLE_BYTES_MAX},
        {"table_size": FRAME_TABLE_BYTES_MAX + 1},
        {"table_size": 2**32 - 1},
        {"table_encoded_size": 0},
        {"table_encoded_size": 2**32 - 1},
        {"source_size": 0},
        {"source_size": SOURCE_SIZE - 1},
        {"source_size": IMAGE_BYTES_MAX + 1},
        {"source_size": 2**64 - 1},
        {"target_size": 0},
        {"target_size": TARGET_SIZE - 1},
        {"target_size": TARGET_SIZE + 1},
        {"target_size": IMAGE_BYTES_MAX + 1},
        {"target_size": 2**64 - 1},
        {"body_size": 0},
        {"body_size": BODY_SIZE - 1},
        {"body_size": BODY_SIZE + 1},
        {"body_size": 2**64 - 1},
    ],
    ids=str,
)
def test_header_fields_that_lie_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        parse_index(with_header(dump_five(), **change))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": 2}, "unknown payload kind"),
        ({"kind": 65535}, "unknown payload kind"),
        ({"source_digest": bytes(31) + b"\1"}, "names a source"),
        ({"source_size": 1}, "names a source"),
        ({"table_encoded_size": 13}, "past the end of the index"),
        ({"table_encoded_size": 2**32 - 1}, "past the end of the index"),
    ],
    ids=str,
)
def test_fields_of_a_full_payload_that_lie_are_refused(
    change: dict[str, object], message: str
) -> None:
    """Without sources and digests, nothing else gives the lie away."""
    raw = dump_index(0, None, 4096, TARGET, five_frames()[:1])
    assert len(raw) == HEADER_BYTES + 12
    with pytest.raises(FormatError, match=message):
        parse_index(with_header(raw, **change))


@pytest.mark.parametrize(
    "change", [{"frame_count": FRAMES_MAX + 1}, {"table_size": FRAME_TABLE_BYTES_MAX + 1}], ids=str
)
def test_counts_are_refused_before_the_table_is_decoded(change: dict[str, object]) -> None:
    with pytest.raises(FormatError, match="frame table too large"):
        parse_index(with_header(dump_five(), **change))


@pytest.mark.parametrize("shift", [-33, -32, -1, 1, 32, 33, 64, 65])
def test_a_table_that_ends_elsewhere_is_refused(shift: int) -> None:
    raw = dump_five()
    size = len(raw) - HEADER_BYTES - 96
    with pytest.raises(FormatError):
        parse_index(with_header(raw, table_encoded_size=size + shift))


def test_a_source_extent_past_source_and_target_is_refused() -> None:
    frames = five_frames()[:4]
    dump_index(4096, SOURCE, 16384, TARGET, frames)
    with pytest.raises(FormatError, match="past the end of the space"):
        dump_index(4095, SOURCE, 16384, TARGET, frames)


TABLE_BOMB = zstandard.ZstdCompressor(level=3).compress(bytes(64 << 20))


@pytest.mark.parametrize("claimed", [0, 4096, FRAME_TABLE_BYTES_MAX, 64 << 20])
def test_a_table_that_is_a_bomb_is_refused(claimed: int) -> None:
    raw = with_table(TABLE_BOMB, b"", table_size=claimed, frame_count=FRAMES_MAX)
    with pytest.raises(FormatError):
        parse_index(raw)


@pytest.mark.parametrize("codec", [Codec.LZMA2, Codec.BZ2, Codec.ZLIB, Codec.NONE])
def test_a_table_in_another_codec_is_refused(codec: Codec) -> None:
    rows = b"\0\x80\x20"  # one ZERO frame of 4096
    with pytest.raises(FormatError, match="zstd"):
        parse_index(with_table(compress(codec, rows), b"", table_size=3, frame_count=1))


def test_tables_in_another_order_are_another_payload() -> None:
    """Frames out of order cannot be written down: rows hold lengths, offsets are their sums."""
    rows = [b"\0\x0a", b"\0\x14"]
    for order in (rows, rows[::-1]):
        table = compress(Codec.ZSTD, b"".join(order))
        index = parse_index(
            with_table(table, b"", table_size=4, frame_count=2, target_size=30, body_size=0)
        )
        assert [frame.target.offset for frame in index.frames] == [0, order[0][1]]


@given(st.binary(max_size=300), st.booleans())
@settings(max_examples=300, deadline=None)
def test_hostile_bytes_raise_only_format_errors(data: bytes, signed: bool) -> None:
    raw = MAGIC + struct.pack("<HHI", VERSION, 1, 16 + len(data)) + data if signed else data
    with pytest.raises(FormatError):
        parse_index(raw)


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_overwritten_bytes_raise_only_format_errors(data: st.DataObject) -> None:
    raw = bytearray(dump_five())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=8))
        raw[place : place + len(patch)] = patch
    try:
        index = parse_index(bytes(raw))
    except FormatError:
        return
    assert sum(frame.target.size for frame in index.frames) == index.target_size


# --- the writer refuses what the reader would


def zeros(*targets: tuple[int, int]) -> list[Frame]:
    return [make_frame(FrameKind.ZERO, ByteRange(*target)) for target in targets]


@pytest.mark.parametrize(
    "dump",
    [
        lambda: dump_index(0, None, 20, TARGET, zeros((0, 10))),
        lambda: dump_index(0, None, 10, TARGET, zeros((0, 20))),
        lambda: dump_index(0, None, 20, TARGET, zeros((10, 10), (0, 10))),
        lambda: dump_index(0, None, 20, TARGET, zeros((0, 10), (9, 11))),
        lambda: dump_index(0, None, 20, TARGET, zeros((0, 9), (10, 10))),
        lambda: dump_index(0, None, 1, TARGET, []),
        lambda: dump_index(1, None, 0, TARGET, []),
        lambda: dump_index(-1, SOURCE, 0, TARGET, []),
        lambda: dump_index(2**64, SOURCE, 0, TARGET, []),
        lambda: dump_index(0, SOURCE, -1, TARGET, []),
        lambda: dump_index(0, SOURCE, 2**64, TARGET, []),
        lambda: dump_index(0, None, 16384, TARGET, five_frames()[:4]),
    ],
    ids=[
        "missing at the end",
        "past the end",
        "out of order",
        "overlapping",
        "gap",
        "no frames",
        "full with a source size",
        "negative source",
        "huge source",
        "negative target",
        "huge target",
        "full with source extents",
    ],
)
def test_what_would_not_parse_is_not_written(dump: Callable[[], bytes]) -> None:
    with pytest.raises(FormatError):
        dump()


# --- docs/format.md


def example_of_format_page() -> bytes:
    block = re.search(
        r"<!-- example -->\n+```\n(.*?)```", FORMAT_PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    assert block is not None
    lines = block[1].splitlines()
    raw = bytearray()
    for line in lines:
        offset, _, rest = line.partition("  ")
        assert int(offset, 16) == len(raw), line
        raw += bytes.fromhex(rest.partition("  ")[0])
    return bytes(raw)


def test_the_example_of_the_format_page_is_what_is_written() -> None:
    raw = example_of_format_page()
    index = parse_index(raw)
    assert isinstance(index, Index)
    assert list(index.frames) == five_frames()
    assert raw == dump_five()


def test_the_limits_of_the_format_page_are_the_limits() -> None:
    page = FORMAT_PAGE.read_text(encoding="utf-8").partition("## 8.")[2]
    rows = re.findall(r"^\| `([A-Z_]+)` \| ([\d,]+) \|", page, re.MULTILINE)
    assert len(rows) >= 12
    for name, value in rows:
        assert getattr(limits, name) == int(value.replace(",", "")), name

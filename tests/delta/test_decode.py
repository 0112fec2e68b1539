"""Frames to bytes: every kind, resumed anywhere, and fed with what an attacker has."""

import random
import tracemalloc
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.byterange import ByteRange
from slipstream.delta.codec import Codec, compress
from slipstream.delta.decode import ChunkAssembler, FrameDecoder, decode_frame
from slipstream.delta.digest import Digest
from slipstream.delta.errors import DigestMismatch, FormatError, PackingUnavailable
from slipstream.delta.frame import Frame, FrameKind, Stream, make_frame
from slipstream.delta.limits import CHUNK_BYTES, MIB, NUMBERS_BYTES_MAX
from slipstream.delta.payload import parse_index
from slipstream.delta.repack import Piece
from slipstream.delta.rows import write_number
from tests.delta.payloads import (
    ALONE,
    Made,
    Maker,
    everything,
    run,
    with_table,
)

SOURCE = random.Random(1).randbytes(20_000)
KINDS = [FrameKind.DATA, FrameKind.DIFF, FrameKind.ZERO, FrameKind.COPY, FrameKind.DIFF, FrameKind.PREFIX, FrameKind.DATA]  # fmt: skip
EXTRA = list(Codec)  # what a diff adds may be compressed in any way


def encode_streams(codecs: list[Codec], pieces: list[bytes]) -> tuple[list[Stream], bytes]:
    parts = [compress(codec, piece) for codec, piece in zip(codecs, pieces, strict=True)]
    streams = [
        Stream(codec, len(part), len(piece))
        for codec, part, piece in zip(codecs, parts, pieces, strict=True)
    ]
    return streams, b"".join(parts)


def make_payload(kinds: list[FrameKind], seed: int = 0) -> Made:
    """As an encoder would make it, from frames chosen beforehand."""
    generator = random.Random(seed)
    maker = Maker(SOURCE)
    for kind in kinds:
        sources = []
        for _ in range(generator.randint(1, 3)):
            offset = generator.randrange(len(SOURCE) - 900)
            sources.append(ByteRange(offset, generator.randint(100, 900)))
        read = source_of(sources)
        match kind:
            case FrameKind.ZERO:
                maker.zero(generator.randint(1, 700))
            case FrameKind.COPY:
                maker.copy(sources, read)
            case FrameKind.DATA:
                content = generator.randbytes(90) * generator.randint(1, 9)
                maker.data(content, generator.choice(ALONE))
            case FrameKind.DIFF:
                edited = bytearray(read[50:] + generator.randbytes(20) + read[:60])
                for _ in range(5):
                    edited[generator.randrange(len(edited))] ^= 0xFF
                codecs = [generator.choice(ALONE), generator.choice(ALONE), generator.choice(EXTRA)]
                maker.diff(sources, read, bytes(edited), codecs)
            case FrameKind.PREFIX:
                maker.prefix(sources, read, read[50:] + generator.randbytes(20) + read[:60])
    return maker.finish()


def source_of(sources: Sequence[ByteRange]) -> bytes:
    return b"".join(SOURCE[place.offset : place.end] for place in sources)


MADE = make_payload(KINDS)
FRAMES = MADE.index.frames
CODED = [number for number, frame in enumerate(FRAMES) if frame.digest is not None]


def test_all_kinds_decode_to_the_target() -> None:
    assert run(MADE) == MADE.target
    assert Digest.of(MADE.target) == MADE.index.target_digest


@given(kinds=st.lists(st.sampled_from(list(FrameKind)), max_size=12), seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_any_mixture_of_frames_decodes(kinds: list[FrameKind], seed: int) -> None:
    made = make_payload(kinds, seed)
    assert run(made) == made.target


@given(numbers=st.sets(st.integers(0, len(KINDS) - 1)))
def test_frames_whose_target_stands_may_be_left_out(numbers: set[int]) -> None:
    standing = bytearray(MADE.target)
    for number in numbers:
        place = FRAMES[number].target
        standing[place.offset : place.end] = bytes(place.size)
    assert run(MADE, sorted(numbers), bytes(standing)) == MADE.target


def test_a_frame_with_a_wrong_digest_may_be_fed_again() -> None:
    good = MADE.encoded(0)
    with FrameDecoder(MADE.index, nothing, nothing) as decoder:
        for bad in (good[:-1], good + b"\0", bytes(len(good))):
            with pytest.raises((FormatError, DigestMismatch)):
                decoder.feed(0, bad)
        assert decoder.feed(0, good) == [Piece(0, MADE.target[: FRAMES[0].target.size])]


def nothing(_offset: int, _size: int) -> bytes:
    return b""


def test_a_source_that_gives_less_is_refused() -> None:
    number = KINDS.index(FrameKind.COPY)
    with (
        FrameDecoder(MADE.index, nothing, nothing) as decoder,
        pytest.raises(FormatError, match="source of another length"),
    ):
        decoder.feed(number, b"")


# --- what was fetched is not what was signed


@pytest.mark.parametrize("number", CODED)
def test_every_flipped_bit_of_the_body_is_a_digest_mismatch(number: int) -> None:
    frame = FRAMES[number]
    encoded = bytearray(MADE.encoded(number))
    source = source_of(frame.sources)
    for bit in range(8 * len(encoded)):
        encoded[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DigestMismatch):
            decode_frame(frame, bytes(encoded), source)
        encoded[bit // 8] ^= 1 << bit % 8
    assert len(decode_frame(frame, bytes(encoded), source)) == frame.target.size


@pytest.mark.parametrize("number", CODED)
def test_frames_cut_short_at_every_byte_or_too_long_are_refused(number: int) -> None:
    frame = FRAMES[number]
    encoded = MADE.encoded(number)
    for size in range(len(encoded)):
        with pytest.raises(FormatError, match="another length"):
            decode_frame(frame, encoded[:size], source_of(frame.sources))
    with pytest.raises(FormatError, match="another length"):
        decode_frame(frame, encoded + b"\0", source_of(frame.sources))


def test_frames_in_each_others_place_are_refused() -> None:
    for number in CODED:
        for other in CODED:
            if other != number:
                frame = FRAMES[number]
                with pytest.raises((FormatError, DigestMismatch)):
                    decode_frame(frame, MADE.encoded(other), source_of(frame.sources))


@pytest.mark.parametrize("number", range(len(KINDS)))
def test_a_source_of_another_length_is_refused(number: int) -> None:
    frame = FRAMES[number]
    source = source_of(frame.sources)
    for other in (source + b"\0", source[:-1] if source else b"x"):
        with pytest.raises(FormatError, match="source of another length"):
            decode_frame(frame, MADE.encoded(number), other)


def test_a_frame_without_encoded_bytes_takes_none() -> None:
    for frame in FRAMES:
        if frame.digest is None:
            with pytest.raises(FormatError, match="another length"):
                decode_frame(frame, b"x", source_of(frame.sources))


# --- what was signed is itself hostile: digests right, contents not


def data_frame(codec: Codec, encoded: bytes, size: int) -> Frame:
    return make_frame(
        FrameKind.DATA,
        ByteRange(0, size),
        digest=Digest.of(encoded),
        streams=[Stream(codec, len(encoded), size)],
    )


@pytest.mark.parametrize("codec", [codec for codec in ALONE if codec is not Codec.NONE])
@pytest.mark.parametrize("shift", [-1, 1, 5000])
def test_streams_of_another_length_are_refused(codec: Codec, shift: int) -> None:
    encoded = compress(codec, bytes(1000))
    with pytest.raises(FormatError):
        decode_frame(data_frame(codec, encoded, 1000 + shift), encoded, b"")


@pytest.mark.parametrize("codec", [codec for codec in ALONE if codec is not Codec.NONE])
def test_junk_behind_a_stream_is_refused(codec: Codec) -> None:
    encoded = compress(codec, bytes(1000)) + b"\0"
    with pytest.raises(FormatError):
        decode_frame(data_frame(codec, encoded, 1000), encoded, b"")


@pytest.mark.parametrize("codec", [codec for codec in ALONE if codec is not Codec.NONE])
def test_a_frame_that_is_a_bomb_keeps_to_its_declared_memory(codec: Codec) -> None:
    encoded = compress(codec, bytes(16 * MIB))
    frame = data_frame(codec, encoded, 4096)
    tracemalloc.start()
    with pytest.raises(FormatError):
        decode_frame(frame, encoded, b"")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < frame.memory_bytes + MIB


def numbers_of(*instructions: tuple[int, int, int], size: int) -> bytes:
    """Instructions, and one run of values as long as the difference."""
    rows = bytearray()
    moves = [2 * move if move >= 0 else -2 * move - 1 for _, _, move in instructions]
    adds, takes = [one[0] for one in instructions], [one[1] for one in instructions]
    for number in (len(instructions), *adds, *takes, *moves, 1, 0, size):
        write_number(rows, number)
    return bytes(rows)


def diff_frame(numbers: bytes) -> tuple[Frame, bytes]:
    streams, encoded = encode_streams([Codec.NONE] * 3, [numbers, bytes(100), b""])
    frame = make_frame(
        FrameKind.DIFF,
        ByteRange(0, 100),
        sources=[ByteRange(0, 100)],
        digest=Digest.of(encoded),
        streams=streams,
    )
    return frame, encoded


HUGE = (1 << 49) - 1
HOSTILE = {
    "none": [],
    "too much": [(101, 0, 0)],
    "too little": [(99, 0, 0)],
    "extra that is not there": [(100, 1, 0)],
    "far": [(100, 0, 1 << 47)],
    "back before the source": [(50, 0, -51), (50, 0, 0)],
    "past the source": [(50, 0, 1), (50, 0, 0)],
    "all bits": [(HUGE, HUGE, HUGE >> 1)],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_instructions_in_a_signed_frame_are_refused(name: str) -> None:
    frame, encoded = diff_frame(numbers_of(*HOSTILE[name], size=100))
    with pytest.raises(FormatError):
        decode_frame(frame, encoded, SOURCE[:100])
    good, encoded = diff_frame(numbers_of((50, 0, -10), (10, 0, 0), (40, 0, 0), size=100))
    assert decode_frame(good, encoded, SOURCE[:100]) == SOURCE[:50] + SOURCE[40:90]


@pytest.mark.parametrize("size", [0, 99, 101, HUGE])
def test_values_that_do_not_fit_the_difference_are_refused(size: int) -> None:
    frame, encoded = diff_frame(numbers_of((100, 0, 0), size=size))
    with pytest.raises(FormatError, match="runs"):
        decode_frame(frame, encoded, SOURCE[:100])


def test_the_digest_is_checked_before_anything_decodes() -> None:
    """Hostile contents under a wrong digest: the mismatch is what is reported."""
    encoded = b"not a zstd frame"
    frame = replace(data_frame(Codec.ZSTD, encoded, 50), digest=Digest(bytes(32)))
    with pytest.raises(DigestMismatch):
        decode_frame(frame, encoded, b"")


@pytest.mark.parametrize("codec", [codec for codec in ALONE if codec is not Codec.NONE])
def test_decoding_keeps_to_the_declared_memory(codec: Codec) -> None:
    """An honest frame of the largest size: what is declared is an upper bound."""
    data = random.Random(5).randbytes(1 << 16) * 64
    encoded = compress(codec, data, 1)
    frame = data_frame(codec, encoded, len(data))
    tracemalloc.start()
    decoded = decode_frame(frame, encoded, b"")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert decoded == data
    assert peak <= frame.memory_bytes


@pytest.mark.parametrize("codec", ALONE)
def test_a_diff_keeps_to_the_declared_memory(codec: Codec) -> None:
    source = random.Random(6).randbytes(MIB)
    size = len(source) + 1000
    numbers = numbers_of((len(source), 0, 0), (0, 1000, 0), size=len(source))
    streams, encoded = encode_streams([codec] * 3, [numbers, bytes(len(source)), bytes(1000)])
    frame = make_frame(
        FrameKind.DIFF,
        ByteRange(0, size),
        sources=[ByteRange(0, len(source))],
        digest=Digest.of(encoded),
        streams=streams,
    )
    tracemalloc.start()
    decoded = decode_frame(frame, encoded, source)
    peak = tracemalloc.get_traced_memory()[1] + len(source) + len(encoded)
    tracemalloc.stop()
    assert decoded == source + bytes(1000)
    assert peak <= frame.memory_bytes + 64 * 1024  # Python's own small objects


def test_a_diff_of_very_many_numbers_keeps_to_the_declared_memory() -> None:
    """A third of a million instructions that do nothing, a byte for each of their numbers."""
    count = NUMBERS_BYTES_MAX // 3 - 9
    rows = bytearray()
    write_number(rows, count)
    rows += bytes(3 * count) + b"\0"
    streams, encoded = encode_streams([Codec.ZSTD] * 3, [bytes(rows), b"", b"x"])
    frame = make_frame(
        FrameKind.DIFF,
        ByteRange(0, 1),
        sources=[ByteRange(0, 1)],
        digest=Digest.of(encoded),
        streams=streams,
    )
    tracemalloc.start()
    with pytest.raises(FormatError):
        decode_frame(frame, encoded, b"s")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < frame.memory_bytes


# --- a table that was signed and is hostile: every number in it may be anything


EVERYTHING = everything()


def test_the_table_of_this_test_is_the_table() -> None:
    assert with_table(EVERYTHING, lambda _: None) == EVERYTHING.index.raw
    assert run(EVERYTHING) == EVERYTHING.target


@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_hostile_tables_raise_only_our_errors(data: st.DataObject) -> None:
    def change(table: bytearray) -> None:
        for _ in range(data.draw(st.integers(1, 4))):
            place = data.draw(st.integers(0, len(table) - 1))
            patch = data.draw(st.binary(min_size=1, max_size=3))
            table[place : place + data.draw(st.integers(0, 3))] = patch

    try:
        index = parse_index(with_table(EVERYTHING, change))
        run(replace(EVERYTHING, index=index, raw=index.raw + EVERYTHING.body))
    except (FormatError, DigestMismatch, PackingUnavailable):
        return


# --- chunks


def assemble(size: int, wanted: set[int], pieces: list[tuple[int, bytes]]) -> dict[int, bytes]:
    assembler = ChunkAssembler(size, wanted.__contains__)
    chunks: dict[int, bytes] = {}
    for offset, data in pieces:
        for index, chunk in assembler.feed(offset, data):
            assert index not in chunks
            chunks[index] = chunk
    assembler.finish()
    return chunks


def cut(target: bytes, seed: int) -> list[tuple[int, bytes]]:
    generator = random.Random(seed)
    pieces = []
    offset = 0
    while offset < len(target):
        size = generator.choice([1, 4096, 100_000, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
        pieces.append((offset, target[offset : offset + size]))
        offset += size
    return pieces


LONG = random.Random(9).randbytes(5 * CHUNK_BYTES + 1234)
CHUNKS = [LONG[offset : offset + CHUNK_BYTES] for offset in range(0, len(LONG), CHUNK_BYTES)]


@pytest.mark.parametrize("seed", range(10))
def test_wanted_chunks_come_out_whole(seed: int) -> None:
    wanted = {index for index in range(6) if random.Random(seed).getrandbits(6) >> index & 1}
    assert assemble(len(LONG), wanted, cut(LONG, seed)) == {n: CHUNKS[n] for n in wanted}


@pytest.mark.parametrize("seed", range(10))
def test_pieces_that_touch_no_wanted_chunk_may_be_left_out(seed: int) -> None:
    wanted = {index for index in range(6) if random.Random(seed).getrandbits(6) >> index & 1}
    pieces = [
        (offset, data)
        for offset, data in cut(LONG, seed)
        if wanted & set(range(offset // CHUNK_BYTES, (offset + len(data) - 1) // CHUNK_BYTES + 1))
    ]
    assert assemble(len(LONG), wanted, pieces) == {n: CHUNKS[n] for n in wanted}


@pytest.mark.parametrize("size", [1, 4096, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
def test_the_last_chunk_ends_with_the_target(size: int) -> None:
    chunks = assemble(size, {0, 1}, [(0, LONG[:size])])
    assert b"".join(chunks[index] for index in sorted(chunks)) == LONG[:size]
    assert all(chunks.values())


def test_byte_by_byte() -> None:
    start = CHUNK_BYTES - 50
    pieces = [(0, LONG[:start])] + [(at, LONG[at : at + 1]) for at in range(start, start + 100)]
    assert assemble(start + 100, {0, 1}, pieces) == {
        0: CHUNKS[0],
        1: LONG[CHUNK_BYTES : start + 100],
    }


def test_an_empty_target_has_no_chunks() -> None:
    assert assemble(0, {0}, [(0, b"")]) == {}


C = CHUNK_BYTES


@pytest.mark.parametrize(
    "pieces",
    [
        [(1, C)],
        [(0, C - 1), (C, C)],
        [(0, C + 1), (2 * C, C)],
        [(0, C), (C + 1, C)],
        [(0, C), (0, C)],
        [(0, C), (C - 1, C)],
        [(C, C), (0, C)],
        [(0, len(LONG) + 1)],
        [(len(LONG), 1)],
        [(-1, 2)],
        [(2**64, 1)],
    ],
    ids=[
        "first byte",
        "last byte",
        "rest of a chunk",
        "first byte later",
        "twice",
        "overlap",
        "backwards",
        "too long",
        "behind the end",
        "before the start",
        "far behind",
    ],
)
def test_gaps_in_wanted_chunks_and_bytes_out_of_order_are_refused(
    pieces: list[tuple[int, int]],
) -> None:
    with pytest.raises(FormatError, match="target bytes"):
        assemble(len(LONG), {0, 1, 2, 3, 4, 5}, [(offset, bytes(size)) for offset, size in pieces])


@pytest.mark.parametrize(
    "wanted, pieces",
    [
        ({0}, [(1, C - 1)]),
        ({1}, [(0, C + 5), (C + 6, C - 6)]),
        ({0, 1}, [(0, 10), (C + 10, C - 10)]),
        ({0, 2}, [(0, 10), (2 * C + 10, C - 10)]),
    ],
    ids=["first byte", "middle byte", "like places of two chunks", "and one between"],
)
def test_what_follows_a_gap_cannot_complete_a_chunk(
    wanted: set[int], pieces: list[tuple[int, int]]
) -> None:
    assembler = ChunkAssembler(len(LONG), wanted.__contains__)
    chunks = (chunk for offset, size in pieces for chunk in assembler.feed(offset, bytes(size)))
    with pytest.raises(FormatError, match="target bytes missing"):
        next(chunks)


def test_a_begun_chunk_is_missed_at_the_end() -> None:
    with pytest.raises(FormatError, match="target bytes missing"):
        assemble(len(LONG), {0, 1}, [(0, LONG[: C + 5])])
    assert assemble(len(LONG), {0}, [(0, LONG[: C + 5])]) == {0: CHUNKS[0]}

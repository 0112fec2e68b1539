"""The legacy framing of LZ4: as the lz4 command writes it, block by block, and streams that lie."""

import ctypes
import random
import tracemalloc
from functools import cache
from itertools import pairwise

import pytest

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.limits import KIB, LZ4_LEGACY_BLOCK_BYTES, LZ4_LEGACY_PACKED_BYTES_MAX, MIB
from slipstream.delta.packing.find import RecipeFinder
from slipstream.delta.packing.headers import LZ4_LEGACY_MAGIC, unpack_memory_bytes
from slipstream.delta.packing.libraries import lz4s
from slipstream.delta.packing.lz4_legacy import LegacyDecoder, LegacyEncoder, legacy_cuts
from slipstream.delta.packing.pack import pack
from slipstream.delta.packing.recipe import Packer, pack_memory_bytes
from slipstream.delta.packing.unpack import UnpackCursor
from tests.delta.packing.samples import content, recipe, run

BLOCK = LZ4_LEGACY_BLOCK_BYTES
LIBRARY = next(iter(lz4s().values()))
MEMORY = unpack_memory_bytes(Packing.LZ4_LEGACY, b"")


@cache
def kernel() -> bytes:
    """Three blocks: code, 9 MiB of zeros, and more code."""
    return content(3 * MIB) + bytes(9 * MIB) + content(8 * MIB + 4321)


@cache
def packed_kernel() -> bytes:
    return run("lz4", "-l", "-9", given=kernel())


def drained(decoder: LegacyDecoder, packed: bytes, feed: int = 64 * KIB) -> bytes:
    made = []
    for begin in range(0, len(packed), feed):
        piece = packed[begin : begin + feed]
        while some := decoder.decompress(piece, MIB):
            made.append(some)
            piece = b""
    return b"".join(made)


# --- what the lz4 command writes


@pytest.mark.parametrize(
    "level, found", [(1, 0), (2, 0), *((level, level) for level in (3, 9, 12))]
)
def test_what_the_command_writes_is_made_again(level: int, found: int) -> None:
    plain = content(500_000) + bytes(BLOCK) + content(200_000)  # two blocks
    packed = run("lz4", "-l", f"-{level}", given=plain)
    made = RecipeFinder({}).find(Packing.LZ4_LEGACY, packed, plain)
    assert made == recipe(Packer.LZ4_LEGACY, found)
    assert pack(made, plain, 0) == packed


def test_the_command_unpacks_what_is_made() -> None:
    packed = pack(recipe(Packer.LZ4_LEGACY, 9), kernel(), 0)
    assert packed == packed_kernel()
    assert run("lz4", "-d", "-c", given=packed) == kernel()


@pytest.mark.parametrize("size", [1, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK])
def test_content_that_ends_near_a_block_does(size: int) -> None:
    plain = bytes(size)
    packed = run("lz4", "-l", "-9", given=plain)
    assert pack(recipe(Packer.LZ4_LEGACY, 9), plain, 0) == packed
    decoder = LegacyDecoder(LIBRARY)
    assert drained(decoder, packed) == plain
    # A full last block shows by what stands behind it that it was the last.
    assert decoder.eof == bool(size % BLOCK)
    assert decoder.decompress(b"\xff\xff\xff\xff!", 10) == b""
    assert decoder.eof
    assert decoder.unused_data == b"\xff\xff\xff\xff!"


@pytest.mark.parametrize(
    "behind", [b"", b"\x0c\x68\x2c\x03and code", LZ4_LEGACY_MAGIC + b"\1\0\0\0"]
)
@pytest.mark.parametrize("feed", [1021, 64 * KIB, 32 * MIB])
def test_a_stream_ends_where_it_ends(behind: bytes, feed: int) -> None:
    decoder = LegacyDecoder(LIBRARY)
    assert drained(decoder, packed_kernel() + behind, feed) == kernel()
    assert decoder.eof
    # What came in the same piece; more is not fed.
    assert behind.startswith(decoder.unused_data)
    cursor = UnpackCursor(Packing.LZ4_LEGACY, MEMORY)
    for begin in range(0, len(packed_kernel()), feed):
        piece = (packed_kernel() + behind)[begin : begin + feed]
        while cursor.feed(piece, BLOCK):
            piece = b""
    assert cursor.eof
    assert cursor.consumed == len(packed_kernel())


def test_packed_bytes_come_with_their_block() -> None:
    encoder = LegacyEncoder(LIBRARY, 0)
    assert encoder.feed(bytes(BLOCK - 1)) == b""
    first = encoder.feed(b"\0")
    assert drained(LegacyDecoder(LIBRARY), first) == bytes(BLOCK)
    both = encoder.feed(bytes(2 * BLOCK + 5))
    rest = encoder.finish(b"end")
    encoder.close()
    assert drained(LegacyDecoder(LIBRARY), first + both + rest) == bytes(3 * BLOCK + 5) + b"end"


# --- part of a block


def test_content_of_a_block_that_is_not_whole() -> None:
    packed = packed_kernel()
    for size in (0, 3, 4, 7, 8, 9, 100, 12_345, 500_000):
        decoder = LegacyDecoder(LIBRARY)
        assert decoder.decompress(packed[:size], MIB) == b""
        early = decoder.early(BLOCK)
        assert kernel().startswith(early)
        assert len(early) >= size - 200  # literals take about as much; one sequence may be missing
        assert decoder.early(50) == early[:50]
        assert drained(decoder, packed[size:]) == kernel()  # and all of it comes
        assert decoder.early(BLOCK) == b""


def test_nothing_is_early_while_content_waits() -> None:
    decoder = LegacyDecoder(LIBRARY)
    packed = packed_kernel()
    assert decoder.decompress(packed, 10) == kernel()[:10]
    assert decoder.early(BLOCK) == b""


@pytest.mark.parametrize("edges", [(), (1000, 1001, 300_000, 2_500_000)])
def test_cuts_give_at_least_their_content(edges: tuple[int, ...]) -> None:
    packed, plain = packed_kernel(), kernel()
    cuts = list(legacy_cuts(LIBRARY, lambda at, size: packed[at : at + size], len(packed), edges))
    assert cuts == sorted(cuts)
    assert len({size for _, size in cuts}) == len({made for made, _ in cuts}) == len(cuts)
    assert set(edges) <= {size for _, size in cuts}
    contents = [0, *(made for made, _ in cuts), len(plain)]
    assert max(b - a for a, b in pairwise(contents)) <= 512 * KIB
    for made, size in [*cuts[::9], *(cut for cut in cuts if cut[1] in edges)]:
        decoder = LegacyDecoder(LIBRARY)
        told = len(drained(decoder, packed[:size])) + len(decoder.early(BLOCK))
        assert told >= made


def test_more_of_a_block_never_tells_less() -> None:
    """Wherever it is cut: in literals, in a distance, in the length of 9 MiB of zeros."""
    block = bytearray(packed_kernel()[8:])
    out = ctypes.create_string_buffer(BLOCK)
    told = [LIBRARY.decompress_first(block, 0, size, out) for size in range(20_000)]
    assert told == sorted(told)
    assert len(set(told)) > 5_000
    end = int.from_bytes(packed_kernel()[4:8], "little")
    told = [LIBRARY.decompress_first(block, 0, end - left, out) for left in range(30_000, -1, -500)]
    assert told == sorted(told)
    assert told[-1] == BLOCK


# --- hostile


@pytest.mark.parametrize(
    "packed",
    [
        b"\x02\x21\x4c\x19" + bytes(100),
        LZ4_LEGACY_MAGIC + bytes(4),
        LZ4_LEGACY_MAGIC + (LZ4_LEGACY_PACKED_BYTES_MAX + 1).to_bytes(4, "little"),
        LZ4_LEGACY_MAGIC + b"\xff\xff\xff\xff",
        LZ4_LEGACY_MAGIC + b"\5\0\0\0" + b"\xf0abcd",  # literals beyond the block
        LZ4_LEGACY_MAGIC + b"\4\0\0\0" + b"\x10a\xff\xff",  # a match before the content
        LZ4_LEGACY_MAGIC + b"\1\0\0\0" + b"\0",  # a block of nothing
    ],
)
def test_what_is_no_stream_is_refused(packed: bytes) -> None:
    with pytest.raises(FormatError):
        drained(LegacyDecoder(LIBRARY), packed)


def test_a_block_of_more_than_8_mib_is_refused() -> None:
    block = pack(recipe(Packer.LZ4, 9), bytes(BLOCK + 1), 0)
    packed = LZ4_LEGACY_MAGIC + len(block).to_bytes(4, "little") + block
    with pytest.raises(FormatError, match="longer"):
        drained(LegacyDecoder(LIBRARY), packed)


def test_changed_bytes_raise_only_format_errors() -> None:
    chance = random.Random(5)
    plain = content(60_000)
    good = pack(recipe(Packer.LZ4_LEGACY, 3), plain, 0)
    refused = 0
    for _ in range(300):
        packed = bytearray(good)
        packed[chance.randrange(len(good))] = chance.randrange(256)
        decoder = LegacyDecoder(LIBRARY)
        try:
            assert len(drained(decoder, bytes(packed), 999)) <= BLOCK
        except FormatError:
            refused += 1
        else:
            assert len(decoder.early(BLOCK)) <= BLOCK
    assert refused


def test_a_decoder_keeps_to_its_memory() -> None:
    noise = random.Random(1).randbytes(BLOCK)
    packed = pack(recipe(Packer.LZ4_LEGACY, 0), noise + bytes(BLOCK) + noise, 0)
    tracemalloc.start()
    try:
        cursor = UnpackCursor(Packing.LZ4_LEGACY, MEMORY)
        for begin in range(0, len(packed), 64 * KIB):
            piece = packed[begin : begin + 64 * KIB]
            while cursor.feed(piece, 256 * KIB):
                piece = b""
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert MEMORY / 2 < peak <= MEMORY
    with pytest.raises(FormatError, match="too little memory"):
        UnpackCursor(Packing.LZ4_LEGACY, MEMORY - 1)


def test_an_encoder_keeps_to_its_memory() -> None:
    noise = random.Random(1).randbytes(64 * KIB)  # farther back than LZ4 looks
    pieces = [noise[turn:] + noise[:turn] for turn in range(17, 17 + 2 * BLOCK // len(noise) + 9)]
    waiting = bytearray()
    tracemalloc.start()
    try:
        encoder = LegacyEncoder(LIBRARY, 0)
        for piece in pieces:
            waiting.clear()
            waiting += encoder.feed(piece)
        waiting += encoder.finish(b"")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(waiting) > 0
    most = pack_memory_bytes(recipe(Packer.LZ4_LEGACY, 9), 0)
    assert most / 2 < peak <= most

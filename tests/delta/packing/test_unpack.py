"""Unpacking: bounds on everything, whatever the bytes say."""

import contextlib
import gzip
import lzma
import struct
import tracemalloc
import zlib
from collections.abc import Callable

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.limits import CODEC_DECODED_BYTES_MAX, KIB, MIB
from slipstream.delta.packing.headers import unpack_memory_bytes
from slipstream.delta.packing.pack import pack
from slipstream.delta.packing.recipe import Packer
from slipstream.delta.packing.unpack import UnpackCursor, unpack
from tests.delta.packing.samples import content, recipe

CONTENT = content(300_000)
CURSORS = [Packing.GZIP, Packing.XZ, Packing.ZSTD, Packing.LZ4_LEGACY]
MEMORY = 32 * MIB  # more than any of their decoders takes here


def raw_deflate(data: bytes) -> bytes:
    encoder = zlib.compressobj(6, wbits=-15)
    return encoder.compress(data) + encoder.flush()


def microlzma(data: bytes) -> bytes:
    """MicroLZMA of a .lzma file: its header gone, and its properties where the first 0 was."""
    alone = lzma.compress(data, lzma.FORMAT_ALONE)
    return bytes([0xFF - alone[0]]) + alone[14:]


PACKS: dict[Packing, Callable[[bytes], bytes]] = {
    Packing.ZLIB: zlib.compress,
    Packing.XZ: lzma.compress,
    Packing.ZSTD: lambda data: zstandard.ZstdCompressor(write_checksum=True).compress(data),
    Packing.LZ4: lambda data: pack(recipe(Packer.LZ4, 0), data, 0),
    Packing.LZO: lambda data: pack(recipe(Packer.LZO, 4, 1), data, 0),
    Packing.LZ4_PADDED: lambda data: bytes(77) + pack(recipe(Packer.LZ4, 12), data, 0),
    Packing.MICROLZMA: lambda data: bytes(5) + microlzma(data),
    Packing.DEFLATE: lambda data: bytes(9) + raw_deflate(data),
    Packing.ZSTD_PADDED: lambda data: bytes(3) + zstandard.ZstdCompressor().compress(data),
    Packing.GZIP: lambda data: gzip.compress(data, 6),
    Packing.LZ4_LEGACY: lambda data: pack(recipe(Packer.LZ4_LEGACY, 9), data, 0),
    Packing.LZMA_ALONE: lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
}


@pytest.mark.parametrize("packing", Packing)
def test_content_comes_back(packing: Packing) -> None:
    assert unpack(packing, PACKS[packing](CONTENT), len(CONTENT)) == CONTENT


@pytest.mark.parametrize("packing", [p for p in Packing if p is not Packing.MICROLZMA], ids=str)
def test_more_room_than_needed_is_fine(packing: Packing) -> None:
    assert unpack(packing, PACKS[packing](CONTENT), MIB) == CONTENT


@pytest.mark.parametrize("packing", [p for p in Packing if p is not Packing.MICROLZMA], ids=str)
def test_content_beyond_the_size_is_refused(packing: Packing) -> None:
    packed = PACKS[packing](CONTENT)
    for size in (0, 1, len(CONTENT) - 1):
        with pytest.raises(FormatError):
            unpack(packing, packed, size)


@pytest.mark.parametrize("size", [-1, CODEC_DECODED_BYTES_MAX + 1])
def test_impossible_sizes_are_refused(size: int) -> None:
    with pytest.raises(FormatError, match="impossible size"):
        unpack(Packing.ZLIB, zlib.compress(b""), size)


@pytest.mark.parametrize("packing", Packing)
def test_cut_short(packing: Packing) -> None:
    packed = PACKS[packing](CONTENT[:5000])
    begin = len(packed) - len(packed.lstrip(b"\0"))
    for size in range(begin, len(packed) - 10, 7):
        with contextlib.suppress(FormatError):
            # A raw LZ4 block may end where a sequence does; then the length tells.
            assert len(unpack(packing, packed[:size], 5000)) < 5000
            assert packing in {Packing.LZ4, Packing.LZ4_PADDED}


@pytest.mark.parametrize("packing", [p for p in Packing if p is not Packing.MICROLZMA], ids=str)
@pytest.mark.parametrize("junk", [b"\0", b"x", bytes(100)], ids=len)
def test_bytes_behind_the_end_are_refused(packing: Packing, junk: bytes) -> None:
    with pytest.raises(FormatError):
        unpack(packing, PACKS[packing](CONTENT[:5000]) + junk, 5000)


@given(packing=st.sampled_from(Packing), data=st.binary(max_size=300), size=st.integers(0, 5000))
@settings(max_examples=400, deadline=None)
def test_hostile_bytes_raise_only_format_errors(packing: Packing, data: bytes, size: int) -> None:
    with contextlib.suppress(FormatError):
        assert len(unpack(packing, data, size)) <= size


@given(packing=st.sampled_from(Packing), place=st.integers(0, 2000), byte=st.integers(0, 255))
@settings(max_examples=400, deadline=None)
def test_a_changed_byte_raises_only_format_errors(packing: Packing, place: int, byte: int) -> None:
    packed = bytearray(PACKS[packing](CONTENT[:2000]))
    packed[place % len(packed)] = byte
    with contextlib.suppress(FormatError):
        assert len(unpack(packing, bytes(packed), 2000)) <= 2000


# --- cursors


def drained(cursor: UnpackCursor, packed: bytes, feed: int, take: int) -> bytes:
    made = []
    for begin in range(0, len(packed), feed):
        piece = cursor.feed(packed[begin : begin + feed], take)
        while piece:
            assert len(piece) <= take
            made.append(piece)
            piece = cursor.feed(b"", take)
    return b"".join(made)


@pytest.mark.parametrize("packing", CURSORS)
@pytest.mark.parametrize("feed, take", [(1, 100_000), (1, 1), (7, 3), (65_536, 1000), (10**6, 10**6)])  # fmt: skip
def test_a_cursor_gives_the_content_in_any_pieces(packing: Packing, feed: int, take: int) -> None:
    data = CONTENT if feed * take > 21 else CONTENT[:3000] + bytes(3000)
    packed = PACKS[packing](data)
    cursor = UnpackCursor(packing, unpack_memory_bytes(packing, packed))
    assert drained(cursor, packed, feed, take) == data
    assert cursor.eof
    assert cursor.consumed == len(packed)


@pytest.mark.parametrize("packing", CURSORS)
@pytest.mark.parametrize("behind", [b"\0", b"junk" * 50_000, None], ids=["zero", "junk", "again"])
def test_a_cursor_says_where_its_stream_ends(packing: Packing, behind: bytes | None) -> None:
    packed = PACKS[packing](CONTENT)
    cursor = UnpackCursor(packing, MEMORY)
    both = packed + (packed if behind is None else behind)
    assert drained(cursor, both, 1000, 1000) == CONTENT
    assert cursor.consumed == len(packed)
    assert cursor.feed(b"more", 10) == b""
    assert cursor.consumed == len(packed)


@pytest.mark.parametrize("packing", CURSORS)
def test_a_cursor_may_be_asked_before_it_was_fed(packing: Packing) -> None:
    packed = PACKS[packing](CONTENT)
    cursor = UnpackCursor(packing, MEMORY)
    assert cursor.feed(b"", 10) == b""
    assert drained(cursor, packed, 1 << 16, 1 << 16) == CONTENT


@pytest.mark.parametrize("packing", CURSORS)
def test_a_stream_cut_short_is_not_at_its_end(packing: Packing) -> None:
    packed = PACKS[packing](CONTENT)
    for size in (0, 1, 3, 5, 11, 1000, len(packed) - 1):
        cursor = UnpackCursor(packing, MEMORY)
        assert CONTENT.startswith(drained(cursor, packed[:size], 512, 4096))
        assert not cursor.eof


@pytest.mark.parametrize("packing", sorted(set(Packing) - set(CURSORS), key=str))
def test_other_packings_have_no_cursor(packing: Packing) -> None:
    with pytest.raises(FormatError, match="without a cursor"):
        UnpackCursor(packing, MIB)


def test_a_cursor_needs_room() -> None:
    with pytest.raises(FormatError, match="no room"):
        UnpackCursor(Packing.GZIP, MIB).feed(b"", 0)


def test_a_gzip_member_may_come_without_its_header() -> None:
    packed = pack(recipe(Packer.GZIP_ZLIB, 6, 8), CONTENT, 0)
    cursor = UnpackCursor(Packing.GZIP, MIB)
    assert drained(cursor, packed + b"behind", 1, 999) == CONTENT
    assert cursor.consumed == len(packed)
    assert unpack(Packing.GZIP, packed, len(CONTENT)) == CONTENT


def test_the_checksum_of_a_headless_member_counts() -> None:
    packed = bytearray(pack(recipe(Packer.GZIP_ZLIB, 6, 8), CONTENT, 0))
    packed[-5] ^= 1
    with pytest.raises(FormatError):
        unpack(Packing.GZIP, bytes(packed), len(CONTENT))


# --- memory

BOMB = bytes(64 * MIB)


@pytest.mark.parametrize("packing", [Packing.ZLIB, Packing.GZIP, Packing.XZ, Packing.ZSTD])
def test_bombs_stop_at_their_bound(packing: Packing) -> None:
    packed = PACKS[packing](BOMB)
    assert len(packed) < len(BOMB) // 900
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="too long"):
            unpack(packing, packed, 100 * KIB)
        if packing in CURSORS:
            cursor = UnpackCursor(packing, MEMORY)
            assert len(cursor.feed(packed, 1000)) == 1000
            assert not cursor.eof
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * MIB  # the dictionary of xz has 8


def test_an_xz_dictionary_beyond_the_bound_is_refused() -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 32 * MIB}]
    packed = lzma.compress(CONTENT, lzma.FORMAT_XZ, filters=filters)
    memory = unpack_memory_bytes(Packing.XZ, packed)
    assert 32 * MIB < memory < 33 * MIB
    assert drained(UnpackCursor(Packing.XZ, memory), packed, 1 << 16, 1 << 16) == CONTENT
    with pytest.raises(FormatError, match="Memory usage limit"):
        UnpackCursor(Packing.XZ, 32 * MIB).feed(packed, 1000)


def test_a_zstd_window_beyond_the_bound_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=27)
    encoder = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    packed = encoder.compress(CONTENT) + encoder.flush()
    memory = unpack_memory_bytes(Packing.ZSTD, packed[:18])
    assert 128 * MIB < memory < 129 * MIB
    assert drained(UnpackCursor(Packing.ZSTD, memory), packed, 1 << 16, 1 << 16) == CONTENT
    with pytest.raises(FormatError, match="window too large"):
        UnpackCursor(Packing.ZSTD, 128 * MIB).feed(packed, 1000)


def test_microlzma_gives_exactly_its_size() -> None:
    packed = PACKS[Packing.MICROLZMA](CONTENT)
    with pytest.raises(FormatError):
        unpack(Packing.MICROLZMA, packed, len(CONTENT) + 1)


def test_no_dictionary_is_asked_for() -> None:
    frame = b"\x28\xb5\x2f\xfd" + bytes([0b0010_0001, 7, 4]) + struct.pack("<I", 4 << 3 | 1)[:3] + b"abcd"  # fmt: skip
    with pytest.raises(FormatError, match="dictionary"):
        unpack(Packing.ZSTD, frame, 4)

"""One metadata block of squashfs, unpacked within its bound."""

import ctypes
import lzma
import zlib
from collections.abc import Callable

import lz4.block
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.filesystem.unpack import unpack_block

BOUND = 8192


def pack_lzo(data: bytes) -> bytes:
    lzo = ctypes.CDLL("liblzo2.so.2")
    out = ctypes.create_string_buffer(len(data) + len(data) // 16 + 67)
    size = ctypes.c_size_t(len(out))
    work = ctypes.create_string_buffer(1 << 19)
    lzo.lzo1x_1_compress(data, ctypes.c_size_t(len(data)), out, ctypes.byref(size), work)
    return out.raw[: size.value]


PACK: dict[Packing, Callable[[bytes], bytes]] = {
    Packing.ZLIB: zlib.compress,
    Packing.XZ: lambda data: lzma.compress(data, lzma.FORMAT_XZ),
    Packing.LZMA_ALONE: lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    Packing.ZSTD: zstandard.ZstdCompressor().compress,
    Packing.LZ4: lambda data: bytes(lz4.block.compress(data, store_size=False)),
    Packing.LZO: pack_lzo,
}


@pytest.mark.parametrize("packing", PACK)
@given(data=st.binary(min_size=1, max_size=300), repeats=st.integers(1, 27))
def test_round_trip(packing: Packing, data: bytes, repeats: int) -> None:
    content = data * repeats
    assert unpack_block(packing, PACK[packing](content), BOUND) == content


@pytest.mark.parametrize("packing", PACK)
@pytest.mark.parametrize("size", [BOUND + 1, 1 << 24])
def test_more_than_the_bound(packing: Packing, size: int) -> None:
    assert unpack_block(packing, PACK[packing](bytes(BOUND)), BOUND) == bytes(BOUND)
    with pytest.raises(FormatError):
        unpack_block(packing, PACK[packing](bytes(size)), BOUND)


def test_a_zstd_frame_that_does_not_say_its_size() -> None:
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    assert unpack_block(Packing.ZSTD, compressor.compress(bytes(BOUND)), BOUND) == bytes(BOUND)
    with pytest.raises(FormatError):
        unpack_block(Packing.ZSTD, compressor.compress(bytes(BOUND + 1)), BOUND)


@pytest.mark.parametrize(
    "packing, window",
    [
        (
            Packing.XZ,
            lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 64 << 20}]),
        ),
        (
            Packing.LZMA_ALONE,
            lzma.compress(
                b"x",
                lzma.FORMAT_ALONE,
                filters=[{"id": lzma.FILTER_LZMA1, "dict_size": 64 << 20}],
            ),
        ),
        # Magic, no single segment, a window of 1 GiB, a raw block of one byte.
        (Packing.ZSTD, bytes.fromhex("28b52ffd00a0090000") + b"x"),
    ],
    ids=["xz", "lzma", "zstd"],
)
def test_a_window_that_no_metadata_needs(packing: Packing, window: bytes) -> None:
    with pytest.raises(FormatError):
        unpack_block(packing, window, BOUND)


@pytest.mark.parametrize("packing", PACK)
@given(junk=st.binary(max_size=100))
def test_junk_raises_only_our_errors(packing: Packing, junk: bytes) -> None:
    packed = PACK[packing](b"some words, " * 50)
    for data in (junk, junk + packed, packed[: len(junk)] + junk + packed[2 * len(junk) :]):
        try:
            assert len(unpack_block(packing, data, BOUND)) <= BOUND
        except FormatError:
            continue


@pytest.mark.parametrize("packing", [packing for packing in Packing if packing not in PACK])
def test_packings_that_squashfs_does_not_know(packing: Packing) -> None:
    with pytest.raises(FormatError):
        unpack_block(packing, b"data", BOUND)

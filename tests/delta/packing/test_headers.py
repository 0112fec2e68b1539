"""Headers: what the tools write is read right, and nothing else is taken for one."""

import contextlib
import gzip
import lzma
import zlib
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.limits import KIB, MIB
from slipstream.delta.packing.headers import (
    XzHeader,
    gzip_header_size,
    parse_xz_header,
    parse_zstd_header,
    unpack_memory_bytes,
)
from tests.delta.packing.samples import run


def gzip_member(flags: int, fields: bytes) -> bytes:
    return b"\x1f\x8b\x08" + bytes([flags, 1, 2, 3, 4, 2, 3]) + fields


@pytest.mark.parametrize(
    "flags, fields",
    [
        (0, b""),
        (1, b""),  # "text": no field
        (8, b"name\0"),
        (16, b"comment\0"),
        (4, b"\x03\0abc"),
        (2, b"\x12\x34"),
        (31, b"\x02\0ab" + b"name\0" + b"\0" + b"\x12\x34"),
    ],
)
def test_gzip_headers(flags: int, fields: bytes) -> None:
    member = gzip_member(flags, fields)
    assert gzip_header_size(member + b"\x00\xff") == len(member)
    for size in range(len(member)):
        with pytest.raises(FormatError):
            gzip_header_size(member[:size])


def test_gzip_headers_of_the_tools(tmp_path: Path) -> None:
    (tmp_path / "a name").write_bytes(b"content")
    assert gzip_header_size(run("gzip", "-c", tmp_path / "a name")) == 10 + len("a name") + 1
    assert gzip_header_size(run("gzip", "-n", given=b"content")) == 10
    assert gzip_header_size(gzip.compress(b"content", mtime=0)) == 10


@pytest.mark.parametrize("name", [b"n" * 70_000 + b"\0", b"n" * 200])
def test_gzip_names_without_an_end(name: bytes) -> None:
    with pytest.raises(FormatError, match="without an end"):
        gzip_header_size(gzip_member(8, name))


def test_no_other_method_or_magic() -> None:
    for data in (b"", b"\x1f\x8b", b"\x1f\x8b\x07" + bytes(20), zlib.compress(b"content " * 9)):
        with pytest.raises(FormatError, match="not a gzip header"):
            gzip_header_size(data)


@pytest.mark.parametrize(
    "options, header",
    [
        (("-6",), XzHeader(4, 0, 8 * MIB, 12, None)),
        (("-0", "--check=crc32"), XzHeader(1, 0, 256 * KIB, 12, None)),
        (("-9", "--check=none"), XzHeader(0, 0, 64 * MIB, 12, None)),
        (("--x86", "--lzma2=dict=32MiB"), XzHeader(4, 4, 32 * MIB, 12, None)),
        (("--arm", "--lzma2=dict=96KiB"), XzHeader(4, 7, 96 * KIB, 12, None)),
        (("-0", "-T2", "--block-size=1000"), XzHeader(4, 0, 256 * KIB, 16, 1000)),
    ],
)
def test_xz_headers(options: tuple[str, ...], header: XzHeader) -> None:
    packed = run("xz", *options, given=b"content " * 1000)
    assert parse_xz_header(packed) == header
    for size in range(12 + header.header_size - 8):
        with pytest.raises(FormatError):
            parse_xz_header(packed[:size])


@pytest.mark.parametrize("options", [("--delta=dist=2", "--lzma2"), ("--x86", "--arm", "--lzma2"), ("--x86=start=4096", "--lzma2")])  # fmt: skip
def test_other_xz_filters(options: tuple[str, ...]) -> None:
    with pytest.raises(FormatError, match="xz filter"):
        parse_xz_header(run("xz", *options, given=b"content"))


def test_an_xz_stream_without_a_block() -> None:
    with pytest.raises(FormatError, match="with a block"):
        parse_xz_header(lzma.compress(b""))


@given(st.binary(max_size=60))
def test_hostile_headers_raise_only_format_errors(data: bytes) -> None:
    for head in (data, b"\xfd7zXZ\0" + data, b"\x1f\x8b\x08" + data, b"\x28\xb5\x2f\xfd" + data):
        for parse in (gzip_header_size, parse_xz_header, parse_zstd_header):
            with contextlib.suppress(FormatError):
                parse(head)


def test_zstd_headers() -> None:
    packed = zstandard.ZstdCompressor(level=1, write_checksum=True).compress(b"content " * 100)
    frame = parse_zstd_header(packed)
    assert (frame.content_size, frame.has_checksum) == (800, True)
    with pytest.raises(FormatError, match="not a zstd frame"):
        parse_zstd_header(b"\x50\x2a\x4d\x18" + bytes(20))


@pytest.mark.parametrize(
    "packing, packed, window",
    [
        (Packing.GZIP, gzip.compress(b"content", mtime=0), 0),
        (Packing.XZ, lzma.compress(b"content", preset=9), 64 * MIB),
        (Packing.ZSTD, zstandard.ZstdCompressor(level=19).compress(bytes(3 * MIB)), 3 * MIB),
    ],
)
def test_memory_is_that_of_the_window(packing: Packing, packed: bytes, window: int) -> None:
    assert window < unpack_memory_bytes(packing, packed) <= window + MIB


def test_other_packings_have_no_cursor_to_hold_memory() -> None:
    with pytest.raises(FormatError, match="without a cursor"):
        unpack_memory_bytes(Packing.LZ4, b"")

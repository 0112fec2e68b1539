"""The zstd decoder that gives one block at a time: frames by hand, and frames that lie."""

import struct
import tracemalloc

import pytest
import zstandard

from slipstream.delta.errors import FormatError
from slipstream.delta.limits import KIB, MIB
from slipstream.delta.packing.zstd_blocks import ZstdDecoder
from tests.delta.packing.samples import content

HEADER = b"\x28\xb5\x2f\xfd" + bytes([0, 8 << 3])  # no size, window of 256 KiB


def block(kind: int, size: int, body: bytes, *, last: bool = False) -> bytes:
    """3-byte header (size, type, last) and body."""
    return struct.pack("<I", size << 3 | kind << 1 | last)[:3] + body


def raw(body: bytes, *, last: bool = False) -> bytes:
    return block(0, len(body), body, last=last)


def drain(decoder: ZstdDecoder, packed: bytes) -> bytes:
    made = decoder.decompress(packed, MIB)
    while piece := decoder.decompress(b"", MIB):
        made += piece
    return made


def test_a_frame_by_hand() -> None:
    frame = HEADER + raw(b"abc") + block(1, 5, b"x") + raw(b"") + raw(b"def", last=True)
    decoder = ZstdDecoder(MIB)
    assert drain(decoder, frame + b"behind") == b"abcxxxxxdef"
    assert decoder.eof
    assert decoder.unused_data == b"behind"


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("sized", [False, True])
@pytest.mark.parametrize("size", [0, 1, 255, 256, 65_791, 65_792, 300_000])
def test_frames_of_every_header(checksum: bool, sized: bool, size: int) -> None:
    data = content(300_000)[:size]
    compressor = zstandard.ZstdCompressor(
        level=1, write_checksum=checksum, write_content_size=sized
    )
    packed = compressor.compress(data)
    decoder = ZstdDecoder(2 * MIB)
    assert b"".join(decoder.decompress(bytes([byte]), MIB) for byte in packed) == data
    assert decoder.eof
    assert decoder.unused_data == b""


def test_a_wrong_checksum_is_seen() -> None:
    packed = bytearray(zstandard.ZstdCompressor(write_checksum=True).compress(b"content"))
    packed[-1] ^= 1
    with pytest.raises(zstandard.ZstdError, match="hecksum"):
        drain(ZstdDecoder(MIB), bytes(packed))


@pytest.mark.parametrize(
    "broken",
    [block(3, 3, b"abc"), block(0, 128 * KIB + 1, b""), block(2, 128 * KIB + 1, b"")],
    ids=["reserved", "long", "long packed"],
)
def test_broken_blocks(broken: bytes) -> None:
    with pytest.raises(FormatError, match="broken zstd block"):
        drain(ZstdDecoder(MIB), HEADER + raw(b"abc") + broken)


def test_blocks_longer_than_the_window() -> None:
    frame = b"\x28\xb5\x2f\xfd" + bytes([0, 0]) + block(1, 1025, b"x", last=True)  # 1 KiB
    with pytest.raises(zstandard.ZstdError):
        drain(ZstdDecoder(MIB), frame)


def test_repeated_bytes_come_block_by_block() -> None:
    frame = HEADER + block(1, 128 * KIB, b"x") * 2000 + raw(b"", last=True)  # 250 MiB in 8 KB
    decoder = ZstdDecoder(2 * MIB)
    tracemalloc.start()
    try:
        assert decoder.decompress(frame, MIB) == b"x" * 128 * KIB
        assert len(decoder.decompress(b"", 1000)) == 1000
        assert tracemalloc.get_traced_memory()[1] < 2 * MIB
    finally:
        tracemalloc.stop()

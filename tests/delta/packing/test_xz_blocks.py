"""The .xz framing with sizes: whole streams, checked by liblzma itself."""

import lzma

import pytest

from slipstream.delta.errors import FormatError
from slipstream.delta.packing.headers import parse_xz_header
from slipstream.delta.packing.xz_blocks import XzBlocks
from tests.delta.packing.samples import content, run

CONTENT = content(20_000)
PLAIN = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 1 << 16}]
X86 = [{"id": lzma.FILTER_X86}, *PLAIN]


@pytest.mark.parametrize("check", [0, 1, 4, 10])
@pytest.mark.parametrize("filters", [PLAIN, X86], ids=["plain", "x86"])
@pytest.mark.parametrize("block_size", [100, 4999, 5000, 20_000, 1 << 20])
def test_streams_are_whole(check: int, filters: list[dict[str, int]], block_size: int) -> None:
    blocks = XzBlocks(check, filters, block_size, 24)
    packed = blocks.compress(CONTENT[:7]) + blocks.compress(CONTENT[7:]) + blocks.flush()
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    assert decoder.decompress(packed) == CONTENT
    assert decoder.eof
    assert not decoder.unused_data
    header = parse_xz_header(packed)
    assert (header.check, header.header_size) == (check, 24)
    assert header.block_size == min(block_size, len(CONTENT))


def test_an_empty_stream_has_no_block() -> None:
    blocks = XzBlocks(1, PLAIN, 4096, 16)
    assert blocks.flush() == run("xz", "-T2", "--check=crc32", given=b"")


def test_nothing_is_held_but_one_block() -> None:
    blocks = XzBlocks(4, PLAIN, 5000, 16)
    sizes = [
        len(blocks.compress(CONTENT[begin : begin + 2500])) for begin in range(0, 20_000, 2500)
    ]
    assert [size > 1000 for size in sizes] == [False, True] * 4


def test_a_header_that_cannot_hold_the_sizes() -> None:
    blocks = XzBlocks(1, X86, 1 << 20, 12)
    blocks.compress(CONTENT)
    with pytest.raises(FormatError, match="too small"):
        blocks.flush()

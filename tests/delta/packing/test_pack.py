"""Packing: the same bytes however content comes, and what stands in the way."""

import gzip
import lzma
import zlib
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError, PackingUnavailable
from slipstream.delta.filemap import Packing
from slipstream.delta.packing.pack import PackCursor, pack
from slipstream.delta.packing.recipe import Packer, Recipe
from slipstream.delta.packing.unpack import unpack
from tests.delta.packing.samples import STREAMED, WHOLE, content, recipe

CONTENT = content(400_000)
# The others work in a process or thread of their own: what is there by now is a matter of time; or
# in blocks of 8 MiB (test_lz4_legacy.py).
IN_STEP = [
    one
    for one in STREAMED
    if one.packer not in {Packer.GZIP_GNU, Packer.LZ4_LEGACY} and one.parameters[4:5] != (1,)
]


def pack_in_pieces(recipe: Recipe, pieces: Iterator[bytes]) -> bytes:
    cursor = PackCursor(recipe)
    try:
        return b"".join([*map(cursor.feed, pieces), cursor.finish()])
    finally:
        cursor.close()


def cut(data: bytes, sizes: list[int]) -> Iterator[bytes]:
    begin = 0
    for size in sizes:
        yield data[begin : begin + size]
        begin += size
    yield data[begin:]


@pytest.mark.parametrize("recipe", [*STREAMED, *WHOLE], ids=str)
@pytest.mark.parametrize("size", [1, 4096, 131_072, 262_144, 400_000])
def test_what_was_packed_unpacks(recipe: Recipe, size: int) -> None:
    packed = pack(recipe, CONTENT[:size], 0)
    assert unpack(recipe.packing, packed, size) == CONTENT[:size]
    assert pack(recipe, CONTENT[:size], 0) == packed


@pytest.mark.parametrize("recipe", STREAMED, ids=str)
@given(sizes=st.lists(st.sampled_from([0, 1, 2, 300, 65_536, 131_071, 131_072, 131_073]), max_size=9))  # fmt: skip
@settings(max_examples=8, deadline=None)
def test_the_cuts_of_a_stream_do_not_show(recipe: Recipe, sizes: list[int]) -> None:
    assert pack_in_pieces(recipe, cut(CONTENT, sizes)) == pack(recipe, CONTENT, 0)


@pytest.mark.parametrize("recipe", STREAMED, ids=str)
def test_content_byte_by_byte(recipe: Recipe) -> None:
    data = CONTENT[:3000]
    assert pack_in_pieces(recipe, cut(data, [1] * 3000)) == pack(recipe, data, 0)


@pytest.mark.parametrize(
    "recipe", [one for one in STREAMED if one.packer is not Packer.LZ4_LEGACY], ids=str
)
def test_an_empty_stream_is_one(recipe: Recipe) -> None:
    assert unpack(recipe.packing, pack(recipe, b"", 0), 0) == b""


@pytest.mark.parametrize("recipe", STREAMED, ids=str)
@pytest.mark.parametrize("fed", [0, 1, 300_000])
def test_a_cursor_may_be_closed_at_any_time_and_twice(recipe: Recipe, fed: int) -> None:
    cursor = PackCursor(recipe)
    cursor.feed(CONTENT[:fed])
    cursor.close()
    cursor.close()


@pytest.mark.parametrize("recipe", IN_STEP, ids=str)
def test_a_stream_gives_bytes_before_it_ends(recipe: Recipe) -> None:
    cursor = PackCursor(recipe)
    early = cursor.feed(content(2_000_000))
    whole = early + cursor.finish()
    cursor.close()
    assert len(early) > len(whole) // 2


@pytest.mark.parametrize("recipe", WHOLE, ids=str)
def test_blocks_are_no_streams(recipe: Recipe) -> None:
    with pytest.raises(FormatError, match="single blocks"):
        PackCursor(recipe)


@pytest.mark.parametrize("name", ["zlib 9.9", "zlib 1.2.13-other"])
def test_another_version_packs_nothing(name: str) -> None:
    other = Recipe(Packer.ZLIB, (9, 15, 8, 0), name)
    with pytest.raises(PackingUnavailable, match="not here") as caught:
        pack(other, b"content", 0)
    assert (caught.value.expected, caught.value.got) == (name, f"zlib {zlib.ZLIB_RUNTIME_VERSION}")
    with pytest.raises(PackingUnavailable):
        PackCursor(other)


def test_a_gzip_body_stands_behind_the_header() -> None:
    packed = pack(recipe(Packer.GZIP_ZLIB, 9, 8), CONTENT, 0)
    assert gzip.compress(CONTENT, 9, mtime=0)[10:] == packed


def test_xz_streams_are_those_of_python() -> None:
    filters = [{"id": lzma.FILTER_X86}, {"id": lzma.FILTER_LZMA2, "preset": 2, "dict_size": 1 << 20}]  # fmt: skip
    made = lzma.compress(CONTENT, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=filters)
    assert pack(recipe(Packer.XZ, 2, 0, 1 << 20, 1, 4, 0, 0), CONTENT, 0) == made


# --- clusters of erofs


def test_a_cluster_is_filled_from_its_end() -> None:
    packed = pack(recipe(Packer.LZ4_DEST, 0, 0, 0), bytes(100_000), 4096)
    assert len(packed) == 4096
    assert packed[:1000] == bytes(1000)
    assert unpack(Packing.LZ4_PADDED, packed, 100_000) == bytes(100_000)


def test_a_cluster_holds_no_more_than_it_was_given() -> None:
    packed = pack(recipe(Packer.LZ4_DEST, 9, 0, 0), CONTENT, 4096)
    assert len(packed) == 4096
    held = unpack(Packing.LZ4_PADDED, packed, 100_000)
    assert CONTENT.startswith(held)


def test_content_ahead_is_seen_as_far_as_the_recipe_says() -> None:
    blind, seeing = recipe(Packer.LZ4_DEST, 12, 0, 0), recipe(Packer.LZ4_DEST, 12, 1000, 0)
    differing = 0
    for begin in range(0, 300_000, 10_000):
        rest = CONTENT[begin:]
        filled = pack(blind, rest[:100_000], 4096)
        size = len(unpack(Packing.LZ4_PADDED, filled, 100_000))
        block, ahead = rest[:size], rest[size:]
        alone = pack(blind, block, 4096)
        assert pack(blind, block, 4096, ahead) == alone
        assert pack(seeing, block, 4096, ahead) == pack(seeing, block, 4096, ahead[:1000])
        differing += pack(seeing, block, 4096, ahead) != alone
    assert differing


def test_too_little_content_ahead() -> None:
    with pytest.raises(FormatError, match="too little content behind"):
        pack(recipe(Packer.LZ4_DEST, 9, 1000, 0), CONTENT[:5000], 4096, bytes(999))

"""Finding recipes: blocks and streams of the real tools are made again, all of them."""

import gzip
import zlib
from pathlib import Path

import pytest
import zstandard

from slipstream.delta.filemap import Packing
from slipstream.delta.limits import RECIPE_SEARCHES_MAX, RECIPES_KEPT_MAX
from slipstream.delta.packing.find import RecipeFinder
from slipstream.delta.packing.headers import gzip_header_size
from slipstream.delta.packing.pack import PackCursor, pack
from slipstream.delta.packing.recipe import Packer, Recipe
from tests.delta.packing.samples import content, erofs, recipe, run, samples, squashfs

CONTENT = content(600_000)
BIG = content(2_500_000)  # zstd -1 cuts it into two jobs


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    (folder / "large").write_bytes(CONTENT[:300_000])
    (folder / "zeros").write_bytes(bytes(200_000))
    for number, size in enumerate((0, 10, 5000, 20_000, 60_000)):
        begin = 300_000 + 60_000 * number
        (folder / f"small-{number}").write_bytes(CONTENT[begin : begin + size])
    return folder


SQUASHFS = {
    "gzip": (),
    "gzip of level 4": ("-comp", "gzip", "-Xcompression-level", "4"),
    "gzip by strategies": ("-comp", "gzip", "-Xstrategy", "filtered,huffman_only,run_length_encoded,fixed"),
    "xz": ("-comp", "xz"),
    "xz with x86 filter": ("-comp", "xz", "-Xbcj", "x86"),
    "xz with small dictionary": ("-comp", "xz", "-Xdict-size", "32K", "-b", "1M"),
    "zstd": ("-comp", "zstd"),
    "zstd of level 3": ("-comp", "zstd", "-Xcompression-level", "3", "-b", "1M"),
    "lz4": ("-comp", "lz4"),
    "lz4 hc": ("-comp", "lz4", "-Xhc"),
    "lzo": ("-comp", "lzo"),
    "lzo1x_1_15": ("-comp", "lzo", "-Xalgorithm", "lzo1x_1_15"),
}  # fmt: skip


@pytest.mark.parametrize("name", SQUASHFS)
def test_every_block_of_squashfs(name: str, tree: Path, tmp_path: Path) -> None:
    map_, image = squashfs(tmp_path, tree, *SQUASHFS[name])
    finder = RecipeFinder(map_.hints)
    found = 0
    for sample in samples(map_, image):
        made = finder.find(sample.packing, sample.packed, sample.content)
        assert made is not None
        assert pack(made, sample.content, len(sample.packed)) == sample.packed
        found += 1
    assert found > 1


EROFS = {
    "lz4": ("-zlz4",),
    "lz4, 64 KiB": ("-zlz4", "-C65536"),
    "lz4hc": ("-zlz4hc,9",),
    "lz4hc, 64 KiB": ("-zlz4hc,12", "-C65536"),
}


@pytest.mark.parametrize("name", EROFS)
def test_every_cluster_of_erofs(name: str, tree: Path, tmp_path: Path) -> None:
    map_, image = erofs(tmp_path, tree, *EROFS[name])
    finder = RecipeFinder(map_.hints)
    found = far = 0
    for sample in samples(map_, image):
        made = finder.find(sample.packing, sample.packed, sample.content, sample.ahead)
        assert made is not None
        size = made.parameters[1]
        again = pack(made, sample.content, len(sample.packed), sample.ahead[:size])
        assert again == sample.packed
        found += 1
        far += size > 64
    assert found > 5
    assert far <= found // 10  # nearly all do with little content behind them


# --- streams


GZIP = [("gzip", "-9n"), ("gzip", "-n"), ("gzip", "-1n")]
XZ = [
    ("xz", "-6"),
    ("xz", "-0"),
    ("xz", "-3e", "--check=sha256"),
    ("xz", "--x86", "--lzma2=dict=32MiB", "--check=crc32"),  # vmlinuz
    ("xz", "--check=crc32", "--lzma2=dict=2MiB"),  # modules
    ("xz", "-1", "-T2", "--block-size=256KiB"),
]
ZSTD = [
    ("zstd", "-1"),
    ("zstd", "-3", "-T0"),
    ("zstd", "-9", "--single-thread", "--no-check"),
    ("zstd", "-1", "--long"),
]


@pytest.mark.parametrize("command", [*GZIP, *XZ, *ZSTD], ids=" ".join)
def test_streams_of_commands(command: tuple[str, ...]) -> None:
    plain = CONTENT if command in XZ else BIG
    check_stream(command, plain, run(*command, "-c", given=plain))


@pytest.mark.parametrize("command", ZSTD, ids=" ".join)
def test_streams_whose_size_the_command_knew(command: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(BIG)
    check_stream(command, BIG, run(*command, "-c", tmp_path / "content"))


@pytest.mark.parametrize("size", [1, 100_000, 131_072, 524_288])
@pytest.mark.parametrize("piped", [False, True])
def test_zstd_of_content_that_ends_where_blocks_do(size: int, piped: bool, tmp_path: Path) -> None:
    (tmp_path / "content").write_bytes(BIG[:size])
    if piped:
        packed = run("zstd", "-3", "-c", given=BIG[:size])
    else:
        packed = run("zstd", "-3", "-c", tmp_path / "content")
    check_stream(("zstd",), BIG[:size], packed)


def check_stream(command: tuple[str, ...], plain: bytes, packed: bytes) -> None:
    packing = {"gzip": Packing.GZIP, "xz": Packing.XZ, "zstd": Packing.ZSTD}[command[0]]
    made = RecipeFinder({}).find(packing, packed, memoryview(plain))
    assert made is not None
    cursor = PackCursor(made)
    again = cursor.feed(plain) + cursor.finish()
    cursor.close()
    header = gzip_header_size(packed) if packing is Packing.GZIP else 0
    assert again == packed[header:]


def test_a_member_of_zlib() -> None:
    made = RecipeFinder({}).find(Packing.GZIP, gzip.compress(CONTENT, 6), CONTENT)
    assert made == recipe(Packer.GZIP_ZLIB, 6, 8)


def test_zlib_of_any_level_and_window() -> None:
    for level, window_bits in ((1, 15), (5, 15), (6, 9), (8, 12)):
        encoder = zlib.compressobj(level, zlib.DEFLATED, window_bits)
        packed = encoder.compress(CONTENT) + encoder.flush()
        made = RecipeFinder({}).find(Packing.ZLIB, packed, CONTENT)
        assert made == recipe(Packer.ZLIB, level, window_bits, 8, 0)


# --- what is not found


@pytest.mark.parametrize("packing", Packing)
def test_nothing_is_found_for_what_no_packer_made(packing: Packing) -> None:
    assert RecipeFinder({}).find(packing, b"", b"x") is None
    assert RecipeFinder({}).find(packing, b"x", b"") is None
    assert RecipeFinder({}).find(packing, CONTENT[:300], CONTENT[:1000], CONTENT) is None


def test_one_wrong_byte_is_seen_wherever_it_stands() -> None:
    good = zlib.compress(CONTENT[:50_000], 9)
    for place in (2, len(good) // 2, len(good) - 1):
        packed = bytearray(good)
        packed[place] ^= 1
        assert RecipeFinder({}).find(Packing.ZLIB, bytes(packed), CONTENT[:50_000]) is None
    for packed in (good[:-1], good + b"\0"):
        assert RecipeFinder({}).find(Packing.ZLIB, packed, CONTENT[:50_000]) is None


def test_frames_of_a_version_that_is_not_here() -> None:
    # With a window that no level has, no candidate makes them.
    plain = CONTENT[:20_000]
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=11)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compress(plain)
    assert RecipeFinder({}).find(Packing.ZSTD, packed, plain) is None


# --- the finder's memory


def test_what_worked_last_is_tried_first() -> None:
    finder = RecipeFinder({})
    assert finder.find(Packing.LZ4, *lz4_block(7, 0)) == recipe(Packer.LZ4, 7)
    # A run of one byte is packed alike at every level: the answer shows which was tried first.
    run_of_bytes = bytes(1000)
    packed = pack(recipe(Packer.LZ4, 7), run_of_bytes, 0)
    assert finder.find(Packing.LZ4, packed, run_of_bytes) == recipe(Packer.LZ4, 7)
    assert RecipeFinder({}).find(Packing.LZ4, packed, run_of_bytes) == recipe(Packer.LZ4, 0)


def test_hints_come_first() -> None:
    packed = zlib.compress(b"a", 7)
    assert RecipeFinder({}).find(Packing.ZLIB, packed, b"a") == recipe(Packer.ZLIB, 9, 15, 8, 0)
    hinted = RecipeFinder({"level": 7}).find(Packing.ZLIB, packed, b"a")
    assert hinted == recipe(Packer.ZLIB, 7, 15, 8, 0)


def test_after_many_failures_only_what_worked_is_tried() -> None:
    finder = RecipeFinder({})
    assert finder.find(Packing.LZ4, *lz4_block(0, 0)) is not None
    for number in range(RECIPE_SEARCHES_MAX):
        packed, plain = lz4_block(0, number)
        assert finder.find(Packing.LZ4, packed[:-1] + b"?", plain) is None
    assert finder.find(Packing.LZ4, *lz4_block(9, 1)) is None
    assert finder.find(Packing.LZ4, *lz4_block(0, 1)) is not None
    assert finder.find(Packing.ZLIB, zlib.compress(b"b"), b"b") is not None


def test_only_so_many_recipes_are_kept() -> None:
    finder = RecipeFinder({})
    levels = [0, *range(3, 3 + RECIPES_KEPT_MAX)]
    for level in levels:
        assert finder.find(Packing.LZ4, *lz4_block(level, level)) is not None
    assert len(finder._kept[Packing.LZ4]) <= RECIPES_KEPT_MAX


def lz4_block(level: int, number: int) -> tuple[bytes, bytes]:
    plain = CONTENT[number * 20_000 : number * 20_000 + 20_000]
    return pack(Recipe(Packer.LZ4, (level,), recipe(Packer.LZ4, 0).library), plain, 0), plain

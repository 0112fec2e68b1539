"""prove.py: recipes that make the very bytes, within what a device has memory for."""

import subprocess
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from slipstream.delta.budget import MemoryBudget
from slipstream.delta.byterange import ByteRange
from slipstream.delta.filemap import Packing
from slipstream.delta.limits import MIB, RECIPES_MAX
from slipstream.delta.packing.headers import gzip_header_size
from slipstream.delta.packing.pack import pack
from slipstream.delta.packing.recipe import Packer, Recipe
from slipstream.delta.profile import PROFILES
from slipstream.delta.unfold import OpenBlock
from slipstream.server.pool import open_pool
from slipstream.server.progress import unwatched
from slipstream.server.prove import commonest_recipes, prove
from slipstream.server.workspace import WorkFiles
from tests.server.image_pairs import code, packed

FAST = PROFILES["fast"]


def _prove(
    folder: Path,
    streams: list[tuple[Packing, bytes, bytes]],
    memory_bytes: int = 96 * MIB,
    jobs: int = 1,
    hints: dict[str, int] | None = None,
) -> list[OpenBlock]:
    """Blocks of (packing, packed, content), proved."""
    (folder / "target").write_bytes(b"".join(made for _, made, _ in streams))
    (folder / "scratch").write_bytes(b"".join(content for _, _, content in streams))
    size = sum(len(made) for _, made, _ in streams)
    files = WorkFiles(None, folder / "target", folder / "scratch", 0, size)
    blocks = []
    begin, address = 0, size
    for packing, made, content in streams:
        header = gzip_header_size(made) if packing is Packing.GZIP else 0
        place, at = ByteRange(begin, len(made)), ByteRange(address, len(content))
        blocks.append(OpenBlock((place,), at, packing, header_bytes=header))
        begin, address = place.end, at.end
    budget = MemoryBudget(FAST.within(memory_bytes))
    with open_pool(jobs) as pool:
        return prove(blocks, address, hints or {}, budget, files, pool, unwatched)


def test_recipes_make_the_same_bytes(tmp_path: Path) -> None:
    contents = [code(seed, 60_000, later=False) for seed in range(4)]
    streams = [
        (Packing.ZLIB, zlib.compress(contents[0], 9), contents[0]),
        (Packing.GZIP, packed("gzip -n -9", contents[1]), contents[1]),
        (Packing.GZIP, packed("gzip -1 -n", contents[2]), contents[2]),
        (Packing.XZ, packed("xz -c -0", contents[3]), contents[3]),
    ]
    blocks = _prove(tmp_path, streams)
    for block, (_, made, content) in zip(blocks, streams, strict=True):
        assert block.recipe is not None
        assert pack(block.recipe, content, block.packed_size) == made[block.header_bytes :]


def test_what_no_library_makes_has_no_recipe(tmp_path: Path) -> None:
    content = code(1, 60_000, later=False)
    made = bytearray(zlib.compress(content, 6))
    made[2000] ^= 1  # what it unpacks to is no matter here
    blocks = _prove(
        tmp_path,
        [
            (Packing.ZLIB, bytes(made), content),
            (Packing.ZLIB, zlib.compress(content, 6), content),
            (Packing.LZMA_ALONE, packed("lzma -c -0", content), content),
        ],
    )
    assert [one.recipe is not None for one in blocks] == [False, True, False]


@pytest.mark.parametrize(
    ("size", "memory", "found"),
    [(300_000, 96, False), (300_000, 256, True), (1_300_000, 96, False), (1_300_000, 256, True)],
    ids=["block, small device", "block", "long, small device", "long"],
)
def test_encoders_too_large_for_the_device_are_not_taken(
    tmp_path: Path, size: int, memory: int, *, found: bool
) -> None:
    """xz -6 has a dictionary of 8 MiB, and an encoder that holds twelve times as much."""
    content = code(1, size, later=False)
    (block,) = _prove(tmp_path, [(Packing.XZ, packed("xz -c -6", content), content)], memory * MIB)
    assert (block.recipe is not None) == found
    assert (block.lacking_bytes > 0) == (not found)
    if not found:  # what it says of the least is true
        needed = memory * MIB + block.lacking_bytes
        assert needed <= 256 * MIB
        (again,) = _prove(
            tmp_path, [(Packing.XZ, packed("xz -c -6", content), content)], needed - 2 * MIB
        )
        assert again.recipe is None


def test_the_same_whatever_the_jobs(tmp_path: Path) -> None:
    contents = [code(seed, 9_000, later=False) for seed in range(40)]
    streams = [
        (Packing.ZLIB, zlib.compress(one, 1 + number % 9), one)
        for number, one in enumerate(contents)
    ] + [
        (Packing.GZIP, packed("gzip -n -6", big), big) for big in (code(9, 1_200_000, later=True),)
    ]
    once, again = (_prove(tmp_path, streams, jobs=jobs) for jobs in (1, 2))
    assert once == again
    assert all(one.recipe for one in once)


def test_lz4_blocks_of_erofs_may_need_what_follows(tmp_path: Path) -> None:
    """mkfs.erofs packs from all that is left of a file; a prover without it finds less."""
    content = code(3, 200_000, later=False)
    tree, image = tmp_path / "tree", tmp_path / "image"
    tree.mkdir()
    (tree / "file").write_bytes(content)
    subprocess.run(["mkfs.erofs", "-zlz4", image, tree], check=True, capture_output=True)
    from slipstream.delta.filesystem.probe import read_filesystem  # noqa: PLC0415
    from slipstream.delta.packing.unpack import unpack  # noqa: PLC0415
    from slipstream.server.image import ImageFile  # noqa: PLC0415

    with ImageFile(image) as file:
        found = read_filesystem(file)
        streams = []
        for block in found.blocks:
            made = file.read(block.place.offset, block.place.size)
            assert block.size is not None
            streams.append((block.packing, made, unpack(block.packing, made, block.size)))
    blocks = _prove(tmp_path, streams, hints=found.hints)
    assert len(streams) > 20
    assert sum(one.recipe is not None for one in blocks) > len(streams) * 3 // 4


def test_as_many_recipes_as_a_payload_may_name() -> None:
    def block(number: int, size: int) -> OpenBlock:
        parameters = (19, 1, 1000 + number, 1, 0, 0)  # the zstd command's, of a file of that size
        recipe = Recipe(Packer.ZSTD, parameters, "libzstd 1.5.4")
        place = ByteRange(number * 10, 10)
        return OpenBlock((place,), ByteRange(1 << 20, size), Packing.ZSTD, recipe=recipe)

    blocks = [block(number, 1000) for number in range(RECIPES_MAX + 50)]
    blocks += [block(RECIPES_MAX + 7, 1), replace(blocks[0], recipe=None)]
    named = commonest_recipes(blocks)
    assert len(named) == RECIPES_MAX
    assert blocks[-2].recipe in named
    assert commonest_recipes(blocks[:3]) == {one.recipe for one in blocks[:3]}

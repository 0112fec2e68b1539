"""Recipes: what they refuse, their bytes, and what they ask of a device."""

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.limits import GIB, KIB, MIB
from slipstream.delta.packing.recipe import (
    PARAMETERS,
    Packer,
    Recipe,
    dump_recipe,
    is_streamed,
    library_of,
    pack_memory_bytes,
    parse_recipe,
)

GOOD = [
    Recipe(Packer.ZLIB, (9, 15, 8, 0), "zlib 1.2.13"),
    Recipe(Packer.GZIP_GNU, (6,), "gzip 1.12"),
    Recipe(Packer.GZIP_ZLIB, (9, 8), "zlib 1.3.1.zlib-ng"),
    Recipe(Packer.XZ, (6, 0, 32 * MIB, 1, 4, 0, 0), "liblzma 5.4.1"),
    Recipe(Packer.XZ, (6, 1, 1 * MIB, 10, 0, 128 * KIB, 16), "liblzma 5.4.1"),
    Recipe(Packer.ZSTD, (15, 0, 0, 0, 0, 0), "libzstd 1.5.4"),
    Recipe(Packer.ZSTD, (22, 1, 1 << 40, 1, 1, 27), "libzstd 1.5.4"),
    Recipe(Packer.LZ4, (0,), "liblz4 1.9.4"),
    Recipe(Packer.LZ4_DEST, (9, 64, 65547), "liblz4 1.9.4"),
    Recipe(Packer.LZO, (4, 8), "lzo 2.10"),
]


@pytest.mark.parametrize("recipe", GOOD, ids=str)
def test_bytes_and_back(recipe: Recipe) -> None:
    dumped = dump_recipe(recipe)
    assert parse_recipe(b"ab" + dumped + b"cd", 2) == (recipe, 2 + len(dumped))


@pytest.mark.parametrize("recipe", GOOD, ids=str)
def test_cut_short_at_every_byte(recipe: Recipe) -> None:
    dumped = dump_recipe(recipe)
    for size in range(len(dumped)):
        with pytest.raises(FormatError):
            parse_recipe(dumped[:size])


def test_the_bytes_are_these() -> None:
    recipe = Recipe(Packer.LZ4_DEST, (9, 200, 65547), "liblz4 1.9.4")
    assert dump_recipe(recipe) == b"\x07\x03" + b"\x09" + b"\xc8\x01" + b"\x8b\x80\x04" + b"\x0cliblz4 1.9.4"  # fmt: skip


@given(st.binary(max_size=60))
def test_hostile_bytes_are_refused_or_stand_for_one_recipe(data: bytes) -> None:
    with contextlib.suppress(FormatError):
        recipe, end = parse_recipe(data)
        assert dump_recipe(recipe) == data[:end]


@given(st.sampled_from(GOOD), st.integers(0, 40), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_stands_for_one_recipe(
    good: Recipe, place: int, byte: int
) -> None:
    data = bytearray(dump_recipe(good))
    data[place % len(data)] = byte
    with contextlib.suppress(FormatError):
        recipe, end = parse_recipe(bytes(data))
        assert dump_recipe(recipe) == data[:end]


@pytest.mark.parametrize("packer", Packer)
def test_every_parameter_has_both_bounds(packer: Packer) -> None:
    good = next(recipe for recipe in GOOD if recipe.packer is packer)
    for place, row in enumerate(PARAMETERS[packer]):
        for value in (row.least - 1, row.most + 1):
            values = list(good.parameters)
            values[place] = value
            with pytest.raises(FormatError, match=row.name):
                replace(good, parameters=tuple(values))


@pytest.mark.parametrize(
    "packer, parameters",
    [
        (Packer.ZLIB, ()),
        (Packer.ZLIB, (9, 15, 8, 0, 0)),
        (Packer.XZ, (6, 0, 1 * MIB, 2, 0, 0, 0)),  # a check that nobody has
        (Packer.XZ, (6, 0, 1 * MIB, 1, 3, 0, 0)),  # delta, which needs a distance
        (Packer.XZ, (6, 0, 1 * MIB, 1, 0, 4096, 0)),
        (Packer.XZ, (6, 0, 1 * MIB, 1, 0, 0, 16)),
        (Packer.XZ, (6, 0, 1 * MIB, 1, 0, 4096, 18)),
        (Packer.ZSTD, (3, 0, 0, 1, 0, 0)),
        (Packer.ZSTD, (3, 0, 4096, 0, 0, 0)),
        (Packer.ZSTD, (3, 1, 0, 0, 0, 9)),
    ],
)
def test_parameters_that_do_not_go_together(packer: Packer, parameters: tuple[int, ...]) -> None:
    with pytest.raises(FormatError):
        Recipe(packer, parameters, f"{library_of(packer)} 1.0")


@pytest.mark.parametrize(
    "library",
    ["", "zlib", "zlib ", "zlib 1 2", "libzstd 1.5.4", "zlib 1.2.13\n", "zlib 1.ü", "zlib " + "1" * 28],
)  # fmt: skip
def test_libraries_that_are_none(library: str) -> None:
    with pytest.raises(FormatError, match="library"):
        Recipe(Packer.ZLIB, (9, 15, 8, 0), library)


def test_what_unpacks_them() -> None:
    packings = {recipe.packer: recipe.packing for recipe in GOOD}
    assert packings[Packer.GZIP_GNU] is packings[Packer.GZIP_ZLIB] is Packing.GZIP
    assert packings[Packer.LZ4_DEST] is Packing.LZ4_PADDED
    assert packings.keys() == set(Packer)


def test_memory_of_a_stream_is_that_of_the_whole() -> None:
    for recipe in GOOD:
        if is_streamed(recipe):
            assert pack_memory_bytes(recipe, 1) == pack_memory_bytes(recipe, GIB)


@pytest.mark.parametrize(
    "parameters, least, most",
    [
        ((6, 0, 128 * KIB, 1, 0, 128 * KIB, 16), 2 * MIB, 12 * MIB),
        ((6, 0, 8 * MIB, 4, 0, 0, 0), 90 * MIB, 110 * MIB),  # xz's manual: 94 MiB
        ((6, 0, 32 * MIB, 1, 4, 0, 0), 370 * MIB, 410 * MIB),  # preset 8: 370 MiB
        ((9, 0, 64 * MIB, 4, 0, 0, 0), 674 * MIB, 810 * MIB),
    ],
)
def test_memory_of_xz_is_near_what_its_manual_says(
    parameters: tuple[int, ...], least: int, most: int
) -> None:
    recipe = Recipe(Packer.XZ, parameters, "liblzma 5.4.1")
    assert least <= pack_memory_bytes(recipe, 0) <= most

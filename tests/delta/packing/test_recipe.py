"""Recipes: what they refuse, their bytes, and what they ask of a device."""

import _lzma
import contextlib
import ctypes
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
    Recipe(Packer.LZ4_LEGACY, (9,), "liblz4 1.9.4"),
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
        (Packer.LZO, (4, 0)),
        (Packer.LZO, (0, 8)),
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


@pytest.mark.parametrize("preset", range(10))
@pytest.mark.parametrize("extreme", [0, 1])
def test_memory_of_xz_is_near_what_liblzma_says(preset: int, extreme: int) -> None:
    said = ctypes.CDLL(_lzma.__file__).lzma_easy_encoder_memusage
    said.restype, said.argtypes = ctypes.c_uint64, (ctypes.c_uint32,)
    needed = said(preset | extreme << 31)
    dict_size = (256 * KIB, *(MIB << log for log in (0, 1, 2, 2, 3, 3, 4, 5, 6)))[preset]
    recipe = Recipe(Packer.XZ, (preset, extreme, dict_size, 4, 0, 0, 0), "liblzma 5.4.1")
    assert needed <= pack_memory_bytes(recipe, 0) <= needed * 1.25 + 8 * MIB


# Growth of a process by 200 MiB of libraries and debug archives through libzstd 1.5.4.
@pytest.mark.parametrize(
    "level, workers, measured_mib",
    [(1, 0, 2), (3, 0, 4), (9, 0, 18), (15, 0, 69), (1, 1, 13), (3, 1, 47), (9, 1, 95), (15, 1, 146)],
)  # fmt: skip
def test_memory_of_zstd_is_above_what_was_measured(
    level: int, workers: int, measured_mib: int
) -> None:
    recipe = Recipe(Packer.ZSTD, (level, 1, 0, 0, workers, 0), "libzstd 1.5.4")
    assert measured_mib * MIB <= pack_memory_bytes(recipe, 0) <= 3 * measured_mib * MIB


def test_memory_of_zstd_falls_with_known_content() -> None:
    sizes = (4096, 128 * KIB, MIB, 16 * MIB, GIB)
    for level in (1, 3, 9, 15, 19, 22):
        whole = Recipe(Packer.ZSTD, (level, 0, 0, 0, 0, 0), "libzstd 1.5.4")
        needs = [pack_memory_bytes(whole, size) for size in sizes]
        assert needs == sorted(needs)
        assert needs[1] < 6 * MIB  # a block of squashfs
        streamed = pack_memory_bytes(replace(whole, parameters=(level, 1, 0, 0, 0, 0)), 0)
        # A whole block has room for content that does not pack, and is copied out.
        assert needs[-1] == streamed + 2 * GIB + 64 * KIB

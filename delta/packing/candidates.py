"""The recipes that could have made given packed bytes, the likely ones first (build machine).

The bytes say much about their encoder (headers.py), a file system's options say more (FileMap's
hints), and the defaults of the usual tools most of the rest. Only recipes whose library is here are
named: what cannot be tried cannot be proved.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import product
from typing import assert_never

import zstandard

from slipstream.delta.filemap import Packing
from slipstream.delta.limits import KIB, PACK_AHEAD_BYTES_MAX
from slipstream.delta.packing.headers import (
    GZIP_MAGIC,
    XzHeader,
    parse_xz_header,
    parse_zstd_header,
)
from slipstream.delta.packing.liblzo import LZO1X_999
from slipstream.delta.packing.libraries import available
from slipstream.delta.packing.recipe import Packer, Recipe, library_of

_GZIP_LEVELS = {2: (9, 8, 7, 6), 4: (1, 2), 0: (6, 5, 7, 8, 4, 3, 2)}  # by the header's extra flags
_ZLIB_LEVELS = ((1,), (5, 4, 3, 2), (6,), (9, 8, 7))  # by the header's FLEVEL, as deflate.c sets it
_ZSTD_LEVELS = (15, 3, 19, 1, 9, 22, *range(2, 22))  # mksquashfs's, zstd's, distributions', all
_LZ4_LEVELS = (0, 12, 9, *range(3, 12))  # mksquashfs's two, mkfs.erofs's, all
_LZO_LEVELS = (8, 9, *range(1, 8))
_XZ_BLOCK_BYTES = 128 * KIB  # squashfs's usual block, where no hint says another
# From here on LZ4 has another kind of table: LZ4_64Klimit. mkfs.erofs compresses from all that is
# left of a file, of which no more is needed than that it is this much.
_LZ4_LARGE_BYTES = 64 * KIB + 11


def candidates(
    packing: Packing, packed: bytes, size: int, hints: Mapping[str, int], ahead_size: int
) -> list[Recipe]:
    """Recipes to try, each once; none for packings that nothing here makes. FormatError.

    `size` is the content's, `ahead_size` that of the content behind it.
    """
    match packing:
        case Packing.ZLIB:
            found = _zlib(packed, hints)
        case Packing.GZIP:
            found = _gzip(packed)
        case Packing.XZ:
            found = _xz(packed, size, hints)
        case Packing.ZSTD:
            found = _zstd(packed, hints)
        case Packing.LZ4:
            levels = _first(12 if hints.get("hc") else 0, _LZ4_LEVELS)
            found = _recipes(Packer.LZ4, product(levels))
        case Packing.LZ4_PADDED:
            found = _lz4_dest(len(packed), size, hints, ahead_size)
        case Packing.LZO:
            found = _lzo(hints)
        case Packing.MICROLZMA | Packing.DEFLATE | Packing.ZSTD_PADDED | Packing.LZMA_ALONE:
            return []
        case _:
            assert_never(packing)
    return list(dict.fromkeys(found))


def _zlib(packed: bytes, hints: Mapping[str, int]) -> Iterator[Recipe]:
    if len(packed) < 2:
        return
    window_bits = max(9, min(15, (packed[0] >> 4) + 8))  # RFC 1950, 2.2
    level_class = packed[1] >> 6
    levels = _first(hints.get("level"), _ZLIB_LEVELS[level_class])
    memory_levels = (8, 9)
    yield from _recipes(Packer.ZLIB, product(levels, (window_bits,), memory_levels, (0, 1)))
    if level_class == 0:  # also that of Huffman only, run lengths and fixed codes at any level
        levels = _first(hints.get("level"), (9, 6, 1))
        yield from _recipes(Packer.ZLIB, product(levels, (window_bits,), (8,), (2, 3, 4)))


def _gzip(packed: bytes) -> Iterator[Recipe]:
    if packed[:3] != GZIP_MAGIC:
        return
    levels = _GZIP_LEVELS.get(packed[8], ())
    yield from _recipes(Packer.GZIP_GNU, product(levels))
    yield from _recipes(Packer.GZIP_ZLIB, product(levels, (8, 9)))


def _xz(packed: bytes, size: int, hints: Mapping[str, int]) -> Iterator[Recipe]:
    header = parse_xz_header(packed)
    # From 6 on presets differ in the dictionary only, which is known; -e makes all but 3 and 5 alike.
    presets = [(6, 0), (6, 1), (3, 0), (2, 0), (1, 0), (0, 0), (4, 0), (5, 0), (5, 1)]
    block_size, header_size = _xz_blocks(header, size, hints)
    for preset, extreme in presets:
        yield from _recipes(
            Packer.XZ,
            [
                (
                    preset,
                    extreme,
                    header.dict_size,
                    header.check,
                    header.filter_id,
                    block_size,
                    header_size,
                )
            ],
        )


def _xz_blocks(header: XzHeader, size: int, hints: Mapping[str, int]) -> tuple[int, int]:
    """The recipe's block and header size: the same for all blocks of a squashfs."""
    if header.block_size is None:
        return 0, 0
    if header.block_size < size:
        return header.block_size, header.header_size
    whole = max(_XZ_BLOCK_BYTES, hints.get("block_size", 0), 1 << (size - 1).bit_length())
    return whole, header.header_size


def _zstd(packed: bytes, hints: Mapping[str, int]) -> Iterator[Recipe]:
    frame = parse_zstd_header(packed)
    levels = _first(hints.get("level"), _ZSTD_LEVELS)
    sized = frame.content_size != zstandard.CONTENTSIZE_UNKNOWN
    declared = frame.content_size if sized else 0
    checksum = int(frame.has_checksum)
    long_logs = (0, 27) if frame.window_size == 1 << 27 else (0,)
    for level in levels:
        if sized and not checksum:
            yield from _recipes(Packer.ZSTD, [(level, 0, 0, 0, 0, 0)])
        streams = product((level,), (1,), (declared,), (checksum,), (1, 0), long_logs)
        yield from _recipes(Packer.ZSTD, streams)


def _lz4_dest(
    packed_size: int, size: int, hints: Mapping[str, int], ahead_size: int
) -> Iterator[Recipe]:
    levels = _first(hints.get("level"), _LZ4_LEVELS)
    ahead = min(ahead_size, PACK_AHEAD_BYTES_MAX)
    padded = (_LZ4_LARGE_BYTES,) if size + ahead >= _LZ4_LARGE_BYTES else (0, _LZ4_LARGE_BYTES)
    # The last cluster of a file is offered the length of all others, and kept as short as it gets.
    longer = (1 << log for log in range(12, 21) if packed_size < 1 << log)
    for capacity, level in product((0, *longer), levels):
        yield from _recipes(Packer.LZ4_DEST, product((level,), (ahead,), padded, (capacity,)))


def _lzo(hints: Mapping[str, int]) -> Iterator[Recipe]:
    levels = _first(hints.get("level"), _LZO_LEVELS)
    best = [(LZO1X_999, level) for level in levels]
    fast = [(algorithm, 0) for algorithm in range(LZO1X_999)]
    hinted = hints.get("algorithm", LZO1X_999)
    yield from _recipes(Packer.LZO, best + fast if hinted == LZO1X_999 else fast + best)


def _first(hinted: int | None, numbers: Iterable[int]) -> tuple[int, ...]:
    """`numbers`, those that are not `hinted` behind it."""
    held = tuple(numbers)
    return (hinted, *held) if hinted in held else held


def _recipes(packer: Packer, parameters: Iterable[tuple[int, ...]]) -> Iterator[Recipe]:
    """A recipe of each library of the right name, for each row of parameters."""
    name = library_of(packer)
    here = sorted(library for library in available() if library.partition(" ")[0] == name)
    for row in parameters:
        for library in here:
            yield Recipe(packer, row, library)

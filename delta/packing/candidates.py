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
from slipstream.delta.limits import BLOCK_CONTENT_BYTES_MAX, KIB, PACK_AHEAD_BYTES_MAX
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
_ZSTD_JOB_BYTES_MIN = 512 * KIB  # ZSTDMT_JOBSIZE_MIN
_LZ4_LEVELS = (0, 12, 9, *range(3, 12))  # mksquashfs's two, mkfs.erofs's, all
_LZ4_LEGACY_LEVELS = (9, 0, 12, *range(1, 12))  # kernels', lz4's without an option (1), all
_LZO_LEVELS = (8, 9, *range(1, 8))
# Presets of xz with -e or without, and their dictionaries. From 6 on presets differ in nothing else,
# and -e makes all but 3 and 5 alike.
_XZ_DICT_LOGS = (
    ((6, 0), 23), ((6, 1), 23), ((3, 0), 22), ((3, 1), 22), ((4, 0), 22), ((6, 1), 22), ((5, 0), 23),
    ((5, 1), 23), ((2, 0), 21), ((6, 1), 21), ((1, 0), 20), ((6, 1), 20), ((0, 0), 18), ((6, 1), 18),
)  # fmt: skip
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
            found = _zstd(packed, size, hints)
        case Packing.LZ4:
            levels = _first(12 if hints.get("hc") else 0, _LZ4_LEVELS)
            found = _recipes(Packer.LZ4, product(levels))
        case Packing.LZ4_LEGACY:
            found = _recipes(Packer.LZ4_LEGACY, product(_LZ4_LEGACY_LEVELS))
        case Packing.LZ4_PADDED:
            found = _lz4_dest(size, hints, ahead_size)
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
    # The preset that has this dictionary by itself, then the default with another one.
    usual = [preset for preset, log in _XZ_DICT_LOGS if header.dict_size == 1 << log]
    presets = dict.fromkeys([*usual, *(preset for preset, _log in _XZ_DICT_LOGS)])
    blocks = _xz_blocks(header, size, hints)
    yield from _recipes(
        Packer.XZ,
        (
            (*preset, header.dict_size, header.check, header.filter_id, *blocks)
            for preset in presets
        ),
    )


def _xz_blocks(header: XzHeader, size: int, hints: Mapping[str, int]) -> tuple[int, int]:
    """The recipe's block and header size: the same for all blocks of a squashfs."""
    if header.block_size is None:
        return 0, 0
    if header.block_size < size:
        return header.block_size, header.header_size
    whole = max(_XZ_BLOCK_BYTES, hints.get("block_size", 0), 1 << (size - 1).bit_length())
    return whole, header.header_size


def _zstd(packed: bytes, size: int, hints: Mapping[str, int]) -> Iterator[Recipe]:
    frame = parse_zstd_header(packed)
    levels = _first(hints.get("level"), _ZSTD_LEVELS)
    sized = frame.content_size != zstandard.CONTENTSIZE_UNKNOWN
    declared = frame.content_size if sized else 0
    checksum = int(frame.has_checksum)
    if sized and not checksum and size <= BLOCK_CONTENT_BYTES_MAX:
        yield from _recipes(Packer.ZSTD, ((level, 0, 0, 0, 0, 0) for level in levels))
        return
    # The command's own worker leaves no trace in content that it knows to be shorter than a job.
    workers = (0,) if sized and size <= _ZSTD_JOB_BYTES_MIN else (1, 0)
    # A window that fits content of a known size does not say whether --long was there.
    large = size > BLOCK_CONTENT_BYTES_MAX if sized else frame.window_size == 1 << 27
    for long_log in (0, 27) if large else (0,):
        streams = product(levels, (1,), (declared,), (checksum,), workers, (long_log,))
        yield from _recipes(Packer.ZSTD, streams)


def _lz4_dest(size: int, hints: Mapping[str, int], ahead_size: int) -> Iterator[Recipe]:
    levels = _first(hints.get("level"), _LZ4_LEVELS)
    ahead = min(ahead_size, PACK_AHEAD_BYTES_MAX)
    padded = (_LZ4_LARGE_BYTES,) if size + ahead >= _LZ4_LARGE_BYTES else (0, _LZ4_LARGE_BYTES)
    yield from _recipes(Packer.LZ4_DEST, product(levels, (ahead,), padded))


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

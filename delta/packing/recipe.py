"""How a packed stretch was made: packer, parameters, and the exact library.

A recipe and the content give the packed bytes again. It stands in payloads (docs/format.md), so it
is checked here whether it was found or read. Not here: whether this machine has the library
(libraries.py), and making bytes (pack.py).
"""

import re
from dataclasses import dataclass
from enum import IntEnum

from slipstream.delta.errors import FormatError
from slipstream.delta.fields import check_range
from slipstream.delta.filemap import Packing
from slipstream.delta.limits import (
    IMAGE_BYTES_MAX,
    KIB,
    LZ4_LEGACY_BLOCK_BYTES,
    LZ4_LEGACY_PACKED_BYTES_MAX,
    MIB,
    PACK_AHEAD_BYTES_MAX,
    PACK_CLUSTER_BYTES_MAX,
    PACK_XZ_BLOCK_BYTES_MAX,
    PACK_XZ_BLOCK_BYTES_MIN,
    PACK_XZ_DICT_BYTES_MAX,
    PACK_ZSTD_WINDOW_LOG_MAX,
    RECIPE_LIBRARY_CHARS_MAX,
)
from slipstream.delta.packing.headers import (
    INFLATE_BYTES,
    LZ4_LEGACY_DECODER_BYTES,
    XZ_DECODER_BYTES,
    ZSTD_DECODER_BYTES,
)
from slipstream.delta.rows import read_number, write_number

_LIBRARY = re.compile(r"[a-z0-9]+ [0-9A-Za-z.+~_-]+", re.ASCII)


class Packer(IntEnum):
    """What makes packed bytes; the number stands in payloads."""

    ZLIB = 1  # zlib's own container: squashfs gzip
    GZIP_GNU = 2  # deflate of GNU gzip and the 8-byte trailer: what stands behind a gzip header
    GZIP_ZLIB = 3  # the same, of zlib
    XZ = 4  # a whole .xz stream
    ZSTD = 5  # one frame
    LZ4 = 6  # one raw block: squashfs lz4
    LZ4_DEST = 7  # a raw block behind zeros, filled to a given length: erofs lz4, lz4hc
    LZO = 8  # one raw LZO1X block: squashfs lzo
    LZ4_LEGACY = 9  # a stream in the legacy framing


@dataclass(frozen=True, slots=True)
class _Parameter:
    name: str
    least: int
    most: int


# The meaning of each parameter, in order. All are the library's own scales; sizes in bytes.
PARAMETERS: dict[Packer, tuple[_Parameter, ...]] = {
    Packer.ZLIB: (
        _Parameter("level", 1, 9),
        _Parameter("window_bits", 9, 15),
        _Parameter("memory_level", 1, 9),
        _Parameter("strategy", 0, 4),  # default, filtered, Huffman only, run lengths, fixed
    ),
    Packer.GZIP_GNU: (_Parameter("level", 1, 9),),
    Packer.GZIP_ZLIB: (_Parameter("level", 1, 9), _Parameter("memory_level", 1, 9)),
    Packer.XZ: (
        _Parameter("preset", 0, 9),
        _Parameter("extreme", 0, 1),
        _Parameter("dict_size", 4 * KIB, PACK_XZ_DICT_BYTES_MAX),
        _Parameter("check", 0, 15),  # 0 none, 1 CRC32, 4 CRC64, 10 SHA-256
        _Parameter("filter", 0, 9),  # before LZMA2, by its .xz id: 0 none, 4 x86, 5 PowerPC ...
        # Content of one block, and the length of its header, which then has sizes in it. 0, 0: all
        # content in one block without sizes, as the xz command writes it in one thread.
        _Parameter("block_size", 0, PACK_XZ_BLOCK_BYTES_MAX),
        _Parameter("header_size", 0, 1024),
    ),
    Packer.ZSTD: (
        _Parameter("level", 1, 22),
        _Parameter("streamed", 0, 1),  # 0: ZSTD_compressCCtx, 1: ZSTD_compressStream2
        # The rest is of streams; 0 for ZSTD_compressCCtx.
        _Parameter("content_size", 0, IMAGE_BYTES_MAX),  # known beforehand; 0: not, as of a pipe
        _Parameter("checksum", 0, 1),
        _Parameter("workers", 0, 1),  # 1: cut into jobs, as the zstd command does
        _Parameter("long_log", 0, PACK_ZSTD_WINDOW_LOG_MAX),  # --long=N; 0: without
    ),
    Packer.LZ4: (_Parameter("level", 0, 12),),  # 0: LZ4_compress_default, else LZ4_compress_HC
    Packer.LZ4_DEST: (
        _Parameter("level", 0, 12),  # 0: LZ4_compress_destSize, else LZ4_compress_HC_destSize
        _Parameter("ahead", 0, PACK_AHEAD_BYTES_MAX),  # content behind the block that it looks at
        _Parameter("padded", 0, PACK_CLUSTER_BYTES_MAX),  # zeros behind that, up to this length
    ),
    Packer.LZO: (
        # By the number that squashfs has for it: lzo1x_1, _1_11, _1_12, _1_15, _999.
        _Parameter("algorithm", 0, 4),
        _Parameter("level", 0, 9),  # 1 to 9 of lzo1x_999; 0 for the others
    ),
    Packer.LZ4_LEGACY: (_Parameter("level", 0, 12),),  # as of LZ4
}

_LIBRARIES = {
    Packer.ZLIB: "zlib",
    Packer.GZIP_GNU: "gzip",
    Packer.GZIP_ZLIB: "zlib",
    Packer.XZ: "liblzma",
    Packer.ZSTD: "libzstd",
    Packer.LZ4: "liblz4",
    Packer.LZ4_DEST: "liblz4",
    Packer.LZO: "lzo",
    Packer.LZ4_LEGACY: "liblz4",
}

_PACKINGS = {
    Packer.ZLIB: Packing.ZLIB,
    Packer.GZIP_GNU: Packing.GZIP,
    Packer.GZIP_ZLIB: Packing.GZIP,
    Packer.XZ: Packing.XZ,
    Packer.ZSTD: Packing.ZSTD,
    Packer.LZ4: Packing.LZ4,
    Packer.LZ4_DEST: Packing.LZ4_PADDED,
    Packer.LZO: Packing.LZO,
    Packer.LZ4_LEGACY: Packing.LZ4_LEGACY,
}

# Up to a level: logarithm of the window, and most bytes of an encoder in one thread, by
# ZSTD_getCParams and ZSTD_estimateCStreamSize of 1.5.4.
_ZSTD_ENCODERS = (
    (2, 20, 3 * MIB),
    (8, 21, 10 * MIB),
    (12, 22, 54 * MIB),
    (16, 22, 70 * MIB),
    (19, 23, 91 * MIB),
    (20, 25, 196 * MIB),
    (21, 26, 388 * MIB),
    (22, 27, 780 * MIB),
)

_NUMBERS = frozenset(packer.value for packer in Packer)
_LZO1X_999 = 4
_XZ_CHECKS = frozenset({0, 1, 4, 10})
_XZ_FILTERS = frozenset({0, 4, 5, 6, 7, 8, 9})


@dataclass(frozen=True, slots=True)
class Recipe:
    """Raises FormatError unless every parameter is one that the packer has.

    `library` is name and exact version of what makes these bytes: "zlib 1.2.13", "libzstd 1.5.4".
    """

    packer: Packer
    parameters: tuple[int, ...]
    library: str

    def __post_init__(self) -> None:
        rows = PARAMETERS[self.packer]
        if len(self.parameters) != len(rows):
            raise FormatError(
                f"{self.packer.name} recipe with the wrong parameters",
                expected=f"{len(rows)}: {', '.join(row.name for row in rows)}",
                got=len(self.parameters),
            )
        for row, value in zip(rows, self.parameters, strict=True):
            check_range(f"{self.packer.name} {row.name}", value, row.least, row.most)
        if self.packer is Packer.XZ:
            _check_xz(self)
        elif self.packer is Packer.ZSTD:
            _check_zstd(self)
        elif self.packer is Packer.LZO:
            _check_lzo(self)
        name = _LIBRARIES[self.packer]
        if (
            len(self.library) > RECIPE_LIBRARY_CHARS_MAX
            or not _LIBRARY.fullmatch(self.library)
            or self.library.partition(" ")[0] != name
        ):
            raise FormatError(
                f"{self.packer.name} recipe with the wrong library",
                expected=f"{name} and a version, at most {RECIPE_LIBRARY_CHARS_MAX} characters",
                got=repr(self.library[:80]),
            )

    @property
    def packing(self) -> Packing:
        """What unpacks its bytes. (Those of GZIP recipes have no header; unpack.py takes both.)"""
        return _PACKINGS[self.packer]

    def __str__(self) -> str:
        named = zip(PARAMETERS[self.packer], self.parameters, strict=True)
        return f"{self.library}: " + ", ".join(f"{row.name} {value}" for row, value in named)


def library_of(packer: Packer) -> str:
    """Name, without version, of the library that a packer's recipes need."""
    return _LIBRARIES[packer]


def is_streamed(recipe: Recipe) -> bool:
    """Whether a PackCursor can follow it; else the content is packed as a whole."""
    if recipe.packer is Packer.ZSTD:
        return bool(recipe.parameters[1])
    return recipe.packer not in {Packer.LZ4, Packer.LZ4_DEST, Packer.LZO}


def dump_recipe(recipe: Recipe) -> bytes:
    """Packer, count of parameters, each as a number (rows.py), length and name of the library."""
    out = bytearray([recipe.packer, len(recipe.parameters)])
    for value in recipe.parameters:
        write_number(out, value)
    library = recipe.library.encode("ascii")
    return bytes(out) + bytes([len(library)]) + library


def parse_recipe(data: bytes, offset: int = 0) -> tuple[Recipe, int]:
    """The recipe that stands at `offset`, and the offset behind it; FormatError.

    What it accepts, `dump_recipe` writes in the same bytes.
    """
    head = data[offset : offset + 2]
    if len(head) < 2 or head[0] not in _NUMBERS:
        raise FormatError("no recipe", where=f"byte {offset}", got=head.hex() or "nothing")
    place = _Place(offset + 2)
    parameters = tuple(read_number(data, place) for _ in range(head[1]))
    size = data[place.position] if place.position < len(data) else 0
    end = place.position + 1 + size
    library = data[place.position + 1 : end]
    if not library.isascii() or len(library) != size:
        raise FormatError("library of a recipe cut short or no ASCII", where=f"byte {end - size}")
    return Recipe(Packer(head[0]), parameters, library.decode("ascii")), end


def pack_memory_bytes(recipe: Recipe, size: int) -> int:
    """Most bytes that packing holds besides `size` bytes of content and what they pack to.

    An upper bound from measurement (docs/adr/0010-packing.md). For streams, which a cursor packs,
    it does not depend on `size`: no part of a stream knows how long the whole is.
    """
    match recipe.packer:
        case Packer.ZLIB | Packer.GZIP_ZLIB:
            return MIB
        case Packer.GZIP_GNU:
            return 4 * MIB  # another process, most of it shared libraries
        case Packer.XZ:
            return _xz_memory_bytes(recipe)
        case Packer.ZSTD if not is_streamed(recipe):
            # There is room for content that does not pack, and the result is copied.
            return _zstd_memory_bytes(recipe, size) + 2 * size + 64 * KIB
        case Packer.ZSTD:
            return _zstd_memory_bytes(recipe, size)
        case Packer.LZ4 | Packer.LZ4_DEST | Packer.LZO:
            # The optimal parser of LZ4_compress_HC has 64 KiB + 256 KiB of tables, lzo1x_999 448
            # KiB; the content is copied once, with what stands behind it, and so is the result.
            return 2 * size + 2 * PACK_AHEAD_BYTES_MAX + MIB
        case Packer.LZ4_LEGACY:
            # The content of a block, and what it packs to, twice: when that is copied out, and
            # when it waits for the frames that it belongs to, in an array that grows by eighths.
            return LZ4_LEGACY_BLOCK_BYTES + LZ4_LEGACY_PACKED_BYTES_MAX * 17 // 8 + MIB


def decoder_memory_bytes(recipe: Recipe) -> int:
    """Most bytes that an UnpackCursor holds for a stream that a recipe made; FormatError for recipes
    of single blocks."""
    match recipe.packer:
        case Packer.GZIP_GNU | Packer.GZIP_ZLIB:
            return INFLATE_BYTES
        case Packer.XZ:
            return _xz_dict_bytes(recipe.parameters[2]) + XZ_DECODER_BYTES
        case Packer.ZSTD if is_streamed(recipe):
            return (1 << _zstd_window_log(recipe)) + ZSTD_DECODER_BYTES
        case Packer.LZ4_LEGACY:
            return LZ4_LEGACY_DECODER_BYTES
        case _:
            raise FormatError("recipe of single blocks, for a stream", got=str(recipe))


def _xz_dict_bytes(dict_size: int) -> int:
    """As an .xz header says it: rounded up to 2^n or 3 * 2^n (5.3.1 of the format)."""
    power = 1 << (dict_size - 1).bit_length()
    return power // 4 * 3 if dict_size <= power // 4 * 3 else power


def _zstd_window_log(recipe: Recipe) -> int:
    """Of a stream; libzstd fits it to a content size that is known beforehand."""
    level, _streamed, content_size, _checksum, _workers, long_log = recipe.parameters
    window_log = long_log or next(row[1] for row in _ZSTD_ENCODERS if level <= row[0])
    return min(window_log, (content_size - 1).bit_length()) if content_size else window_log


def _check_xz(recipe: Recipe) -> None:
    _preset, _extreme, _dict_size, check, filter_id, block_size, header_size = recipe.parameters
    if check not in _XZ_CHECKS or filter_id not in _XZ_FILTERS:
        raise FormatError("xz check or filter unknown", got=f"check {check}, filter {filter_id}")
    small = 0 < block_size < PACK_XZ_BLOCK_BYTES_MIN  # each block has an encoder of its own
    if bool(block_size) != bool(header_size) or header_size % 4 or small:
        raise FormatError(
            "xz block with an impossible header",
            expected="both sizes or none, the header's a multiple of 4, blocks of 4 KiB at least",
            got=f"block of {block_size}, header of {header_size} bytes",
        )


def _check_zstd(recipe: Recipe) -> None:
    _level, streamed, *of_streams = recipe.parameters
    long_log = of_streams[-1]
    if not streamed and any(of_streams):
        raise FormatError("zstd parameters of a stream without one", got=recipe.parameters)
    if long_log and long_log < 10:  # ZSTD_WINDOWLOG_MIN
        raise FormatError("zstd window too small", expected="0 or at least 10", got=long_log)


def _check_lzo(recipe: Recipe) -> None:
    algorithm, level = recipe.parameters
    if (algorithm == _LZO1X_999) != bool(level):
        raise FormatError("lzo level for an algorithm without, or none", got=recipe.parameters)


def _xz_memory_bytes(recipe: Recipe) -> int:
    preset, extreme, dict_size, _check, _filter, block_size, _header_size = recipe.parameters
    # lzma_lz_encoder_memusage: the dictionary with half of itself behind it; for each byte of it 4
    # for a hash chain (fast presets) or 8 for a binary tree; and 4 for each place of a hash table
    # of half the dictionary's power of two, at most 2^24. xz(1) says 370 MiB for -8, as this does.
    links = 8 if preset > 3 or extreme else 4
    places = min(1 << (dict_size - 1).bit_length() - 1, 1 << 24)
    encoder = dict_size + dict_size // 2 + links * dict_size + 4 * places
    return encoder + block_size + block_size // 1024 + 8 * MIB


def _zstd_memory_bytes(recipe: Recipe, size: int) -> int:
    level, streamed, content_size, _checksum, workers, long_log = recipe.parameters
    window_log, own = next(row[1:] for row in _ZSTD_ENCODERS if level <= row[0])
    known = content_size if streamed else size
    if known:  # libzstd fits window and tables to it
        window_log = min(window_log, max(0, known - 1).bit_length())
        own = min(own, 18 * (1 << window_log) + 3 * MIB)
    # Long mode has a window and tables of its own. With workers, jobs of four windows wait to be
    # filled, packed and written: six of them, whatever comes in.
    return own + (2 << long_log if long_log else 0) + workers * (24 * (1 << window_log) + 8 * MIB)


@dataclass(slots=True)
class _Place:
    """Where `read_number` stands. Recipes have no extents, so no `source` that goes on."""

    position: int
    source: int = 0

"""The superblock of squashfs 4.0 and the compressor options behind it.

Source: fs/squashfs/squashfs_fs.h of Linux; extract_options in squashfs-tools' *_wrapper.c.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from construct import Const, ConstructError, Int16ul, Int32ul, Int64ul, Struct, Terminated

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Packing
from slipstream.delta.filesystem.part import Part
from slipstream.delta.limits import KIB, MIB

SUPERBLOCK_BYTES = 96
MISSING = 0xFFFF_FFFF_FFFF_FFFF  # the place of a table that is not there

_LAYOUT = Struct(
    "magic" / Const(b"hsqs"),
    "inodes" / Int32ul,
    "time" / Int32ul,
    "block_size" / Int32ul,
    "fragments" / Int32ul,
    "compressor" / Int16ul,
    "block_log" / Int16ul,
    "flags" / Int16ul,
    "ids" / Int16ul,
    "major" / Const(4, Int16ul),
    "minor" / Const(0, Int16ul),
    "root" / Int64ul,
    "bytes_used" / Int64ul,
    "id_table" / Int64ul,
    "xattr_table" / Int64ul,
    "inode_table" / Int64ul,
    "directory_table" / Int64ul,
    "fragment_table" / Int64ul,
    "export_table" / Int64ul,
    Terminated,
)
_BLOCK_BYTES_MIN, _BLOCK_BYTES_MAX = 4 * KIB, MIB
_HAS_OPTIONS = 0x400
_OPTIONS_HEADER = struct.Struct("<H")  # a metadata block's: size and the bit for "stored"
_OPTIONS_STORED = 0x8000
_LZO1X_999 = 4


class _Compressor(NamedTuple):
    packing: Packing
    options: struct.Struct
    defaults: Mapping[str, int]  # mksquashfs 4.5's, in the order of the options


_COMPRESSORS = {
    1: _Compressor(
        Packing.ZLIB, struct.Struct("<IHH"), {"level": 9, "window": 15, "strategies": 0}
    ),
    2: _Compressor(Packing.LZMA_ALONE, struct.Struct(""), {}),
    3: _Compressor(Packing.LZO, struct.Struct("<II"), {"algorithm": _LZO1X_999, "level": 8}),
    4: _Compressor(Packing.XZ, struct.Struct("<II"), {"dict_size": 0, "filters": 0}),
    5: _Compressor(Packing.LZ4, struct.Struct("<II"), {"version": 1, "hc": 0}),
    6: _Compressor(Packing.ZSTD, struct.Struct("<I"), {"level": 15}),
}


@dataclass(frozen=True, slots=True)
class Superblock:
    """What the superblock says. Tables are named by the place of their index, or of their first block.

    `size` is the superblock's own, with the options. `hints` are FileMap's: `block_size` and the
    options of the compressor. They speak of data and fragments; mksquashfs packs metadata with the
    same level, but xz without filters and with a dictionary of 8 KiB. `dict_size` is in bytes,
    `filters` are bits (x86 1, powerpc 2, ia64 4, arm 8, armthumb 16, sparc 32), each tried beside
    no filter, the smallest kept; `strategies` of gzip are bits too, `hc` of lz4 is 0 or 1.
    """

    size: int
    packing: Packing
    block_size: int
    hints: Mapping[str, int]
    inodes: int
    fragments: int
    ids: int
    root: int
    bytes_used: int
    inode_table: int
    directory_table: int
    fragment_table: int
    export_table: int
    id_table: int
    xattr_table: int


def read_superblock(image: Part) -> Superblock:
    """The superblock of `image`; FormatError if it is not squashfs 4.0 or reaches behind the image."""
    try:
        fields = _LAYOUT.parse(image.read(0, SUPERBLOCK_BYTES))
    except ConstructError as error:
        raise FormatError("not a squashfs 4.0 superblock") from error
    if fields.compressor not in _COMPRESSORS:
        raise FormatError(
            "squashfs compressor", expected=f"1..{max(_COMPRESSORS)}", got=fields.compressor
        )
    if (
        not _BLOCK_BYTES_MIN <= fields.block_size <= _BLOCK_BYTES_MAX
        or fields.block_size != 1 << fields.block_log
    ):
        raise FormatError(
            "squashfs block size",
            expected=f"a power of two, {_BLOCK_BYTES_MIN}..{_BLOCK_BYTES_MAX}",
            got=f"{fields.block_size} (logarithm {fields.block_log})",
        )
    if fields.bytes_used > image.size:
        raise FormatError(
            "squashfs cut short", expected=f"{fields.bytes_used} bytes", got=image.size
        )
    compressor = _COMPRESSORS[fields.compressor]
    options = None
    size = SUPERBLOCK_BYTES
    if fields.flags & _HAS_OPTIONS:
        options = _read_options(image, compressor.options.size)
        size += _OPTIONS_HEADER.size + len(options)
    return Superblock(
        size,
        compressor.packing,
        fields.block_size,
        _hints(compressor, options, fields.block_size),
        fields.inodes,
        fields.fragments,
        fields.ids,
        fields.root,
        fields.bytes_used,
        fields.inode_table,
        fields.directory_table,
        fields.fragment_table,
        fields.export_table,
        fields.id_table,
        fields.xattr_table,
    )


def _read_options(image: Part, size: int) -> bytes:
    raw = image.read(SUPERBLOCK_BYTES, _OPTIONS_HEADER.size + size)
    (header,) = _OPTIONS_HEADER.unpack_from(raw)
    if header != _OPTIONS_STORED | size:
        raise FormatError(
            "compressor options", expected=f"{size} bytes, stored", got=f"{header:#x}"
        )
    return raw[_OPTIONS_HEADER.size :]


def _hints(compressor: _Compressor, options: bytes | None, block_size: int) -> dict[str, int]:
    hints = dict(compressor.defaults)
    if options is not None:  # written only where they differ from the defaults
        hints = dict(zip(hints, compressor.options.unpack(options), strict=True))
    if hints.get("dict_size") == 0:
        hints["dict_size"] = block_size
    return hints | {"block_size": block_size}

"""The superblock of erofs and the settings of its compressors.

Source: fs/erofs/erofs_fs.h and super.c of Linux.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntFlag

from construct import (
    Const,
    ConstructError,
    Int8ul,
    Int16ul,
    Int32ul,
    Int64ul,
    Padding,
    Struct,
    Terminated,
)

from slipstream.delta.errors import FormatError
from slipstream.delta.filesystem.part import Part

SUPERBLOCK_PLACE = 1024
SUPERBLOCK_BYTES = 128

_LAYOUT = Struct(
    "magic" / Const(0xE0F5E1E2, Int32ul),
    "checksum" / Int32ul,
    "compatible" / Int32ul,
    "block_bits" / Int8ul,
    "slots" / Int8ul,
    "root" / Int16ul,
    Padding(20),  # inodes, time of the build
    "blocks" / Int32ul,
    "metadata_block" / Int32ul,
    "xattr_block" / Int32ul,
    Padding(32),  # UUID, name
    "incompatible" / Int32ul,
    "compressors" / Int16ul,  # bits; without COMPRESSORS the window of lz4
    "devices" / Int16ul,
    "device_table" / Int16ul,
    "directory_bits" / Int8ul,
    Padding(5),  # long names of attributes
    "packed_file" / Int64ul,
    Padding(24),
    Terminated,
)
_BLOCK_BITS_MIN, _BLOCK_BITS_MAX = 9, 16  # the kernel mounts up to its page size: 64 KiB on arm64
_SLOT_BYTES = 16
_SETTINGS_HEADER = struct.Struct("<H")  # bytes that follow
# By bit of the superblock's `compressors`: what the kernel is told of each.
_SETTINGS = (
    (struct.Struct("<HH"), ("max_distance", "max_cluster_blocks")),  # lz4
    (struct.Struct("<I"), ("dict_size",)),  # MicroLZMA
    (struct.Struct("<B"), ("window",)),  # deflate
    (struct.Struct("<xB"), ("window_log",)),  # zstd
)
_ZSTD_WINDOW_LOG_MIN = 10  # window_log counts from here


class Incompatible(IntFlag):
    """Features that a reader must know. Some share a bit."""

    ZERO_PADDING = 0x1
    COMPRESSORS = 0x2  # settings stand behind the superblock; also: clusters above one block
    CHUNKS = 0x4
    DEVICES = 0x8  # also: a second algorithm in a file
    INLINE_TAILS = 0x10  # compressed ones
    FRAGMENTS = 0x20  # also: clusters shared by files
    XATTR_PREFIXES = 0x40


_KNOWN = sum(Incompatible)


@dataclass(frozen=True, slots=True)
class Superblock:
    """What the superblock says; places in bytes, `root` and `packed_file` are inode numbers.

    `packed_file` is None if there are no fragments. `hints` are FileMap's: `block_size`, and what
    the compressors' settings say. No setting says which level an image was made with.
    """

    size: int
    block_size: int
    image_size: int
    metadata_place: int
    root: int
    packed_file: int | None
    features: Incompatible
    hints: Mapping[str, int]


def read_superblock(image: Part) -> Superblock:
    """The superblock of `image`; FormatError if it is not erofs, not whole, or of a newer kind."""
    try:
        fields = _LAYOUT.parse(image.read(SUPERBLOCK_PLACE, SUPERBLOCK_BYTES))
    except ConstructError as error:
        raise FormatError("not an erofs superblock") from error
    if not _BLOCK_BITS_MIN <= fields.block_bits <= _BLOCK_BITS_MAX or fields.directory_bits:
        raise FormatError(
            "erofs block size",
            expected=f"2^{_BLOCK_BITS_MIN}..2^{_BLOCK_BITS_MAX}, directories the same",
            got=f"2^{fields.block_bits}, directories {fields.directory_bits} bits more",
        )
    if fields.incompatible & ~_KNOWN:
        raise FormatError(
            "erofs features", expected=f"{_KNOWN:#x}", got=f"{fields.incompatible:#x}"
        )
    features = Incompatible(fields.incompatible)
    block_size = 1 << fields.block_bits
    image_size = fields.blocks * block_size
    if image_size > image.size:
        raise FormatError("erofs cut short", expected=f"{image_size} bytes", got=image.size)
    size = SUPERBLOCK_BYTES + fields.slots * _SLOT_BYTES
    hints = {"block_size": block_size}
    if features & Incompatible.COMPRESSORS:
        hints |= _read_settings(image, SUPERBLOCK_PLACE + size, fields.compressors)
    elif fields.compressors:
        hints["max_distance"] = fields.compressors
    return Superblock(
        size,
        block_size,
        image_size,
        fields.metadata_block * block_size,
        fields.root,
        fields.packed_file if features & Incompatible.FRAGMENTS and fields.packed_file else None,
        features,
        hints,
    )


def _read_settings(image: Part, place: int, compressors: int) -> dict[str, int]:
    if compressors >> len(_SETTINGS):
        raise FormatError(
            "erofs compressors", expected=f"< {1 << len(_SETTINGS):#x}", got=f"{compressors:#x}"
        )
    hints: dict[str, int] = {}
    for bit, (layout, names) in enumerate(_SETTINGS):
        if not compressors >> bit & 1:
            continue
        place = -(-place // 4) * 4
        (size,) = _SETTINGS_HEADER.unpack(image.read(place, _SETTINGS_HEADER.size))
        place += _SETTINGS_HEADER.size
        raw = image.read(place, size)
        if size < layout.size:
            raise FormatError("settings of a compressor", expected=f">= {layout.size}", got=size)
        hints |= dict(zip(names, layout.unpack_from(raw), strict=True))
        place += size
    if "window_log" in hints:
        hints["window_log"] += _ZSTD_WINDOW_LOG_MIN
    return hints

"""The features of an ext file system: what a reader must know, and what it refuses.

Source: the kernel's fs/ext4/ext4.h (EXT4_FEATURE_*).
"""

from enum import IntFlag
from typing import Any

from slipstream.delta.errors import FormatError


class Compat(IntFlag):
    """Features that any reader may ignore."""

    HAS_JOURNAL = 0x4
    SPARSE_SUPER2 = 0x200


class Incompat(IntFlag):
    """Features that a reader must know; all of these are read, or concern writers only."""

    FILETYPE = 0x2
    RECOVER = 0x4
    META_BG = 0x10
    EXTENTS = 0x40
    BITS64 = 0x80
    MMP = 0x100
    FLEX_BG = 0x200
    EA_INODE = 0x400
    CSUM_SEED = 0x2000
    LARGEDIR = 0x4000
    INLINE_DATA = 0x8000
    ENCRYPT = 0x10000
    CASEFOLD = 0x20000


class ReadOnlyCompat(IntFlag):
    """Features that a reader may ignore; writers must know them."""

    SPARSE_SUPER = 0x1
    HUGE_FILE = 0x8
    GDT_CSUM = 0x10
    DIR_NLINK = 0x20
    EXTRA_ISIZE = 0x40
    BIGALLOC = 0x200
    METADATA_CSUM = 0x400


_INCOMPAT_KNOWN = sum(Incompat)
_EXT4_INCOMPAT = _INCOMPAT_KNOWN & ~(Incompat.FILETYPE | Incompat.RECOVER | Incompat.META_BG)
_EXT4_READ_ONLY = (
    ReadOnlyCompat.HUGE_FILE
    | ReadOnlyCompat.GDT_CSUM
    | ReadOnlyCompat.DIR_NLINK
    | ReadOnlyCompat.EXTRA_ISIZE
    | ReadOnlyCompat.METADATA_CSUM
)


def read_features(fields: Any) -> tuple[Incompat, ReadOnlyCompat]:
    """The features that decide how to read, of a superblock; FormatError for unknown ones."""
    if not fields.revision:  # the first ext2 had no features: the bytes mean nothing
        return Incompat(0), ReadOnlyCompat(0)
    unknown = fields.incompat & ~_INCOMPAT_KNOWN
    if unknown:
        raise FormatError("features that this reader does not know", got=hex(unknown))
    if fields.read_only_compat & ReadOnlyCompat.BIGALLOC:
        raise FormatError("file systems with clusters (bigalloc) are not read")
    return Incompat(fields.incompat), ReadOnlyCompat(fields.read_only_compat)


def name_variant(fields: Any) -> str:
    """ext2, ext3 or ext4: the oldest that has all of the features."""
    if fields.incompat & _EXT4_INCOMPAT or fields.read_only_compat & _EXT4_READ_ONLY:
        return "ext4"
    return "ext3" if fields.compat & Compat.HAS_JOURNAL else "ext2"

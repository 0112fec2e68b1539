"""The frame of an ext2, ext3 or ext4 file system: superblock and group descriptors.

Says where the tables of each group stand. Refuses what this reader does not know, so that the
rest may rely on it: `read_layout` is the only way to a Layout. Checksums are not verified: a
wrong map costs payload size only.

Source: the kernel's fs/ext4/ext4.h and fs/ext4/super.c (ext4_fill_super, descriptor_loc).
"""

import struct
from typing import Any, NamedTuple

from construct import Bytes, Const, ConstructError, Int16ul, Int32ul, Padding, Struct

from slipstream.delta.errors import FormatError
from slipstream.delta.filesystem.ext_features import (
    Compat,
    Incompat,
    ReadOnlyCompat,
    name_variant,
    read_features,
)
from slipstream.delta.filesystem.part import Part
from slipstream.delta.limits import EXT_GROUPS_MAX, IMAGE_BYTES_MAX

MAGIC_OFFSET = 0x438
MAGIC = b"\x53\xef"
SUPERBLOCK_OFFSET = 1024
SUPERBLOCK_BYTES = 1024

_SUPERBLOCK = Struct(
    "inode_count" / Int32ul,
    "block_count_low" / Int32ul,
    Padding(12),
    "first_block" / Int32ul,
    "log_block_size" / Int32ul,
    Padding(4),
    "blocks_per_group" / Int32ul,
    Padding(4),
    "inodes_per_group" / Int32ul,
    Padding(12),
    "magic" / Const(MAGIC),
    Padding(18),
    "revision" / Int32ul,
    Padding(4),
    "first_inode" / Int32ul,
    "inode_size" / Int16ul,
    Padding(2),
    "compat" / Int32ul,
    "incompat" / Int32ul,
    "read_only_compat" / Int32ul,
    Padding(120),
    "journal_inode" / Int32ul,
    Padding(26),
    "descriptor_size" / Int16ul,
    Padding(4),
    "first_meta_group" / Int32ul,
    Padding(72),
    "block_count_high" / Int32ul,
    Padding(248),
    "backup_groups" / Int32ul[2],
    Padding(424),
    "checksum" / Bytes(4),
)
# Low half of a descriptor: block bitmap, inode bitmap, inode table, flags, unused inodes.
_DESCRIPTOR_LOW = struct.Struct("<III6xH8xH2x")
_DESCRIPTOR_HIGH = struct.Struct("<III6xH")  # the same fields without the flags, from 32 on


_INODE_UNINIT, _BLOCK_UNINIT = 0x1, 0x2


class Group(NamedTuple):
    """A block group: block numbers of its tables; a bitmap is None where it was never written."""

    block_bitmap: int | None
    inode_bitmap: int | None
    inode_table: int
    inodes_used: int  # the inodes behind them were never written


class Layout(NamedTuple):
    """A checked file system frame. Counts are in blocks and inodes, sizes in bytes.

    `superblocks` and `descriptors` are block numbers, backups included; the first superblock of
    a file system with larger blocks than 1 KiB stands inside its block.
    """

    variant: str  # ext2, ext3, ext4
    block_size: int
    block_count: int
    inode_size: int
    inodes_per_group: int
    inode_count: int
    first_inode: int  # below it stand the file system's own
    journal_inode: int  # 0: none, or outside
    incompat: Incompat
    superblocks: tuple[int, ...]
    descriptors: tuple[int, ...]
    groups: tuple[Group, ...]


def read_layout(image: Part) -> Layout:
    """The superblock and all group descriptors, checked; FormatError."""
    raw = image.read(SUPERBLOCK_OFFSET, SUPERBLOCK_BYTES)
    try:
        fields = _SUPERBLOCK.parse(raw)
    except ConstructError as error:
        raise FormatError(
            f"no superblock ({' '.join(str(error).split())})", where="offset 1024"
        ) from error
    incompat, read_only = read_features(fields)
    _expect("block size (exponent)", fields.log_block_size, 0, 6)
    block_size = 1024 << fields.log_block_size
    first_block = 1 if block_size == 1024 else 0
    _expect("first block", fields.first_block, first_block, first_block)
    block_count = fields.block_count_low
    if incompat & Incompat.BITS64:
        block_count |= fields.block_count_high << 32
    _expect("block count", block_count, first_block + 1, IMAGE_BYTES_MAX // block_size)
    if block_count * block_size > image.size:
        raise FormatError(
            "ext cut short", expected=f"{block_count * block_size} bytes", got=image.size
        )
    _expect("blocks of a group", fields.blocks_per_group, 8, 8 * block_size)
    _expect("inodes of a group", fields.inodes_per_group, 1, 8 * block_size)
    group_count = -(-(block_count - first_block) // fields.blocks_per_group)
    _expect("group count", group_count, 1, EXT_GROUPS_MAX)
    inode_count = group_count * fields.inodes_per_group
    _expect("inode count", fields.inode_count, inode_count, inode_count)
    inode_size = fields.inode_size if fields.revision else 128
    _expect("inode size", inode_size, 128, block_size)
    if inode_size & (inode_size - 1):
        raise FormatError("inode size", expected="a power of two", got=inode_size)
    descriptor_size = 32
    if incompat & Incompat.BITS64:
        descriptor_size = fields.descriptor_size
        _expect("descriptor size", descriptor_size, 64, block_size)

    with_super = {
        group for group in range(group_count) if _has_superblock(group, fields, read_only)
    }
    per_block = block_size // descriptor_size
    primary = [
        _descriptor_block(index, per_block, with_super, fields, incompat)
        for index in range(-(-group_count // per_block))
    ]
    # Descriptors that stand behind the superblock stand behind its backups too.
    fixed = [block - first_block for block in primary[: _fixed_count(fields, incompat, primary)]]
    starts = [first_block + group * fields.blocks_per_group for group in sorted(with_super)]
    backups = [
        start + offset for start in starts[1:] for offset in fixed if start + offset < block_count
    ]
    raw_groups = b"".join(
        image.read(block * block_size, block_size)[: per_block * descriptor_size]
        for block in primary
    )
    layout = Layout(
        variant=name_variant(fields),
        block_size=block_size,
        block_count=block_count,
        inode_size=inode_size,
        inodes_per_group=fields.inodes_per_group,
        inode_count=inode_count,
        first_inode=fields.first_inode if fields.revision else 11,
        journal_inode=fields.journal_inode if fields.compat & Compat.HAS_JOURNAL else 0,
        incompat=incompat,
        superblocks=tuple(starts),
        descriptors=(*primary, *backups),
        groups=tuple(
            _group(raw_groups, index * descriptor_size, descriptor_size, fields, read_only)
            for index in range(group_count)
        ),
    )
    _check_tables(layout)
    return layout


def _expect(what: str, got: int, low: int, high: int) -> None:
    if not low <= got <= high:
        raise FormatError(f"{what}", expected=f"{low}..{high}", got=got)


def _has_superblock(group: int, fields: Any, read_only: ReadOnlyCompat) -> bool:
    if group == 0:
        return True
    if fields.compat & Compat.SPARSE_SUPER2:
        return group in fields.backup_groups
    if group == 1 or not read_only & ReadOnlyCompat.SPARSE_SUPER:
        return True
    return any(_is_power(group, base) for base in (3, 5, 7))


def _is_power(number: int, base: int) -> bool:
    while number % base == 0:
        number //= base
    return number == 1


def _fixed_count(fields: Any, incompat: Incompat, primary: list[int]) -> int:
    """How many descriptor blocks stand behind the superblock; META_BG spreads the rest."""
    if incompat & Incompat.META_BG:
        return min(int(fields.first_meta_group), len(primary))
    return len(primary)


def _descriptor_block(
    index: int, per_block: int, with_super: set[int], fields: Any, incompat: Incompat
) -> int:
    """The block with the descriptors from group `index * per_block` on, not a backup."""
    first_block: int = fields.first_block
    if not incompat & Incompat.META_BG or index < fields.first_meta_group:
        return first_block + 1 + index
    group = index * per_block
    return first_block + int(group * fields.blocks_per_group) + (group in with_super)


def _group(
    raw: bytes, at: int, descriptor_size: int, fields: Any, read_only: ReadOnlyCompat
) -> Group:
    block_bitmap, inode_bitmap, inode_table, flags, unused = _DESCRIPTOR_LOW.unpack_from(raw, at)
    if descriptor_size >= 64:
        high = _DESCRIPTOR_HIGH.unpack_from(raw, at + 32)
        block_bitmap |= high[0] << 32
        inode_bitmap |= high[1] << 32
        inode_table |= high[2] << 32
        unused |= high[3] << 16
    if not read_only & (ReadOnlyCompat.GDT_CSUM | ReadOnlyCompat.METADATA_CSUM):
        flags = unused = 0  # without a checksum of the descriptor the kernel ignores both
    if flags & _INODE_UNINIT:
        unused = fields.inodes_per_group
    if unused > fields.inodes_per_group:
        raise FormatError(
            "unused inodes of a group", expected=f"<= {fields.inodes_per_group}", got=unused
        )
    return Group(
        None if flags & _BLOCK_UNINIT else block_bitmap,
        None if flags & _INODE_UNINIT else inode_bitmap,
        inode_table,
        fields.inodes_per_group - unused,
    )


def _check_tables(layout: Layout) -> None:
    """Inode tables are within the file system and apart: together they are never larger than it."""
    blocks = -(-layout.inodes_per_group * layout.inode_size // layout.block_size)
    end = 1
    for start in sorted(group.inode_table for group in layout.groups):
        if start < end or start + blocks > layout.block_count:
            raise FormatError(
                "inode tables overlap or leave the file system",
                expected=f"block {end}..{layout.block_count - blocks}",
                got=start,
            )
        end = start + blocks

"""Where the parts of a FAT12, FAT16 or FAT32 stand, from its boot sector; and its allocation table.

Pure and bounded. Shared by the reader of images (fat.py), which refuses what is not sound, and by
the reader of a boot partition (fat_volume.py), which says what is wrong with it.

Source: Microsoft's "FAT File System Specification" (2005), 3 and 4; the kernel's fs/fat/inode.c,
which decides between FAT12, 16 and 32 as it is done here, and fs/fat/fatent.c.
"""

import struct
import sys
from array import array
from typing import NamedTuple

from slipstream.delta.errors import FormatError
from slipstream.delta.limits import FAT_TABLE_BYTES_MAX

BOOT_SECTOR_BYTES = 512
SIGNATURE_OFFSET = 510
SIGNATURE = b"\x55\xaa"  # of any boot sector, so a disk with partitions has it too
RECORD_BYTES = 32
FIRST_CLUSTER = 2

# Bytes of a sector, sectors of a cluster, reserved sectors, copies of the table, records of the
# root, sectors; sectors of a table (FAT12, FAT16); sectors, sectors of a table, ...
_BOOT_SECTOR = struct.Struct("<11xHBHBHHxH8xII4xIHH13xB444x2s")
# ... first cluster of the root, sectors of FSINFO and of this one's copy, state; the signature.
_FAT12_CLUSTERS_MAX = 4084
_FAT16_CLUSTERS_MAX = 65524
_STATE_16_OFFSET = 37  # FAT12 and FAT16 have other fields from byte 36 on
_STATE_DIRTY = 0x01  # fs/fat/fat.h, FAT_STATE_DIRTY: set by Linux while it is mounted writable

_INFO = struct.Struct("<4s480x4sII")  # magic, magic, free clusters, where to look for the next
_INFO_MAGIC = (b"RRaA", b"rrAa")
_INFO_UNKNOWN = 0xFFFF_FFFF


class _BootSector(NamedTuple):
    """The fields as they stand."""

    sector_size: int
    cluster_sectors: int
    reserved_sectors: int
    table_count: int
    root_records: int
    sector_count_16: int
    table_sectors_16: int
    sector_count_32: int
    table_sectors_32: int
    root_cluster: int
    info_sector: int
    backup_sector: int
    state_32: int  # of FAT12 and FAT16: see _STATE_16_OFFSET
    signature: bytes


class FatLayout(NamedTuple):
    """A checked boot sector; offsets and sizes in bytes."""

    bits: int  # of a table entry: 12, 16, 32
    sector_size: int
    cluster_size: int
    cluster_count: int
    table_offset: int
    table_size: int  # of one copy
    table_count: int
    root_offset: int
    root_size: int  # 0: the root is a chain (FAT32)
    root_cluster: int  # 0: the root is not a chain
    data_offset: int
    info_offset: int | None  # of FSINFO; None where there is none
    backup_offset: int | None  # of the boot sector's copy; None where there is none
    is_dirty: bool  # Linux has it mounted writable, or had it when the power went

    @property
    def cluster_end(self) -> int:
        """The first number behind those of clusters."""
        return self.cluster_count + FIRST_CLUSTER

    @property
    def name(self) -> str:
        """For people: "FAT32, 4096-byte clusters"."""
        return f"FAT{self.bits}, {self.cluster_size}-byte clusters"

    def cluster_offset(self, cluster: int) -> int:
        """Where a cluster stands."""
        return self.data_offset + (cluster - FIRST_CLUSTER) * self.cluster_size


class FreeHint(NamedTuple):
    """FSINFO: what was known of free clusters when it was last written; None where unknown."""

    free_clusters: int | None
    next_cluster: int | None


def parse_fat_layout(sector: bytes, size: int) -> FatLayout:
    """The layout that a boot sector of 512 bytes gives a volume of `size` bytes; FormatError."""
    if len(sector) != BOOT_SECTOR_BYTES or sector[SIGNATURE_OFFSET:] != SIGNATURE:
        raise FormatError("no boot sector", got=f"{len(sector)} bytes without its signature")
    fields = _BootSector._make(_BOOT_SECTOR.unpack(sector))
    sector_size = fields.sector_size
    if sector_size not in (512, 1024, 2048, 4096):
        raise FormatError("sector size", expected="512..4096", got=sector_size)
    if fields.cluster_sectors not in (1, 2, 4, 8, 16, 32, 64, 128):
        raise FormatError("sectors of a cluster", expected="1..128", got=fields.cluster_sectors)
    if not fields.reserved_sectors or not 1 <= fields.table_count <= 2:
        raise FormatError(
            "allocation tables",
            expected="1..2 behind a reserved sector",
            got=f"{fields.table_count} behind {fields.reserved_sectors}",
        )
    is_fat32 = fields.table_sectors_16 == 0
    sectors = fields.sector_count_16 or fields.sector_count_32
    table_size = (fields.table_sectors_16 or fields.table_sectors_32) * sector_size
    table_offset = fields.reserved_sectors * sector_size
    root_offset = table_offset + fields.table_count * table_size
    root_size = 0 if is_fat32 else -(-fields.root_records * RECORD_BYTES // sector_size)
    root_size *= sector_size
    data_offset = root_offset + root_size
    cluster_size = fields.cluster_sectors * sector_size
    cluster_count = (sectors * sector_size - data_offset) // cluster_size
    if cluster_count < 1 or sectors * sector_size > size:
        raise FormatError(
            "size of the file system",
            expected=f"{data_offset + cluster_size}..{size}",
            got=sectors * sector_size,
        )
    bits = _entry_bits(is_fat32, cluster_count)
    needed = -(-(cluster_count + FIRST_CLUSTER) * bits // 8)
    if not needed <= table_size <= FAT_TABLE_BYTES_MAX:
        raise FormatError(
            "size of an allocation table",
            expected=f"{needed}..{FAT_TABLE_BYTES_MAX}",
            got=table_size,
        )
    info_offset = backup_offset = None
    if is_fat32:
        info_offset = _reserved(fields.info_sector, fields.reserved_sectors, sector_size)
        backup_offset = _reserved(fields.backup_sector, fields.reserved_sectors, sector_size)
    return FatLayout(
        bits=bits,
        sector_size=sector_size,
        cluster_size=cluster_size,
        cluster_count=cluster_count,
        table_offset=table_offset,
        table_size=table_size,
        table_count=fields.table_count,
        root_offset=root_offset,
        root_size=root_size,
        root_cluster=fields.root_cluster if is_fat32 else 0,
        data_offset=data_offset,
        info_offset=info_offset,
        backup_offset=backup_offset,
        is_dirty=bool((fields.state_32 if is_fat32 else sector[_STATE_16_OFFSET]) & _STATE_DIRTY),
    )


def _reserved(sector: int, reserved_sectors: int, sector_size: int) -> int | None:
    """Offset of one of the reserved sectors; None for the boot sector itself and beyond them."""
    return sector * sector_size if 0 < sector < reserved_sectors else None


def _entry_bits(is_fat32: bool, cluster_count: int) -> int:
    if is_fat32:
        return 32
    if cluster_count > _FAT16_CLUSTERS_MAX:
        raise FormatError(
            "clusters of a FAT16", expected=f"<= {_FAT16_CLUSTERS_MAX}", got=cluster_count
        )
    return 12 if cluster_count <= _FAT12_CLUSTERS_MAX else 16


def parse_free_hint(sector: bytes) -> FreeHint:
    """FSINFO, from its sector of 512 bytes; FormatError where its signatures are not there."""
    first, second, free, following = _INFO.unpack_from(sector)
    if (first, second) != _INFO_MAGIC:
        raise FormatError("no FSINFO sector", got=first)
    return FreeHint(
        None if free == _INFO_UNKNOWN else free,
        None if following == _INFO_UNKNOWN else following,
    )


class FatTable:
    """One copy of the allocation table: the successor of every cluster."""

    def __init__(self, layout: FatLayout, raw: bytes) -> None:
        self._bits = layout.bits
        self._end = 0x0FFF_FFF8 if layout.bits == 32 else (1 << layout.bits) - 8
        count = layout.cluster_end
        if layout.bits == 12:  # two entries share three bytes
            self._entries = array("H", _entries_of_12_bits(raw, count))
        else:
            self._entries = array("I" if layout.bits == 32 else "H")
            self._entries.frombytes(raw[: count * layout.bits // 8])
            if sys.byteorder == "big":
                self._entries.byteswap()

    def next(self, cluster: int) -> int:
        """What stands at a cluster, which is within the volume: its successor, or a mark."""
        return self._entries[cluster] & 0x0FFF_FFFF  # the upper four bits of FAT32 are reserved

    def is_end(self, value: int) -> bool:
        """Whether a value marks the last cluster of a chain."""
        return value >= self._end

    def is_bad(self, value: int) -> bool:
        """Whether a value marks a cluster that the medium cannot hold."""
        return value == self._end - 1

    @property
    def was_shut_down(self) -> bool:
        """Whether the last one to note it in the table ended its writes: firmware does, Linux not.

        FAT12 has no place for it: True.
        """
        return self._bits == 12 or bool(self._entries[1] >> self._mark_bit & 1)

    @property
    def had_no_errors(self) -> bool:
        """Whether nobody noted an error of the medium in the table. FAT12: True."""
        return self._bits == 12 or bool(self._entries[1] >> (self._mark_bit - 1) & 1)

    @property
    def _mark_bit(self) -> int:
        return 27 if self._bits == 32 else 15

    def count(self) -> tuple[int, int]:
        """How many clusters are free, and how many are marked as bad."""
        free = bad = 0
        for value in self._entries[FIRST_CLUSTER:]:
            value &= 0x0FFF_FFFF
            free += not value
            bad += value == self._end - 1
        return free, bad


def _entries_of_12_bits(raw: bytes, count: int) -> list[int]:
    entries = []
    for index in range(count):
        at = index + index // 2
        pair = raw[at] | raw[at + 1] << 8 if at + 1 < len(raw) else raw[at]
        entries.append(pair >> 4 if index & 1 else pair & 0xFFF)
    return entries

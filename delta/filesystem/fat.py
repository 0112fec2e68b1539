"""Reads FAT12, FAT16 and FAT32: every file, directory and table, and where it stands.

A cluster belongs to one chain, so each is followed at most once: a chain that is cyclic, or that
two files share, is an error, and the work is bounded by the file allocation table.

Not exFAT. Deleted files and volume labels are left out.

Source: Microsoft's "FAT File System Specification" (2005) and the kernel's fs/fat/inode.c, which
decides between FAT12, 16 and 32 as it is done here.
"""

from collections.abc import Iterator
from typing import NamedTuple

from construct import Const, ConstructError, Int8ul, Int16ul, Int32ul, Padding, Struct

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Extent, FileMap
from slipstream.delta.filesystem.collect import Collector
from slipstream.delta.filesystem.fat_directory import RECORD_BYTES, read_records
from slipstream.delta.filesystem.part import Part
from slipstream.delta.limits import FAT_DIRECTORY_BYTES_MAX, FAT_TABLE_BYTES_MAX
from slipstream.delta.match import Reader

BOOT_SECTOR_BYTES = 512
SIGNATURE_OFFSET = 510
SIGNATURE = b"\x55\xaa"  # of any boot sector, so a disk with partitions has it too

_BOOT_SECTOR = Struct(
    Padding(11),
    "sector_size" / Int16ul,
    "cluster_sectors" / Int8ul,
    "reserved_sectors" / Int16ul,
    "table_count" / Int8ul,
    "root_records" / Int16ul,
    "sector_count_16" / Int16ul,
    Padding(1),
    "table_sectors_16" / Int16ul,
    Padding(8),
    "sector_count_32" / Int32ul,
    "table_sectors_32" / Int32ul,
    Padding(4),
    "root_cluster" / Int32ul,
    Padding(462),
    Const(SIGNATURE),
)
_FAT12_CLUSTERS_MAX = 4084
_FAT16_CLUSTERS_MAX = 65524
_FIRST_CLUSTER = 2


class _Volume(NamedTuple):
    """A checked boot sector; offsets and sizes in bytes."""

    bits: int  # of a table entry: 12, 16, 32
    cluster_size: int
    cluster_count: int
    table_offset: int
    table_size: int  # of one copy
    table_count: int
    root_offset: int
    root_size: int  # 0: the root is a chain (FAT32)
    root_cluster: int
    data_offset: int


def read_fat(image: Reader) -> FileMap:
    """The map of a FAT file system; FormatError for what is not sound."""
    part = Part(image, 0, image.size)
    volume = _read_volume(part)
    return _FatReader(part, volume).read()


def _read_volume(image: Part) -> _Volume:
    try:
        fields = _BOOT_SECTOR.parse(image.read(0, BOOT_SECTOR_BYTES))
    except ConstructError as error:
        raise FormatError(f"no boot sector ({' '.join(str(error).split())})") from error
    sector = fields.sector_size
    if sector not in (512, 1024, 2048, 4096):
        raise FormatError("sector size", expected="512..4096", got=sector)
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
    table_size = (fields.table_sectors_16 or fields.table_sectors_32) * sector
    table_offset = fields.reserved_sectors * sector
    root_offset = table_offset + fields.table_count * table_size
    root_size = 0 if is_fat32 else -(-fields.root_records * RECORD_BYTES // sector) * sector
    data_offset = root_offset + root_size
    cluster_size = fields.cluster_sectors * sector
    cluster_count = (sectors * sector - data_offset) // cluster_size
    if cluster_count < 1 or sectors * sector > image.size:
        raise FormatError(
            "size of the file system",
            expected=f"{data_offset + cluster_size}..{image.size}",
            got=sectors * sector,
        )
    bits = _entry_bits(is_fat32, cluster_count)
    needed = -(-(cluster_count + _FIRST_CLUSTER) * bits // 8)
    if not needed <= table_size <= FAT_TABLE_BYTES_MAX:
        raise FormatError(
            "size of an allocation table",
            expected=f"{needed}..{FAT_TABLE_BYTES_MAX}",
            got=table_size,
        )
    return _Volume(
        bits=bits,
        cluster_size=cluster_size,
        cluster_count=cluster_count,
        table_offset=table_offset,
        table_size=table_size,
        table_count=fields.table_count,
        root_offset=root_offset,
        root_size=root_size,
        root_cluster=fields.root_cluster if is_fat32 else 0,
        data_offset=data_offset,
    )


def _entry_bits(is_fat32: bool, cluster_count: int) -> int:
    if is_fat32:
        return 32
    if cluster_count > _FAT16_CLUSTERS_MAX:
        raise FormatError(
            "clusters of a FAT16", expected=f"<= {_FAT16_CLUSTERS_MAX}", got=cluster_count
        )
    return 12 if cluster_count <= _FAT12_CLUSTERS_MAX else 16


class _FatReader:
    """One image being read."""

    def __init__(self, image: Part, volume: _Volume) -> None:
        self._image = image
        self._volume = volume
        self._table = image.read(volume.table_offset, volume.table_size)
        self._found = Collector(image.size)
        self._followed = bytearray(volume.cluster_count + _FIRST_CLUSTER)

    def read(self) -> FileMap:
        volume, found = self._volume, self._found
        found.add_table("boot sector", [(0, volume.table_offset)])
        tables = [
            (volume.table_offset + copy * volume.table_size, volume.table_size)
            for copy in range(volume.table_count)
        ]
        found.add_table("file allocation table", tables)
        waiting = [("", self._root())]
        while waiting:
            folder, extents = waiting.pop()
            size = sum(extent.size for extent in extents)
            if size > FAT_DIRECTORY_BYTES_MAX:
                raise FormatError(
                    "directory size",
                    where=f"/{folder}",
                    expected=f"<= {FAT_DIRECTORY_BYTES_MAX}",
                    got=size,
                )
            found.add_directory(folder, size, extents)
            content = b"".join(self._image.read(extent.place, extent.size) for extent in extents)
            for record in read_records(content):
                path = found.path(folder, record.name)
                if record.is_directory:
                    waiting.append((path, self._chain(record.cluster, None, path)))
                else:
                    extents = self._chain(record.cluster, record.size, path)
                    found.add_file(path, record.size, extents)
        return FileMap(
            f"FAT{volume.bits}, {volume.cluster_size}-byte clusters", entries=found.entries
        )

    def _root(self) -> tuple[Extent, ...]:
        volume = self._volume
        if volume.bits == 32:
            return self._chain(volume.root_cluster, None, "")
        return self._found.extents(
            [Extent(0, volume.root_size, volume.root_offset)], volume.root_size
        )

    def _chain(self, cluster: int, size: int | None, path: str) -> tuple[Extent, ...]:
        """Extents of a file of `size` bytes, or of a whole directory (None)."""
        if size == 0:
            return ()
        count = None if size is None else -(-size // self._volume.cluster_size)
        clusters = list(self._clusters(cluster, count, path))
        cluster_size = self._volume.cluster_size
        if count is not None and len(clusters) < count:
            raise FormatError(
                "chain of clusters ends before its file",
                where=f"/{path}",
                expected=f"{count} clusters",
                got=len(clusters),
            )
        runs = (
            Extent(
                index * cluster_size,
                cluster_size,
                self._volume.data_offset + (number - _FIRST_CLUSTER) * cluster_size,
            )
            for index, number in enumerate(clusters)
        )
        return self._found.extents(runs, len(clusters) * cluster_size if size is None else size)

    def _clusters(self, cluster: int, count: int | None, path: str) -> Iterator[int]:
        """The cluster numbers of a chain: `count` of them, or all to its end."""
        end = self._volume.cluster_count + _FIRST_CLUSTER
        done = 0
        while done != count:
            if not _FIRST_CLUSTER <= cluster < end:
                if done and self._is_end(cluster):
                    return
                raise FormatError(
                    "chain of clusters leaves the file system",
                    where=f"/{path}",
                    expected=f"cluster {_FIRST_CLUSTER}..{end - 1}",
                    got=cluster,
                )
            if self._followed[cluster]:
                raise FormatError("cluster in two chains", where=f"/{path}", got=cluster)
            self._followed[cluster] = 1
            yield cluster
            cluster = self._next(cluster)
            done += 1

    def _next(self, cluster: int) -> int:
        bits = self._volume.bits
        if bits == 12:  # two entries share three bytes
            at = cluster + cluster // 2
            pair = int.from_bytes(self._table[at : at + 2], "little")
            return pair >> 4 if cluster & 1 else pair & 0xFFF
        at = cluster * bits // 8
        number = int.from_bytes(self._table[at : at + bits // 8], "little")
        return number & 0x0FFF_FFFF  # the upper four bits of FAT32 are reserved

    def _is_end(self, cluster: int) -> bool:
        return cluster >= (0x0FFF_FFF8 if self._volume.bits == 32 else (1 << self._volume.bits) - 8)

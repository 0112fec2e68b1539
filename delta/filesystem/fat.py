"""Reads FAT12, FAT16 and FAT32: every file, directory and table, and where it stands.

A cluster belongs to one chain, so each is followed at most once: a chain that is cyclic, or that
two files share, is an error, and the work is bounded by the file allocation table.

Not exFAT. Deleted files and volume labels are left out. What is wrong with a volume that is not
sound, fat_volume.py says.
"""

from collections.abc import Iterator

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Extent, FileMap
from slipstream.delta.filesystem.collect import Collector
from slipstream.delta.filesystem.fat_directory import read_records
from slipstream.delta.filesystem.fat_layout import (
    BOOT_SECTOR_BYTES,
    FIRST_CLUSTER,
    FatLayout,
    FatTable,
    parse_fat_layout,
)
from slipstream.delta.filesystem.part import Part
from slipstream.delta.limits import FAT_DIRECTORY_BYTES_MAX
from slipstream.delta.reader import Reader


def read_fat(image: Reader) -> FileMap:
    """The map of a FAT file system; FormatError for what is not sound."""
    part = Part(image, 0, image.size)
    layout = parse_fat_layout(part.read(0, BOOT_SECTOR_BYTES), part.size)
    return _FatReader(part, layout).read()


class _FatReader:
    """One image being read."""

    def __init__(self, image: Part, layout: FatLayout) -> None:
        self._image = image
        self._layout = layout
        self._table = FatTable(layout, image.read(layout.table_offset, layout.table_size))
        self._found = Collector(image.size)
        self._followed = bytearray(layout.cluster_end)

    def read(self) -> FileMap:
        layout, found = self._layout, self._found
        found.add_table("boot sector", [(0, layout.table_offset)])
        tables = [
            (layout.table_offset + copy * layout.table_size, layout.table_size)
            for copy in range(layout.table_count)
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
        return FileMap(layout.name, entries=found.entries)

    def _root(self) -> tuple[Extent, ...]:
        layout = self._layout
        if layout.bits == 32:
            return self._chain(layout.root_cluster, None, "")
        return self._found.extents(
            [Extent(0, layout.root_size, layout.root_offset)], layout.root_size
        )

    def _chain(self, cluster: int, size: int | None, path: str) -> tuple[Extent, ...]:
        """Extents of a file of `size` bytes, or of a whole directory (None)."""
        if size == 0:
            return ()
        count = None if size is None else -(-size // self._layout.cluster_size)
        clusters = list(self._clusters(cluster, count, path))
        cluster_size = self._layout.cluster_size
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
                self._layout.cluster_offset(number),
            )
            for index, number in enumerate(clusters)
        )
        return self._found.extents(runs, len(clusters) * cluster_size if size is None else size)

    def _clusters(self, cluster: int, count: int | None, path: str) -> Iterator[int]:
        """The cluster numbers of a chain: `count` of them, or all to its end."""
        end = self._layout.cluster_end
        done = 0
        while done != count:
            if not FIRST_CLUSTER <= cluster < end:
                if done and self._table.is_end(cluster):
                    return
                raise FormatError(
                    "chain of clusters leaves the file system",
                    where=f"/{path}",
                    expected=f"cluster {FIRST_CLUSTER}..{end - 1}",
                    got=cluster,
                )
            if self._followed[cluster]:
                raise FormatError("cluster in two chains", where=f"/{path}", got=cluster)
            self._followed[cluster] = 1
            yield cluster
            cluster = self._table.next(cluster)
            done += 1

"""Reads ext2, ext3 and ext4: every regular file, directory and table, and where it stands.

First the inode tables, in the order of the image; then the directories from the root, for the
names. Not read: symbolic links, devices, attributes, deleted files, the journal's content. Files
and folders under fscrypt are left out: their names and bytes are noise.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Extent, FileMap
from slipstream.delta.filesystem.collect import Collector
from slipstream.delta.filesystem.ext_blocks import INLINE_FLAG, MAP_BYTES, BlockMaps, Inode
from slipstream.delta.filesystem.ext_directory import read_names
from slipstream.delta.filesystem.ext_features import Incompat
from slipstream.delta.filesystem.ext_layout import Layout, read_layout
from slipstream.delta.filesystem.part import Part
from slipstream.delta.limits import MIB
from slipstream.delta.reader import Reader

_ROOT_INODE = 2
_ENCRYPTED_FLAG = 0x800
_TYPE, _DIRECTORY, _REGULAR = 0xF000, 0x4000, 0x8000
_INODE = "<H2xI18xH4xI4x60s8xI"  # mode, size, links, flags, block map, high half of size
_PIECE_BYTES = MIB  # of an inode table, read at once


class _File(NamedTuple):
    size: int
    extents: tuple[Extent, ...]


def read_ext(image: Reader) -> FileMap:
    """The map of an ext file system; FormatError for what is not sound or not known."""
    part = Part(image, 0, image.size)
    return _ExtReader(part, read_layout(part)).read()


class _ExtReader:
    """One image being read."""

    def __init__(self, image: Part, layout: Layout) -> None:
        self._image = image
        self._layout = layout
        self._maps = BlockMaps(image, layout)
        self._found = Collector(image.size)
        self._files: dict[int, _File] = {}
        self._directories: dict[int, _File] = {}
        self._inline: set[int] = set()  # directories whose content stands in the inode
        self._encrypted: set[int] = set()
        self._listed: set[int] = set()  # blocks of directories that were read

    def read(self) -> FileMap:
        for inode in self._inodes():
            self._keep(inode)
        self._add_tables()
        paths, hidden = self._walk()
        for number, path in paths.items():
            self._found.add_file(path, *self._files[number])
        layout = self._layout
        notes = [f"encrypted files and folders left out: {hidden}"] if hidden else []
        if layout.incompat & Incompat.RECOVER:
            notes.append("the journal was not replayed: recent changes may be missing")
        return FileMap(
            f"{layout.variant}, {layout.block_size}-byte blocks",
            entries=self._found.entries,
            notes=notes,
        )

    def _inodes(self) -> Iterator[Inode]:
        """The inodes in use, in the order of the image."""
        layout = self._layout
        size = layout.inode_size
        record = struct.Struct(f"{_INODE}{size - struct.calcsize(_INODE)}x")
        for index, group in enumerate(layout.groups):
            number = index * layout.inodes_per_group + 1
            place = group.inode_table * layout.block_size
            end = place + group.inodes_used * size
            for start in range(place, end, _PIECE_BYTES):
                piece = self._image.read(start, min(_PIECE_BYTES, end - start))
                for at, fields in enumerate(record.iter_unpack(piece)):
                    mode, size_low, links, flags, block_map, size_high = fields
                    if links:
                        large = mode & _TYPE == _REGULAR or layout.incompat & Incompat.LARGEDIR
                        length = size_high << 32 | size_low if large else size_low
                        where = start + at * size
                        yield Inode(number + at, mode, flags, length, block_map, where)
                number += len(piece) // size

    def _keep(self, inode: Inode) -> None:
        """Remember what a later name, or a table, may need of an inode."""
        number, kind, layout = inode.number, inode.mode & _TYPE, self._layout
        own = number < layout.first_inode and number not in (_ROOT_INODE, layout.journal_inode)
        if own or kind not in (_DIRECTORY, _REGULAR):
            return
        if inode.flags & _ENCRYPTED_FLAG:
            self._encrypted.add(number)
            return
        try:
            extents = self._found.extents(self._maps.runs(inode), inode.size)
        except FormatError as error:
            error.where = error.where or f"inode {number}"
            raise
        keep = self._directories if kind == _DIRECTORY else self._files
        keep[number] = _File(inode.size, extents)
        if kind == _DIRECTORY and inode.flags & INLINE_FLAG:
            self._inline.add(number)

    def _add_tables(self) -> None:
        layout, add = self._layout, self._found.add_table
        size = layout.block_size
        add("superblock", [(block * size, size) for block in layout.superblocks])
        add("group descriptors", [(block * size, size) for block in layout.descriptors])
        bitmaps = [group.block_bitmap for group in layout.groups]
        add("block bitmap", [(block * size, size) for block in bitmaps if block is not None])
        bitmaps = [group.inode_bitmap for group in layout.groups]
        add("inode bitmap", [(block * size, size) for block in bitmaps if block is not None])
        table_bytes = layout.inodes_per_group * layout.inode_size
        tables: dict[int, list[tuple[int, int]]] = {}
        first, end = 0, -1
        for index, group in enumerate(layout.groups):
            place = group.inode_table * size
            first = first if place == end else index
            tables.setdefault(first, []).append((place, table_bytes))
            end = place + table_bytes
        for first, pieces in tables.items():
            add(f"inode table {first}", pieces)
        add("block map", [(block * size, size) for block in self._maps.blocks])
        journal = self._files.get(layout.journal_inode)
        if journal:
            add("journal", [(extent.place, extent.size) for extent in journal.extents])

    def _walk(self) -> tuple[dict[int, str], int]:
        """The path of every file that has one, by inode, and how many names are encrypted.

        Raises FormatError where a directory has two names: it may then be below itself.
        """
        if _ROOT_INODE not in self._directories:
            raise FormatError("file system without a root directory")
        paths: dict[int, str] = {}
        hidden = 0
        seen = {_ROOT_INODE}
        waiting = [(_ROOT_INODE, "")]
        while waiting:
            folder, folder_path = waiting.pop()
            self._found.add_directory(folder_path, *self._directories[folder])
            for name, number in self._names(folder):
                path = self._found.path(folder_path, name)
                if number in self._files:
                    paths[number] = min(path, paths.get(number, path))
                elif number in self._encrypted:
                    hidden += 1
                elif number in self._directories:
                    if number in seen:
                        raise FormatError("directory with two names", where=f"/{path}")
                    seen.add(number)
                    waiting.append((number, path))
        return paths, hidden

    def _names(self, folder: int) -> Iterator[tuple[str, int]]:
        directory = self._directories[folder]
        if folder in self._inline:
            for extent in directory.extents:
                data = self._image.read(extent.place, extent.size)
                # The first four bytes are the parent's number, where a block has `..`.
                yield from read_names(data if extent.offset else data[4:MAP_BYTES])
            return
        size = self._layout.block_size
        for extent in directory.extents:
            for place in range(extent.place, extent.place + extent.size, size):
                if place in self._listed:
                    raise FormatError("directory block listed twice", where=f"inode {folder}")
                self._listed.add(place)
                yield from read_names(self._image.read(place, size))

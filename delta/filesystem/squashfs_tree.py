"""The directory tree of squashfs: from the unpacked inode and directory tables to files.

Pure: knows neither the image nor its packing. Inodes and listings of a sound image do not share
bytes, so both are bounded by their tables: a cycle or a listing named twice is FormatError.

Source: fs/squashfs/squashfs_fs.h, inode.c and dir.c of Linux.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from slipstream.delta.errors import FormatError
from slipstream.delta.filesystem.collect import Collector
from slipstream.delta.filesystem.squashfs_metadata import Table

NO_FRAGMENT = 0xFFFF_FFFF

# Types of inodes; directory listings name an extended inode by its basic type.
_DIRECTORY, _FILE, _DIRECTORY_EXTENDED, _FILE_EXTENDED = 1, 2, 8, 9

_TYPE = struct.Struct("<H14x")  # mode, owner, time and number follow the type
_DIRECTORY_INODE = struct.Struct("<16xI4xHH4x")  # block, listing size, offset
_DIRECTORY_EXTENDED_INODE = struct.Struct("<20xII6xH4x")  # listing size, block, offset
_FILE_INODE = struct.Struct("<16xIIII")  # start, fragment, offset in it, size
_FILE_EXTENDED_INODE = struct.Struct("<16xQQ12xII4x")  # start, size, fragment, offset in it
_LISTING_HEADER = struct.Struct("<II4x")  # names less one, inode block
_NAME = struct.Struct("<H2xHH")  # inode offset, type, size less one
_LISTING_NAMES_MAX = 256  # of one header
_LISTING_EXTRA_BYTES = 3  # a listing's size counts `.` and `..`, which are not stored


class SquashfsFile(NamedTuple):
    """A regular file: the blocks that `sizes` lists follow each other from place `start` on.

    `sizes` are little-endian words of 32 bits: a size, and a bit for "stored". The tail, if `fragment` is not NO_FRAGMENT, stands in that fragment from `tail_offset` on.
    """

    path: str
    size: int
    start: int
    sizes: bytes
    fragment: int
    tail_offset: int


class SquashfsTree:
    """The files below the root, read from two tables."""

    def __init__(
        self, inodes: Table, listings: Table, block_size: int, collector: Collector
    ) -> None:
        self._inodes = inodes.data
        self._listings = listings.data
        self._inode_starts = inodes.starts
        self._listing_starts = listings.starts
        self._block_size = block_size
        self._collector = collector
        self._inode_bytes_left = len(inodes.data)
        self._listing_bytes_left = len(listings.data)

    def files(self, root: int) -> Iterator[SquashfsFile]:
        """Every regular file once, under its first path; `root` is an offset in the inode table."""
        paths: dict[int, str] = {}
        seen = {root}
        folders = [("", root)]
        while folders:
            folder, inode = folders.pop()
            for name, kind, child in self._list(inode):
                path = self._collector.path(folder, name)
                if kind == _DIRECTORY:
                    if child in seen:
                        raise FormatError("a directory has two names", where=path)
                    seen.add(child)
                    folders.append((path, child))
                elif kind == _FILE:
                    paths[child] = min(path, paths.get(child, path))
        for inode, path in paths.items():
            yield self._file(inode, path)

    def _list(self, inode: int) -> Iterator[tuple[str, int, int]]:
        """Name, basic type and inode (an offset in the inode table) of all that a directory holds."""
        position, end = self._listing(inode)
        while position < end:
            last, block = self._read(_LISTING_HEADER, self._listings, position)
            position += _LISTING_HEADER.size
            start = self._inode_starts.get(block)
            if start is None or last >= _LISTING_NAMES_MAX:
                raise FormatError("directory listing", got=f"{last + 1} names, inode block {block}")
            for _ in range(last + 1):
                offset, kind, last_byte = self._read(_NAME, self._listings, position)
                position += _NAME.size
                name = self._listings[position : position + last_byte + 1]
                position += last_byte + 1
                if position > end:
                    raise FormatError("a name leaves its directory listing", got=name)
                if b"/" in name:
                    raise FormatError("a name with a slash", got=name)
                yield name.decode("utf-8", "surrogateescape"), kind, start + offset

    def _listing(self, inode: int) -> tuple[int, int]:
        """Where a directory's listing begins and ends in the directory table."""
        kind = self._type(inode)
        if kind == _DIRECTORY:
            block, size, offset = self._read(_DIRECTORY_INODE, self._inodes, inode)
            self._spend_inode(_DIRECTORY_INODE.size)
        elif kind == _DIRECTORY_EXTENDED:
            size, block, offset = self._read(_DIRECTORY_EXTENDED_INODE, self._inodes, inode)
            self._spend_inode(_DIRECTORY_EXTENDED_INODE.size)
        else:
            raise FormatError("inode is no directory", where=f"inode at {inode}", got=kind)
        size -= _LISTING_EXTRA_BYTES
        if size <= 0:
            return 0, 0
        start = self._listing_starts.get(block)
        if start is None or start + offset + size > len(self._listings):
            raise FormatError(
                "directory listing outside its table",
                expected=f"within {len(self._listings)} bytes",
                got=f"block {block}, offset {offset}, size {size}",
            )
        self._listing_bytes_left -= size
        if self._listing_bytes_left < 0:
            raise FormatError("directory listings share bytes")
        return start + offset, start + offset + size

    def _file(self, inode: int, path: str) -> SquashfsFile:
        kind = self._type(inode)
        if kind == _FILE:
            layout = _FILE_INODE
            start, fragment, tail_offset, size = self._read(layout, self._inodes, inode)
        elif kind == _FILE_EXTENDED:
            layout = _FILE_EXTENDED_INODE
            start, size, fragment, tail_offset = self._read(layout, self._inodes, inode)
        else:
            raise FormatError("inode is no file", where=path, got=kind)
        whole, rest = divmod(size, self._block_size)
        count = whole + (1 if rest and fragment == NO_FRAGMENT else 0)
        self._spend_inode(layout.size + 4 * count)
        first = inode + layout.size
        if first + 4 * count > len(self._inodes):
            raise FormatError("list of blocks leaves the inode table", where=path, got=count)
        sizes = self._inodes[first : first + 4 * count]
        return SquashfsFile(path, size, start, sizes, fragment, tail_offset)

    def _type(self, inode: int) -> int:
        kind: int = self._read(_TYPE, self._inodes, inode)[0]
        return kind

    def _spend_inode(self, size: int) -> None:
        self._inode_bytes_left -= size
        if self._inode_bytes_left < 0:
            raise FormatError("inodes share bytes, or leave their table")

    @staticmethod
    def _read(layout: struct.Struct, table: bytes, offset: int) -> tuple[int, ...]:
        if offset + layout.size > len(table):
            raise FormatError(
                "table ends early", expected=f">= {offset + layout.size} bytes", got=len(table)
            )
        return layout.unpack_from(table, offset)

"""Metadata blocks of squashfs: the tables of inodes, directories, fragments and the rest.

A table is cut into blocks of 8 KiB, each packed on its own behind a header of two bytes (size, and
a bit for "stored as it is"). Only the last block of a table is shorter. Inodes and directories
are pointed to by block and offset; the other tables have an index of block places.

Source: Documentation/filesystems/squashfs.rst, fs/squashfs/cache.c and block.c of Linux.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from slipstream.delta.errors import FormatError, PackingUnavailable
from slipstream.delta.filemap import Entry, EntryKind, Extent, Packing
from slipstream.delta.filesystem.blocks import BlockBook
from slipstream.delta.filesystem.part import Part
from slipstream.delta.limits import SQUASHFS_TABLE_BYTES_MAX
from slipstream.delta.packing.unpack import unpack

METADATA_BYTES = 8192  # unpacked bytes of every block of a table but the last

_HEADER_BYTES = 2
_STORED = 0x8000
_POINTER_BYTES = 8


@dataclass(slots=True)
class Table:
    """One table, unpacked.

    `starts` maps where a block begins in the image, counted from the first one, to its offset in
    `data`: what references to inodes and listings name.
    """

    name: str
    data: bytes = b""
    starts: dict[int, int] = field(default_factory=dict)
    extents: tuple[Extent, ...] = ()

    @property
    def entry(self) -> Entry:
        """The table as an entry of the map."""
        return Entry(EntryKind.TABLE, self.name, len(self.data), self.extents)


class MetadataReader:
    """Reads tables of `image`, whose blocks are packed by `packing` and noted in `book`."""

    def __init__(self, image: Part, packing: Packing, book: BlockBook) -> None:
        self._image = image
        self._packing = packing
        self._book = book

    def table(self, name: str, start: int, end: int) -> Table:
        """The table whose blocks fill the image from `start` to `end`.

        Raises FormatError for blocks that do not end there or are not whole.
        """
        if not start <= end <= start + SQUASHFS_TABLE_BYTES_MAX:
            raise FormatError(
                f"size of the {name}", expected=f"0..{SQUASHFS_TABLE_BYTES_MAX}", got=end - start
            )
        packed = self._image.read(start, end - start)
        builder = _Builder(name)
        offset = 0
        while offset < len(packed):
            offset += self._block(builder, packed, offset, start + offset)
        return builder.table(self._book)

    def pointers(self, name: str, index: int, size: int) -> tuple[int, ...]:
        """Places of the blocks of a table of `size` unpacked bytes, from the index at `index`."""
        if size > SQUASHFS_TABLE_BYTES_MAX:
            raise FormatError(
                f"size of the {name}", expected=f"<= {SQUASHFS_TABLE_BYTES_MAX}", got=size
            )
        raw = self._image.read(index, index_bytes(size))
        return struct.unpack(f"<{len(raw) // _POINTER_BYTES}Q", raw)

    def indexed(self, name: str, places: Iterable[int], size: int) -> Table:
        """The table of `size` unpacked bytes whose blocks stand at `places`."""
        builder = _Builder(name)
        for place in places:
            header = self._image.read(place, _HEADER_BYTES)
            packed = self._image.read(place, _HEADER_BYTES + _stored_size(header, 0))
            self._block(builder, packed, 0, place)
        table = builder.table(self._book)
        if len(table.data) != size:
            raise FormatError(f"size of the {name}", expected=size, got=len(table.data))
        return table

    def _block(self, builder: "_Builder", packed: bytes, offset: int, place: int) -> int:
        """Take the block whose header is at `offset` of `packed`; returns its size with header."""
        size = _stored_size(packed, offset)
        first = offset + _HEADER_BYTES
        content = packed[first : first + size]
        if len(content) != size:
            raise FormatError(f"block at {place} leaves the {builder.name}")
        stored = packed[offset + 1] & (_STORED >> 8)
        data = content if stored else self._unpack(content)
        key = None
        if not stored:
            key = self._book.add(self._packing, place + _HEADER_BYTES, size, len(data))
        builder.append(place, data, key)
        return _HEADER_BYTES + size

    def _unpack(self, content: bytes) -> bytes:
        try:
            return unpack(self._packing, content, METADATA_BYTES)
        except PackingUnavailable as error:
            raise FormatError(f"{self._packing.value} metadata cannot be read here") from error


class _Builder:
    """Blocks of one table as they are read."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._parts: list[bytes] = []
        self._pieces: list[Extent] = []
        self._starts: dict[int, int] = {}
        self._first = 0
        self._size = 0

    def append(self, place: int, data: bytes, key: int | None) -> None:
        """Add a block's content: in the image behind its header, or in the packed block `key`."""
        if self._size % METADATA_BYTES:
            raise FormatError(f"a block of the {self.name} is short, but not the last", got=place)
        if not 0 < len(data) <= METADATA_BYTES:
            raise FormatError(f"size of a block of the {self.name}", got=len(data))
        if self._size + len(data) > SQUASHFS_TABLE_BYTES_MAX:
            raise FormatError(f"{self.name} too large", expected=f"<= {SQUASHFS_TABLE_BYTES_MAX}")
        if not self._pieces:
            self._first = place
        self._starts[place - self._first] = self._size
        inner = place + _HEADER_BYTES if key is None else 0
        self._pieces.append(Extent(self._size, len(data), inner, key))
        self._parts.append(data)
        self._size += len(data)

    def table(self, book: BlockBook) -> Table:
        """What was appended."""
        extents = book.extents(self._pieces, self._size)
        return Table(self.name, b"".join(self._parts), self._starts, extents)


def index_bytes(size: int) -> int:
    """Bytes of the index of a table of `size` unpacked bytes."""
    return -(-size // METADATA_BYTES) * _POINTER_BYTES


def _stored_size(packed: bytes, offset: int) -> int:
    if offset + _HEADER_BYTES > len(packed):
        raise FormatError("header of a metadata block is cut off")
    size = int.from_bytes(packed[offset : offset + _HEADER_BYTES], "little") & ~_STORED
    if not 0 < size <= METADATA_BYTES:
        raise FormatError("size of a metadata block", expected=f"1..{METADATA_BYTES}", got=size)
    return size

"""Inodes and directories of erofs.

An inode stands in 32-byte slots of the metadata area, its number is its slot. Behind it follow
its attributes, and behind those what its layout needs: the tail of its content, or an index.

Source: fs/erofs/erofs_fs.h, inode.c and namei.c of Linux.
"""

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import NamedTuple

from slipstream.delta.errors import FormatError
from slipstream.delta.filesystem.part import Part

SLOT_BYTES = 32

_COMPACT = struct.Struct("<HHHxxI4xI12x")  # format, attributes, mode, size, address
_EXTENDED = struct.Struct("<HHHxxQI44x")
_EXTENDED_BIT = 1
_FORMAT_BITS = 4
_XATTR_HEADER_BYTES, _XATTR_BYTES = 12, 4
_DIRENT = struct.Struct("<QHBx")  # inode number, offset of the name, type
_MODE_TYPE, _MODE_DIRECTORY, _MODE_FILE = 0xF000, 0x4000, 0x8000


class DataLayout(IntEnum):
    """Where the content of an inode stands."""

    PLAIN = 0  # in blocks
    COMPRESSED_FULL = 1  # in clusters, with a full index
    INLINE = 2  # in blocks, the tail behind the inode
    COMPRESSED_COMPACT = 3  # in clusters, with a compact index
    CHUNKS = 4  # in chunks, with an index of them


_LAYOUTS = {int(layout): layout for layout in DataLayout}


class Inode(NamedTuple):
    """One inode at `place` of the image; what its layout needs follows from `end` on.

    `address` is a block number, or the format of chunks.
    """

    place: int
    end: int
    layout: DataLayout
    mode: int
    size: int
    address: int

    @property
    def is_directory(self) -> bool:
        return self.mode & _MODE_TYPE == _MODE_DIRECTORY

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.mode & _MODE_TYPE == _MODE_FILE


def read_inode(image: Part, place: int) -> Inode:
    """The inode at `place`; FormatError for a layout that is not known."""
    raw = image.read(place, _COMPACT.size)
    record = _COMPACT
    if raw[0] & _EXTENDED_BIT:
        record = _EXTENDED
        raw = image.read(place, record.size)
    form, attributes, mode, size, address = record.unpack(raw)
    layout = form >> 1
    if form >> _FORMAT_BITS or layout not in _LAYOUTS:
        raise FormatError("layout of an inode", where=f"inode at {place}", got=f"{form:#x}")
    end = place + record.size
    if attributes:
        end += _XATTR_HEADER_BYTES + _XATTR_BYTES * (attributes - 1)
    return Inode(place, end, _LAYOUTS[layout], mode, size, address)


def parse_names(block: bytes) -> Iterator[tuple[str, int]]:
    """Name and inode number of everything in one block of a directory, but `.` and `..`."""
    if len(block) < _DIRENT.size:
        raise FormatError("block of a directory cut short", got=len(block))
    first = _DIRENT.unpack_from(block)[1]
    if first % _DIRENT.size or not _DIRENT.size <= first <= len(block):
        raise FormatError("first name of a directory", expected=f"<= {len(block)}", got=first)
    dirents = list(_DIRENT.iter_unpack(block[:first]))
    ends = [dirent[1] for dirent in dirents[1:]]
    for (number, start, _), end in zip(dirents, [*ends, len(block)], strict=True):
        if not start < end <= len(block):
            raise FormatError("name of a directory", expected=f"{start}..{len(block)}", got=end)
        name = block[start:end]
        if end == len(block):
            name = name.split(b"\0", 1)[0]  # the last one is padded
        if name in (b".", b".."):
            continue
        if not name or b"/" in name:
            raise FormatError("name of a directory", got=name)
        yield name.decode("utf-8", "surrogateescape"), number

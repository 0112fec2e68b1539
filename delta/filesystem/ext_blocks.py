"""From an ext inode to the places of its bytes: extent trees, block pointers, inline data.

Every block that holds such a map is read at most once for the whole image. So a tree that is
cyclic, or that many inodes share, is an error, and the work is bounded by the image's size.

Source: the kernel's fs/ext4/ext4_extents.h, fs/ext4/indirect.c and fs/ext4/inline.c.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Extent
from slipstream.delta.filesystem.ext_layout import Layout
from slipstream.delta.filesystem.part import Part

EXTENTS_FLAG = 0x80000
INLINE_FLAG = 0x10000000

MAP_OFFSET = 40  # of i_block in an inode
MAP_BYTES = 60

_NODE = struct.Struct("<HHHH4x")  # magic, entries, most entries, depth
_LEAF = struct.Struct("<IHHI")  # first block of the file, length, block (high, low)
_BRANCH = struct.Struct("<4xIH2x")  # block of the node below (low, high)
_NODE_MAGIC = 0xF30A
_DEPTH_MAX = 5  # the format's own: 2^32 blocks need no more
_WRITTEN_BLOCKS_MAX = 32768  # a longer extent is preallocated, reads as zeros, and is so much less
_DIRECT_POINTERS = 12

_ATTRIBUTES_MAGIC = 0xEA020000
_ATTRIBUTE = struct.Struct("<BBHII4x")  # name length, name space, offset, inode, size of the value
_INLINE_ATTRIBUTE = (7, b"data")  # name space "system."


class Inode(NamedTuple):
    """What of an inode says where its bytes stand. `place` is the image offset of the inode."""

    number: int
    mode: int
    flags: int
    size: int
    block_map: bytes  # i_block
    place: int


class BlockMaps:
    """Reads the block maps of one image. `blocks` are those that hold maps, in reading order."""

    def __init__(self, image: Part, layout: Layout) -> None:
        self._image = image
        self._layout = layout
        self.blocks: dict[int, None] = {}

    def runs(self, inode: Inode) -> Iterator[Extent]:
        """Where the bytes of a file or directory stand, by offset; holes are left out.

        Neither joined nor cut at the end of the file. FormatError for a broken map.
        """
        if inode.flags & INLINE_FLAG:
            return self._inline(inode)
        if inode.flags & EXTENTS_FLAG:
            return self._extents(inode.block_map, None)
        return self._pointed(inode)

    def _extents(self, node: bytes, depth: int | None) -> Iterator[Extent]:
        """The extents below a node; `depth` is None at the root."""
        magic, count, _, level = _NODE.unpack_from(node)
        wrong_depth = level > _DEPTH_MAX if depth is None else level != depth
        if magic != _NODE_MAGIC or wrong_depth or (count + 1) * _NODE.size > len(node):
            raise FormatError(
                "broken extent tree",
                expected=f"magic {_NODE_MAGIC:#x}, depth {depth}",
                got=f"magic {magic:#x}, depth {level}, {count} entries in {len(node)} bytes",
            )
        block_size = self._layout.block_size
        for at in range(_NODE.size, (count + 1) * _NODE.size, _NODE.size):
            if level:
                low, high = _BRANCH.unpack_from(node, at)
                yield from self._extents(self._read(high << 32 | low), level - 1)
                continue
            first, length, high, low = _LEAF.unpack_from(node, at)
            if length <= _WRITTEN_BLOCKS_MAX:
                place = self._place(high << 32 | low, length)
                yield Extent(first * block_size, length * block_size, place)

    def _pointed(self, inode: Inode) -> Iterator[Extent]:
        """ext2 and ext3: twelve pointers, then trees of one, two and three levels."""
        pointers = struct.unpack("<15I", inode.block_map)
        block_count = -(-inode.size // self._layout.block_size)
        yield from self._direct(pointers[:_DIRECT_POINTERS], 0)
        first = _DIRECT_POINTERS
        for level, pointer in enumerate(pointers[_DIRECT_POINTERS:], 1):
            yield from self._indirect(pointer, level, first, block_count)
            first += self._below(level)

    def _below(self, level: int) -> int:
        """Blocks of a file that one pointer of a level stands for."""
        return int((self._layout.block_size // 4) ** level)

    def _indirect(self, pointer: int, level: int, first: int, block_count: int) -> Iterator[Extent]:
        if pointer == 0 or first >= block_count:
            return
        node = self._read(pointer)
        pointers = struct.unpack(f"<{len(node) // 4}I", node)
        if level == 1:
            yield from self._direct(pointers, first)
            return
        for index, below in enumerate(pointers):
            yield from self._indirect(
                below, level - 1, first + index * self._below(level - 1), block_count
            )

    def _direct(self, pointers: tuple[int, ...], first: int) -> Iterator[Extent]:
        block_size = self._layout.block_size
        index = 0
        while index < len(pointers):
            start = index
            index += 1
            if pointers[start] == 0:
                continue
            while index < len(pointers) and pointers[index] == pointers[start] + index - start:
                index += 1
            length = index - start
            place = self._place(pointers[start], length)
            yield Extent((first + start) * block_size, length * block_size, place)

    def _inline(self, inode: Inode) -> Iterator[Extent]:
        """The first 60 bytes stand in place of the block map, the rest in an attribute."""
        yield Extent(0, MAP_BYTES, inode.place + MAP_OFFSET)
        if inode.size <= MAP_BYTES:
            return
        body = self._image.read(inode.place, self._layout.inode_size)
        place, size = _inline_rest(body)
        yield Extent(MAP_BYTES, size, inode.place + place)

    def _read(self, block: int) -> bytes:
        place = self._place(block, 1)
        if block in self.blocks:
            raise FormatError("block map read twice: a cycle, or shared", where=f"block {block}")
        self.blocks[block] = None
        return self._image.read(place, self._layout.block_size)

    def _place(self, block: int, count: int) -> int:
        """Byte offset of a block that starts a run of `count`."""
        if not 0 < block < block + count <= self._layout.block_count:
            raise FormatError(
                "extent outside the file system",
                expected=f"within block 1..{self._layout.block_count}",
                got=f"{count} from {block} on",
            )
        return block * self._layout.block_size


def _inline_rest(body: bytes) -> tuple[int, int]:
    """Offset in the inode, and size, of the value of the attribute system.data."""
    (extra,) = struct.unpack_from("<H", body, 128) if len(body) > 128 + 4 else (0,)
    start = 128 + extra
    if start + 4 > len(body) or body[start : start + 4] != _ATTRIBUTES_MAGIC.to_bytes(4, "little"):
        raise FormatError("inline data without attributes in the inode")
    at = first = start + 4
    while at + _ATTRIBUTE.size <= len(body) and any(body[at : at + 4]):
        length, space, offset, _, size = _ATTRIBUTE.unpack_from(body, at)
        name = body[at + _ATTRIBUTE.size : at + _ATTRIBUTE.size + length]
        if (space, name) == _INLINE_ATTRIBUTE and first + offset + size <= len(body):
            return first + offset, size
        at += _ATTRIBUTE.size + (length + 3 & ~3)
    raise FormatError("inline data is cut off")

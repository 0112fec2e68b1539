"""squashfs 4.0: which blocks are packed where, and which of them hold a file's bytes.

Reads the superblock and unpacks all tables, but no data: its blocks have known sizes. Not here:
versions before 4.0 and big-endian images, which Linux stopped mounting in 2009; symbolic links
and devices, whose content stands in the inode table.

Source: Documentation/filesystems/squashfs.rst and fs/squashfs/ of Linux.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Extent, FileMap
from slipstream.delta.filesystem.blocks import BlockBook
from slipstream.delta.filesystem.collect import Collector
from slipstream.delta.filesystem.part import Part
from slipstream.delta.filesystem.squashfs_metadata import MetadataReader, Table, index_bytes
from slipstream.delta.filesystem.squashfs_superblock import MISSING, read_superblock
from slipstream.delta.filesystem.squashfs_tree import NO_FRAGMENT, SquashfsFile, SquashfsTree
from slipstream.delta.reader import Reader

_STORED = 1 << 24  # in the size of a data block or fragment: not packed
_WORD = struct.Struct("<I")
_FRAGMENT = struct.Struct("<QI4x")  # place, size
_XATTR_HEADER = struct.Struct("<QI4x")  # place of the first block of pairs, ids


def read_squashfs(image: Reader) -> FileMap:
    """The map of a squashfs 4.0 image; FormatError for what is not sound.

    Peak memory: the unpacked tables (1.5 MB for 25,000 files) and the map.
    """
    return _SquashfsReader(Part(image, 0, image.size)).read()


class _Index(NamedTuple):
    """A table of `size` unpacked bytes; the places of its blocks stand at `place`."""

    name: str
    place: int
    size: int


class _SquashfsReader:
    """One image being read."""

    def __init__(self, image: Part) -> None:
        self._image = image
        self._superblock = read_superblock(image)
        self._book = BlockBook(image.size)
        self._found = Collector(image.size)
        self._metadata = MetadataReader(image, self._superblock.packing, self._book)
        self._fragments = b""  # the table of them

    def read(self) -> FileMap:
        superblock = self._superblock
        self._found.add_table("superblock", [(0, superblock.size)])
        tables = list(self._tables())
        inodes, listings = tables[:2]
        root = _root_offset(superblock.root, inodes)
        tree = SquashfsTree(inodes, listings, superblock.block_size, self._found)
        for file in tree.files(root):
            self._found.add_file(
                file.path, file.size, self._book.extents(self._pieces(file), file.size)
            )
        blocks, entries = self._book.numbered(
            [*(table.entry for table in tables if table.data), *self._found.entries]
        )
        return FileMap(
            f"squashfs, {superblock.packing.value}, {superblock.block_size}-byte blocks",
            blocks,
            entries,
            dict(superblock.hints),
        )

    def _tables(self) -> Iterator[Table]:
        """The inode table, the directory table, and the others that are there."""
        superblock, metadata = self._superblock, self._metadata
        indexes = self._indexes()
        pointers = {index.name: metadata.pointers(*index) for index in indexes}
        # Nothing says where the directory table ends: at whatever comes first behind it.
        borders = [superblock.bytes_used, *(index.place for index in indexes)]
        for places in pointers.values():
            borders += places
        pairs = None
        if "xattr ids" in pointers:
            pairs, _ = self._xattr_header()
            borders.append(pairs)
        yield metadata.table("inode table", superblock.inode_table, superblock.directory_table)
        yield metadata.table("directory table", superblock.directory_table, min(borders))
        if pairs is not None:
            self._found.add_table("xattr header", [(superblock.xattr_table, _XATTR_HEADER.size)])
            yield metadata.table("xattr table", pairs, pointers["xattr ids"][0])
        for index in indexes:
            table = metadata.indexed(index.name, pointers[index.name], index.size)
            if index.name == "fragment table":
                self._note_fragments(table)
            self._found.add_table(
                f"index of {index.name}", [(index.place, index_bytes(index.size))]
            )
            yield table

    def _indexes(self) -> list[_Index]:
        """The tables that have an index, as far as they are there."""
        superblock = self._superblock
        indexes = [
            _Index("fragment table", superblock.fragment_table, 16 * superblock.fragments),
            _Index("export table", superblock.export_table, 8 * superblock.inodes),
            _Index("id table", superblock.id_table, 4 * superblock.ids),
        ]
        if superblock.xattr_table != MISSING:
            _, ids = self._xattr_header()
            place = superblock.xattr_table + _XATTR_HEADER.size
            indexes.append(_Index("xattr ids", place, 16 * ids))
        return [index for index in indexes if index.place != MISSING and index.size]

    def _xattr_header(self) -> tuple[int, int]:
        """The place of the attributes' names and values, and how many sets of them there are."""
        raw = self._image.read(self._superblock.xattr_table, _XATTR_HEADER.size)
        pairs, ids = _XATTR_HEADER.unpack(raw)
        return pairs, ids

    def _note_fragments(self, table: Table) -> None:
        packing, block_size = self._superblock.packing, self._superblock.block_size
        for place, word in _FRAGMENT.iter_unpack(table.data):
            _check_word(word, block_size)
            if not word & _STORED:
                self._book.add(packing, place, word)
        self._fragments = table.data

    def _pieces(self, file: SquashfsFile) -> Iterator[Extent]:
        """The extents of a file, one for each block and its tail; `block` is the block's place."""
        packing, block_size = self._superblock.packing, self._superblock.block_size
        place = file.start
        for number, (word,) in enumerate(_WORD.iter_unpack(file.sizes)):
            offset = number * block_size
            size = min(block_size, file.size - offset)
            if word == 0:  # a hole
                continue
            if word & _STORED:
                if word ^ _STORED != size:
                    raise FormatError(
                        "size of a stored block", where=file.path, expected=size, got=word ^ _STORED
                    )
                yield Extent(offset, size, place)
            else:
                _check_word(word, block_size)
                yield Extent(offset, size, 0, self._book.add(packing, place, word, size))
            place += word & ~_STORED
        tail = file.size % block_size
        if file.fragment != NO_FRAGMENT and tail:
            yield self._tail(file, tail)

    def _tail(self, file: SquashfsFile, size: int) -> Extent:
        """The last `size` bytes of a file, in a fragment."""
        offset, end = file.size - size, file.tail_offset + size
        count = len(self._fragments) // _FRAGMENT.size
        if file.fragment >= count or end > self._superblock.block_size:
            raise FormatError(
                "tail outside the fragments",
                where=file.path,
                expected=f"{count} fragments of {self._superblock.block_size} bytes",
                got=f"fragment {file.fragment}, end {end}",
            )
        place, word = _FRAGMENT.unpack_from(self._fragments, file.fragment * _FRAGMENT.size)
        if word & _STORED:
            if end > word ^ _STORED:
                raise FormatError("tail outside its fragment", where=file.path, got=end)
            return Extent(offset, size, place + file.tail_offset)
        key = self._book.add(self._superblock.packing, place, word, end)
        return Extent(offset, size, file.tail_offset, key)


def _root_offset(reference: int, inodes: Table) -> int:
    """Where in the inode table a reference (block, and 16 bits of offset in it) points to."""
    start = inodes.starts.get(reference >> 16)
    if start is None:
        raise FormatError("inode outside its table", got=f"reference {reference:#x}")
    return start + (reference & 0xFFFF)


def _check_word(word: int, block_size: int) -> None:
    if not 0 < word & ~_STORED <= block_size:
        raise FormatError("size of a block", expected=f"1..{block_size}", got=word & ~_STORED)

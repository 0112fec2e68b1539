"""erofs: which clusters are packed where, and which of them hold a file's bytes.

Reads inodes, directories and indexes, which are never packed, and no content. Not here: images
on several devices, and what Linux gained after 6.12 (48-bit addresses, packed metadata).

Source: fs/erofs/ of Linux.
"""

from collections.abc import Iterable, Iterator

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import FileMap
from slipstream.delta.filesystem.blocks import BlockBook
from slipstream.delta.filesystem.collect import Collector
from slipstream.delta.filesystem.erofs_content import ContentReader
from slipstream.delta.filesystem.erofs_inode import SLOT_BYTES, Inode, parse_names, read_inode
from slipstream.delta.filesystem.erofs_superblock import SUPERBLOCK_PLACE, read_superblock
from slipstream.delta.filesystem.part import Part
from slipstream.delta.filesystem.traced import TracedPart
from slipstream.delta.limits import EROFS_DIRECTORY_BYTES_MAX
from slipstream.delta.reader import Reader


def read_erofs(image: Reader) -> FileMap:
    """The map of an erofs image; FormatError for what is not sound or not known.

    The table `metadata` has whole blocks: inodes, indexes and directories, and the tails of files
    between them, which are in the entries of their files too.
    """
    return _ErofsReader(Part(image, 0, image.size)).read()


class _ErofsReader:
    """One image being read."""

    def __init__(self, image: Part) -> None:
        superblock = read_superblock(image)
        self._superblock = superblock
        self._metadata = TracedPart(image, 0, superblock.image_size, superblock.block_size)
        self._book = BlockBook(superblock.image_size)
        self._found = Collector(superblock.image_size)
        self._content = ContentReader(self._metadata, superblock, self._book)
        self._directory_bytes = 0

    def read(self) -> FileMap:
        superblock = self._superblock
        if superblock.packed_file is not None:
            self._content.use_fragments(self._inode(superblock.packed_file))
        for inode, path in self._files():
            extents = self._book.extents(self._content.pieces(inode), inode.size)
            self._found.add_file(path, inode.size, extents)
        self._metadata.read(SUPERBLOCK_PLACE, superblock.size)
        self._found.add_table("metadata", list(self._metadata.runs()))
        blocks, entries = self._book.numbered(self._found.entries)
        return FileMap(
            f"erofs, {superblock.block_size}-byte blocks", blocks, entries, dict(superblock.hints)
        )

    def _inode(self, number: int) -> Inode:
        return read_inode(self._metadata, self._superblock.metadata_place + number * SLOT_BYTES)

    def _files(self) -> Iterable[tuple[Inode, str]]:
        """Every regular file below the root once, with its first path."""
        files: dict[int, tuple[Inode, str]] = {}
        folders = [("", self._inode(self._superblock.root))]
        seen = {self._superblock.root}
        while folders:
            folder, directory = folders.pop()
            for name, number in self._names(directory):
                path = self._found.path(folder, name)
                if number in files:
                    inode, first = files[number]
                    files[number] = inode, min(first, path)
                    continue
                inode = self._inode(number)
                if inode.is_file:
                    files[number] = inode, path
                elif inode.is_directory:
                    if number in seen:
                        raise FormatError("a directory has two names", where=path)
                    seen.add(number)
                    folders.append((path, inode))
        return files.values()

    def _names(self, directory: Inode) -> Iterator[tuple[str, int]]:
        if not directory.is_directory:
            raise FormatError("inode is no directory", where=f"inode at {directory.place}")
        self._directory_bytes += directory.size
        if self._directory_bytes > EROFS_DIRECTORY_BYTES_MAX:
            raise FormatError(
                "directories too large", expected=f"<= {EROFS_DIRECTORY_BYTES_MAX} bytes"
            )
        content = bytearray()
        for piece in self._content.pieces(directory):
            if piece.block is not None or piece.offset != len(content):
                raise FormatError("a packed directory", where=f"inode at {directory.place}")
            content += self._metadata.read(piece.place, piece.size)
        for start in range(0, len(content), self._superblock.block_size):
            yield from parse_names(bytes(content[start : start + self._superblock.block_size]))

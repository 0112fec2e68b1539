"""Collects the compressed blocks of an image, and the extents that lie in them.

Readers meet blocks in the order of files, several times where files share them; a map lists them
once, by place. Until `numbered`, `Extent.block` is therefore the place of the block in the image.
Knows no format. Not here: paths and uncompressed files (collect.py).
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Block, Entry, Extent, Packing
from slipstream.delta.limits import IMAGE_BYTES_MAX, MAP_BLOCKS_MAX, MAP_EXTENTS_MAX


class _Seen(NamedTuple):
    packing: Packing
    length: int  # bytes of the image
    size: int  # unpacked bytes known so far


class BlockBook:
    """Blocks of an image of `image_size` bytes. Everything raises FormatError beyond a limit."""

    def __init__(self, image_size: int) -> None:
        self._image_size = image_size
        self._seen: dict[int, _Seen] = {}
        self._extents = 0

    def add(self, packing: Packing, place: int, length: int, size: int = 0) -> int:
        """Note `length` bytes of the image from `place` on as a block; returns what its extents name.

        `size` is how many unpacked bytes the caller knows of: the furthest end that a file uses.
        A block shared by several files has the largest; none known (0) becomes None in the map.
        """
        seen = self._seen.get(place)
        if seen is None:
            if not 0 <= place < place + length <= self._image_size:
                raise FormatError(
                    "block outside the image",
                    expected=f"within 0..{self._image_size}",
                    got=f"offset {place}, size {length}",
                )
            if len(self._seen) >= MAP_BLOCKS_MAX:
                raise FormatError("too many blocks of the map", expected=f"<= {MAP_BLOCKS_MAX}")
            self._seen[place] = _Seen(packing, length, size)
        elif (seen.packing, seen.length) != (packing, length):
            raise FormatError(
                f"two blocks at offset {place}",
                expected=f"{seen.length} bytes, {seen.packing.value}",
                got=f"{length} bytes, {packing.value}",
            )
        elif size > seen.size:
            self._seen[place] = seen._replace(size=size)
        return place

    def extents(self, pieces: Iterable[Extent], size: int) -> tuple[Extent, ...]:
        """The pieces of one file of `size` bytes, joined where they go on.

        Raises FormatError for pieces that overlap, do not rise, or leave the file or the image.
        """
        if size > IMAGE_BYTES_MAX:
            raise FormatError("file size", expected=f"<= {IMAGE_BYTES_MAX}", got=size)
        joined: list[Extent] = []
        end = 0
        for piece in pieces:
            if not end <= piece.offset < piece.offset + piece.size <= size:
                raise FormatError(
                    "extent of a file",
                    expected=f"within {end}..{size}",
                    got=f"offset {piece.offset}, size {piece.size}",
                )
            end = piece.offset + piece.size
            if piece.block is None and not 0 <= piece.place <= self._image_size - piece.size:
                raise FormatError(
                    "extent outside the image",
                    expected=f"within 0..{self._image_size}",
                    got=f"offset {piece.place}, size {piece.size}",
                )
            if joined and _goes_on(joined[-1], piece):
                joined[-1] = joined[-1]._replace(size=joined[-1].size + piece.size)
                continue
            self._extents += 1
            if self._extents > MAP_EXTENTS_MAX:
                raise FormatError("too many extents of the map", expected=f"<= {MAP_EXTENTS_MAX}")
            joined.append(piece)
        return tuple(joined)

    def numbered(self, entries: Iterable[Entry]) -> tuple[list[Block], list[Entry]]:
        """All blocks by place, and `entries` whose extents name them by number.

        Raises FormatError if blocks overlap, or if an extent leaves its block.
        """
        blocks: list[Block] = []
        numbers: dict[int, int] = {}
        end = 0
        for place in sorted(self._seen):
            packing, length, size = self._seen[place]
            if place < end:
                raise FormatError("blocks overlap", expected=f">= {end}", got=place)
            end = place + length
            numbers[place] = len(blocks)
            blocks.append(Block(packing, ByteRange(place, length), size or None))
        return blocks, [
            entry._replace(
                extents=tuple(_numbered(extent, numbers, blocks) for extent in entry.extents)
            )
            for entry in entries
        ]


def _numbered(extent: Extent, numbers: Mapping[int, int], blocks: Sequence[Block]) -> Extent:
    if extent.block is None:
        return extent
    number = numbers[extent.block]
    size = blocks[number].size
    if size is not None and extent.place + extent.size > size:
        raise FormatError(
            "extent leaves its block", expected=f"<= {size}", got=extent.place + extent.size
        )
    return extent._replace(block=number)


def _goes_on(last: Extent, piece: Extent) -> bool:
    return (
        last.block == piece.block
        and last.offset + last.size == piece.offset
        and last.place + last.size == piece.place
    )

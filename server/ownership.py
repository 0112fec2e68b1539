"""Whose bytes stand where in an image: its files, its file system's tables, or no one's.

Made of a `FileMap`, and of the archives in it. An owner is the number of an entry, or UNOWNED: free
space, padding, an image without a file system. Bytes that several files share belong to the one whose extent begins first; those that a file shares
with a table to the file: erofs keeps the ends of files among its inodes.

Not here: what a payload does with the bytes (explain.py).
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

from slipstream.delta.byterange import ByteRange
from slipstream.delta.filemap import EntryKind, FileMap, Packing
from slipstream.delta.limits import GZIP_HEADER_BYTES_MAX
from slipstream.server.archives import Archive

UNOWNED = -1


class Stretch(NamedTuple):
    """`size` bytes of one owner; `packing` says what they are packed with where they stand."""

    size: int
    owner: int
    packing: Packing | None = None


def share(total: int, weights: Sequence[int]) -> list[int]:
    """`total` in whole parts by `weights`, that add up to it; equal parts where all weigh nothing.

    No part is off by more than one: each sum up to a part is the exact one, rounded down.
    """
    weighed = weights if any(weights) else [1] * len(weights)
    whole = sum(weighed)
    ends = [total * up_to // whole for up_to in accumulate(weighed)]
    return [end - begin for begin, end in zip([0, *ends], ends, strict=False)]


def fitted(stretches: Sequence[Stretch], size: int) -> list[Stretch]:
    """The same owners over `size` bytes in all, each with about the part that it had."""
    sizes = share(size, [one.size for one in stretches])
    return [one._replace(size=part) for one, part in zip(stretches, sizes, strict=True)]


class Ownership:
    """The owners of every byte of one image, as it stands and inside what it packs.

    `entries` are those of the map, behind them the files of the archives.
    """

    def __init__(self, found: FileMap, archives: Sequence[Archive] = ()) -> None:
        """`archives` rise by place."""
        self.entries = list(found.entries)
        self._blocks = {block.place.offset: number for number, block in enumerate(found.blocks)}
        files: list[_Area] = []
        tables: list[_Area] = []
        inside: defaultdict[int, list[_Area]] = defaultdict(list)
        for owner, entry in enumerate(found.entries):
            plain = tables if entry.kind is EntryKind.TABLE else files
            for extent in entry.extents:
                area = _Area(extent.place, extent.place + extent.size, owner)
                (plain if extent.block is None else inside[extent.block]).append(area)
        self._inside = {number: _Areas(areas) for number, areas in inside.items()}
        for number, areas in self._inside.items():
            block = found.blocks[number]
            files += areas.scaled(block.place, block.packing)
        self._files = _Areas(files)
        self._tables = _Areas(tables)
        self._archive_begins = [archive.begin for archive in archives]
        self._archives: list[_Areas] = []
        for archive in archives:
            first = len(self.entries)
            self.entries += archive.files
            self._archives.append(
                _Areas(
                    _Area(extent.place, extent.place + extent.size, owner)
                    for owner, entry in enumerate(archive.files, first)
                    for extent in entry.extents
                )
            )

    def standing(self, place: ByteRange) -> list[Stretch]:
        """The owners of a range of the image. Bytes of a block count for what they unpack to."""
        found: list[Stretch] = []
        position = place.offset
        for one in self._files.within(position, place.end):
            end = position + one.size
            found += self._tables.within(position, end) if one.owner == UNOWNED else [one]
            position = end
        return found

    def unpacked(
        self, place: ByteRange, size: int, begin: int | None = None, inside: int = 0
    ) -> list[Stretch]:
        """The owners of `size` bytes of content that are packed in a range of the image.

        `begin` is where in the image the packed stream begins, the range's own offset by default,
        and `inside` how much of its content stands before. Of blocks of the file system and of
        archives it is known exactly; else whoever has the range has the content: a compressed file.
        """
        block = self._blocks.get(place.offset)
        if block is not None and block in self._inside:
            return self._inside[block].within(0, size)
        holders = fitted([one._replace(packing=None) for one in self.standing(place)], size)
        archive = self._archive_at(place.offset if begin is None else begin)
        if archive is None:
            return holders
        # What is in none of its files, their headers, is the archive's own.
        own = holders[0].owner if holders else UNOWNED
        return [
            one._replace(owner=own) if one.owner == UNOWNED else one
            for one in archive.within(inside, inside + size)
        ]

    def _archive_at(self, begin: int) -> "_Areas | None":
        """The archive whose stream, without a gzip header before it, begins here."""
        number = bisect_right(self._archive_begins, begin) - 1
        if number < 0 or begin - self._archive_begins[number] > GZIP_HEADER_BYTES_MAX:
            return None
        return self._archives[number]


class _Area(NamedTuple):
    """Bytes from `begin` to `end`."""

    begin: int
    end: int
    owner: int
    packing: Packing | None = None


class _Areas:
    """Areas that do not overlap, found by place."""

    def __init__(self, areas: Iterable[_Area]) -> None:
        self._areas: list[_Area] = []
        covered = 0
        for area in sorted(areas, key=lambda one: one[:2]):
            if area.end > covered:
                self._areas.append(area._replace(begin=max(area.begin, covered)))
                covered = area.end
        self._starts = [area.begin for area in self._areas]

    def within(self, begin: int, end: int) -> list[Stretch]:
        """Owners from `begin` to `end`, gaps included."""
        found: list[Stretch] = []
        position = begin
        number = max(0, bisect_right(self._starts, begin) - 1)
        while position < end and number < len(self._areas):
            area = self._areas[number]
            number += 1
            if area.end <= position:
                continue
            if area.begin > position:
                gap = min(area.begin, end)
                found.append(Stretch(gap - position, UNOWNED))
                position = gap
            if position < end:
                reach = min(area.end, end)
                found.append(Stretch(reach - position, area.owner, area.packing))
                position = reach
        if position < end:
            found.append(Stretch(end - position, UNOWNED))
        return found

    def scaled(self, place: ByteRange, packing: Packing) -> list[_Area]:
        """The same areas, over the packed bytes of the block that they are the content of."""
        stretches = self.within(0, self._areas[-1].end)
        ends = list(accumulate(one.size for one in fitted(stretches, place.size)))
        begins = [0, *ends[:-1]]
        return [
            _Area(place.offset + begin, place.offset + end, one.owner, packing)
            for begin, end, one in zip(begins, ends, stretches, strict=True)
            if begin < end and one.owner != UNOWNED
        ]

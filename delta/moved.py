"""Files of the source whose numbers are moved before frames read them (build machine).

A plan is made as if the source had them moved already, by the addresses of the files as they
stand. Only in the end the extents of a frame become addresses of moved content. Not here: which
files, and how they move (server/moving.py, server/programs.py).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from slipstream.delta.byterange import ByteRange, merge_ranges
from slipstream.delta.moves import Moved


@dataclass(frozen=True, slots=True)
class MovedBlock:
    """Bytes of a file whose moved ones stand in the work space.

    places     of the bytes as they are, in order
    content    addresses of the moved bytes: as many
    moved      what is moved in them
    """

    places: tuple[ByteRange, ...]
    content: ByteRange
    moved: Moved


class _Piece(NamedTuple):
    place: ByteRange
    address: int  # of what it becomes
    block: MovedBlock


class MovedSource:
    """Blocks by where their bytes stand; no two of them share a byte."""

    def __init__(self, blocks: Sequence[MovedBlock] = ()) -> None:
        self._pieces = sorted(
            _Piece(place, block.content.offset + offset, block)
            for block in blocks
            for place, offset in zip(
                block.places,
                accumulate((one.size for one in block.places), initial=0),
                strict=False,
            )
        )
        self._starts = [one.place.offset for one in self._pieces]

    def __bool__(self) -> bool:
        return bool(self._pieces)

    def within(self, place: ByteRange) -> Iterator[tuple[ByteRange, int, MovedBlock]]:
        """What of a range is moved, rising: bytes as they stand, address of the moved ones, block."""
        number = max(0, bisect_right(self._starts, place.offset) - 1)
        for piece in self._pieces[number : bisect_left(self._starts, place.end)]:
            low, high = max(place.offset, piece.place.offset), min(place.end, piece.place.end)
            if low < high:
                address = piece.address + low - piece.place.offset
                yield ByteRange(low, high - low), address, piece.block

    def whole(self, extents: Iterable[ByteRange], areas: Iterable[ByteRange]) -> list[MovedBlock]:
        """Blocks that share bytes with extents and lie in areas as a whole: a device reads all of one."""
        merged = merge_ranges(areas)
        starts = [one.offset for one in merged]

        def holds(place: ByteRange) -> bool:
            number = bisect_right(starts, place.offset) - 1
            return number >= 0 and place.end <= merged[number].end

        found = {block.content.offset: block for one in extents for _, _, block in self.within(one)}
        return [block for block in found.values() if all(map(holds, block.places))]

    def translated(
        self, extents: Iterable[ByteRange], blocks: Iterable[MovedBlock]
    ) -> tuple[ByteRange, ...]:
        """Extents with what is of some blocks at the addresses of their moved bytes: rising."""
        wanted = {block.content.offset for block in blocks}
        parts: list[ByteRange] = []
        for extent in extents:
            position = extent.offset
            for place, address, block in self.within(extent):
                if block.content.offset not in wanted:
                    continue
                if place.offset > position:
                    parts.append(ByteRange(position, place.offset - position))
                parts.append(ByteRange(address, place.size))
                position = place.end
            if extent.end > position:
                parts.append(ByteRange(position, extent.end - position))
        return tuple(merge_ranges(parts))

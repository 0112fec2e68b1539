"""Whether a plan fits the table of a payload, told before anything is encoded.

A large image in small blocks has more of them than a table may name: 20 GB of erofs in clusters of
4 KiB have five million. What does not fit is not opened. How many frames and sources an encoder
makes of a window is not known yet, so this is an estimate, mostly on the large side; what is
written is checked as it is written (build.py).
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from slipstream.delta.byterange import ByteRange
from slipstream.delta.limits import FRAME_TABLE_BYTES_MAX, FRAMES_MAX, STREAMS_MAX
from slipstream.delta.moved import MovedBlock
from slipstream.delta.moves import Shifts
from slipstream.delta.unfold import OpenBlock
from slipstream.delta.windows import Piece

# Bytes of the table, by the numbers that are usual (docs/format.md, 4).
_FRAME_BYTES = 40  # kind, three streams, content size; some windows become several frames
_EXTENT_BYTES = 8
_PART_BYTES = 8
_STREAM_BYTES = 11
_RANGE_BYTES = 5  # of shifts
_SHIFTS_BYTES = 20  # besides, of a row of them
_SPARE = 0.9  # of what would fit by this estimate


@dataclass(frozen=True, slots=True)
class TableNeeds:
    """Rows of frames and of streams that a plan takes, and bytes of the table."""

    frames: int
    streams: int
    size_bytes: int

    @staticmethod
    def of(
        pieces: Sequence[Piece],
        blocks: Sequence[OpenBlock | MovedBlock],
        shifts: Sequence[Shifts] = (),
    ) -> "TableNeeds":
        """`blocks` are all that were opened, and those that are moved, in the order of their contents;
        these name `shifts`."""
        extents = [one for piece in pieces for one in (*piece.sources, *piece.before)]
        read = sorted(read_blocks(blocks, extents))
        gaps = sum(1 for before, one in zip([-1, *read], read, strict=False) if one - before > 1)
        partitions = [piece.partition for piece in pieces if piece.partition is not None]
        parts = sum(len(one.frame_parts) + len(one.frame_outer) for one in partitions)
        size = len(pieces) * _FRAME_BYTES + len(extents) * _EXTENT_BYTES + parts * _PART_BYTES
        held = [one for one in map(blocks.__getitem__, read) if isinstance(one, MovedBlock)]
        named = [shifts[number] for number in {one.moved.shifts for one in held}]
        ranges = sum(one.moved.ranges for one in held) + sum(one.count for one in named)
        size += ranges * _RANGE_BYTES + len(named) * _SHIFTS_BYTES
        streams = len(read) + gaps
        return TableNeeds(len(pieces), streams, size + streams * _STREAM_BYTES)

    @property
    def fits(self) -> bool:
        """Whether a payload may be so large."""
        return self.share >= 1

    @property
    def share(self) -> float:
        """How much of what was opened can stay open; 1 or more: all of it."""
        used = max(
            self.frames / FRAMES_MAX,
            self.streams / STREAMS_MAX,
            self.size_bytes / FRAME_TABLE_BYTES_MAX,
        )
        return 1.0 if used <= 1 else _SPARE / used


def read_blocks(blocks: Sequence[OpenBlock | MovedBlock], sources: Iterable[ByteRange]) -> set[int]:
    """Numbers of the blocks whose contents are read, and of those that these are unpacked from."""
    read: set[int] = set()
    ends = [block.content.end for block in blocks]
    base = blocks[0].content.offset if blocks else 0
    extents = list(sources)
    while blocks and extents:
        extent = extents.pop()
        position = max(extent.offset, base)
        while position < extent.end:
            number = bisect_right(ends, position)
            if number not in read:
                read.add(number)
                extents += blocks[number].places
            position = ends[number]
    return read

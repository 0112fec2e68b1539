"""What a frame may read: everything of the source, and of the target what is made (build machine).

Long streams are read with a cursor on the device. One whose window holds all of its content may be
read anywhere; another only forwards, by the windows of a long target stream, which go through
content in the same order. What this class gives out, a device never has to unpack twice for, and
has the memory for (budget.py, cursors.py).
"""

from bisect import bisect_right
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from slipstream.delta.anchors import clip
from slipstream.delta.budget import cursor_bytes
from slipstream.delta.byterange import ByteRange, merge_ranges, outside
from slipstream.delta.cursors import Cursors
from slipstream.delta.limits import CHUNK_BYTES, MIB
from slipstream.delta.unfold import OpenBlock, Window

# A device's cursor is up to one step (space.py, 256 KiB) ahead of the farthest byte that was read.
_CURSOR_SLACK_BYTES = MIB


class Readable:
    """Asked for each window in target order: `areas`, then `take` with what was chosen of them."""

    def __init__(
        self,
        source_size: int,
        groups: Sequence[Sequence[OpenBlock]],
        windows: Mapping[int, int],
        closed: Container[int],
        room_of: Callable[[Window], int],
    ) -> None:
        """`groups` are opened blocks in the order of their contents: all of a group are of the
        source, or all of the target and rise by what must be made to read them. `windows` gives
        for the content address of a long block how much of it a cursor keeps; `closed` are the
        addresses of blocks that are never read. `room_of` says what cursors may hold while
        a frame of a window is decoded."""
        self._source_size = source_size
        self._groups = [_Group(group, windows, closed) for group in groups if group]
        self._windows = windows
        self._forward = [
            one
            for group in groups
            for one in group
            if one.is_long
            and not one.end
            and one.content.offset not in closed
            and windows[one.content.offset] < one.content.size
        ]
        # A cursor on all of a long target stream takes the memory that the encoder of another one
        # may need: it waits until they are done.
        self._long_end = max(
            (one.end for group in groups for one in group if one.is_long and one.recipe), default=0
        )
        self._long = {
            one.content.offset: one.content for group in groups for one in group if one.is_long
        }
        self._room_of = room_of
        self._cursors = Cursors(
            {
                one.content.offset: cursor_bytes(one, windows[one.content.offset])
                for group in groups
                for one in group
                if one.is_long
            }
        )
        self._room = 0  # beside the window that was asked for last
        self._farthest: dict[int, int] = {}
        self._open_since: int | None = None  # target offset of the long stream that goes on
        self._done = 0  # content of the long target stream that windows were asked for

    def areas(self, window: Window) -> tuple[ByteRange, ...]:
        """Address ranges that a frame of this window may read, rising."""
        # A device checks and writes whole chunks: the one that the window begins in is not there.
        made = self._made(window) // CHUNK_BYTES * CHUNK_BYTES
        areas = [(0, self._source_size + made)]
        self._room = self._room_of(window)
        barred = self._cursors.barred(self._room)
        for group in self._groups:
            areas += group.areas(made, barred, long=made >= self._long_end)
        if window.partition.long_part is not None:
            areas += self._ahead(window, barred)
        return tuple(ByteRange(low, high - low) for low, high in sorted(areas) if low < high)

    def _made(self, window: Window) -> int:
        """Target bytes before the window that are made for sure: the encoder of a long stream gives
        its bytes late, at the latest with its end."""
        part = window.partition.long_part
        made = window.target.offset if self._open_since is None else self._open_since
        if part is not None and part.begins:
            made = self._open_since = window.target.offset
        if part is not None and part.ends:
            self._open_since = None
        return made

    def _ahead(self, window: Window, barred: Container[int]) -> Iterable[tuple[int, int]]:
        """What may be read of long sources by a window of a long target."""
        part = window.partition.long_part
        if part is not None and part.begins:
            self._farthest.clear()
            self._done = 0
        self._done += window.partition.content_size
        for block in self._forward:
            begin = block.content.offset
            if begin in barred:
                continue
            kept = self._windows[begin]
            at = self._farthest.get(begin, begin)
            low = max(begin, at - kept + _CURSOR_SLACK_BYTES)
            # Zeros have no anchors: a kernel has 24 MB of them, behind which it goes on as far on.
            high = max(at + window.partition.content_size, begin + self._done) + kept // 2
            yield low, min(block.content.end, high)

    def before(self, window: Window, areas: Sequence[ByteRange], most: int) -> list[ByteRange]:
        """What stands before the content of a window: rising, at most `most` bytes, and no more
        than there is memory for beside the cursors. Nothing of long streams. After `take`."""
        # A frame holds its source bytes twice, in one way or another.
        most = min(most, self._cursors.spare(self._room) // 2)
        # Parts behind one area stand close together: of several the first one has all of it before it.
        starts = [area.offset for area in areas]
        first: dict[int, int] = {}
        sizes: dict[int, int] = {}
        for part in window.content:
            area = bisect_right(starts, part.offset)
            first[area] = min(first.get(area, part.offset), part.offset)
            sizes[area] = sizes.get(area, 0) + part.size
        near = []
        for area, end in first.items():
            share = min(end, most * sizes[area] // window.partition.content_size)
            near.append(ByteRange(end - share, share))
        left: list[ByteRange] = list(clip(merge_ranges(near), areas))
        for content in self._long.values():
            left = [part for one in left for part in outside(one, (content,))]
        return left

    def take(self, extents: tuple[ByteRange, ...]) -> tuple[ByteRange, ...]:
        """Note that the window reads these extents: those of them for which there is memory."""
        read = {
            begin: size
            for begin, content in self._long.items()
            if (size := sum(_shared(content, extent) for extent in extents))
        }
        wanted = sorted(read, key=lambda begin: (-read[begin], begin))
        for begin in self._cursors.take(wanted, self._room):
            extents = tuple(
                part for extent in extents for part in outside(extent, (self._long[begin],))
            )
        for extent in extents:
            for block in self._forward:
                if block.content.overlaps(extent):
                    begin = block.content.offset
                    end = min(extent.end, block.content.end)
                    self._farthest[begin] = max(self._farthest.get(begin, begin), end)
        return extents


def _shared(one: ByteRange, other: ByteRange) -> int:
    return max(0, min(one.end, other.end) - max(one.offset, other.offset))


class _Group:
    """Opened blocks whose contents follow one another, and may be read from some time on."""

    def __init__(
        self,
        blocks: Sequence[OpenBlock],
        windows: Mapping[int, int],
        closed: Container[int],
    ) -> None:
        self._begin = blocks[0].content.offset
        self._ends = list(accumulate((one.end for one in blocks), max))
        self._contents = [one.content for one in blocks]
        self._of_target = bool(blocks[0].end)
        self._apart = [
            (
                one.content,
                one.content.offset not in closed
                and windows[one.content.offset] >= one.content.size,
            )
            for one in blocks
            if one.is_long or one.content.offset in closed
        ]

    def areas(self, made: int, barred: Container[int], *, long: bool) -> Iterator[tuple[int, int]]:
        """What may be read when `made` target bytes stand, but for what is barred; `long`: also in
        long streams of the target that a cursor holds whole."""
        count = bisect_right(self._ends, made)
        if not count:
            return
        begin, end = self._begin, self._contents[count - 1].end
        for content, is_kept in self._apart:
            if content.offset >= end:
                break
            is_open = is_kept and (long or not self._of_target)
            if not is_open or content.offset in barred:
                yield begin, content.offset
                begin = content.end
        yield begin, end

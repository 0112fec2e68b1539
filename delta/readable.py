"""What a frame may read: everything of the source, and of the target what is made (build machine).

Long streams are read with a cursor on the device. One whose window holds all of its content may be
read anywhere; another only forwards, by the windows of a long target stream, which go through
content in the same order. What this class gives out, a device never has to unpack twice for.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

from slipstream.delta.byterange import ByteRange
from slipstream.delta.limits import CHUNK_BYTES, MIB
from slipstream.delta.unfold import OpenBlock, Window

# A device's cursor is up to one step (space.py, 256 KiB) ahead of the farthest byte that was read.
_CURSOR_SLACK_BYTES = MIB


class Readable:
    """Asked for each window in target order: `areas`, then `take` with what was chosen of them."""

    def __init__(
        self,
        source_size: int,
        target_size: int,
        sources: Sequence[OpenBlock],
        targets: Sequence[OpenBlock],
        windows: Mapping[int, int],
    ) -> None:
        """`windows` gives for the content address of a long block how much of it a cursor keeps."""
        self._source_size = source_size
        self._base = source_size + target_size
        self._sources_end = sources[-1].content.end if sources else self._base
        self._windows = windows
        self._forward = [
            one for one in sources if one.is_long and windows[one.content.offset] < one.content.size
        ]
        self._closed = [
            one.content
            for one in (*sources, *targets)
            if one.is_long and windows[one.content.offset] < one.content.size
        ]
        self._closed_long = [
            one.content
            for one in (*sources, *targets)
            if one.is_long and (windows[one.content.offset] < one.content.size or one in targets)
        ]
        self._ends = [one.places[-1].end - source_size for one in targets]
        # A cursor on all of a long target stream takes the memory that the encoder of another one
        # may need: it waits until they are done.
        self._long_end = max(
            (one.packed.end - source_size for one in targets if one.is_long and one.recipe),
            default=0,
        )
        self._contents = [one.content for one in targets]
        self._farthest: dict[int, int] = {}

    def areas(self, window: Window) -> tuple[ByteRange, ...]:
        """Address ranges that a frame of this window may read, rising."""
        # A device checks and writes whole chunks: the one that the window begins in is not there.
        made = window.target.offset // CHUNK_BYTES * CHUNK_BYTES
        areas = [(0, self._source_size + made)]
        begin = self._base
        behind = bisect_right(self._ends, made)
        end = self._contents[behind - 1].end if behind else self._sources_end
        closed_now = self._closed if made >= self._long_end else self._closed_long
        for closed in closed_now:
            if closed.offset >= end:
                break
            areas.append((begin, closed.offset))
            begin = closed.end
        areas.append((begin, end))
        if not window.partition.parts[0].is_whole:
            areas += self._ahead(window)
        return tuple(ByteRange(low, high - low) for low, high in sorted(areas) if low < high)

    def _ahead(self, window: Window) -> Iterable[tuple[int, int]]:
        """What may be read of long sources by a window of a long target."""
        if window.partition.parts[0].begins:
            self._farthest.clear()
        size = window.partition.content_size
        for block in self._forward:
            kept = self._windows[block.content.offset]
            at = self._farthest.get(block.content.offset, block.content.offset)
            low = max(block.content.offset, at - kept + _CURSOR_SLACK_BYTES)
            yield low, min(block.content.end, at + kept // 2 + size)

    def take(self, extents: tuple[ByteRange, ...]) -> tuple[ByteRange, ...]:
        """Note that a window reads these extents."""
        for extent in extents:
            for block in self._forward:
                if block.content.overlaps(extent):
                    begin = block.content.offset
                    self._farthest[begin] = max(self._farthest.get(begin, begin), extent.end)
        return extents

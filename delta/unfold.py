"""Changed stretches of a target image, with what is packed in them opened (build machine).

Pure: runs and opened blocks in, windows out. A window is content that is coded together: plain
stretches of the image and the contents of blocks, in the order of the image. Addresses are those
of the work space (server/workspace.py), which are the payload's own (docs/format.md, 4.4).

Two layers: blocks that stand in the image (those of a compressed file system, or compressed files
in a plain one), and streams that stand in the contents of such blocks.
"""

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import NamedTuple

from slipstream.delta.byterange import ByteRange
from slipstream.delta.filemap import Packing
from slipstream.delta.frame import Part
from slipstream.delta.limits import BLOCK_CONTENT_BYTES_MAX
from slipstream.delta.match import Run, RunKind
from slipstream.delta.packing.recipe import Recipe
from slipstream.delta.partition import Cut, Half, Partition, Place, cut_windows

# A shorter end of a stream in a place of its own is coded as it is packed: saying once more what it is
# made of takes about as much.
_TAIL_BYTES_MIN = 64


@dataclass(frozen=True, slots=True)
class OpenBlock:
    """A packed stretch whose content stands in the work space.

    places        of the packed bytes in the work space, in order; what is unpacked
    content       addresses of the content
    packing       what unpacks it
    end           of the target image, up to here it must be made to read the content; 0 in a source
    memory_bytes  decoder memory of a long one, else 0
    recipe        what packs the content again, proved; None in a source
    header_bytes  packed bytes before those that the recipe makes: a gzip header
    marks         of a long one: how much content unpacking its first packed bytes gives
    name          of a stream in a file: the file's path and a number
    is_apart      whether its other places are elsewhere in the image: erofs has the end of a file in
                  its inode. It is packed at each of them, and what belongs elsewhere is dropped
    lacking_bytes of device memory, at least, for want of which it has no recipe; 0 where more helps not
    """

    places: tuple[ByteRange, ...]
    content: ByteRange
    packing: Packing
    end: int = 0
    memory_bytes: int = 0
    recipe: Recipe | None = None
    header_bytes: int = 0
    marks: tuple[Cut, ...] = ()
    name: str = ""
    is_apart: bool = False
    lacking_bytes: int = 0

    @property
    def is_long(self) -> bool:
        """Whether it is packed over several frames."""
        return self.content.size > BLOCK_CONTENT_BYTES_MAX

    @property
    def packed(self) -> tuple[ByteRange, ...]:
        """Where what the recipe makes of the content stands in the work space."""
        first, *rest = self.places
        size = first.size - self.header_bytes
        return (ByteRange(first.offset + self.header_bytes, size), *rest)

    @property
    def packed_size(self) -> int:
        """Bytes that the recipe makes."""
        return sum(place.size for place in self.places) - self.header_bytes


class Window(NamedTuple):
    """Content that is coded together, and the target range that it becomes."""

    target: ByteRange
    content: tuple[ByteRange, ...]
    partition: Partition


@dataclass(frozen=True, slots=True)
class Opened:
    """Blocks with recipes, of one layer, rising by where they begin."""

    blocks: Sequence[OpenBlock]
    starts: Sequence[int]
    places: "Sequence[_Apart]"

    @staticmethod
    def of(blocks: Sequence[OpenBlock]) -> "Opened":
        """The blocks that are packed again, of those given."""
        held = sorted(
            (one for one in blocks if one.recipe is not None), key=lambda one: one.packed[0]
        )
        apart = sorted(place for one in held if one.is_apart for place in _apart_places(one))
        return Opened(held, [one.packed[0].offset for one in held], apart)

    def without(self, ranges: Sequence[ByteRange]) -> "Opened":
        """The same but for the blocks whose contents share bytes with some ranges."""
        return Opened.of([one for one in self.blocks if not any(map(one.content.overlaps, ranges))])

    def within(self, place: ByteRange) -> Sequence[OpenBlock]:
        """Blocks that begin within a range of addresses."""
        low, high = bisect_left(self.starts, place.offset), bisect_left(self.starts, place.end)
        return self.blocks[low:high]

    def apart_within(self, place: ByteRange) -> "Sequence[_Apart]":
        """The places of blocks that have several, of those that begin within a range."""
        low, high = (
            bisect_left(self.places, offset, key=lambda one: one.place.offset)
            for offset in (place.offset, place.end)
        )
        return self.places[low:high]


class _Apart(NamedTuple):
    """One place of a block that has several, and those that come before and behind it in the block."""

    place: ByteRange
    before: tuple[ByteRange, ...]
    behind: tuple[ByteRange, ...]


def _apart_places(block: OpenBlock) -> Iterator[_Apart]:
    packed = block.packed
    for number, place in enumerate(packed):
        if number == 0 or (place.size >= _TAIL_BYTES_MIN and not block.is_long):
            yield _Apart(place, packed[:number], packed[number + 1 :])


def overlay(runs: Sequence[Run], marks: Sequence[Run]) -> list[Run]:
    """`runs` with every stretch of `marks` in the place of what they said of it.

    Both rise and do not overlap within themselves. Neighbours that say the same are joined.
    """
    merged: list[Run] = []
    position = 0
    rest = iter(runs)
    run = next(rest, None)
    for mark in [*marks, None]:
        begin = mark.target if mark else None
        while run is not None and (begin is None or run.target < begin):
            end = run.end if begin is None else min(run.end, begin)
            if end > position:
                _append(merged, _part(run, max(run.target, position), end))
            position = max(position, end)
            if run.end > position:
                break
            run = next(rest, None)
        if mark:
            _append(merged, mark)
            position = mark.end
            while run is not None and run.end <= position:
                run = next(rest, None)
    return merged


def _part(run: Run, first: int, end: int) -> Run:
    source = run.source + first - run.target if run.kind is RunKind.EQUAL else 0
    return Run(run.kind, first, end - first, source)


def _append(runs: list[Run], run: Run) -> None:
    last = runs[-1] if runs else None
    if last and (last.kind, last.end) == (run.kind, run.target) and _goes_on(last, run):
        runs[-1] = last._replace(size=last.size + run.size)
    else:
        runs.append(run)


def _goes_on(last: Run, run: Run) -> bool:
    return run.kind is not RunKind.EQUAL or last.source + last.size == run.source


def unfold(
    run: Run,
    outer: Opened,
    inner: Opened,
    base: int,
    window_bytes: int,
    long_window_bytes: Callable[[OpenBlock], int],
) -> Iterator[Window]:
    """The windows of a CHANGED run, in order.

    `outer` are the blocks of the image, all of each within the run or none; `inner` the streams in
    their contents; `base` is the address of the target image. Windows have at most `window_bytes`
    of content, those of a long stream what the function says of it.
    """
    strip = _Strip()
    target = run.target
    apart = inner.apart_within(ByteRange(base + run.target, run.size))
    for stretch in _with_others(_stretches(run, outer, base), apart):
        strip.add_outer(stretch)
    strip.finish_outer()
    strip.open(inner)
    for partition, content, block in strip.partitions():
        limit = window_bytes if block is None else long_window_bytes(block)
        for half in cut_windows(partition, window_bytes, limit):
            size = half.partition.target_size
            ranges = content.cut(half.content_offset, half.partition.content_size)
            yield Window(ByteRange(target, size), ranges, half.partition)
            target += size


class _Stretch(NamedTuple):
    """Middle bytes and the target bytes that they become: of a block, or as they stand."""

    place: ByteRange
    part: Part
    block: OpenBlock | None


def _stretches(run: Run, outer: Opened, base: int) -> Iterator[_Stretch]:
    position = base + run.target
    end = base + run.end
    for block in outer.within(ByteRange(position, run.size)):
        packed = block.packed[0]
        if packed.offset > position:
            yield _plain(ByteRange(position, packed.offset - position))
        yield _Stretch(block.content, Part(block.content.size, packed.size, block.recipe), block)
        position = packed.end
    if end > position:
        yield _plain(ByteRange(position, end - position))


def _with_others(stretches: Iterator[_Stretch], apart: Sequence[_Apart]) -> Iterator[_Stretch]:
    """The same, with the other places of streams around each one, as bytes that are dropped."""
    waiting = deque(apart)
    for stretch in stretches:
        place = stretch.place
        while stretch.block is None and waiting and waiting[0].place.end <= place.end:
            one = waiting.popleft()
            if not place.offset <= one.place.offset:
                continue  # a part of it stands in another stretch
            first = place.offset
            if one.before and one.place.offset > first:
                yield _plain(ByteRange(first, one.place.offset - first))
            if one.before:
                first = one.place.offset
            yield from map(_elsewhere, one.before)
            yield _plain(ByteRange(first, one.place.end - first))
            yield from map(_elsewhere, one.behind)
            place = ByteRange(one.place.end, place.end - one.place.end)
        if stretch.block is not None:
            yield stretch
        elif place.size:
            yield _plain(place)


def _elsewhere(place: ByteRange) -> _Stretch:
    return _Stretch(place, Part(place.size, 0), None)


def _plain(place: ByteRange) -> _Stretch:
    return _Stretch(place, Part(place.size, place.size), None)


class _Strip:
    """A run as it is being opened: two layers of parts over the same middle bytes."""

    def __init__(self) -> None:
        self._outer: list[_Stretch] = []
        self._inner: list[_Stretch] = []

    def add_outer(self, stretch: _Stretch) -> None:
        """The next bytes of the image."""
        last = self._outer[-1] if self._outer else None
        ahead = last.part.ahead_bytes if last else 0
        if last is not None and ahead and last.place.end != stretch.place.offset:
            self._outer.append(_dropped(last, ahead))
        self._outer.append(stretch)

    def finish_outer(self) -> None:
        """All bytes of the image were added."""
        ahead = self._outer[-1].part.ahead_bytes
        if ahead:
            self._outer.append(_dropped(self._outer[-1], ahead))

    def open(self, inner: Opened) -> None:
        """Open the streams whose packed bytes follow one another in the middle bytes."""
        number = offset = 0
        while number < len(self._outer):
            place = self._outer[number].place
            rest = ByteRange(place.offset + offset, place.size - offset)
            for block in inner.within(rest):
                end = self._end_of(block, number, block.packed[0].offset - place.offset)
                if end is not None:
                    begin = block.packed[0].offset
                    if begin > rest.offset:
                        self._inner.append(_plain(ByteRange(rest.offset, begin - rest.offset)))
                    part = Part(block.content.size, block.packed_size, block.recipe)
                    self._inner.append(_Stretch(block.content, part, block))
                    number, offset = end
                    break
            else:
                if rest.size:
                    self._inner.append(_plain(rest))
                number, offset = number + 1, 0

    def _end_of(self, block: OpenBlock, number: int, offset: int) -> tuple[int, int] | None:
        """Where in the middle bytes the packed bytes of a stream end; None if others are between."""
        for packed in block.packed:
            position = packed.offset
            while position < packed.end:
                if number == len(self._outer):
                    return None
                place = self._outer[number].place
                if offset == place.size:
                    number, offset = number + 1, 0
                    continue
                if place.offset + offset != position:
                    return None
                step = min(packed.end - position, place.size - offset)
                position, offset = position + step, offset + step
        return number, offset

    def partitions(self) -> "Iterator[tuple[Partition, _Contents, OpenBlock | None]]":
        """Partitions with at most one long part each, where their contents stand, and its block."""
        first = self._inner if any(one.block for one in self._inner) else self._outer
        outer = () if first is self._outer else tuple(one.part for one in _joined(self._outer))
        stretches = _joined(first)
        contents = _Contents([one.place for one in stretches])
        whole = Partition(tuple(one.part for one in stretches), outer)
        blocks = {one.place.offset: one.block for one in stretches if one.block and _is_cut(one)}
        for half in whole.split(_between_long(whole)):
            yield _with_cuts(half, contents, blocks)


def _dropped(last: _Stretch, ahead: int) -> _Stretch:
    """What an encoder saw behind its block, where it does not follow by itself."""
    return _Stretch(ByteRange(last.place.end, ahead), Part(ahead, 0), None)


def _joined(stretches: Sequence[_Stretch]) -> list[_Stretch]:
    """The same, with plain neighbours as one part where their bytes stand side by side."""
    joined: list[_Stretch] = []
    for one in stretches:
        last = joined[-1] if joined else None
        if (
            last is not None
            and _stands(last)
            and _stands(one)
            and last.place.end == one.place.offset
        ):
            joined[-1] = _plain(ByteRange(last.place.offset, last.place.size + one.place.size))
        else:
            joined.append(one)
    return joined


def _stands(stretch: _Stretch) -> bool:
    return stretch.block is None and stretch.part.packed_size > 0


def _is_cut(stretch: _Stretch) -> bool:
    """Whether it is of a stream that may go over several frames."""
    return stretch.block is not None and stretch.block.is_long and bool(stretch.block.marks)


def _between_long(whole: Partition) -> list[Place]:
    """A place to cut between every two long parts."""
    ends = []
    position = 0
    for part in whole.parts:
        if part.size > BLOCK_CONTENT_BYTES_MAX and part.recipe is not None:
            ends.append((position, position + part.size))
        position += part.size
    places = iter(whole.places()) if len(ends) > 1 else iter(())
    chosen: list[Place] = []
    place = next(places, None)
    for (_, end), (begin, _) in pairwise(ends):
        while place is not None and place.content < end:
            place = next(places, None)
        if place is not None and place.content <= begin:
            chosen.append(place)
    return chosen


def _with_cuts(
    half: Half, contents: "_Contents", blocks: dict[int, OpenBlock]
) -> "tuple[Partition, _Contents, OpenBlock | None]":
    partition = half.partition
    mine = contents.part(half.content_offset, partition.content_size)
    position = 0
    for number, part in enumerate(partition.parts):
        block = blocks.get(mine.cut(position, 1)[0].offset)
        if block is not None and part.size == block.content.size:
            cuts = _usable(block.marks, part)
            return Partition(partition.parts, partition.outer, cuts, number), mine, block
        position += part.size
    return partition, mine, None


def _usable(marks: Sequence[Cut], part: Part) -> tuple[Cut, ...]:
    """The marks that leave content and packed bytes on both sides, rising in both."""
    usable: list[Cut] = []
    last = Cut(0, 0)
    for mark in marks:
        if last.content < mark.content < part.size and last.packed < mark.packed < part.packed_size:
            usable.append(mark)
            last = mark
    return tuple(usable)


class _Contents:
    """Where content stands in the work space, by its offset."""

    def __init__(self, places: Sequence[ByteRange]) -> None:
        self._places = places
        self._ends = list(accumulate(place.size for place in places))

    def cut(self, offset: int, size: int) -> tuple[ByteRange, ...]:
        """The places of some of the content; such that touch are one."""
        found: list[ByteRange] = []
        number = bisect_right(self._ends, offset)
        while size:
            place = self._places[number]
            inside = offset - (self._ends[number] - place.size)
            part = min(size, place.size - inside)
            one = ByteRange(place.offset + inside, part)
            if found and found[-1].end == one.offset:
                first = found.pop().offset
                one = ByteRange(first, one.end - first)
            found.append(one)
            offset, size, number = offset + part, size - part, number + 1
        return tuple(found)

    def part(self, offset: int, size: int) -> "_Contents":
        """The places of a stretch of the content, as they were given."""
        places = []
        number = bisect_right(self._ends, offset)
        while size:
            place = self._places[number]
            inside = offset - (self._ends[number] - place.size)
            one = ByteRange(place.offset + inside, min(size, place.size - inside))
            places.append(one)
            offset, size, number = offset + one.size, size - one.size, number + 1
        return _Contents(places)

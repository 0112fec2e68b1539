"""Changed stretches of a target image, with what is packed in them opened (build machine).

Pure: runs and opened blocks in, windows out. A window is content that is coded together: plain
stretches of the image and the contents of blocks, in the order of the image. Addresses are those
of the work space (server/workspace.py), which are the payload's own (docs/format.md, 4.4).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from slipstream.delta.byterange import ByteRange
from slipstream.delta.filemap import Packing
from slipstream.delta.frame import Part
from slipstream.delta.limits import BLOCK_BYTES, BLOCK_CONTENT_BYTES_MAX
from slipstream.delta.match import Run, RunKind
from slipstream.delta.packing.recipe import Recipe
from slipstream.delta.partition import Cut, Partition, ahead_bytes, usable_cuts


@dataclass(frozen=True, slots=True)
class OpenBlock:
    """A packed stretch whose content stands in the work space.

    places        of the packed bytes in the work space, in order; what is unpacked
    content       addresses of the content
    packing       what unpacks it
    memory_bytes  decoder memory of a long one, else 0
    recipe        what packs the content again, proved; None in a source
    header_bytes  packed bytes before those that the recipe makes: a gzip header
    marks         of a long one: how much content unpacking its first packed bytes gives
    """

    places: tuple[ByteRange, ...]
    content: ByteRange
    packing: Packing
    memory_bytes: int = 0
    recipe: Recipe | None = None
    header_bytes: int = 0
    marks: tuple[Cut, ...] = ()

    @property
    def is_long(self) -> bool:
        """Whether it is packed over several frames."""
        return self.content.size > BLOCK_CONTENT_BYTES_MAX

    @property
    def packed(self) -> ByteRange:
        """What the recipe makes of the content. Only for blocks in one place."""
        place = self.places[0]
        return ByteRange(place.offset + self.header_bytes, place.size - self.header_bytes)


class Window(NamedTuple):
    """Content that is coded together, and the target range that it becomes."""

    target: ByteRange
    content: tuple[ByteRange, ...]
    partition: Partition


class _Item(NamedTuple):
    target: ByteRange
    content: ByteRange
    block: OpenBlock | None


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
    blocks: Sequence[OpenBlock],
    base: int,
    window_bytes: int,
    long_window_bytes: Callable[[OpenBlock], int],
) -> Iterator[Window]:
    """The windows of a CHANGED run, in order.

    `blocks` are the opened ones within the run, rising; `base` is the address of the target image.
    Windows have at most `window_bytes` of content, those of a long stream what the function says.
    """
    held: list[_Item] = []
    size = 0
    for item in _items(run, blocks, base):
        if item.block is not None and item.block.is_long:
            yield from _group(held)
            held, size = [], 0
            yield from _long_windows(item.block, base, long_window_bytes(item.block))
            continue
        for piece in _pieces(item, window_bytes):
            if size + piece.content.size > window_bytes:
                yield from _group(held)
                held, size = [], 0
            held.append(piece)
            size += piece.content.size
    yield from _group(held)


def _items(run: Run, blocks: Sequence[OpenBlock], base: int) -> Iterator[_Item]:
    position = run.target
    for block in blocks:
        packed = ByteRange(block.packed.offset - base, block.packed.size)
        if packed.offset > position:
            yield _plain(position, packed.offset, base)
        yield _Item(packed, block.content, block)
        position = packed.end
    if run.end > position:
        yield _plain(position, run.end, base)


def _plain(first: int, end: int, base: int) -> _Item:
    return _Item(ByteRange(first, end - first), ByteRange(base + first, end - first), None)


def _pieces(item: _Item, window_bytes: int) -> Iterator[_Item]:
    """A block as it is; a plain stretch in parts of about equal size, cut at blocks of the image."""
    if item.block is not None:
        yield item
        return
    size = item.target.size
    count = -(-size // window_bytes)
    step = -(-size // count // BLOCK_BYTES) * BLOCK_BYTES
    for done in range(0, size, step):
        part = min(step, size - done)
        yield _Item(
            ByteRange(item.target.offset + done, part),
            ByteRange(item.content.offset + done, part),
            None,
        )


def _group(items: list[_Item]) -> Iterator[Window]:
    if not items:
        return
    target = ByteRange(items[0].target.offset, items[-1].target.end - items[0].target.offset)
    content: list[ByteRange] = []
    parts: list[Part] = []
    for number, (place, stretch, block) in enumerate(items):
        recipe = None if block is None else block.recipe
        part = Part(stretch.size, place.size, recipe)
        if recipe is None and parts and parts[-1].recipe is None and parts[-1].packed_size:
            last = parts.pop()
            part = Part(last.size + part.size, last.size + part.size)
        parts.append(part)
        content.append(stretch)
        ahead = ahead_bytes(part)
        follower = items[number + 1] if number + 1 < len(items) else None
        if ahead and (follower is None or follower.content.offset != stretch.end):
            # The encoder looked at content that follows in the file: here it does not follow.
            parts.append(Part(ahead, 0))
            content.append(ByteRange(stretch.end, ahead))
    yield Window(target, _joined(content), Partition(tuple(parts)))


def _joined(ranges: Sequence[ByteRange]) -> tuple[ByteRange, ...]:
    joined: list[ByteRange] = []
    for one in ranges:
        if joined and joined[-1].end == one.offset:
            first = joined.pop().offset
            one = ByteRange(first, one.end - first)
        joined.append(one)
    return tuple(joined)


def _long_windows(block: OpenBlock, base: int, window_bytes: int) -> Iterator[Window]:
    """Windows of one long stream: each accounts for the packed bytes up to where the next begins."""
    packed = block.packed
    marks = [*block.marks, Cut(block.content.size, packed.size)]
    first = Cut(0, 0)
    for number, mark in enumerate(marks):
        is_last = number == len(marks) - 1
        room = marks[number + 1].content - first.content <= window_bytes if not is_last else False
        if not is_last and (room or mark.packed <= first.packed or mark.content <= first.content):
            continue
        part = Part(
            mark.content - first.content,
            mark.packed - first.packed,
            block.recipe,
            begins=first.content == 0,
            ends=is_last,
        )
        inside = [
            Cut(one.content - first.content, one.packed - first.packed)
            for one in marks[:number]
            if one.content > first.content
        ]
        yield Window(
            ByteRange(packed.offset - base + first.packed, part.packed_size),
            (ByteRange(block.content.offset + first.content, part.size),),
            Partition((part,), usable_cuts(inside, part)),
        )
        first = mark

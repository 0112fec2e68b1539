"""readable.py: what a device does not have yet, or has no memory for, is not read."""

from collections.abc import Callable

import pytest

from slipstream.delta.budget import cursor_bytes
from slipstream.delta.byterange import ByteRange
from slipstream.delta.filemap import Packing
from slipstream.delta.frame import Part
from slipstream.delta.limits import CHUNK_BYTES, KIB, MIB
from slipstream.delta.packing.recipe import Packer, Recipe
from slipstream.delta.partition import Partition
from slipstream.delta.readable import Readable
from slipstream.delta.unfold import OpenBlock, Window

SOURCE, TARGET = 100 * MIB, 80 * MIB
BASE = SOURCE + TARGET
GZIP = Recipe(Packer.GZIP_GNU, (9,), "gzip 1.12")
MEMORY = 64 * KIB


class _Contents:
    """Opened blocks, whose contents follow one another."""

    def __init__(self) -> None:
        self._end = BASE

    def block(self, size: int, end: int = 0, recipe: Recipe | None = None) -> OpenBlock:
        content = ByteRange(self._end, size)
        self._end += size
        places = (ByteRange(SOURCE + end - 1000 if end else 0, 1000),)
        memory = MEMORY if size > MIB else 0
        return OpenBlock(places, content, Packing.GZIP, end, memory, recipe)


def _window(offset: int, size: int = 1000, long: Part | None = None) -> Window:
    part = long or Part(size, size)
    partition = Partition((part,), long=0 if long else -1)
    return Window(ByteRange(offset, part.packed_size), (ByteRange(0, part.size),), partition)


def _readable(
    *groups: list[OpenBlock],
    windows: dict[int, int] | None = None,
    closed: tuple[int, ...] = (),
    room_of: Callable[[Window], int] = lambda _: 1 << 40,
) -> Readable:
    held = {
        one.content.offset: one.content.size for group in groups for one in group if one.is_long
    }
    return Readable(SOURCE, groups, {**held, **(windows or {})}, closed, room_of)


def _may_read(readable: Readable, window: Window, *places: ByteRange) -> list[bool]:
    areas = readable.areas(window)
    assert list(areas) == sorted(areas)
    return [
        any(area.offset <= place.offset and place.end <= area.end for area in areas)
        for place in places
    ]


def test_the_source_and_whole_chunks_of_the_target_that_are_made() -> None:
    readable = _readable()
    (all_of_it,) = readable.areas(_window(3 * CHUNK_BYTES + 5))
    assert all_of_it == ByteRange(0, SOURCE + 3 * CHUNK_BYTES)


def test_blocks_of_the_source_at_once_of_the_target_when_they_are_made() -> None:
    contents = _Contents()
    sources = [contents.block(100_000) for _ in range(3)]
    targets = [contents.block(100_000, end=end * MIB) for end in (1, 2, 3)]
    places = [one.content for one in (*sources, *targets)]
    readable = _readable(sources, targets)
    for made, count in ((0, 3), (MIB - 1, 3), (MIB, 4), (2 * MIB + 100, 5), (70 * MIB, 6)):
        found = _may_read(readable, _window(made), *places)
        assert found == [True] * count + [False] * (6 - count)


@pytest.mark.parametrize("size", [100_000, 3 * MIB])
def test_closed_blocks_are_never_read(size: int) -> None:
    contents = _Contents()
    blocks = [contents.block(size) for size in (100_000, size, 100_000)]
    large = blocks[1].content
    readable = _readable(blocks, closed=(large.offset,))
    found = _may_read(readable, _window(0), *(one.content for one in blocks))
    assert found == [True, False, True]


def test_long_streams_that_a_cursor_keeps_whole_are_read_anywhere() -> None:
    contents = _Contents()
    first, kept, partly, last = (contents.block(size * MIB) for size in (1, 3, 30, 1))
    readable = _readable([first, kept, partly, last], windows={partly.content.offset: 4 * MIB})
    found = _may_read(
        readable, _window(0), first.content, kept.content, partly.content, last.content
    )
    assert found == [True, True, False, True]
    assert not any(
        area.overlaps(ByteRange(partly.content.offset, 1)) for area in readable.areas(_window(0))
    )


def test_a_long_target_stream_waits_until_all_of_them_are_made() -> None:
    contents = _Contents()
    sources = [contents.block(1000)]
    one = contents.block(3 * MIB, end=10 * MIB, recipe=GZIP)
    other = contents.block(3 * MIB, end=20 * MIB, recipe=GZIP)
    readable = _readable(sources, [one, other])
    assert _may_read(readable, _window(15 * MIB), one.content) == [False]
    assert _may_read(readable, _window(20 * MIB), one.content, other.content) == [True, True]


def _long(size: int, *, begins: bool = False) -> Part:
    return Part(size, size // 3, GZIP, begins=begins, ends=False)


def test_a_long_stream_is_followed_by_the_windows_of_a_long_target() -> None:
    contents = _Contents()
    source = contents.block(40 * MIB)
    begin = source.content.offset
    readable = _readable([source], windows={begin: 4 * MIB})
    at = 0
    begins = True
    for step in range(1, 30):
        window = _window(step * MIB, long=_long(MIB, begins=begins))
        begins = False
        near = ByteRange(begin + at, MIB)
        ahead = ByteRange(begin + at + 20 * MIB, 1000)
        found = _may_read(readable, window, near, ByteRange(begin, 1000), ahead)
        # the beginning while the cursor's window holds it, but for what the cursor may be ahead
        assert found == [True, at <= 3 * MIB, False]
        assert readable.take((near,)) == (near,)
        at += MIB
    # others may not read it at all
    assert _may_read(readable, _window(50 * MIB), ByteRange(begin + at, 1000)) == [False]
    # and the next long target begins at its beginning
    window = _window(60 * MIB, long=_long(MIB, begins=True))
    assert _may_read(readable, window, ByteRange(begin, MIB)) == [True]


def test_streams_for_which_there_is_no_memory_are_taken_out_of_the_extents() -> None:
    contents = _Contents()
    blocks = [contents.block(size) for size in (2 * MIB, 1000, 3 * MIB, 1000)]
    costs = [cursor_bytes(one, one.content.size) for one in blocks]
    room = costs[0] + costs[2] - 1
    readable = _readable(blocks, room_of=lambda _: room)
    whole = ByteRange(BASE, blocks[-1].content.end - BASE)
    assert _may_read(readable, _window(0), whole) == [True]
    kept = readable.take((ByteRange(0, 10), whole))
    # the one of which most would be read stays
    assert kept == (ByteRange(0, 10), ByteRange(blocks[1].content.offset, whole.size - 2 * MIB))
    # the other may be read by a later frame: then the first is ended
    assert _may_read(readable, _window(MIB), blocks[0].content) == [True]
    assert readable.take((blocks[0].content,)) == (blocks[0].content,)
    assert _may_read(readable, _window(2 * MIB), blocks[2].content) == [False]


@pytest.mark.parametrize("room", [-5, 0, 1000])
def test_without_room_no_long_stream_is_read(room: int) -> None:
    contents = _Contents()
    blocks = [contents.block(1000), contents.block(2 * MIB), contents.block(30 * MIB)]
    windows = {blocks[2].content.offset: 4 * MIB}
    readable = _readable(blocks, windows=windows, room_of=lambda _: room)
    window = _window(0, long=_long(MIB, begins=True))
    found = _may_read(
        readable, window, blocks[0].content, *(ByteRange(b.content.offset, 1) for b in blocks[1:])
    )
    assert found == [True, False, False]

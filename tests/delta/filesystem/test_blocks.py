"""The book of compressed blocks: what it joins, counts and refuses."""

import pytest

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Block, Entry, EntryKind, Extent, Packing
from slipstream.delta.filesystem import blocks
from slipstream.delta.filesystem.blocks import BlockBook
from slipstream.delta.limits import IMAGE_BYTES_MAX


def make_entry(*extents: Extent) -> Entry:
    return Entry(EntryKind.FILE, "file", 100, extents)


def test_blocks_are_numbered_by_place() -> None:
    book = BlockBook(1000)
    late = book.add(Packing.ZSTD, 500, 20, 100)
    early = book.add(Packing.ZSTD, 100, 30, 50)
    pieces = [Extent(0, 100, 0, late), Extent(100, 50, 0, early), Extent(150, 10, 700)]

    found, (entry,) = book.numbered([make_entry(*book.extents(pieces, 160))])

    assert found == [
        Block(Packing.ZSTD, ByteRange(100, 30), 50),
        Block(Packing.ZSTD, ByteRange(500, 20), 100),
    ]
    assert entry.extents == (Extent(0, 100, 0, 1), Extent(100, 50, 0, 0), Extent(150, 10, 700))


def test_a_shared_block_is_as_large_as_its_furthest_use() -> None:
    book = BlockBook(1000)
    for size in (0, 30, 70, 50):
        book.add(Packing.LZ4, 0, 10, size)
    book.add(Packing.LZ4, 20, 10)

    found, _ = book.numbered([])

    assert [block.size for block in found] == [70, None]


@pytest.mark.parametrize(
    "pieces, joined",
    [
        ([Extent(0, 5, 10), Extent(5, 5, 15)], [Extent(0, 10, 10)]),
        ([Extent(0, 5, 10), Extent(6, 5, 15)], [Extent(0, 5, 10), Extent(6, 5, 15)]),
        ([Extent(0, 5, 10), Extent(5, 5, 16)], [Extent(0, 5, 10), Extent(5, 5, 16)]),
        ([Extent(0, 5, 10, 3), Extent(5, 5, 15, 3)], [Extent(0, 10, 10, 3)]),
        ([Extent(0, 5, 10, 3), Extent(5, 5, 15)], [Extent(0, 5, 10, 3), Extent(5, 5, 15)]),
    ],
)
def test_extents_are_joined_where_they_go_on(pieces: list[Extent], joined: list[Extent]) -> None:
    assert BlockBook(1000).extents(pieces, 20) == tuple(joined)


@pytest.mark.parametrize(
    "pieces",
    [
        [Extent(0, 5, 10), Extent(4, 5, 50)],
        [Extent(5, 5, 10), Extent(0, 5, 50)],
        [Extent(0, 5, 996)],
        [Extent(0, 5, -1)],
        [Extent(0, 0, 10)],
        [Extent(18, 5, 10)],
        [Extent(18, 5, 0, 3)],
    ],
)
def test_impossible_extents(pieces: list[Extent]) -> None:
    with pytest.raises(FormatError):
        BlockBook(1000).extents(pieces, 20)


@pytest.mark.parametrize("place, length", [(-1, 5), (0, 0), (0, -5), (996, 5), (1 << 60, 1)])
def test_blocks_outside_the_image(place: int, length: int) -> None:
    with pytest.raises(FormatError):
        BlockBook(1000).add(Packing.XZ, place, length)


def test_two_blocks_at_one_place() -> None:
    book = BlockBook(1000)
    book.add(Packing.XZ, 10, 5)
    for packing, length in ((Packing.XZ, 6), (Packing.ZSTD, 5)):
        with pytest.raises(FormatError):
            book.add(packing, 10, length)


def test_blocks_that_overlap() -> None:
    book = BlockBook(1000)
    book.add(Packing.XZ, 10, 5)
    book.add(Packing.XZ, 14, 5)
    with pytest.raises(FormatError):
        book.numbered([])


def test_extents_that_leave_their_block() -> None:
    book = BlockBook(1000)
    key = book.add(Packing.LZ4, 10, 5, 50)
    book.numbered([make_entry(*book.extents([Extent(0, 50, 0, key)], 100))])
    with pytest.raises(FormatError):
        book.numbered([make_entry(*book.extents([Extent(0, 51, 0, key)], 100))])


def test_no_more_than_a_map_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "MAP_BLOCKS_MAX", 2)
    monkeypatch.setattr(blocks, "MAP_EXTENTS_MAX", 2)
    book = BlockBook(1000)
    book.add(Packing.XZ, 0, 5)
    book.add(Packing.XZ, 10, 5)
    with pytest.raises(FormatError):
        book.add(Packing.XZ, 20, 5)
    book.extents([Extent(0, 5, 0), Extent(5, 5, 100)], 10)
    with pytest.raises(FormatError):
        book.extents([Extent(0, 5, 0)], 10)


def test_a_file_larger_than_any_image() -> None:
    with pytest.raises(FormatError):
        BlockBook(1000).extents([], IMAGE_BYTES_MAX + 1)

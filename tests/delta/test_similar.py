"""similar.py: a stretch of a target file is like the same place of its source file."""

from collections.abc import Callable

from slipstream.delta.byterange import ByteRange, merge_ranges
from slipstream.delta.filemap import Entry, EntryKind, Extent
from slipstream.delta.limits import KIB, MIB
from slipstream.delta.similar import SimilarFiles

BASE = 100 * MIB  # of the target


def _entry(path: str, *extents: Extent) -> Entry:
    size = max(extent.offset + extent.size for extent in extents)
    return Entry(EntryKind.FILE, path, size, extents)


def _at(base: int) -> Callable[[Extent], int | None]:
    """Extents of blocks are open at 50 MiB and a MiB for each block, but for block 9."""

    def address(extent: Extent) -> int | None:
        if extent.block is None:
            return base + extent.place
        return None if extent.block == 9 else base + 50 * MIB + extent.block * MIB + extent.place

    return address


def _similar(source: list[Entry], target: list[Entry]) -> SimilarFiles:
    return SimilarFiles(source, target, _at(0), _at(BASE), lambda _target, _source: None)


def test_of_a_small_file_all_is_alike() -> None:
    similar = _similar(
        [_entry("a", Extent(0, 40 * KIB, 5 * MIB), Extent(40 * KIB, 10 * KIB, 9 * MIB))],
        [_entry("a", Extent(0, 60 * KIB, 2 * MIB))],
    )
    found = list(similar.ranges(ByteRange(BASE + 2 * MIB + 100, 5)))
    assert found == [ByteRange(5 * MIB, 40 * KIB), ByteRange(9 * MIB, 10 * KIB)]


def test_of_a_large_file_the_same_place_is_with_a_margin() -> None:
    similar = _similar(
        [_entry("a", Extent(0, 10 * MIB, 20 * MIB))],
        [_entry("a", Extent(0, 10 * MIB + 5000, 0))],
    )
    wanted = ByteRange(BASE + 4 * MIB, 64 * KIB)
    (found,) = similar.ranges(wanted)
    assert found.offset < 24 * MIB - 5000
    assert found.end > 24 * MIB + 64 * KIB + 5000
    assert found.size < MIB


def test_pieces_of_a_scattered_file_are_found_where_they_stand() -> None:
    source = _entry("a", Extent(0, 30 * KIB, 7 * MIB), Extent(30 * KIB, 30 * KIB, 3 * MIB))
    target = _entry("a", Extent(0, 30 * KIB, MIB), Extent(30 * KIB, 30 * KIB, 500, block=2))
    similar = _similar([source], [target])
    everything = [ByteRange(3 * MIB, 30 * KIB), ByteRange(7 * MIB, 30 * KIB)]
    assert sorted(similar.ranges(ByteRange(BASE + MIB + 29 * KIB, KIB))) == everything
    in_block = ByteRange(BASE + 52 * MIB + 500, 10)
    assert sorted(similar.ranges(in_block)) == everything


def test_blocks_that_are_not_open_are_left_out() -> None:
    source = _entry("a", Extent(0, 10 * KIB, 0, block=9), Extent(10 * KIB, 10 * KIB, 0, block=1))
    target = _entry("a", Extent(0, 5 * KIB, 0), Extent(5 * KIB, 5 * KIB, 0, block=9))
    similar = _similar([source], [target])
    assert list(similar.ranges(ByteRange(BASE, 1))) == [ByteRange(51 * MIB, 10 * KIB)]
    assert list(similar.ranges(ByteRange(BASE + 59 * MIB, MIB))) == []


def test_a_stretch_over_several_files_is_like_all_of_them() -> None:
    sources = [_entry(name, Extent(0, 4 * KIB, at * MIB)) for at, name in enumerate("abc", 1)]
    targets = [_entry(name, Extent(0, 4 * KIB, at * 4 * KIB)) for at, name in enumerate("cab")]
    similar = _similar(sources, targets)
    found = merge_ranges(similar.ranges(ByteRange(BASE + 100, 8 * KIB)))
    assert found == [ByteRange(at * MIB, 4 * KIB) for at in (1, 2, 3)]
    assert list(similar.ranges(ByteRange(BASE, 4 * KIB))) == [ByteRange(3 * MIB, 4 * KIB)]
    assert list(similar.ranges(ByteRange(BASE + 12 * KIB, MIB))) == []

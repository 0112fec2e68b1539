"""partition.py: where content may be cut, and what the parts on both sides are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.frame import Part
from slipstream.delta.limits import KIB
from slipstream.delta.packing.libraries import available
from slipstream.delta.packing.recipe import Packer, Recipe
from slipstream.delta.partition import Cut, Partition, Place, cut_windows

_ZLIB = next(name for name in sorted(available()) if name.startswith("zlib "))
_LZ4 = next(name for name in sorted(available()) if name.startswith("liblz4 "))
BLOCK = Recipe(Packer.ZLIB, (6, 15, 8, 0), _ZLIB)
FILE = Recipe(Packer.GZIP_ZLIB, (6, 8), _ZLIB)
AHEAD = 64
CLUSTER = Recipe(Packer.LZ4_DEST, (0, AHEAD, 0), _LZ4)  # looks at so much behind it


def _plain(size: int) -> Part:
    return Part(size, size)


def test_sizes() -> None:
    one = Partition((_plain(10), Part(100, 40, BLOCK), Part(5, 0)))
    assert (one.content_size, one.target_size) == (115, 50)
    assert one.frame_parts == one.parts
    two = Partition((Part(200, 60, FILE), _plain(40)), (Part(100, 30, BLOCK),))
    assert (two.content_size, two.target_size) == (240, 30)
    assert Partition((_plain(10), _plain(5))).frame_parts == ()


def test_plain_content_is_cut_in_the_middle_at_a_block() -> None:
    left, right = Partition((_plain(100_000),)).halves(20_000)
    assert left.partition.parts == (_plain(49_152),)
    assert (right.content_offset, right.partition.parts) == (49_152, (_plain(50_848),))


def test_blocks_are_cut_between() -> None:
    parts = (Part(1000, 10, BLOCK), Part(5000, 20, BLOCK), Part(900, 30, BLOCK))
    left, right = Partition(parts).halves(500)
    assert (left.partition.parts, right.partition.parts) == (parts[:1], parts[1:])
    assert Partition(parts).halves(2000) is None
    assert Partition(parts[1:2]).halves(1) is None


def test_what_an_encoder_looks_at_goes_with_it() -> None:
    parts = (Part(1000, 10, CLUSTER), Part(1000, 20, CLUSTER), Part(30, 0))
    left, right = Partition(parts).halves(500)
    assert left.partition.parts == (parts[0], Part(AHEAD, 0))
    assert left.partition.target_size == 10
    assert right.partition.parts == parts[1:]
    assert right.content_offset == 1000
    # as much as there is
    left, _ = Partition((parts[0], _plain(20))).halves(1)
    assert left.partition.parts == (parts[0], Part(20, 0))


def test_a_long_part_is_cut_at_its_cuts() -> None:
    cuts = (Cut(100, 30), Cut(300, 80), Cut(450, 95))
    whole = Partition((Part(500, 100, FILE),), cuts=cuts, long=0)
    left, right = whole.halves(50)
    assert left.partition.parts == (Part(300, 80, FILE, begins=True, ends=False),)
    assert left.partition.cuts == cuts[:1]
    assert right.partition.parts == (Part(200, 20, FILE, begins=False, ends=True),)
    assert right.partition.cuts == (Cut(150, 15),)
    quarter, _ = left.partition.halves(50)
    assert quarter.partition.parts == (Part(100, 30, FILE, begins=True, ends=False),)


def test_places_inside_outer_parts_are_none() -> None:
    """Four plain pieces of content, which two blocks of the image hold."""
    parts = tuple(Part(100, 25, BLOCK) for _ in range(4))
    outer = (Part(50, 20, BLOCK), Part(50, 20, BLOCK))
    assert list(Partition(parts, outer).places()) == [Place(200, 50)]
    left, right = Partition(parts, outer).halves(1)
    assert (left.partition.parts, left.partition.outer) == (parts[:2], outer[:1])
    assert (right.partition.parts, right.partition.outer) == (parts[2:], outer[1:])


@pytest.mark.parametrize("window", [100 * KIB, 300 * KIB])
def test_windows_keep_to_their_limits(window: int) -> None:
    cuts = tuple(Cut(n * 10_000, n * 3_000) for n in range(1, 100))
    parts = (_plain(400_000), Part(1_000_000, 300_000, FILE), Part(90_000, 9, BLOCK), _plain(1000))
    whole = Partition(parts, cuts=cuts, long=1)
    windows = cut_windows(whole, window, 60_000)
    position = target = 0
    for one in windows:
        assert one.content_offset == position
        size = one.partition.content_size
        assert size <= (60_000 if one.partition.long_part else window)
        position += size
        target += one.partition.target_size
    assert (position, target) == (whole.content_size, whole.target_size)
    long = [one.partition.long_part for one in windows if one.partition.long_part]
    assert sum(part.size for part in long) == 1_000_000
    assert sum(part.packed_size for part in long) == 300_000


_PARTS = st.lists(
    st.one_of(
        st.integers(1, 300_000).map(_plain),
        st.tuples(st.integers(1, 300_000), st.integers(1, 90_000)).map(
            lambda sizes: Part(*sizes, BLOCK)
        ),
        st.tuples(st.integers(1, 300_000), st.integers(1, 90_000)).map(
            lambda sizes: Part(*sizes, CLUSTER)
        ),
    ),
    min_size=1,
    max_size=12,
)


@given(_PARTS, st.integers(1, 400_000))
def test_any_windows_cover_content_and_target(parts: list[Part], window: int) -> None:
    whole = Partition(tuple(parts))
    windows = cut_windows(whole, window, window)
    assert sum(one.partition.target_size for one in windows) == whole.target_size
    ends = [one.content_offset for one in windows[1:]] + [whole.content_size]
    assert windows[0].content_offset == 0
    for one, end in zip(windows, ends, strict=True):
        ahead = one.partition.content_size - (end - one.content_offset)
        assert ahead in {0, AHEAD} or 0 < ahead < AHEAD  # dropped, at the end
        if ahead:
            assert one.partition.parts[-1].packed_size == 0

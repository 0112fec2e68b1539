"""Collector: runs become extents, and each limit of a map holds."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Entry, EntryKind, Extent
from slipstream.delta.filesystem.collect import Collector
from slipstream.delta.limits import (
    IMAGE_BYTES_MAX,
    MAP_EXTENTS_MAX,
    MAP_NAMES_MAX,
    MAP_PATH_CHARS_MAX,
    MAP_PATHS_CHARS_MAX,
    MAP_REPEATS_MAX,
)

IMAGE = 1000


@pytest.mark.parametrize(
    ("runs", "size", "expected"),
    [
        ([], 0, []),
        ([], 100, []),  # a hole
        ([(0, 10, 50)], 10, [(0, 10, 50)]),
        ([(0, 10, 50)], 7, [(0, 7, 50)]),
        ([(0, 10, 50), (10, 10, 60)], 20, [(0, 20, 50)]),
        ([(0, 10, 50), (10, 10, 70)], 15, [(0, 10, 50), (10, 5, 70)]),
        ([(0, 10, 50), (20, 10, 60)], 30, [(0, 10, 50), (20, 10, 60)]),
        ([(0, 10, 50), (20, 10, 60)], 20, [(0, 10, 50)]),  # preallocated behind the end
        ([(0, 10, 995)], 5, [(0, 5, 995)]),  # the last block is only partly in the image
        ([(5, 10, 0)], 15, [(5, 10, 0)]),
    ],
)
def test_runs_are_joined_and_cut(
    runs: list[tuple[int, int, int]], size: int, expected: list[tuple[int, int, int]]
) -> None:
    extents = Collector(IMAGE).extents(itertools.starmap(Extent, runs), size)

    assert extents == tuple(itertools.starmap(Extent, expected))


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 9), st.integers(0, 90)), max_size=20))
def test_every_byte_keeps_its_place(pieces: list[tuple[int, int, int]]) -> None:
    runs, offset = [], 0
    for gap, size, place in pieces:
        runs.append(Extent(offset + gap, size, place))
        offset += gap + size
    extents = Collector(IMAGE).extents(runs, offset)

    def bytes_of(items: list[Extent]) -> dict[int, int]:
        return {item.offset + at: item.place + at for item in items for at in range(item.size)}

    assert bytes_of(list(extents)) == bytes_of(runs)
    for one, other in itertools.pairwise(extents):
        assert one.offset + one.size <= other.offset
        assert (one.offset + one.size, one.place + one.size) != (other.offset, other.place)


@pytest.mark.parametrize(
    ("runs", "size", "message"),
    [
        ([(0, 10, 50), (5, 10, 60)], 20, "overlap"),
        ([(10, 10, 50), (0, 10, 60)], 20, "overlap"),
        ([(0, 10, 991)], 10, "outside"),
        ([(0, 10, -1)], 10, "outside"),
        ([(0, 10, 0)], IMAGE_BYTES_MAX + 1, "file size"),
        (
            [(index * 900, 900, index) for index in range(MAP_REPEATS_MAX + 1)],
            IMAGE * 9,
            "bytes of",
        ),
    ],
)
def test_runs_that_cannot_be(runs: list[tuple[int, int, int]], size: int, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        Collector(IMAGE).extents(itertools.starmap(Extent, runs), size)


def test_extents_are_counted_over_all_files() -> None:
    found = Collector(IMAGE_BYTES_MAX)
    runs = [Extent(index * 2, 1, index * 2 + 1000 * (index % 2)) for index in range(1 << 10)]
    for _ in range(MAP_EXTENTS_MAX >> 10):
        found.extents(runs, 1 << 11)
    with pytest.raises(FormatError, match="extents of the map"):
        found.extents(runs, 1 << 11)


def test_names_are_counted() -> None:
    found = Collector(IMAGE)
    for _ in range(MAP_NAMES_MAX):
        found.path("", "a")
    with pytest.raises(FormatError, match="names"):
        found.path("", "a")


def test_a_long_path_ends() -> None:
    found = Collector(IMAGE)
    folder = found.path("", "f" * (MAP_PATH_CHARS_MAX - 2))
    assert found.path(folder, "n") == f"{folder}/n"
    with pytest.raises(FormatError, match="characters of a path"):
        found.path(folder, "nn")


def test_the_characters_of_all_paths_are_counted() -> None:
    found = Collector(IMAGE)
    for _ in range(MAP_PATHS_CHARS_MAX // MAP_PATH_CHARS_MAX):
        found.path("", "n" * MAP_PATH_CHARS_MAX)
    with pytest.raises(FormatError, match="characters of all paths"):
        found.path("", "n")


def test_tables_first_then_files_by_path() -> None:
    found = Collector(IMAGE)
    found.add_file("b", 1, (Extent(0, 1, 5),))
    found.add_file("a", 0, ())
    found.add_table("table", [(10, 4), (20, 4), (24, 2)])
    found.add_table("nothing", [])
    found.add_directory("", 8, (Extent(0, 8, 40),))
    found.add_directory("inline", 8, ())

    assert found.entries == [
        Entry(EntryKind.TABLE, "table", 10, (Extent(0, 4, 10), Extent(4, 6, 20))),
        Entry(EntryKind.TABLE, "directory /", 8, (Extent(0, 8, 40),)),
        Entry(EntryKind.FILE, "a", 0, ()),
        Entry(EntryKind.FILE, "b", 1, (Extent(0, 1, 5),)),
    ]

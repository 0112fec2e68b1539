"""The two forms of an erofs index: a writer of both, and the reader that must agree with it."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError
from slipstream.delta.filesystem.erofs_index import (
    Cluster,
    Kind,
    compact_shape,
    parse_compact,
    parse_full,
)

BLOCK = 4096
COUNT = 1 << 11
HEADS = (Kind.PLAIN, Kind.HEAD1, Kind.HEAD2)
BOTH = frozenset({Kind.HEAD1, Kind.HEAD2})

Layout = list[tuple[Cluster, int]]  # with how many logical clusters follow in which nothing begins


@st.composite
def layouts(draw: st.DrawFn, *, large: bool) -> Layout:
    """Clusters that follow each other in the file and in the image."""
    made: Layout = []
    lcluster, block = 0, draw(st.integers(1, 1000))
    for number in range(draw(st.integers(1, 40))):
        kind = draw(st.sampled_from(HEADS))
        middles = draw(st.integers(0, 20)) if kind is not Kind.PLAIN else 0
        blocks = draw(st.integers(1, 300)) if large and middles else 1
        low = draw(st.integers(0, BLOCK - 1)) if number else 0
        made.append((Cluster(lcluster * BLOCK + low, kind, block, blocks, False), middles))
        lcluster += 1 + middles
        block += blocks
    return made


def low_of(cluster: Cluster, step: int, *, large: bool) -> int:
    """What the entry of the logical cluster `step` behind a head says."""
    if step == 0:
        return cluster.offset % BLOCK
    if step == 1 and large:
        return COUNT | cluster.blocks
    return step


def dump_full(made: Layout, *, large: bool) -> bytes:
    raw = b""
    for cluster, middles in made:
        raw += struct.pack("<HHI", cluster.kind, cluster.offset % BLOCK, cluster.block)
        for step in range(1, middles + 1):
            low = low_of(cluster, step, large=large)
            raw += struct.pack("<HHHH", Kind.MIDDLE, 0, low, middles + 1 - step)
    return raw


def dump_compact(made: Layout, place: int, *, dense: bool, large: bool) -> bytes:
    entries = [
        (Kind.MIDDLE if step else cluster.kind, low_of(cluster, step, large=large))
        for cluster, middles in made
        for step in range(middles + 1)
    ]
    blocks = [cluster.block for cluster, middles in made for _ in range(middles + 1)]
    following = [
        cluster.block + (cluster.blocks if step else 0)
        for cluster, middles in made
        for step in range(middles + 1)
    ]
    shape = compact_shape(place, len(entries), dense=dense)
    raw, start = b"", 0
    for count, per_pack, bits in (
        (shape.first, 2, 16),
        (shape.middle, 16, 14),
        (shape.last, 2, 16),
    ):
        for first in range(start, start + count, per_pack):
            # The block of the first head in the pack; before it, if the pack begins with the
            # count of one, that one's.
            kind, low = entries[first]
            counts = kind is Kind.MIDDLE and low & COUNT
            base = blocks[first] if counts else following[first]
            fields = 0
            for number, (kind, low) in enumerate(
                entries[first : min(first + per_pack, start + count)]
            ):
                fields |= (kind << 12 | low) << number * bits
            raw += fields.to_bytes(bits * per_pack // 8, "little")
            raw += struct.pack("<I", base if large else base - 1)
        start += count
    return raw


@given(st.data(), st.booleans())
def test_a_full_index_says_what_was_written(data: st.DataObject, large: bool) -> None:
    made = data.draw(layouts(large=large))
    raw = dump_full(made, large=large)
    found = parse_full(raw, BLOCK, BOTH if large else frozenset())
    assert list(found) == [cluster for cluster, _ in made]


@given(st.data(), st.booleans(), st.booleans(), st.integers(0, 7))
def test_a_compact_index_says_what_was_written(
    data: st.DataObject, large: bool, dense: bool, slot: int
) -> None:
    made = data.draw(layouts(large=large))
    place = slot * 8
    count = sum(1 + middles for _, middles in made)
    raw = dump_compact(made, place, dense=dense, large=large)
    shape = compact_shape(place, count, dense=dense)
    assert shape.size == len(raw)
    assert sum(shape) == count
    if shape.middle:
        assert (place + 4 * shape.first) % 32 == 0
    found = parse_compact(raw, shape, BLOCK, BOTH if large else frozenset())
    assert list(found) == [cluster for cluster, _ in made]


def test_a_part_of_a_cluster_is_marked() -> None:
    raw = struct.pack("<HHI", Kind.HEAD1 | 0x8000, 0, 7)
    assert list(parse_full(raw, BLOCK, frozenset())) == [Cluster(0, Kind.HEAD1, 7, 1, True)]


@pytest.mark.parametrize(
    "raw, large",
    [
        (struct.pack("<HHHH", Kind.MIDDLE, 0, 1, 1), frozenset[Kind]()),
        (struct.pack("<HHI", Kind.HEAD1, BLOCK, 7), frozenset[Kind]()),
        (
            struct.pack("<HHIHHHH", Kind.HEAD1, 0, 7, Kind.MIDDLE, 0, COUNT | 2, 1),
            frozenset[Kind](),
        ),
        (
            struct.pack("<HHIHHHHHHHH", 1, 0, 7, 2, 0, COUNT | 2, 2, 2, 0, COUNT | 2, 1),
            BOTH,
        ),
    ],
    ids=["begins in the middle", "offset", "count of a small cluster", "count twice"],
)
def test_contradictions(raw: bytes, large: frozenset[Kind]) -> None:
    with pytest.raises(FormatError):
        list(parse_full(raw, BLOCK, large))


def test_a_count_that_is_missing_is_no_size() -> None:
    raw = struct.pack("<HHIHHHH", Kind.HEAD1, 0, 7, Kind.MIDDLE, 0, 1, 1)
    (cluster,) = parse_full(raw, BLOCK, BOTH)
    assert cluster.blocks == 0


def test_compact_indexes_of_large_blocks() -> None:
    shape = compact_shape(0, 2, dense=False)
    assert len(list(parse_compact(bytes(8), shape, 1 << 14, frozenset()))) == 2
    with pytest.raises(FormatError):
        parse_compact(bytes(8), shape, 1 << 15, frozenset())
    dense = compact_shape(0, 16, dense=True)
    with pytest.raises(FormatError):
        parse_compact(bytes(32), dense, 1 << 13, frozenset())


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_junk_raises_only_our_errors(raw: bytes, dense: bool, large: bool) -> None:
    kinds = BOTH if large else frozenset[Kind]()
    shape = compact_shape(0, len(raw) // 4, dense=dense)
    for found in (
        parse_full(raw[: len(raw) // 8 * 8], BLOCK, kinds),
        parse_compact(raw.ljust(shape.size, b"\0"), shape, BLOCK, kinds),
    ):
        try:
            offsets = [cluster.offset for cluster in found]
        except FormatError:
            continue
        assert offsets == sorted(set(offsets))

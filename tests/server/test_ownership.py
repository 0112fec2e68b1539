"""ownership.py: every byte has one owner, and shares add up."""

from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.byterange import ByteRange
from slipstream.delta.filemap import Block, Entry, EntryKind, Extent, FileMap, Packing
from slipstream.server.archives import Archive
from slipstream.server.ownership import UNOWNED, Ownership, Stretch, fitted, share

FILE, TABLE = EntryKind.FILE, EntryKind.TABLE
XZ = Packing.XZ


@settings(deadline=None)  # other work may hold the processor
@given(st.integers(0, 1 << 40), st.lists(st.integers(0, 1 << 40), min_size=1))
def test_shares_add_up_and_are_off_by_less_than_one(total: int, weights: list[int]) -> None:
    shares = share(total, weights)

    assert sum(shares) == total
    whole = sum(weights)
    for part, weight in zip(shares, weights, strict=True):
        assert part >= 0
        if whole:
            assert abs(part * whole - total * weight) < whole


def test_what_weighs_nothing_is_shared_equally() -> None:
    assert share(9, [0, 0, 0]) == [3, 3, 3]
    assert share(0, []) == []


def test_extents_and_gaps() -> None:
    owners = Ownership(
        FileMap(
            "test",
            entries=[
                Entry(FILE, "a", 30, (Extent(0, 10, 100), Extent(10, 20, 300))),
                Entry(TABLE, "inode table", 50, (Extent(0, 50, 200),)),
            ],
        )
    )

    assert owners.standing(ByteRange(90, 230)) == [
        Stretch(10, UNOWNED),
        Stretch(10, 0),
        Stretch(90, UNOWNED),
        Stretch(50, 1),
        Stretch(50, UNOWNED),
        Stretch(20, 0),
    ]
    assert owners.standing(ByteRange(105, 3)) == [Stretch(3, 0)]
    assert owners.standing(ByteRange(1000, 7)) == [Stretch(7, UNOWNED)]


def test_shared_bytes_belong_to_the_extent_that_begins_first() -> None:
    owners = Ownership(
        FileMap(
            "test",
            entries=[
                Entry(FILE, "b", 60, (Extent(0, 60, 20),)),
                Entry(FILE, "a", 40, (Extent(0, 40, 0),)),
                Entry(FILE, "inside", 10, (Extent(0, 10, 5),)),
            ],
        )
    )

    assert owners.standing(ByteRange(0, 100)) == [
        Stretch(40, 1),
        Stretch(40, 0),
        Stretch(20, UNOWNED),
    ]


def test_files_come_before_the_tables_that_they_stand_in() -> None:
    owners = Ownership(
        FileMap(
            "test",
            entries=[
                Entry(TABLE, "metadata", 100, (Extent(0, 100, 0),)),
                Entry(FILE, "end of a file", 10, (Extent(0, 10, 30),)),
                Entry(FILE, "behind", 40, (Extent(0, 40, 90),)),
            ],
        )
    )

    assert owners.standing(ByteRange(10, 130)) == [
        Stretch(20, 0),
        Stretch(10, 1),
        Stretch(50, 0),
        Stretch(40, 2),
        Stretch(10, UNOWNED),
    ]


def test_content_of_a_block_is_known_byte_by_byte_and_its_packed_bytes_in_proportion() -> None:
    owners = Ownership(
        FileMap(
            "test",
            blocks=[Block(XZ, ByteRange(1000, 100), 1000)],
            entries=[
                Entry(FILE, "a", 750, (Extent(0, 750, 0, 0),)),
                Entry(FILE, "b", 250, (Extent(0, 250, 750, 0),)),
            ],
        )
    )

    assert owners.unpacked(ByteRange(1000, 100), 1000) == [Stretch(750, 0), Stretch(250, 1)]
    assert owners.standing(ByteRange(1000, 100)) == [Stretch(75, 0, XZ), Stretch(25, 1, XZ)]
    # Not from the block's beginning: no more is known than whose packed bytes they are.
    assert owners.unpacked(ByteRange(1050, 50), 200) == [Stretch(100, 0), Stretch(100, 1)]


def test_who_has_a_compressed_file_has_its_content() -> None:
    owners = Ownership(
        FileMap("test", entries=[Entry(FILE, "a.gz", 90, (Extent(0, 90, 10),))]),
    )

    assert owners.unpacked(ByteRange(20, 60), 4000) == [Stretch(4000, 0)]


def test_content_of_an_archive_is_known_byte_by_byte() -> None:
    inside = [
        Entry(FILE, "initrd/a", 300, (Extent(0, 300, 100),)),
        Entry(FILE, "initrd/b", 200, (Extent(0, 200, 500),)),
    ]
    owners = Ownership(
        FileMap(
            "test",
            entries=[
                Entry(FILE, "initrd", 90, (Extent(0, 90, 1000),)),
                Entry(FILE, "other.gz", 90, (Extent(0, 90, 1000 + 64 * 1024 + 91),)),
            ],
        ),
        [Archive(1000, inside)],
    )

    assert [entry.path for entry in owners.entries] == [
        "initrd",
        "other.gz",
        *("initrd/a", "initrd/b"),
    ]
    # Behind a gzip header of 18 bytes; headers of the archive are its own.
    assert owners.unpacked(ByteRange(1018, 40), 450) == [
        Stretch(100, 0),
        Stretch(300, 2),
        Stretch(50, 0),
    ]
    # The same stream goes on, in a later frame.
    assert owners.unpacked(ByteRange(1058, 32), 300, 1018, 450) == [
        Stretch(50, 0),
        Stretch(200, 3),
        Stretch(50, 0),
    ]
    assert owners.unpacked(ByteRange(1000 + 64 * 1024 + 91, 90), 700) == [Stretch(700, 1)]


@settings(deadline=None)  # other work may hold the processor
@given(
    st.lists(st.tuples(st.integers(0, 200), st.integers(1, 60))),
    st.integers(0, 200),
    st.integers(1, 100),
)
def test_any_map_gives_each_byte_one_owner(
    extents: list[tuple[int, int]], begin: int, size: int
) -> None:
    entries = [
        Entry(FILE, str(number), length, (Extent(0, length, place),))
        for number, (place, length) in enumerate(extents)
    ]
    found = Ownership(FileMap("test", entries=entries)).standing(ByteRange(begin, size))

    painted: dict[int, int] = {}
    order = sorted((place, place + length, n) for n, (place, length) in enumerate(extents))
    for first, end, owner in order:
        for byte in range(first, end):
            painted.setdefault(byte, owner)
    assert all(one.size for one in found)
    told = [one.owner for one in found for _ in range(one.size)]
    assert told == [painted.get(byte, UNOWNED) for byte in range(begin, begin + size)]


@settings(deadline=None)  # other work may hold the processor
@given(st.lists(st.integers(1, 100), min_size=1), st.integers(0, 1000))
def test_fitted_keeps_owners_and_fills_the_size(sizes: list[int], size: int) -> None:
    made = fitted([Stretch(one, number) for number, one in enumerate(sizes)], size)

    assert [one.owner for one in made] == list(range(len(sizes)))
    assert sum(one.size for one in made) == size

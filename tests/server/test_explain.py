"""explain.py: every encoded byte goes to who added it, and to no one else."""

import random
from collections.abc import Sequence

import pytest

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import DigestMismatch
from slipstream.delta.filemap import Block, Entry, EntryKind, Extent, FileMap, Packing
from slipstream.delta.frame import Part
from slipstream.delta.packing.pack import pack
from slipstream.delta.packing.recipe import Packer
from slipstream.server.archives import Archive
from slipstream.server.explain import Tally, attribute
from slipstream.server.ownership import UNOWNED, Ownership
from tests.delta.payloads import Made, Maker, recipe_of

CHANCE = random.Random(7)
A, B, C = (CHANCE.randbytes(4000) for _ in range(3))
WHOLE = ByteRange(0, 8000)


def files(*sizes: int, blocks: Sequence[Block] = ()) -> FileMap:
    """Files of these sizes, one behind the other, in the image or in its block."""
    entries = []
    place = 0
    for number, size in enumerate(sizes):
        extent = Extent(0, size, place, 0 if blocks else None)
        entries.append(Entry(EntryKind.FILE, f"file {number}", size, (extent,)))
        place += size
    return FileMap("test", blocks=list(blocks), entries=entries)


def explained(made: Made, found: FileMap, archives: Sequence[Archive] = ()) -> dict[int, Tally]:
    def read_body(place: ByteRange) -> bytes:
        return made.body[place.offset : place.end]

    tallies = attribute(made.index, read_body, Ownership(found, archives))
    assert sum(tally.encoded for tally in tallies.values()) == made.index.body_size
    return tallies


def test_a_file_that_did_not_change_costs_nothing() -> None:
    target = A + B[:1000] + b"changed" + B[1007:]
    maker = Maker(A + B)
    maker.diff([WHOLE], A + B, target)
    # bsdiff's one instruction begins in the first file; here it shall begin in the second.
    tallies = explained(maker.finish(), files(0, 4000, 4000))

    assert tallies[2].changed == sum(one != other for one, other in zip(target, A + B, strict=True))
    assert tallies[2].encoded > tallies[1].encoded
    assert tallies[1].changed == 0
    assert tallies[1].coded == 4000


def test_new_bytes_cost_more_than_differences_and_are_told_apart() -> None:
    target = A[:2000] + b"new" * 300 + A[2000:] + C[:2000]
    maker = Maker(A)
    maker.diff([ByteRange(0, 4000)], A, target)
    tallies = explained(maker.finish(), files(4900, 2000))

    assert tallies[1].fresh == pytest.approx(2000, abs=60)  # a zero costs nothing
    assert tallies[0].fresh == pytest.approx(900, abs=60)
    assert tallies[1].encoded > tallies[0].encoded
    assert tallies[1].alone == 0  # the frame has a source, only nothing like this


def test_each_stream_is_shared_by_what_it_holds() -> None:
    # The first file differs in one long stretch, the second in 50 places by a byte each.
    target = bytearray(A + B)
    target[1000:2000] = bytes(one ^ 0x55 for one in target[1000:2000])
    for place in range(4000, 8000, 80):
        target[place] ^= 0x55
    maker = Maker(A + B)
    maker.edit(WHOLE, A + B, bytes(target))
    made = maker.finish()
    tallies = explained(made, files(4000, 4000))

    assert (tallies[0].differing, tallies[1].differing) == (1000, 50)
    assert (tallies[0].places, tallies[1].places) == (2, 50)  # the instruction begins at 0
    # A stream of nothing takes a few bytes too, and is shared by size.
    numbers, values, extra = (stream.encoded_size for stream in made.index.frames[0].streams)
    wanted = numbers * 2 / 52 + values * 1000 / 1050 + extra / 2
    assert tallies[0].encoded == pytest.approx(wanted, abs=3)


def test_a_data_frame_is_shared_by_what_is_not_zero() -> None:
    maker = Maker(None)
    maker.data(A[:3000] + bytes(3000) + C[:1000])
    tallies = explained(maker.finish(), files(3000, 3000))

    assert tallies[0].alone == pytest.approx(3000, abs=40)
    assert tallies[1].encoded == 0
    assert tallies[0].encoded / tallies[UNOWNED].encoded == pytest.approx(3, rel=0.1)


def test_zeros_alone_are_shared_by_size() -> None:
    maker = Maker(None)
    maker.data(bytes(4000))
    tallies = explained(maker.finish(), files(2000, 2000))

    assert abs(tallies[0].encoded - tallies[1].encoded) <= 1
    assert tallies[0].encoded


def test_zero_and_copied_frames_cost_nothing() -> None:
    maker = Maker(A)
    maker.zero(5000)
    maker.copy([ByteRange(0, 4000)], A)
    maker.data(C)

    assert set(explained(maker.finish(), files(5000, 4000, 4000))) == {2}


def test_content_of_a_packed_block_counts_where_it_lies_in_the_block() -> None:
    recipe = recipe_of(Packer.ZLIB, 9, 15, 8, 0)
    content = A + bytes(3000)
    maker = Maker(None)
    packed = maker.packed(recipe, content)
    block = Block(Packing.ZLIB, ByteRange(0, len(packed)), len(content))
    tallies = explained(maker.finish(), files(1000, 3000, 3000, blocks=[block]))

    assert tallies[0].opened == 1000
    assert tallies[2].encoded == 0
    assert tallies[1].encoded / tallies[0].encoded == pytest.approx(3, rel=0.1)
    assert not tallies[1].closed


def test_packed_bytes_coded_as_they_are_are_told() -> None:
    packed = pack(recipe_of(Packer.ZLIB, 9, 15, 8, 0), A, 0)
    maker = Maker(None)
    maker.data(packed)
    block = Block(Packing.ZLIB, ByteRange(0, len(packed)), len(A))
    tallies = explained(maker.finish(), files(2000, 2000, blocks=[block]))

    assert tallies[0].opened == 0
    assert tallies[0].closed[Packing.ZLIB] == pytest.approx(len(packed) / 2, abs=1)


def test_a_stream_inside_a_block_counts_for_who_has_its_packed_bytes() -> None:
    # File 1 of the block is itself compressed: content -> middle bytes -> block.
    inner, outer = recipe_of(Packer.GZIP_ZLIB, 9, 8), recipe_of(Packer.ZLIB, 9, 15, 8, 0)
    stream = pack(inner, C, 0)
    middle = A[:1500] + stream
    target = pack(outer, middle, 0)
    maker = Maker(None)
    maker.data(
        A[:1500] + C,
        made=target,
        parts=[Part(1500, 1500), Part(len(C), len(stream), inner)],
        outer=[Part(len(middle), len(target), outer)],
    )
    block = Block(Packing.ZLIB, ByteRange(0, len(target)), len(middle))
    tallies = explained(maker.finish(), files(1500, len(stream), blocks=[block]))

    assert tallies[0].coded == 1500
    assert tallies[1].coded == len(C)
    assert tallies[1].opened == len(C)
    assert UNOWNED not in tallies


def test_content_over_several_outer_parts_counts_for_each() -> None:
    # Middle bytes as they are: those of two blocks, and plain ones between them.
    outer = recipe_of(Packer.ZLIB, 9, 15, 8, 0)
    first, last = pack(outer, A[:1500], 0), pack(outer, B[:2500], 0)
    target = first + C[:1000] + last
    maker = Maker(None)
    maker.data(
        A[:1500] + C[:1000] + B[:2500],
        made=target,
        outer=[Part(1500, len(first), outer), Part(1000, 1000), Part(2500, len(last), outer)],
    )
    at = len(first) + 1000
    found = FileMap(
        "test",
        blocks=[
            Block(Packing.ZLIB, ByteRange(0, len(first)), 1500),
            Block(Packing.ZLIB, ByteRange(at, len(last)), 2500),
        ],
        entries=[
            Entry(EntryKind.FILE, "first", 1500, (Extent(0, 1500, 0, 0),)),
            Entry(EntryKind.FILE, "plain", 1000, (Extent(0, 1000, len(first)),)),
            Entry(EntryKind.FILE, "last", 2500, (Extent(0, 2500, 0, 1),)),
        ],
    )
    tallies = explained(maker.finish(), found)

    assert [(tallies[n].coded, tallies[n].opened) for n in range(3)] == [
        (1500, 1500),
        (1000, 0),
        (2500, 2500),
    ]
    assert UNOWNED not in tallies


def test_files_of_an_archive_are_told_apart_over_the_frames_of_its_stream() -> None:
    # Three frames; file 1 ends, and file 2 begins, in the middle of the second.
    recipe = recipe_of(Packer.GZIP_ZLIB, 6, 8)
    maker = Maker(None)
    maker.data(A[:500])
    packed = maker.long(recipe, [A, B, C])
    maker.data(A[500:1000])
    found = FileMap(
        "test",
        entries=[Entry(EntryKind.FILE, "initrd", len(packed), (Extent(0, len(packed), 500),))],
    )
    inside = [
        Entry(EntryKind.FILE, "initrd/1", 6000, (Extent(0, 6000, 0),)),
        Entry(EntryKind.FILE, "initrd/2", 6000, (Extent(0, 6000, 6000),)),
    ]
    tallies = explained(maker.finish(), found, [Archive(500, inside)])

    assert {owner: tally.coded for owner, tally in tallies.items()} == {
        UNOWNED: 1000,
        1: 6000,
        2: 6000,
    }
    assert tallies[1].encoded == pytest.approx(tallies[2].encoded, rel=0.01)


def test_content_that_is_dropped_belongs_to_what_comes_next() -> None:
    recipe = recipe_of(Packer.LZ4_DEST, 0, 100, 0)
    packed = pack(recipe, A[:2000], 2100, A[2000:2100])
    maker = Maker(None)
    maker.data(A[:2100], made=packed, parts=[Part(2000, len(packed), recipe), Part(100, 0)])
    maker.data(A[2000:])
    block = Block(Packing.LZ4_PADDED, ByteRange(0, len(packed)), 2000)
    found = FileMap(
        "test",
        blocks=[block],
        entries=[
            Entry(EntryKind.FILE, "packed", 2000, (Extent(0, 2000, 0, 0),)),
            Entry(EntryKind.FILE, "next", 2000, (Extent(0, 2000, len(packed)),)),
        ],
    )

    assert explained(maker.finish(), found)[1].coded == 2100


def test_frames_are_checked_before_they_are_decoded() -> None:
    maker = Maker(None)
    maker.data(A)
    made = maker.finish()
    broken = bytes(made.index.body_size)

    with pytest.raises(DigestMismatch, match="frame"):
        attribute(made.index, lambda _: broken, Ownership(files(4000)))

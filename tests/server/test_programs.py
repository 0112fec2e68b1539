"""Programs of the source whose addresses are moved: in images, and only where it pays."""

import hashlib
import os
from array import array
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from slipstream.delta.byterange import ByteRange
from slipstream.delta.filemap import Entry, EntryKind, Extent
from slipstream.delta.limits import KIB, MIB, SHIFT_RANGES_MAX
from slipstream.delta.moved import MovedBlock
from slipstream.delta.moves import move
from slipstream.delta.payload import Index
from slipstream.delta.profile import DEVICE_BASE_BYTES
from slipstream.delta.reference_shifts import Learned, learn_references
from slipstream.delta.references import Holding, ImageShifts, MovedReferences
from slipstream.server import programs
from slipstream.server.build import build_payload
from slipstream.server.moving import Moving
from slipstream.server.patch import apply_payload
from slipstream.server.placed_file import PlacedFile, TakenPlaces, place_file
from slipstream.server.programs import move_programs
from slipstream.server.progress import unwatched
from tests.delta.programs import program
from tests.server.image_pairs import Pair, make_image

_LONGER = {40: 100, 700: 33}
_BASES = {"usr/bin/tool": 0x400000, "usr/lib/libone.so.1": 0, "usr/lib/libtwo.so.2": 0}


def _programs(*, later: bool) -> dict[str, bytes]:
    """Of about 160 KiB each."""
    return {
        name: program(number, longer=_LONGER if later else {}, base=base, count=900).raw
        for number, (name, base) in enumerate(_BASES.items())
    }


def _tree(root: Path, *, later: bool) -> Path:
    for name, data in _programs(later=later).items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for path in sorted(root.rglob("*")):
        os.utime(path, (1_700_000_000, 1_700_000_000))
    return root


@pytest.fixture(scope="module", params=["ext4", "squashfs gzip"])
def images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("images")
    trees = [_tree(folder / name, later=name == "new") for name in ("old", "new")]
    return Pair(*(make_image(request.param, tree, folder / f"{tree.name}.image") for tree in trees))


def _build(
    folder: Path,
    pair: Pair,
    *,
    memory_bytes: int = 256 * MIB,
    jobs: int = 1,
    profile: str = "small",
) -> Index:
    built = build_payload(
        pair.source,
        pair.target,
        folder / "payload",
        jobs=jobs,
        memory_bytes=memory_bytes,
        profile=profile,
    )
    apply_payload(pair.source, folder / "payload", folder / "made")
    digests = [
        hashlib.sha256(path.read_bytes()).digest() for path in (folder / "made", pair.target)
    ]
    assert digests[0] == digests[1]
    return built.index


def _nothing_moves(before: Moving, *_: object) -> Moving:
    return before


def _moved(index: Index) -> list[MovedReferences]:
    streams = map(index.streams.__getitem__, range(len(index.streams)))
    return [one.moved for one in streams if isinstance(one.moved, MovedReferences)]


def test_payloads_are_smaller(
    tmp_path: Path, images: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = _build(tmp_path, images)
    assert len(index.streams.shifts) == len(_BASES)
    assert {one.shifts for one in _moved(index)} == {0, 1, 2}
    assert {one.holding for one in _moved(index)} >= {Holding.CODE, Holding.POINTERS}
    assert index.memory_bytes + DEVICE_BASE_BYTES <= 256 * MIB

    monkeypatch.setattr("slipstream.server.plan.move_programs", _nothing_moves)
    without = _build(tmp_path, images)
    assert not without.streams.shifts
    assert index.payload_size < 0.1 * without.payload_size


def test_other_profiles_move_no_programs(tmp_path: Path, images: Pair) -> None:
    assert not _build(tmp_path, images, profile="balanced").streams.shifts


def test_the_same_bytes_with_several_jobs(tmp_path: Path, images: Pair) -> None:
    assert len({_build(tmp_path, images, jobs=jobs).digest for jobs in (1, 2)}) == 1


@pytest.mark.parametrize(("more", "moves"), [(8, False), (12, False), (48, True)])
def test_little_memory_is_kept_to(tmp_path: Path, images: Pair, more: int, moves: bool) -> None:
    memory = DEVICE_BASE_BYTES + more * MIB
    index = _build(tmp_path, images, memory_bytes=memory)
    assert index.memory_bytes + DEVICE_BASE_BYTES <= memory
    assert bool(_moved(index)) is moves


def test_wrong_shifts_make_the_right_target(
    tmp_path: Path, images: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(source: bytes, target: bytes) -> Learned | None:
        found = learn_references(source, target)
        if found is not None:
            image = found.image
            amounts = array("i", [one + number for number, one in enumerate(image.amounts, 1)])
            found.image = ImageShifts(image.base, image.span, image.code, image.firsts, amounts)
            monkeypatch.setattr(found, "gain", lambda *_: 999)
        return found

    monkeypatch.setattr(programs, "learn_references", wrong)
    assert _moved(_build(tmp_path, images))


# --- in memory


class _Space:
    """Sources, then targets, then what is kept; files stand as they are, each in two extents."""

    def __init__(self, *groups: dict[str, bytes]) -> None:
        self.data = bytearray()
        self.entries: list[list[Entry]] = []
        for files in groups:
            self.entries.append([])
            for name, raw in files.items():
                place = len(self.data)
                self.data += raw + bytes(100)
                half = len(raw) // 2
                extents = (Extent(0, half, place), Extent(half, len(raw) - half, place + half))
                self.entries[-1].append(Entry(EntryKind.FILE, name, len(raw), extents))

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def keep(self, content: bytes) -> ByteRange:
        self.data += content
        return ByteRange(len(self.data) - len(content), len(content))

    def move(self, before: Moving | None = None, taken: TakenPlaces | None = None) -> Moving:
        source, target = self.entries
        with ThreadPoolExecutor(2) as threads:
            return move_programs(
                before or Moving(),
                (source, target),
                (_place, _place),
                self,
                self.keep,
                taken or TakenPlaces(),
                threads,
                unwatched,
            )


def _place(extent: Extent) -> int:
    return extent.place


OLD, NEW = _programs(later=False), _programs(later=True)
ONE = "usr/lib/libone.so.1"


def _of(one: bytes, other: bytes, name: str = ONE) -> _Space:
    return _Space({name: one}, {name: other})


def _is_apart(blocks: list[MovedBlock]) -> bool:
    places = sorted(place for one in blocks for place in one.places)
    return all(one.end <= after.offset for one, after in pairwise(places))


def test_moved_programs_are_like_the_targets() -> None:
    space = _Space(OLD, NEW)
    moving = space.move()
    assert len(moving.shifts) == len(OLD)
    assert _is_apart(moving.blocks)
    for block in moving.blocks:
        data = b"".join(space.read(one.offset, one.size) for one in block.places)
        made = space.read(block.content.offset, block.content.size)
        assert isinstance(block.moved, MovedReferences)
        assert made == move(data, block.moved, moving.shifts[block.moved.shifts])
        assert len(data) == len(made)
    contents = [one.content for one in moving.blocks]
    assert [one.end for one in contents[:-1]] == [one.offset for one in contents[1:]]
    assert space.move(Moving(), TakenPlaces()).shifts == moving.shifts


@pytest.mark.parametrize("name", _BASES)
def test_blocks_are_moved_as_what_they_hold(name: str) -> None:
    code = Holding.FIXED_CODE if _BASES[name] else Holding.CODE
    blocks = _of(OLD[name], NEW[name], name).move().blocks
    assert [one.moved.holding for one in blocks if isinstance(one.moved, MovedReferences)] == [
        Holding.TABLES,
        code,
        Holding.POINTERS,
    ]


def test_shifts_are_counted_behind_those_before() -> None:
    image = ImageShifts(0, 9, ByteRange(0, 9), array("I", [1]), array("i", [1]))
    before = Moving([], (image, image))
    moving = _Space(OLD, NEW).move(before)
    assert moving.shifts[:2] == before.shifts
    assert {one.moved.shifts for one in moving.blocks} == {2, 3, 4}


def test_what_is_moved_already_stays() -> None:
    space = _of(OLD[ONE], NEW[ONE])
    whole = space.move().blocks
    taken = TakenPlaces()
    taken.take([ByteRange(whole[0].places[0].offset + 5, 1)])
    assert [one.places for one in space.move(taken=taken).blocks] == [
        one.places for one in whole[1:]
    ]
    # Two names of one file: it is moved once.
    space.entries[0].append(space.entries[0][0]._replace(path="usr/lib/libone.so"))
    space.entries[1].append(space.entries[1][0]._replace(path="usr/lib/libone.so"))
    assert [one.places for one in space.move().blocks] == [one.places for one in whole]


def test_equal_programs_and_other_files_stay() -> None:
    assert _Space(OLD, OLD).move() == Moving()
    assert _of(OLD[ONE], NEW[ONE], "lib/modules/6.1/kernel/one.ko").move() == Moving()
    assert _of(b"\x7fELG" + OLD[ONE][4:], b"\x7fELG" + NEW[ONE][4:]).move() == Moving()
    assert _of(OLD[ONE], b"#!/bin/sh\n" * 500).move() == Moving()
    small = program(9, count=10), program(9, count=10, longer={1: 50})
    assert all(len(one.raw) < 4 * KIB for one in small)
    assert _of(*(one.raw for one in small)).move() == Moving()


def test_programs_that_cannot_be_read_stay() -> None:
    space = _of(OLD[ONE], NEW[ONE])
    source, target = space.entries
    with ThreadPoolExecutor(1) as threads:
        moving = move_programs(
            Moving(),
            (source, target),
            (lambda extent: None, _place),
            space,
            space.keep,
            TakenPlaces(),
            threads,
            unwatched,
        )
    assert moving == Moving()


def test_blocks_with_holes_stay() -> None:
    space = _of(OLD[ONE], NEW[ONE])
    whole = space.move().blocks
    entry = space.entries[0][0]
    first, second = entry.extents
    hole = 9 * KIB
    space.entries[0][0] = entry._replace(
        extents=(
            first,
            Extent(second.offset + hole, second.size - hole, second.place + hole),
        )
    )
    # The code has the hole, and is one block here.
    made = space.move().blocks
    assert 0 < len(made) < len(whole)
    gap = ByteRange(second.place, hole)
    assert not any(place.overlaps(gap) for one in made for place in one.places)


def test_bytes_that_stand_twice_in_a_file_stay() -> None:
    """A file may share blocks with itself: none of them is moved twice."""
    space = _of(OLD[ONE], NEW[ONE])
    entry = space.entries[0][0]
    first, second = entry.extents
    shared = 8 * KIB
    space.entries[0][0] = entry._replace(
        extents=(
            Extent(0, first.size - shared, first.place),
            Extent(first.size - shared, shared, first.place + first.size - 3 * shared),
            second,
        )
    )
    blocks = space.move().blocks
    assert blocks
    assert _is_apart(blocks)


def test_too_many_ranges_leave_programs_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = [one.count for one in _Space(OLD, NEW).move().shifts]
    assert min(counts) > 0
    monkeypatch.setattr(programs, "SHIFT_RANGES_MAX", sum(counts) - 1)
    moving = _Space(OLD, NEW).move()
    left = [one.count for one in moving.shifts]
    assert len(left) == 2
    assert sum(left) < sum(counts)
    assert {one.moved.shifts for one in moving.blocks} == {0, 1}
    full = ImageShifts(
        0,
        1 << 20,
        ByteRange(0, 0),
        array("I", range(SHIFT_RANGES_MAX)),
        array("i", [0] * SHIFT_RANGES_MAX),
    )
    assert _Space(OLD, NEW).move(Moving([], (full,))) == Moving([], (full,))
    monkeypatch.undo()
    monkeypatch.setattr(programs, "SHIFTS_MAX", 2)
    assert len(_Space(OLD, NEW).move().shifts) == 2


# --- files by their places


def test_parts_of_a_file() -> None:
    file = PlacedFile(100, ((10, ByteRange(1000, 20)), (30, ByteRange(500, 10))))
    assert file.part(10, 40) == (ByteRange(1000, 20), ByteRange(500, 10))
    assert file.part(29, 31) == (ByteRange(1019, 1), ByteRange(500, 1))
    twice = PlacedFile(
        30, ((0, ByteRange(70, 10)), (10, ByteRange(40, 10)), (20, ByteRange(45, 10)))
    )
    assert twice.part(0, 20) == (ByteRange(70, 10), ByteRange(40, 10))
    assert twice.part(14, 25) == ()
    assert twice.part(10, 15) == (ByteRange(40, 5),)
    assert twice.part(10, 30) == twice.part(0, 30) == ()
    assert file.part(9, 12) == file.part(39, 41) == file.part(50, 60) == ()
    space = _Space({}, {})
    space.data += bytes(range(256)) * 8
    data = file.read(space)
    assert (data[:10], data[40:], len(data)) == (bytes(10), bytes(60), 100)
    assert data[10:40] == space.read(1000, 20) + space.read(500, 10)


def test_files_that_are_placed() -> None:
    def entry(*extents: Extent, size: int = 100) -> Entry:
        return Entry(EntryKind.FILE, "a", size, extents)

    touching = entry(Extent(0, 10, 50), Extent(10, 10, 60), Extent(30, 10, 80))
    placed = place_file(touching, _place)
    assert placed == PlacedFile(100, ((0, ByteRange(50, 20)), (30, ByteRange(80, 10))))
    assert place_file(entry(Extent(95, 6, 0)), _place) is None
    assert place_file(touching, lambda extent: None if extent.offset else 0) is None
    many = entry(*(Extent(2 * n, 1, 3 * n) for n in range(4097)), size=10_000)
    assert place_file(many, _place) is None
    assert place_file(many._replace(extents=many.extents[:4096]), _place) is not None


def test_places_that_are_taken() -> None:
    taken = TakenPlaces()
    assert taken.take([ByteRange(100, 10), ByteRange(50, 10)])
    assert not taken.take([ByteRange(0, 5), ByteRange(109, 50)])
    assert not taken.take([ByteRange(0, 51)])
    assert not taken.take([ByteRange(40, 200)])
    assert taken.take([ByteRange(60, 40), ByteRange(110, 5), ByteRange(0, 50)])

"""Modules of the source whose numbers are moved: in images of each kind, and only where it pays."""

import hashlib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from slipstream.delta.btf import BtfShifts
from slipstream.delta.btf_shifts import ShiftsLearner
from slipstream.delta.byterange import ByteRange
from slipstream.delta.filemap import Entry, EntryKind, Extent
from slipstream.delta.frame import FrameKind
from slipstream.delta.limits import KIB, MIB
from slipstream.delta.moved import MovedBlock
from slipstream.delta.payload import Index
from slipstream.delta.profile import DEVICE_BASE_BYTES
from slipstream.server import moving
from slipstream.server.build import build_payload
from slipstream.server.moving import Moving, move_modules
from slipstream.server.patch import apply_payload
from slipstream.server.placed_file import TakenPlaces
from slipstream.server.progress import unwatched
from tests.delta.btf_modules import Kernel, btf, elf, kernels, structs
from tests.server.image_pairs import Pair, code, make_image, packed

KERNELS = dict(zip(("6.1.19", "6.1.20"), kernels(), strict=True))
_MODULES = 24


def _modules(kernel: Kernel, *, later: bool) -> dict[str, bytes]:
    """Modules; one is too large to be moved as a whole."""
    files = {}
    for number in range(_MODULES):
        size = 300 * KIB if number == 5 else 4 * KIB
        section = btf(kernel, structs(number, 300 if number == 5 else 60))
        files[f"mod_{number}.ko"] = elf(section, code(number, size, later=later)[:size])
    return files


def _tree(folder: Path, release: str, suffix: str) -> Path:
    root = folder / release
    below = root / "lib/modules" / release / "kernel"
    below.mkdir(parents=True)
    for name, data in _modules(KERNELS[release], later=release == "6.1.20").items():
        made = packed("xz --check=crc32 -6", data) if suffix else data
        (below / f"{name}{suffix}").write_bytes(made)
    return root


@pytest.fixture(scope="module", params=["ext4", "ext4 .xz", "squashfs gzip"])
def images(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("images")
    kind, _, suffix = request.param.partition(" .")
    trees = [_tree(folder, release, f".{suffix}" if suffix else "") for release in KERNELS]
    return Pair(*(make_image(kind, tree, folder / f"{tree.name}.image") for tree in trees))


def _build(folder: Path, pair: Pair, *, memory_bytes: int = 256 * MIB, jobs: int = 1) -> Index:
    built = build_payload(
        pair.source,
        pair.target,
        folder / "payload",
        jobs=jobs,
        memory_bytes=memory_bytes,
        profile="balanced",
    )
    apply_payload(pair.source, folder / "payload", folder / "made")
    digests = [
        hashlib.sha256(path.read_bytes()).digest() for path in (folder / "made", pair.target)
    ]
    assert digests[0] == digests[1]
    return built.index


def _nothing_moves(*_: object) -> Moving:
    return Moving()


def test_payloads_are_smaller(
    tmp_path: Path, images: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = _build(tmp_path, images)
    moved = [one for one in map(index.streams.__getitem__, range(len(index.streams))) if one.moved]
    # Not all: a frame takes what is like it anywhere.
    assert len(moved) >= _MODULES * 3 // 4
    assert index.memory_bytes + DEVICE_BASE_BYTES <= 256 * MIB

    monkeypatch.setattr("slipstream.server.plan.move_modules", _nothing_moves)
    without = _build(tmp_path, images)
    assert not without.streams.shifts
    assert index.payload_size < 0.8 * without.payload_size


def test_what_moves_is_not_read_as_it_stands(tmp_path: Path, images: Pair) -> None:
    index = _build(tmp_path, images)
    streams = list(map(index.streams.__getitem__, range(len(index.streams))))
    types = [
        ByteRange(one.sources[0].offset + one.moved.types.offset, one.moved.types.size)
        for one in streams
        if one.moved and len(one.sources) == 1
    ]
    read = [
        source for frame in index.frames if frame.kind is FrameKind.DIFF for source in frame.sources
    ]
    assert types
    assert not any(one.overlaps(place) for one in read for place in types)


def test_the_same_bytes_with_several_jobs(tmp_path: Path, images: Pair) -> None:
    assert len({_build(tmp_path, images, jobs=jobs).digest for jobs in (1, 2)}) == 1


def test_little_memory_leaves_modules_as_they_are(tmp_path: Path, images: Pair) -> None:
    memory = DEVICE_BASE_BYTES + 10 * MIB
    index = _build(tmp_path, images, memory_bytes=memory)
    assert index.memory_bytes + DEVICE_BASE_BYTES <= memory


def test_wrong_shifts_make_the_right_target(
    tmp_path: Path, images: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = ShiftsLearner.shared

    def wrong(learner: ShiftsLearner) -> BtfShifts:
        found = right(learner)
        return BtfShifts(
            replace(found.types, amounts=tuple(one + 1 for one in found.types.amounts)), found.names
        )

    monkeypatch.setattr(ShiftsLearner, "shared", wrong)
    assert _build(tmp_path, images).streams.shifts


# --- in memory


class _Space:
    """Sources, then targets, then what is kept; files stand as they are, each in two extents."""

    def __init__(self, *groups: dict[str, bytes], gap: int = 100) -> None:
        self.data = bytearray()
        self.entries: list[list[Entry]] = []
        for files in groups:
            entries = []
            for name, raw in files.items():
                place = len(self.data)
                self.data += raw + bytes(gap)
                half = len(raw) // 2
                extents = (Extent(0, half, place), Extent(half, len(raw) - half, place + half))
                entries.append(Entry(EntryKind.FILE, name, len(raw), extents))
            self.entries.append(entries)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def keep(self, content: bytes) -> ByteRange:
        self.data += content
        return ByteRange(len(self.data) - len(content), len(content))

    def move(self) -> Moving:
        source, target = self.entries
        where = (_place, _place)
        return move_modules((source, target), where, self, self.keep, TakenPlaces(), unwatched)


def _place(extent: Extent) -> int:
    return extent.place


def _named(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"lib/modules/{name}": data for name, data in files.items()}


def _both(gap: int = 100) -> _Space:
    groups = [_named(_modules(kernel, later=False)) for kernel in KERNELS.values()]
    return _Space(*groups, gap=gap)


def _made(space: _Space, block: MovedBlock) -> bytes:
    return space.read(block.content.offset, block.content.size)


def test_moved_modules_are_those_of_the_target() -> None:
    space = _both(gap=5000)
    sizes = [entry.size for entry in space.entries[1]]
    targets = {space.read(entry.extents[0].place, entry.size) for entry in space.entries[1]}
    blocks = space.move().blocks
    whole = [one for one in blocks if one.content.size in sizes]
    assert len(whole) == _MODULES - 1
    assert {_made(space, one) for one in whole} < targets
    [large] = [one for one in blocks if one not in whole]
    assert any(_made(space, large) in target for target in targets)


def test_what_stands_between_two_modules_goes_along() -> None:
    blocks = _both(gap=100).move().blocks
    assert all(
        one.places[-1].end == after.places[0].offset
        for one, after in pairwise(blocks)
        if one.moved.types.size < one.content.size and after.moved.types.size < after.content.size
    )
    assert [one.content.end for one in blocks[:-1]] == [one.content.offset for one in blocks[1:]]


def test_large_types_are_cut_between_types(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = _both(gap=5000)
    [expected] = [
        _made(whole, one) for one in whole.move().blocks if one.moved.types.size == one.content.size
    ]
    monkeypatch.setattr(moving, "_WHOLE_BYTES_MAX", 5000)
    cut = _both(gap=5000)
    parts = [one for one in cut.move().blocks if one.content.size in range(5001)]
    assert all(one.moved.types == ByteRange(0, one.content.size) for one in parts)
    assert expected in b"".join(_made(cut, one) for one in parts)


def test_holes_are_zeros_and_nothing_is_moved_in_them() -> None:
    expected = _both(gap=5000).move().blocks
    space = _both(gap=5000)
    for entries in space.entries:
        entries[:] = [
            one._replace(size=one.size + 64 * KIB, extents=one.extents) for one in entries
        ]
    made = space.move().blocks
    assert len(made) == len(expected)
    assert all(one.moved.types == ByteRange(0, one.content.size) for one in made)


def test_equal_modules_and_other_files_stay() -> None:
    same = _named(_modules(KERNELS["6.1.19"], later=False))
    assert _Space(same, same).move() == Moving()
    other = {f"{name}.txt": data for name, data in same.items()}
    assert _Space(other, other).move() == Moving()


def test_modules_of_the_same_kernel_are_not_moved() -> None:
    old, new = (_named(_modules(KERNELS["6.1.19"], later=later)) for later in (False, True))
    assert _Space(old, new).move().blocks == []


def test_hostile_modules_are_left_alone() -> None:
    files = _named(_modules(KERNELS["6.1.19"], later=False))
    hurt = {
        name: data[:64] + bytes(reversed(data[64:-300])) + data[-300:]
        for name, data in files.items()
    }
    assert _Space(hurt, files).move().blocks == []
    assert _Space(files, hurt).move().blocks == []

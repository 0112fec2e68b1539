"""Moves the numbers in kernel modules of the source, so that they resemble the target's.

Modules are paired as files are, what moved is learned from all pairs of one kernel, and the moved
modules go to the scratch file, behind the contents of opened blocks. What is no module, or does
not move, stays as it is. Not here: the BTF itself (delta/btf.py, delta/btf_shifts.py).
"""

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from slipstream.delta.btf import WORD_BYTES, BtfShifts, MovedBtf, move_btf
from slipstream.delta.btf_shifts import Btf, ShiftsLearner, base_of, find_btf, parse_btf
from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Entry, EntryKind
from slipstream.delta.limits import (
    BTF_OWN_RANGES_MAX,
    KIB,
    MIB,
    SHIFT_RANGES_MAX,
)
from slipstream.delta.moved import MovedBlock, MovedSource
from slipstream.delta.moves import Shifts
from slipstream.delta.pairing import pair_once
from slipstream.server.placed_file import (
    AddressOf,
    PlacedFile,
    Space,
    TakenPlaces,
    place_file,
)
from slipstream.server.progress import Progress

_MODULE = re.compile(r"\.ko(\.\w+)?(#\d+)?\Z")
_KERNEL = re.compile(r"modules/([^/]+)/")
_MODULE_BYTES_MAX = 64 * MIB  # amdgpu, with all its tables, has 20
_MODULE_BYTES_MIN = 1 * KIB
_KERNELS_MAX = 16  # whose modules are moved
_BASE_PAIRS = 512  # of so many modules some use the type that they define last
# A smaller module is moved as a whole: one extent of a frame instead of three. What a device holds
# for it is a multiple of its size.
_WHOLE_BYTES_MAX = 256 * KIB
_GAP_BYTES = (
    4 * KIB
)  # between two modules, that go with the first: padding, the header of an archive


@dataclass(frozen=True, slots=True)
class Moving:
    """Blocks in the order of their contents, and the shifts that they name."""

    blocks: list[MovedBlock] = field(default_factory=list)
    shifts: tuple[Shifts, ...] = ()


class MovedView:
    """A space in which the bytes of moved files are the moved ones."""

    def __init__(self, space: Space, source: MovedSource) -> None:
        self._space = space
        self._source = source

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes."""
        data = bytearray(self._space.read(offset, size))
        for place, address, _ in self._source.within(ByteRange(offset, size)):
            begin = place.offset - offset
            data[begin : begin + place.size] = self._space.read(address, place.size)
        return bytes(data)


class _Module(NamedTuple):
    """A module of the source, and what is moved in it: `types` stand in the file from there to
    there, and may be cut at `cuts`."""

    file: PlacedFile
    types: ByteRange
    cuts: list[int]
    own: BtfShifts


class _Pair(NamedTuple):
    source: PlacedFile
    target: PlacedFile


def move_modules(
    entries: tuple[Sequence[Entry], Sequence[Entry]],
    addresses: tuple[AddressOf, AddressOf],
    space: Space,
    keep: Callable[[bytes], ByteRange],
    taken: TakenPlaces,
    on_progress: Progress,
) -> Moving:
    """Move all modules of the source that have a pair in the target.

    `entries` and `addresses` are of source and target, the latter addresses in `space`; `keep`
    takes moved bytes and gives their addresses, which follow one another. What is moved is `taken`.
    OSError.
    """
    kernels = sorted(_pairs(entries, addresses).items(), key=lambda one: (-len(one[1]), one[0]))
    total = sum(len(pairs) for _, pairs in kernels[:_KERNELS_MAX])
    done = ranges = 0
    shifts: list[BtfShifts] = []
    modules: list[tuple[int, _Module]] = []
    for _, pairs in kernels[:_KERNELS_MAX]:
        learned = _learn(space, pairs)
        done += len(pairs)
        on_progress("learn types", done, total)
        if learned is None or ranges + learned[0].count > SHIFT_RANGES_MAX:
            continue
        modules += [(len(shifts), one) for one in learned[1]]
        shifts.append(learned[0])
        ranges += learned[0].count
    return Moving(list(_moved(space, modules, shifts, keep, taken)), tuple(shifts))


def _pairs(
    entries: tuple[Sequence[Entry], Sequence[Entry]], addresses: tuple[AddressOf, AddressOf]
) -> dict[tuple[str, str], list[_Pair]]:
    """Pairs of modules that can be read, by the kernels that they are for."""
    sources, targets = ([one for one in group if is_module(one)] for group in entries)
    found: defaultdict[tuple[str, str], list[_Pair]] = defaultdict(list)
    for number, other in pair_once(sources, targets):
        source, target = sources[number], targets[other]
        files = [
            place_file(one, where) for one, where in zip((source, target), addresses, strict=True)
        ]
        if files[0] and files[1]:
            found[_kernel(source), _kernel(target)].append(_Pair(files[0], files[1]))
    return found


def is_module(entry: Entry) -> bool:
    """Whether a file is a kernel module, by its name."""
    return (
        entry.kind is EntryKind.FILE
        and _MODULE_BYTES_MIN <= entry.size <= _MODULE_BYTES_MAX
        and _MODULE.search(entry.path) is not None
    )


def _kernel(entry: Entry) -> str:
    found = _KERNEL.search(entry.path)
    return found.group(1) if found else ""


class _Parsed(NamedTuple):
    """The BTF of a pair. `types` is where it stands in the source module."""

    pair: _Pair
    source: Btf
    target: Btf
    types: ByteRange


def _parse(space: Space, pairs: Sequence[_Pair]) -> Iterator[_Parsed]:
    """Those pairs that differ and have BTF."""
    for pair in pairs:
        if not all(one.is_elf(space) for one in pair):
            continue
        source, target = (one.read(space) for one in pair)
        if source == target:
            continue
        old, new = find_btf(source), find_btf(target)
        if old is None or new is None:
            continue
        before = parse_btf(source[old.offset : old.end])
        after = parse_btf(target[new.offset : new.end])
        if before is not None and after is not None:
            types = ByteRange(old.offset + before.types.offset, before.types.size)
            yield _Parsed(pair, before, after, types)


def _learn(space: Space, pairs: Sequence[_Pair]) -> tuple[BtfShifts, list[_Module]] | None:
    """The shifts of one kernel, and its modules; None where nothing can be said."""
    some = list(_parse(space, pairs[:: -(-len(pairs) // _BASE_PAIRS)]))
    source, target = base_of(one.source for one in some), base_of(one.target for one in some)
    if not (source.type and source.name and target.type and target.name):
        return None
    learner = ShiftsLearner(source, target)
    modules = []
    for one in _parse(space, pairs):
        try:
            own = learner.add(one.source, one.target)
        except FormatError:  # numbers beyond 32 bits: no kernel's
            continue
        cuts = [one.types.offset + start * WORD_BYTES for start in one.source.starts.tolist()]
        if own.count > BTF_OWN_RANGES_MAX:
            own = BtfShifts()
        modules.append(_Module(one.pair.source, one.types, cuts, own))
    return learner.shared(), modules


def _moved(
    space: Space,
    modules: Sequence[tuple[int, _Module]],
    shifts: Sequence[BtfShifts],
    keep: Callable[[bytes], ByteRange],
    taken: TakenPlaces,
) -> Iterator[MovedBlock]:
    """What moves of modules, in the order of their places."""
    wanted = sorted(
        ((places, moved) for number, one in modules for places, moved in _blocks(number, one)),
        key=lambda one: one[0],
    )
    ends = [places[0].offset for places, _ in wanted[1:]]
    for number, (places, moved) in enumerate(wanted):
        if number < len(ends) and len(places) == 1:
            gap = ends[number] - places[0].end
            if moved.types.size < places[0].size and 0 < gap <= _GAP_BYTES:
                places = (ByteRange(places[0].offset, places[0].size + gap),)
        data = b"".join(space.read(one.offset, one.size) for one in places)
        made = move_btf(data, moved, shifts[moved.shifts])
        if made != data and taken.take(places):
            yield MovedBlock(places, keep(made), moved)


def _blocks(number: int, one: _Module) -> Iterator[tuple[tuple[ByteRange, ...], MovedBtf]]:
    """A small module as a whole, of a large one its types."""
    whole = one.file.part(0, one.file.size)
    if whole and one.file.size <= _WHOLE_BYTES_MAX:
        yield whole, MovedBtf(number, one.types, one.own)
        return
    begin = one.types.offset
    while begin < one.types.end:
        at = bisect_right(one.cuts, begin + _WHOLE_BYTES_MAX) - 1
        end = one.cuts[at] if begin + _WHOLE_BYTES_MAX < one.types.end else one.types.end
        if end <= begin:  # a type that is longer than that
            return
        places = one.file.part(begin, end)
        if places:
            yield places, MovedBtf(number, ByteRange(0, end - begin), one.own)
        begin = end

"""Moves the numbers in kernel modules of the source, so that they resemble the target's.

Modules are paired as files are, what moved is learned from all pairs of one kernel, and the moved
modules go to the scratch file, behind the contents of opened blocks. What is no module, or does
not move, stays as it is. Not here: the BTF itself (delta/btf.py, delta/btf_shifts.py).
"""

import re
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from slipstream.delta.btf import WORD_BYTES, BtfShifts, MovedBtf, move_btf
from slipstream.delta.btf_shifts import Btf, ShiftsLearner, base_of, find_btf, parse_btf
from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Entry, EntryKind, Extent
from slipstream.delta.limits import (
    BTF_OWN_RANGES_MAX,
    BTF_RANGES_MAX,
    BTF_SHIFTS_MAX,
    KIB,
    MIB,
    STREAM_SOURCES_MAX,
)
from slipstream.delta.moved import MovedBlock, MovedSource
from slipstream.delta.pairing import pair_entries
from slipstream.server.progress import Progress

_ELF = b"\x7fELF"
_MODULE = re.compile(r"\.ko(\.\w+)?(#\d+)?\Z")
_KERNEL = re.compile(r"modules/([^/]+)/")
_MODULE_BYTES_MAX = 64 * MIB  # amdgpu, with all its tables, has 20
_MODULE_BYTES_MIN = 1 * KIB
_BASE_PAIRS = 512  # of so many modules some use the type that they define last
# A smaller module is moved as a whole: one extent of a frame instead of three. What a device holds
# for it is a multiple of its size.
_WHOLE_BYTES_MAX = 256 * KIB
_GAP_BYTES = (
    4 * KIB
)  # between two modules, that go with the first: padding, the header of an archive

AddressOf = Callable[[Extent], int | None]


class Space(Protocol):
    """Random access to bytes by address."""

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes."""
        ...


@dataclass(frozen=True, slots=True)
class Moving:
    """Blocks in the order of their contents, and the shifts that they name."""

    blocks: list[MovedBlock] = field(default_factory=list)
    shifts: tuple[BtfShifts, ...] = ()


class MovedView:
    """A space in which the bytes of moved modules are the moved ones."""

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

    file: "_File"
    types: ByteRange
    cuts: list[int]
    own: BtfShifts


class _File(NamedTuple):
    """Where the bytes of a file stand: `pieces` are (offset in the file, place), rising; what they
    leave out are zeros. Large modules have such holes."""

    size: int
    pieces: tuple[tuple[int, ByteRange], ...]

    def read(self, space: Space) -> bytes:
        data = bytearray(self.size)
        for offset, place in self.pieces:
            data[offset : offset + place.size] = space.read(place.offset, place.size)
        return bytes(data)

    def part(self, begin: int, end: int) -> tuple[ByteRange, ...]:
        """Where the bytes from `begin` to `end` stand; nothing if some are in holes."""
        parts = []
        for offset, place in self.pieces:
            low, high = max(begin, offset), min(end, offset + place.size)
            if low < high:
                parts.append(ByteRange(place.offset + low - offset, high - low))
        return tuple(parts) if sum(one.size for one in parts) == end - begin else ()


class _Pair(NamedTuple):
    source: _File
    target: _File


def move_modules(
    entries: tuple[Sequence[Entry], Sequence[Entry]],
    addresses: tuple[AddressOf, AddressOf],
    space: Space,
    keep: Callable[[bytes], ByteRange],
    on_progress: Progress,
) -> Moving:
    """Move all modules of the source that have a pair in the target.

    `entries` and `addresses` are of source and target, the latter addresses in `space`; `keep`
    takes moved bytes and gives their addresses, which follow one another. OSError.
    """
    kernels = sorted(_pairs(entries, addresses).items(), key=lambda one: (-len(one[1]), one[0]))
    total = sum(len(pairs) for _, pairs in kernels[:BTF_SHIFTS_MAX])
    done = ranges = 0
    shifts: list[BtfShifts] = []
    modules: list[tuple[int, _Module]] = []
    for _, pairs in kernels[:BTF_SHIFTS_MAX]:
        learned = _learn(space, pairs)
        done += len(pairs)
        on_progress("learn types", done, total)
        if learned is None or ranges + learned[0].count > BTF_RANGES_MAX:
            continue
        modules += [(len(shifts), one) for one in learned[1]]
        shifts.append(learned[0])
        ranges += learned[0].count
    return Moving(list(_moved(space, modules, shifts, keep)), tuple(shifts))


def _pairs(
    entries: tuple[Sequence[Entry], Sequence[Entry]], addresses: tuple[AddressOf, AddressOf]
) -> dict[tuple[str, str], list[_Pair]]:
    """Pairs of modules that can be read, by the kernels that they are for."""
    sources, targets = ([one for one in group if _is_module(one)] for group in entries)
    found: defaultdict[tuple[str, str], list[_Pair]] = defaultdict(list)
    seen: set[int] = set()
    for number, target in zip(pair_entries(sources, targets), targets, strict=True):
        if number is None or number in seen:
            continue
        seen.add(number)
        source = sources[number]
        files = [_file(one, where) for one, where in zip((source, target), addresses, strict=True)]
        if files[0] and files[1]:
            found[_kernel(source), _kernel(target)].append(_Pair(files[0], files[1]))
    return found


def _file(entry: Entry, address_of: AddressOf) -> _File | None:
    """A file that can be read; None otherwise. Extents that touch are one."""
    pieces: list[tuple[int, ByteRange]] = []
    for extent in entry.extents:
        address = address_of(extent)
        if address is None or extent.offset + extent.size > entry.size:
            return None
        last = pieces[-1] if pieces else None
        if last and last[1].end == address and last[0] + last[1].size == extent.offset:
            pieces[-1] = last[0], ByteRange(last[1].offset, last[1].size + extent.size)
        else:
            pieces.append((extent.offset, ByteRange(address, extent.size)))
    return _File(entry.size, tuple(pieces)) if len(pieces) <= STREAM_SOURCES_MAX else None


def _is_module(entry: Entry) -> bool:
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
        if not all(_is_elf(space, one) for one in pair):
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


def _is_elf(space: Space, file: _File) -> bool:
    first = file.part(0, len(_ELF))
    return b"".join(space.read(one.offset, one.size) for one in first) == _ELF


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
) -> Iterator[MovedBlock]:
    """What moves of modules, in the order of their places."""
    wanted = sorted(
        ((places, moved) for number, one in modules for places, moved in _blocks(number, one)),
        key=lambda one: one[0],
    )
    ends = [places[0].offset for places, _ in wanted[1:]]
    taken: list[ByteRange] = []  # rising, not overlapping
    for number, (places, moved) in enumerate(wanted):
        if number < len(ends) and len(places) == 1:
            gap = ends[number] - places[0].end
            if moved.types.size < places[0].size and 0 < gap <= _GAP_BYTES:
                places = (ByteRange(places[0].offset, places[0].size + gap),)
        if any(_is_taken(place, taken) for place in places):
            continue  # bytes that two files have in common
        data = b"".join(space.read(one.offset, one.size) for one in places)
        made = move_btf(data, moved, shifts[moved.shifts])
        if made != data:
            for place in places:
                insort(taken, place)
            yield MovedBlock(places, keep(made), moved)


def _is_taken(place: ByteRange, taken: Sequence[ByteRange]) -> bool:
    number = bisect_left(taken, place.end, key=lambda one: one.offset) - 1
    return number >= 0 and taken[number].end > place.offset


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

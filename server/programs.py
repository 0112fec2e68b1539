"""Moves the addresses in programs and libraries of the source, so that they resemble the target's.

Files are paired as everywhere; what moved is learned from the two files of a pair. Blocks of a program
are moved as what they hold, where that makes them more like the target's, and go to the scratch
file. Not here: the addresses themselves (delta/references.py, delta/reference_shifts.py).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from threading import Lock
from typing import NamedTuple

from slipstream.delta.byterange import ByteRange
from slipstream.delta.filemap import Entry, EntryKind
from slipstream.delta.limits import KIB, MIB, SHIFT_RANGES_MAX, SHIFTS_MAX
from slipstream.delta.moved import MovedBlock
from slipstream.delta.moves import Shifts
from slipstream.delta.pairing import pair_once
from slipstream.delta.reference_shifts import Learned, Part, learn_references
from slipstream.delta.references import (
    Holding,
    ImageShifts,
    MovedReferences,
    move_references,
)
from slipstream.server.moving import Moving, is_module
from slipstream.server.placed_file import (
    AddressOf,
    PlacedFile,
    Space,
    TakenPlaces,
    place_file,
)
from slipstream.server.progress import Progress

_PROGRAM_BYTES_MAX = 96 * MIB  # Debian's kernel has 66
_LARGE_BYTES = 24 * MIB  # of such files one is learned at a time: 14 times as much is held
_PROGRAM_BYTES_MIN = 4 * KIB
_BLOCK_BYTES = 256 * KIB  # moved at a time by a device, which holds some times as much
# A byte that is right after moving saves about half a byte of payload.
_BLOCK_GAIN_BYTES = 32  # for a row of the table
_RANGE_GAIN_BYTES = 6


class _Program(NamedTuple):
    """What moves in a program: where, and as what (without a number of shifts yet); how many bytes
    are right then that were not, beyond what the blocks' rows cost."""

    image: ImageShifts
    blocks: tuple[tuple[tuple[ByteRange, ...], MovedReferences], ...]
    gained: int


def move_programs(
    before: Moving,
    entries: tuple[Sequence[Entry], Sequence[Entry]],
    addresses: tuple[AddressOf, AddressOf],
    space: Space,
    keep: Callable[[bytes], ByteRange],
    taken: TakenPlaces,
    threads: ThreadPoolExecutor,
    on_progress: Progress,
) -> Moving:
    """Move programs of the source that changed in the target, behind what was moved `before`.

    The arguments are those of `move_modules`; `space` is read from several threads. OSError.
    """
    pairs = list(_pairs(entries, addresses, space))
    large = Lock()
    found: list[_Program] = []
    learned = [threads.submit(_learn, space, *pair, large) for pair in pairs]
    total = sum(target.size for _, target in pairs)
    done = 0
    try:
        for (_, target), one in zip(pairs, learned, strict=True):
            program = one.result()
            done += target.size
            on_progress("move addresses", done, total)
            if program is not None:
                found.append(program)
    finally:  # the space is closed after this: nothing may read it any more
        for one in learned:
            one.cancel()
        wait(learned)
    blocks, shifts = list(before.blocks), list(before.shifts)
    for program in _fitting(found, before.shifts):
        new = list(_kept(program, len(shifts), space, keep, taken))
        if new:
            blocks += new
            shifts.append(program.image)
    return Moving(blocks, tuple(shifts))


def _fitting(programs: Sequence[_Program], before: Sequence[Shifts]) -> Iterator[_Program]:
    """Those for whose ranges a payload has room: of too many, such as gain the most by each range."""
    ranges = SHIFT_RANGES_MAX - sum(one.count for one in before)
    rows = SHIFTS_MAX - len(before)
    fit: set[int] = set()
    by_gain = sorted(
        range(len(programs)),
        key=lambda number: -programs[number].gained / programs[number].image.count,
    )
    for number in by_gain:
        if programs[number].image.count <= ranges and len(fit) < rows:
            fit.add(number)
            ranges -= programs[number].image.count
    return (programs[number] for number in sorted(fit))


def _kept(
    program: _Program,
    shifts: int,
    space: Space,
    keep: Callable[[bytes], ByteRange],
    taken: TakenPlaces,
) -> Iterator[MovedBlock]:
    for places, moved in program.blocks:
        if taken.take(places):
            data = b"".join(space.read(one.offset, one.size) for one in places)
            made = move_references(data, moved, program.image)
            yield MovedBlock(places, keep(made), replace(moved, shifts=shifts))


def _pairs(
    entries: tuple[Sequence[Entry], Sequence[Entry]],
    addresses: tuple[AddressOf, AddressOf],
    space: Space,
) -> Iterator[tuple[PlacedFile, PlacedFile]]:
    """Pairs of ELF files that are no modules of a kernel; a source has one target."""
    found: list[list[tuple[Entry, PlacedFile]]] = []
    for group, address_of in zip(entries, addresses, strict=True):
        placed = ((one, place_file(one, address_of)) for one in group if _may_be_program(one))
        found.append([(one, file) for one, file in placed if file and file.is_elf(space)])
    sources, targets = found
    for source, target in pair_once([one for one, _ in sources], [one for one, _ in targets]):
        yield sources[source][1], targets[target][1]


def _may_be_program(entry: Entry) -> bool:
    return (
        entry.kind is EntryKind.FILE
        and _PROGRAM_BYTES_MIN <= entry.size <= _PROGRAM_BYTES_MAX
        and not is_module(entry)
    )


def _learn(space: Space, source: PlacedFile, target: PlacedFile, large: Lock) -> _Program | None:
    """What moves in a source file; None where moving does not pay. One `large` file at a time."""
    if max(source.size, target.size) > _LARGE_BYTES:
        with large:
            return _learn_now(space, source, target)
    return _learn_now(space, source, target)


def _learn_now(space: Space, source: PlacedFile, target: PlacedFile) -> _Program | None:
    before, after = source.read(space), target.read(space)
    if before == after:
        return None
    learned = learn_references(before, after)
    if learned is None:
        return None
    blocks = []
    gained = 0
    for part in learned.parts:
        for begin in range(part.place.offset, part.place.end, _BLOCK_BYTES):
            place = ByteRange(begin, min(_BLOCK_BYTES, part.place.end - begin))
            if learned.differing(place) <= _BLOCK_GAIN_BYTES:
                continue
            gain, moved = max(
                ((learned.gain(place, one), one) for one in _ways(learned, part, place)),
                key=lambda one: one[0],
            )
            places = source.part(place.offset, place.end)
            if gain > _BLOCK_GAIN_BYTES and places:
                gained += gain - _BLOCK_GAIN_BYTES
                blocks.append((places, moved))
    if gained <= _RANGE_GAIN_BYTES * learned.image.count:
        return None
    return _Program(learned.image, tuple(blocks), gained)


def _ways(learned: Learned, part: Part, place: ByteRange) -> Iterator[MovedReferences]:
    """All that a block may be taken for."""
    held: tuple[Holding, ...] = (Holding.POINTERS, Holding.TABLES)
    if part.is_code:
        held = (Holding.CODE, Holding.FIXED_CODE) if learned.image.base else (Holding.CODE,)
    for holding in held:
        yield MovedReferences(0, part.address + place.offset - part.place.offset, holding)

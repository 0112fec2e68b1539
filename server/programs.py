"""Moves the addresses in programs and libraries of the source, so that they resemble the target's.

Files are paired as everywhere; what moved is learned from the two files of a pair. Blocks of a program
are moved as what they hold, where that makes them more like the target's, and go to the scratch
file. Not here: the addresses themselves (delta/references.py, delta/reference_shifts.py).
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import NamedTuple

from slipstream.delta.byterange import ByteRange
from slipstream.delta.filemap import Entry, EntryKind
from slipstream.delta.limits import KIB, MIB, SHIFT_RANGES_MAX, SHIFTS_MAX
from slipstream.delta.moved import MovedBlock
from slipstream.delta.pairing import pair_entries
from slipstream.delta.reference_shifts import Learned, Part, learn_references
from slipstream.delta.references import Holding, ImageShifts, MovedReferences
from slipstream.server.moving import Moving, is_module
from slipstream.server.placed_file import (
    AddressOf,
    PlacedFile,
    Space,
    TakenPlaces,
    place_file,
)
from slipstream.server.progress import Progress

_PROGRAM_BYTES_MAX = 128 * MIB
_PROGRAM_BYTES_MIN = 4 * KIB
_BLOCK_BYTES = 256 * KIB  # moved at a time by a device, which holds some times as much
# A byte that is right after moving saves about half a byte of payload.
_BLOCK_GAIN_BYTES = 32  # for a row of the table
_RANGE_GAIN_BYTES = 6


class _Block(NamedTuple):
    """Moved bytes of a program; `moved` has no number of shifts yet."""

    places: tuple[ByteRange, ...]
    moved: MovedReferences
    made: bytes


class _Program(NamedTuple):
    image: ImageShifts
    blocks: list[_Block]


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
    blocks, shifts = list(before.blocks), list(before.shifts)
    left = SHIFT_RANGES_MAX - sum(one.count for one in before.shifts)
    learned = threads.map(lambda pair: _learn(space, *pair), pairs)
    for number, program in enumerate(learned, 1):
        on_progress("move addresses", number, len(pairs))
        if program is None or program.image.count > left or len(shifts) == SHIFTS_MAX:
            continue
        new = list(_kept(program, len(shifts), keep, taken))
        if new:
            blocks += new
            shifts.append(program.image)
            left -= program.image.count
    return Moving(blocks, tuple(shifts))


def _kept(
    program: _Program,
    shifts: int,
    keep: Callable[[bytes], ByteRange],
    taken: TakenPlaces,
) -> Iterator[MovedBlock]:
    for places, moved, made in program.blocks:
        if not taken.holds_any(places):
            taken.add(places)
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
    seen: set[int] = set()
    numbers = pair_entries([one for one, _ in sources], [one for one, _ in targets])
    for number, (_, target) in zip(numbers, targets, strict=True):
        if number is not None and number not in seen:
            seen.add(number)
            yield sources[number][1], target


def _may_be_program(entry: Entry) -> bool:
    return (
        entry.kind is EntryKind.FILE
        and _PROGRAM_BYTES_MIN <= entry.size <= _PROGRAM_BYTES_MAX
        and not is_module(entry)
    )


def _learn(space: Space, source: PlacedFile, target: PlacedFile) -> _Program | None:
    """What moves in a source file; None where moving does not pay."""
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
            gain, made, moved = _best(learned, part, place)
            places = source.part(place.offset, place.end)
            if gain > _BLOCK_GAIN_BYTES and places:
                gained += gain - _BLOCK_GAIN_BYTES
                blocks.append(_Block(places, moved, made))
    if gained <= _RANGE_GAIN_BYTES * learned.image.count:
        return None
    return _Program(learned.image, blocks)


def _best(learned: Learned, part: Part, place: ByteRange) -> tuple[int, bytes, MovedReferences]:
    """A block moved as what makes it the most like the target's: how many bytes more, the bytes."""
    address = part.address + place.offset - part.place.offset
    if part.is_code:
        held = (Holding.CODE, Holding.FIXED_CODE) if learned.image.base else (Holding.CODE,)
    else:
        held = (Holding.POINTERS, Holding.TABLES)
    tried = []
    for holding in held:
        moved = MovedReferences(0, address, holding)
        made, gain = learned.move(place, moved)
        tried.append((gain, made, moved))
    return max(tried, key=lambda one: one[0])

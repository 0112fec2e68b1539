"""Moves the numbers of the kernel's types and names in the BTF of a kernel module.

A module's BTF goes on where the kernel's ends ("split BTF"): numbers of types, and places of names,
below a base are the kernel's. Another kernel has other bases, and what was inserted into it moves
all that follows. So nearly every number of a module's BTF differs between two releases, by amounts
that hold over long ranges and for all modules. Moved, a source module resembles the target's, and a
frame takes it from there (docs/format.md, 4.6).

Nothing is believed: bytes that are no BTF, or amounts that were learned wrong, give other source
bytes and a larger payload, never a wrong target. Not here: where the amounts come from
(btf_shifts.py). Source of the layout: Documentation/bpf/btf.rst of Linux.
"""

import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError
from slipstream.delta.limits import BTF_OWN_RANGES_MAX
from slipstream.delta.rows import Place, read_number, read_ranges, write_number, write_ranges

WORD_BYTES = 4
_NUMBER_MAX = 0xFFFF_FFFF
_AMOUNT_BITS = 32
_STEP_NUMBERS = 16_384  # gathered before they are moved: bounds the memory


class _Layout(NamedTuple):
    """Of a kind: words before its members; places of types among them; words of a member, 0 for
    none; whether its first word is a name; its word that is a type."""

    head: int = 3
    types: tuple[int, ...] = ()
    member: int = 0
    member_name: bool = False
    member_type: int | None = None


_ALIAS = _Layout(types=(2,))
_STRUCT = _Layout(member=3, member_name=True, member_type=1)
_LAYOUTS: tuple[_Layout | None, ...] = (
    None,  # 0: no type
    _Layout(4),  # integer: name, info, size; encoding
    _ALIAS,  # pointer: (no) name, info, type
    _Layout(6, types=(3, 4)),  # array: type of an element, type of the index, count
    _STRUCT,  # name, info, size; members: name, type, offset
    _STRUCT,  # union
    _Layout(member=2, member_name=True),  # enum: name, value
    _Layout(),  # forward
    _ALIAS,  # typedef
    _ALIAS,  # volatile
    _ALIAS,  # const
    _ALIAS,  # restrict
    _ALIAS,  # function
    _Layout(types=(2,), member=2, member_name=True, member_type=1),  # prototype: name, type
    _Layout(4, types=(2,)),  # variable: linkage
    _Layout(member=3, member_type=0),  # section of data: type, offset, size
    _Layout(),  # floating point
    _Layout(4, types=(2,)),  # declaration tag: number of the member
    _ALIAS,  # type tag
    _Layout(member=3, member_name=True),  # enum of 64 bits: name, two halves
    *[None] * 12,
)


@dataclass(frozen=True, slots=True)
class Shifts:
    """How far numbers move: those from `firsts[n]` on, up to the next of them, by `amounts[n]`.

    FormatError unless `firsts` are as many as `amounts`, rise, and fit 32 bits. Smaller numbers
    stay, and all results are taken modulo 2^32.
    """

    firsts: tuple[int, ...] = ()
    amounts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if len(self.firsts) != len(self.amounts):
            raise FormatError(
                "shifts without an amount for each",
                expected=len(self.firsts),
                got=len(self.amounts),
            )
        if any(first >= after for first, after in pairwise(self.firsts)):
            raise FormatError("shifts that do not rise")
        if self.firsts and not 0 <= self.firsts[0] <= self.firsts[-1] <= _NUMBER_MAX:
            raise FormatError("shift of a number beyond 32 bits", got=self.firsts[-1])

    def moved(self, number: int) -> int:
        """The number, moved."""
        at = bisect_right(self.firsts, number) - 1
        return number if at < 0 else (number + self.amounts[at]) & _NUMBER_MAX


@dataclass(frozen=True, slots=True)
class BtfShifts:
    """Shifts of the numbers of types, and of the places of names."""

    types: Shifts = field(default_factory=Shifts)
    names: Shifts = field(default_factory=Shifts)

    @property
    def count(self) -> int:
        """Ranges of both."""
        return len(self.types.firsts) + len(self.names.firsts)


@dataclass(frozen=True, slots=True)
class MovedBtf:
    """What is moved in a module: the types that stand at `types` of it.

    `shifts` is the number of the payload's shifts that hold for its kernel; `own` hold instead for
    numbers from their first on: the module's own types and names.
    """

    shifts: int
    types: ByteRange
    own: BtfShifts = field(default_factory=BtfShifts)

    @property
    def needed_bytes(self) -> int:
        """Shortest stream in which this can be moved."""
        return self.types.end

    @property
    def ranges(self) -> int:
        """Ranges that the row of its stream has."""
        return self.own.count


def move_btf(module: bytes, moved: MovedBtf, shared: BtfShifts) -> bytes:
    """A module, or what holds its types, with all numbers in them moved: as many bytes.

    From the first type on that is cut short, or of a kind that is not known, bytes stay. Memory:
    four times the bytes and MOVE_BYTES.
    """
    begin, end = moved.types.offset, moved.types.end
    words = read_words(module[begin:end])
    for starts, names, types in walk(words):
        _move(words, starts, shared.names, moved.own.names)
        _move(words, names, shared.names, moved.own.names)
        _move(words, types, shared.types, moved.own.types)
    if sys.byteorder == "big":
        words.byteswap()
    return b"".join((module[:begin], words.tobytes(), module[begin + len(words) * WORD_BYTES :]))


def _move(words: "array[int]", places: list[int], shared: Shifts, own: Shifts) -> None:
    numbers = [words[place] for place in places]
    first_own = own.firsts[0] if own.firsts else _NUMBER_MAX + 1
    moved = {
        number: (shared if number < first_own else own).moved(number) for number in set(numbers)
    }
    for place, number in zip(places, numbers, strict=True):
        words[place] = moved[number]


def read_words(types: bytes) -> "array[int]":
    """The 32-bit words of types; up to three bytes behind the last are left out."""
    words = array("I")
    words.frombytes(types[: len(types) // WORD_BYTES * WORD_BYTES])
    if sys.byteorder == "big":
        words.byteswap()
    return words


def walk(words: "array[int]") -> Iterator[tuple[list[int], list[int], list[int]]]:
    """Places in `words`, some thousand at a time: where types begin, each with its name; names of
    members; numbers of types. Ends where words do not go on as types. The lists are used again."""
    starts: list[int] = []
    names: list[int] = []
    types: list[int] = []
    position = 0
    end = len(words)
    while position + 3 <= end:
        info = words[position + 1]
        layout = _LAYOUTS[info >> 24 & 0x1F]
        if layout is None:
            break
        first = position + layout.head
        size = layout.member
        behind = first + size * (info & 0xFFFF)
        if behind > end:
            break
        starts.append(position)
        if layout.types:
            types += [position + place for place in layout.types]
        # A kind without members says 0 of them; one of 65,535 goes in steps.
        for low in range(first, behind, size * _STEP_NUMBERS) if size else ():
            high = min(behind, low + size * _STEP_NUMBERS)
            if layout.member_name:
                names.extend(range(low, high, size))
            if layout.member_type is not None:
                types.extend(range(low + layout.member_type, high, size))
            if len(starts) + len(names) + len(types) > _STEP_NUMBERS:
                yield starts, names, types
                starts.clear()
                names.clear()
                types.clear()
        position = behind
        if len(starts) > _STEP_NUMBERS:
            yield starts, names, types
            starts.clear()
            names.clear()
            types.clear()
    yield starts, names, types


def read_moved(rows: bytes, place: Place) -> MovedBtf:
    """What is moved in a stream; FormatError."""
    shifts = read_number(rows, place)
    types = ByteRange(read_number(rows, place), read_number(rows, place))
    return MovedBtf(shifts, types, read_shifts(rows, place, BTF_OWN_RANGES_MAX))


def read_shifts(rows: bytes, place: Place, ranges_max: int) -> BtfShifts:
    """The shifts of a kernel, from a payload's table (format.md 4.6); FormatError."""
    types = _read_ranges(rows, place, ranges_max)
    return BtfShifts(types, _read_ranges(rows, place, ranges_max - len(types.firsts)))


def _read_ranges(rows: bytes, place: Place, ranges_max: int) -> Shifts:
    firsts, amounts = read_ranges(rows, place, ranges_max, _AMOUNT_BITS)
    return Shifts(tuple(firsts), tuple(amounts))


def write_shifts(rows: bytearray, shifts: BtfShifts) -> None:
    """Append shifts as `read_shifts` reads them."""
    for one in (shifts.types, shifts.names):
        write_ranges(rows, one.firsts, one.amounts)


def write_moved(rows: bytearray, moved: MovedBtf) -> None:
    """Append what `read_moved` reads."""
    write_number(rows, moved.shifts)
    write_number(rows, moved.types.offset)
    write_number(rows, moved.types.size)
    write_shifts(rows, moved.own)

"""Moves the addresses in an x86-64 program or library, as they moved between two releases.

A fix of a few lines shifts all code and data behind it. Calls, jumps, accesses to data, and tables of
pointers then differ nearly everywhere, by amounts that follow from where they point and where they
stand. Moved, a source file resembles the target's, and a frame takes it from there (docs/format.md,
4.7). Addresses are relative to the lowest one of the program.

Nothing is disassembled and nothing believed: what only looks like an address, or amounts that were
learned wrong, give other source bytes and a larger payload, never a wrong target. Not here: where the
amounts come from (reference_shifts.py). Source of the encodings: Intel 64 and IA-32 Architectures
Software Developer's Manual, volume 2, 2.2.1.6 and appendix A; of the files: System V ABI, ELF-64.
"""

import re
import struct
import sys
from array import array
from bisect import bisect_right
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import pairwise
from typing import assert_never

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError
from slipstream.delta.rows import (
    Place,
    read_choice,
    read_number,
    read_ranges,
    write_number,
    write_ranges,
)

ADDRESS_MIN = 4096  # a smaller number is a count or a size; no program uses its first page
SPAN_BYTES_MAX = 1 << 32
_BEYOND = 1 << 64  # above the address of any byte; a stream may begin just below 2^32
_BASE_MAX = (1 << 64) - 1
_AMOUNT_BITS = 31
_WORD_MASK = 0xFFFF_FFFF
_SIGN = 1 << 31
_STEP_BYTES = 64 << 10  # of data at a time: bounds the memory
# What stands before four bytes that count from their own end: call, jmp, conditional jumps; and a
# ModRM byte that says so of a memory operand. Its displacement reaches 64 MiB at most.
_JUMP_OPCODES = frozenset((0xE8, 0xE9, *range(0x80, 0x90)))
_RELATIVE = re.compile(
    rb"(?:[\xe8\xe9\x05\x0d\x15\x1d\x25\x2d\x35\x3d]|\x0f[\x80-\x8f])(?=...[\x00-\x03\xfc-\xff])",
    re.DOTALL,
)
_DISPLACEMENT = struct.Struct("<i")
_WORD = struct.Struct("<I")
_POINTER = struct.Struct("<Q")


@dataclass(frozen=True, slots=True)
class ImageShifts:
    """How far the addresses of a program move.

    base       its lowest address; 0 where it may be loaded anywhere
    span       bytes from there to the end of the highest segment, in memory
    code       where its code stands
    firsts     addresses from which on, up to the next of them, all move by
    amounts    so many bytes; smaller addresses stay. Of as many elements, type codes I and i

    FormatError unless code and `firsts` lie within the span, and these rise.
    """

    base: int
    span: int
    code: ByteRange
    firsts: "array[int]" = field(default_factory=lambda: array("I"))
    amounts: "array[int]" = field(default_factory=lambda: array("i"))

    def __post_init__(self) -> None:
        if not 0 <= self.base <= _BASE_MAX or not 1 <= self.span <= SPAN_BYTES_MAX:
            raise FormatError("program of impossible addresses", got=f"{self.base}, {self.span}")
        if self.code.end > self.span:
            raise FormatError("code outside its program", expected=self.span, got=self.code.end)
        if len(self.firsts) != len(self.amounts):
            raise FormatError("shifts without an amount for each", expected=len(self.firsts))
        if any(first >= after for first, after in pairwise(self.firsts)):
            raise FormatError("shifts that do not rise")
        if self.firsts and self.firsts[-1] >= self.span:
            raise FormatError("shift of an address outside its program", got=self.firsts[-1])

    @property
    def count(self) -> int:
        """Ranges of addresses."""
        return len(self.firsts)

    def amount(self, address: int) -> int:
        """How far an address moves."""
        at = bisect_right(self.firsts, address) - 1
        return self.amounts[at] if at >= 0 else 0


class Holding(IntEnum):
    """What bytes of a program hold, and so where addresses stand in them; in payloads the number."""

    POINTERS = 0  # of 64 bits, at multiples of their size
    TABLES = 1  # and words of 32 bits that count from themselves into the code, likewise
    CODE = 2  # words of 32 bits behind certain opcodes, anywhere
    FIXED_CODE = 3  # and words of 32 bits that are addresses: code that cannot be loaded elsewhere


@dataclass(frozen=True, slots=True)
class MovedReferences:
    """What is moved in some bytes of a program: all that looks like an address of it.

    `shifts` is the number of the payload's shifts that hold for it, `address` that of the first byte.
    """

    shifts: int
    address: int
    holding: Holding

    @property
    def needed_bytes(self) -> int:
        """Shortest stream in which this can be moved."""
        return 1

    @property
    def ranges(self) -> int:
        """Ranges that the row of its stream has."""
        return 0


def move_references(data: bytes, moved: MovedReferences, image: ImageShifts) -> bytes:
    """Bytes of a program with the addresses in them moved: as many. For any bytes.

    Memory: four times the bytes and MOVE_BYTES.
    """
    made = bytearray(data)
    match moved.holding:
        case Holding.POINTERS | Holding.TABLES:
            first = -moved.address % 8
            last = first + max(0, len(data) - first) // 8 * 8
            tables = moved.holding is Holding.TABLES
            for begin in range(first, last, _STEP_BYTES):
                words = data[begin : min(begin + _STEP_BYTES, last)]
                address = moved.address + begin
                made[begin : begin + len(words)] = _move_words(words, address, image, tables=tables)
        case Holding.CODE | Holding.FIXED_CODE:
            taken = _move_relative(data, made, moved.address, image)
            if moved.holding is Holding.FIXED_CODE:
                _move_absolute(data, made, taken, image)
        case _:
            assert_never(moved.holding)
    return bytes(made)


def _move_relative(data: bytes, made: bytearray, address: int, image: ImageShifts) -> bytearray:
    """Move what counts from its own end; returns a mark for each byte of it."""
    firsts, amounts = image.firsts, image.amounts
    code_begin, code_end, span = image.code.offset, image.code.end, image.span
    taken = bytearray(len(data))
    here = image.amount(address)
    number = bisect_right(firsts, address)
    next_first = firsts[number] if number < len(firsts) else _BEYOND
    free = 0  # behind the field before
    for match in _RELATIVE.finditer(data):
        place = match.end()
        if place < free:
            continue
        (displacement,) = _DISPLACEMENT.unpack_from(data, place)
        at = address + place
        target = at + 4 + displacement
        if data[place - 1] in _JUMP_OPCODES:
            if not code_begin <= target < code_end:
                continue
        elif not 0 <= target < span:
            continue
        free = place + 4
        taken[place:free] = b"\1\1\1\1"
        while at >= next_first:
            here = amounts[number]
            number += 1
            next_first = firsts[number] if number < len(firsts) else _BEYOND
        there = bisect_right(firsts, target) - 1
        amount = (amounts[there] if there >= 0 else 0) - here
        if amount:
            _WORD.pack_into(made, place, displacement + amount & _WORD_MASK)
    return taken


def _move_absolute(data: bytes, made: bytearray, taken: bytearray, image: ImageShifts) -> None:
    """Move what is an address, of 32 bits, and stands in no field that was moved before."""
    low = (image.base & _WORD_MASK) + ADDRESS_MIN
    high = (image.base & _WORD_MASK) + image.span
    if low >= high or high > 1 << 32:
        return
    for match in _words_between(low, high - 1).finditer(data, 2):
        place = match.start() - 2
        (word,) = _WORD.unpack_from(data, place)
        if low <= word < high and taken.find(1, place, place + 4) < 0:
            taken[place : place + 4] = b"\1\1\1\1"
            amount = image.amount(word - (image.base & _WORD_MASK))
            _WORD.pack_into(made, place, word + amount & _WORD_MASK)


def _words_between(low: int, high: int) -> re.Pattern[bytes]:
    """The third byte of words that may lie between two of them, the fourth is looked at."""
    thirds = b"\0-\xff"
    if low >> 24 == high >> 24:
        thirds = _byte_range(low >> 16 & 0xFF, high >> 16 & 0xFF)
    return re.compile(
        b"[" + thirds + b"](?=[" + _byte_range(low >> 24, high >> 24) + b"])", re.DOTALL
    )


def _byte_range(low: int, high: int) -> bytes:
    return b"\\x%02x-\\x%02x" % (low, high)


def _move_words(data: bytes, address: int, image: ImageShifts, *, tables: bool) -> bytes:
    """Move pointers; with `tables` also words that count from themselves into the code."""
    pointers, words = _little(array("Q", data)), _little(array("i", data))
    low, high = image.base + ADDRESS_MIN, image.base + image.span
    places = [place for place, pointer in enumerate(pointers) if low <= pointer < high]
    if tables:
        begin, end = image.code.offset - address, image.code.end - address
        near = [place for place, word in enumerate(words) if begin <= word + 4 * place < end]
        halves = set(places)
        for place in near:
            if place // 2 in halves:
                continue
            at = address + 4 * place
            amount = image.amount(at + words[place]) - image.amount(at)
            words[place] = (words[place] + amount + _SIGN & _WORD_MASK) - _SIGN
    made = bytearray(_little(words).tobytes())
    for place in places:
        pointer = pointers[place]
        moved = pointer + image.amount(pointer - image.base) & _BASE_MAX
        _POINTER.pack_into(made, 8 * place, moved)
    return bytes(made)


def _little(words: "array[int]") -> "array[int]":
    """Little-endian words as this machine has them, and back."""
    if sys.byteorder == "big":
        words.byteswap()
    return words


def read_image_shifts(rows: bytes, place: Place, ranges_max: int) -> ImageShifts:
    """The shifts of a program, from a payload's table (format.md 4.7); FormatError."""
    high, low = read_number(rows, place), read_number(rows, place)
    if high > _WORD_MASK or low > _WORD_MASK:
        raise FormatError("half of an address beyond 32 bits", got=max(high, low))
    span = read_number(rows, place)
    code = ByteRange(read_number(rows, place), read_number(rows, place))
    firsts, amounts = read_ranges(rows, place, ranges_max, _AMOUNT_BITS)
    return ImageShifts(high << 32 | low, span, code, array("I", firsts), array("i", amounts))


def write_image_shifts(rows: bytearray, image: ImageShifts) -> None:
    """Append shifts as `read_image_shifts` reads them."""
    for number in (
        image.base >> 32,
        image.base & _WORD_MASK,
        image.span,
        image.code.offset,
        image.code.size,
    ):
        write_number(rows, number)
    write_ranges(rows, image.firsts, image.amounts)


def read_moved_references(rows: bytes, place: Place) -> MovedReferences:
    """What is moved in a stream; FormatError."""
    shifts, address = read_number(rows, place), read_number(rows, place)
    if address >= SPAN_BYTES_MAX:
        raise FormatError("address beyond 32 bits", got=address)
    holding = Holding(read_choice(rows, place, len(Holding), "holding of a program's bytes"))
    return MovedReferences(shifts, address, holding)


def write_moved_references(rows: bytearray, moved: MovedReferences) -> None:
    """Append what `read_moved_references` reads."""
    write_number(rows, moved.shifts)
    write_number(rows, moved.address)
    rows.append(moved.holding)

"""Numbers, extents and ranges in the packed tables of a payload (docs/format.md, 4.1).

Tables are read in place: a place knows its byte of the table and the end of the extent before.
"""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Protocol

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError

NUMBER_BYTES_MAX = 7  # 49 bits: any length, and any distance between two extents


class Place(Protocol):
    """Where a reader stands: `position` in the table, `source` the end of the extent before."""

    position: int
    source: int


def read_choice(rows: bytes, place: Place, count: int, what: str) -> int:
    """A byte below `count`; FormatError names `what` it chooses."""
    if place.position >= len(rows):
        raise FormatError("table cut short", where=f"byte {place.position}")
    choice = rows[place.position]
    if choice >= count:
        raise FormatError(f"unknown {what}", expected=f"0..{count - 1}", got=choice)
    place.position += 1
    return choice


def read_number(rows: bytes, place: Place) -> int:
    """A length of 7 bits a byte, low bits first, in the fewest bytes; FormatError."""
    number = 0
    start = place.position
    for count, byte in enumerate(rows[start : start + NUMBER_BYTES_MAX]):
        number |= (byte & 0x7F) << 7 * count
        if byte < 0x80:
            if byte == 0 and count:
                raise FormatError("number in more bytes than it needs", where=f"byte {start}")
            place.position = start + count + 1
            return number
    raise FormatError("number cut short or too large", where=f"byte {start}")


def read_signed(rows: bytes, place: Place) -> int:
    """A signed number, folded; FormatError."""
    folded = read_number(rows, place)
    return folded >> 1 if folded & 1 == 0 else -(folded + 1 >> 1)


def read_extents(rows: bytes, place: Place, count_max: int) -> tuple[ByteRange, ...]:
    """A count, then extents by their distance from the one before; FormatError."""
    count = read_number(rows, place)
    if count > count_max:
        raise FormatError("too many source extents", expected=f"at most {count_max}", got=count)
    extents = []
    for _ in range(count):
        distance = read_signed(rows, place)
        extent = ByteRange(place.source + distance, read_number(rows, place))
        place.source = extent.end
        extents.append(extent)
    return tuple(extents)


def read_ranges(
    rows: bytes, place: Place, count_max: int, amount_bits: int
) -> tuple[list[int], list[int]]:
    """A count, then the first number of each range of shifts, of 32 bits, and its amount, both by
    their distance from the one before; FormatError."""
    count = read_number(rows, place)
    if count > count_max:
        raise FormatError("too many ranges of shifts", expected=f"at most {count_max}", got=count)
    firsts: list[int] = []
    number = 0
    for _ in range(count):
        number += read_number(rows, place)
        if number >= 1 << 32:
            raise FormatError("shift of a number beyond 32 bits", got=number)
        firsts.append(number)
    amounts: list[int] = []
    amount = 0
    for _ in range(count):
        amount += read_signed(rows, place)
        if abs(amount) >= 1 << amount_bits:
            raise FormatError(f"shift by more than {amount_bits} bits", got=amount)
        amounts.append(amount)
    return firsts, amounts


def write_ranges(rows: bytearray, firsts: Sequence[int], amounts: Sequence[int]) -> None:
    """Append ranges as `read_ranges` reads them."""
    write_number(rows, len(firsts))
    for before, first in pairwise((0, *firsts)):
        write_number(rows, first - before)
    for last, amount in pairwise((0, *amounts)):
        write_signed(rows, amount - last)


def write_number(rows: bytearray, number: int) -> None:
    """Append a number as `read_number` reads it."""
    while number >= 0x80:
        rows.append(number & 0x7F | 0x80)
        number >>= 7
    rows.append(number)


def write_signed(rows: bytearray, number: int) -> None:
    """Append a number as `read_signed` reads it."""
    write_number(rows, 2 * number if number >= 0 else -2 * number - 1)


def write_extents(rows: bytearray, extents: Iterable[ByteRange], before: int) -> int:
    """Append extents; `before` is the end of the extent before. The end of the last one."""
    held = tuple(extents)
    write_number(rows, len(held))
    for extent in held:
        write_signed(rows, extent.offset - before)
        write_number(rows, extent.size)
        before = extent.end
    return before

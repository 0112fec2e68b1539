"""The numbers of a diff: where to add and take, and which bytes of the difference are not zero.

Most of a difference is zeros. A payload leaves them out: it has the lengths of the zero runs, and
what stands between them. Instructions and run lengths are one stream of numbers, column by
column, because numbers of a kind resemble each other (docs/format.md, 6.2).
"""

import re
import struct
from array import array

from slipstream.delta.errors import FormatError
from slipstream.delta.frame import CONTROL_BYTES
from slipstream.delta.limits import NUMBERS_BYTES_MAX
from slipstream.delta.rows import NUMBER_BYTES_MAX

_SIGN = 1 << 63
_INSTRUCTION = struct.Struct("<QQQ")
_LONG_NUMBER = re.compile(rb"[\x80-\xff]+[\x00-\x7f]?")


def read_numbers(numbers: bytes, values: bytes, diff_size: int) -> tuple[bytes, bytes]:
    """Control and diff streams as bspatch.py takes them; FormatError.

    `diff_size` bytes of difference are made: each zero run, then so many of `values`; zeros behind
    the last. Whether the instructions fit is not looked at here. Memory: the two results and
    8 bytes for each number.
    """
    parsed = _parse(numbers)
    control, position = _read_control(parsed)
    count, position = _take(parsed, position)
    if len(parsed) != position + 2 * count:
        raise FormatError(
            "numbers of a diff that do not fit their counts",
            expected=f"{position + 2 * count} numbers",
            got=len(parsed),
        )
    runs = memoryview(parsed)[position:]
    zeros, sizes = runs[:count], runs[count:]
    used = sum(sizes)
    if used != len(values):
        raise FormatError("runs do not use up the values", expected=len(values), got=used)
    if sum(zeros) + used > diff_size:
        raise FormatError("runs longer than the difference", expected=diff_size)
    diff = bytearray(diff_size)
    place = used = 0
    for zero, size in zip(zeros, sizes, strict=True):
        place += zero
        diff[place : place + size] = values[used : used + size]
        place += size
        used += size
    return control, bytes(diff)


def _read_control(parsed: "array[int]") -> tuple[bytes, int]:
    count, position = _take(parsed, 0)
    if position + 3 * count > len(parsed):
        raise FormatError("instructions cut short", expected=f"{count}", got=len(parsed))
    adds, takes, moves = (
        parsed[position + column * count : position + (column + 1) * count] for column in range(3)
    )
    control = bytearray(CONTROL_BYTES * count)
    for number, (add, take, move) in enumerate(zip(adds, takes, moves, strict=True)):
        # Folded as all signed numbers are; unfolded to sign and magnitude.
        magnitude = move + 1 >> 1 | _SIGN if move & 1 else move >> 1
        _INSTRUCTION.pack_into(control, CONTROL_BYTES * number, add, take, magnitude)
    return bytes(control), position + 3 * count


def _take(parsed: "array[int]", position: int) -> tuple[int, int]:
    if position == len(parsed):
        raise FormatError("numbers of a diff cut short")
    return parsed[position], position + 1


def _parse(numbers: bytes) -> "array[int]":
    """All numbers of a stream, which they fill; as in format.md, 4.1."""
    if len(numbers) > NUMBERS_BYTES_MAX:
        raise FormatError(
            "too many numbers", expected=f"at most {NUMBERS_BYTES_MAX} bytes", got=len(numbers)
        )
    parsed = array("Q")
    at = 0
    for match in _LONG_NUMBER.finditer(numbers):
        parsed.extend(numbers[at : match.start()])  # of one byte each
        at = match.end()
        parsed.append(_read_long(numbers[match.start() : at]))
    parsed.extend(numbers[at:])
    return parsed


def _read_long(encoded: bytes) -> int:
    """A number of several bytes; FormatError."""
    last = encoded[-1]
    if last >= 0x80:
        raise FormatError("number cut short")
    if not last:
        raise FormatError("number in more bytes than it needs")
    if len(encoded) == 2:  # nearly all
        return encoded[0] & 0x7F | last << 7
    if len(encoded) > NUMBER_BYTES_MAX:
        raise FormatError("number too large")
    return sum((byte & 0x7F) << 7 * place for place, byte in enumerate(encoded))

"""Writes the numbers and values of a diff, which sparse.py reads (build machine)."""

import numpy as np
import numpy.typing as npt

from slipstream.delta.compiled import BYTES, compiled

ALL_ZEROS = 1 << 40  # shortest zero run, in bytes, that no difference has: one stretch of values

_SIGN = np.uint64(1 << 63)
_NUMBER_BYTES_MAX = 10  # of 64 bits, 7 a byte

Bytes = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.uint64]


def write_numbers(control: bytes, diff: bytes, zeros_min: int) -> tuple[bytes, bytes]:
    """Numbers and values for the control and diff streams of bsdiff.py.

    Zero runs shorter than `zeros_min` stand among the values.
    """
    rows = np.frombuffer(control, "<u8").reshape(-1, 3)
    magnitude = rows[:, 2] & ~_SIGN
    folded = np.where(rows[:, 2] & _SIGN, 2 * magnitude - np.uint64(1), 2 * magnitude)
    data = np.frombuffer(diff, np.uint8)
    most = len(data) // (zeros_min + 1) + 1  # before each but the first so many zeros
    zeros, sizes = np.empty(most, np.uint64), np.empty(most, np.uint64)
    values = np.empty(len(data), np.uint8)
    count, used = _split(data, zeros_min, zeros, sizes, values)
    numbers = np.concatenate(
        [
            np.array([len(rows)], np.uint64),
            rows[:, 0],
            rows[:, 1],
            folded,
            np.array([count], np.uint64),
            zeros[:count],
            sizes[:count],
        ]
    )
    written = np.empty(_NUMBER_BYTES_MAX * len(numbers), np.uint8)
    return written[: _write(numbers, written)].tobytes(), values[:used].tobytes()


@compiled(f"UniTuple(i8, 2)({BYTES}, i8, u8[::1], u8[::1], u1[::1])")
def _split(
    data: Bytes, zeros_min: int, zeros: Numbers, sizes: Numbers, values: Bytes
) -> tuple[int, int]:
    """Fill in the zeros before each stretch of values, its size, and the values; returns how many
    stretches and how many values there are."""
    count = used = 0
    end = 0  # of the stretch before
    at = 0
    while True:
        while at < len(data) and data[at] == 0:
            at += 1
        if at == len(data):
            return count, used
        if count and at - end < zeros_min:
            for place in range(end, at):
                values[used] = data[place]
                used += 1
            sizes[count - 1] += np.uint64(at - end)
        else:
            zeros[count] = at - end
            sizes[count] = 0
            count += 1
        begin = at
        while at < len(data) and data[at] != 0:
            values[used] = data[at]
            used += 1
            at += 1
        sizes[count - 1] += np.uint64(at - begin)
        end = at


@compiled("i8(u8[::1], u1[::1])")
def _write(numbers: Numbers, written: Bytes) -> int:
    """Numbers of 7 bits a byte, low bits first, in the fewest bytes; returns how many bytes."""
    size = 0
    for place in range(len(numbers)):
        number = numbers[place]
        while number > np.uint64(0x7F):
            written[size] = number & np.uint64(0x7F) | np.uint64(0x80)
            number >>= np.uint64(7)
            size += 1
        written[size] = number
        size += 1
    return size

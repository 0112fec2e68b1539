"""Writes the numbers and values of a diff, which sparse.py reads (build machine)."""

import numpy as np
import numpy.typing as npt

_SIGN = np.uint64(1 << 63)

Numbers = npt.NDArray[np.uint64]


def write_numbers(control: bytes, diff: bytes, zeros_min: int) -> tuple[bytes, bytes]:
    """Numbers and values for the control and diff streams of bsdiff.py.

    Zero runs shorter than `zeros_min` stand among the values.
    """
    rows = np.frombuffer(control, "<u8").reshape(-1, 3)
    magnitude = rows[:, 2] & ~_SIGN
    folded = np.where(rows[:, 2] & _SIGN, 2 * magnitude - np.uint64(1), 2 * magnitude)
    data = np.frombuffer(diff, np.uint8)
    zeros, begins, ends = _runs(data, zeros_min)
    columns = [
        np.array([len(rows)], np.uint64),
        rows[:, 0],
        rows[:, 1],
        folded,
        np.array([len(zeros)], np.uint64),
        zeros.astype(np.uint64),
        (ends - begins).astype(np.uint64),
    ]
    values = b"".join(
        diff[low:high] for low, high in zip(begins.tolist(), ends.tolist(), strict=True)
    )
    return _written(np.concatenate(columns)), values


def _runs(
    data: npt.NDArray[np.uint8], zeros_min: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Zeros before each stretch of values, and where the stretches begin and end."""
    at = np.flatnonzero(data)
    if len(at) == 0:
        nothing = np.empty(0, np.int64)
        return nothing, nothing, nothing
    first = np.flatnonzero(np.diff(at) > zeros_min) + 1
    begins = at[np.concatenate([[0], first])]
    ends = at[np.concatenate([first - 1, [len(at) - 1]])] + 1
    zeros = begins - np.concatenate([[0], ends[:-1]])
    return zeros, begins, ends


def _written(numbers: Numbers) -> bytes:
    """Numbers of 7 bits a byte, low bits first, in the fewest bytes."""
    lengths = np.ones(len(numbers), np.int64)
    rest = numbers >> np.uint64(7)
    while rest.any():
        lengths += rest > 0
        rest = rest >> np.uint64(7)
    ends = np.cumsum(lengths)
    out = np.empty(int(ends[-1]), np.uint8)
    for place in range(int(lengths.max())):
        held = lengths > place
        part = numbers[held] >> np.uint64(7 * place) & np.uint64(0x7F)
        more = np.where(lengths[held] > place + 1, 0x80, 0).astype(np.uint8)
        out[ends[held] - lengths[held] + place] = part.astype(np.uint8) | more
    return out.tobytes()

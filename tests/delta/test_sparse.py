"""Differences without their zeros: round trips, and numbers no writer makes."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError
from slipstream.delta.limits import NUMBERS_BYTES_MAX
from slipstream.delta.sparse import read_numbers
from slipstream.delta.sparsify import write_numbers

SIGN = 1 << 63
COUNTS = st.integers(0, 1 << 30)
MOVES = st.integers(-(1 << 30), 1 << 30)


def control_of(instructions: list[tuple[int, int, int]]) -> bytes:
    return b"".join(
        struct.pack("<QQQ", add, take, move if move >= 0 else SIGN - move)
        for add, take, move in instructions
    )


@given(
    instructions=st.lists(st.tuples(COUNTS, COUNTS, MOVES), max_size=9),
    pieces=st.lists(st.binary(max_size=9) | st.integers(0, 20).map(bytes), max_size=9),
    zeros_min=st.sampled_from([1, 4, 16]),
)
@settings(max_examples=200, deadline=None)
def test_round_trip(
    instructions: list[tuple[int, int, int]], pieces: list[bytes], zeros_min: int
) -> None:
    control, diff = control_of(instructions), b"".join(pieces)
    numbers, values = write_numbers(control, diff, zeros_min)
    assert read_numbers(numbers, values, len(diff)) == (control, diff)
    assert len(values) <= len(diff)


def test_by_hand() -> None:
    numbers = bytes([1, 9, 3, 5, 2, 4, 0, 2, 3])  # 9, 3, move -3; zeros 4 and 0, values 2 and 3
    control, diff = read_numbers(numbers, b"abcde", 12)
    assert control == control_of([(9, 3, -3)])
    assert diff == bytes(4) + b"abcde" + bytes(3)


@pytest.mark.parametrize(
    "numbers, values, size",
    [
        (b"", b"", 0),
        (b"\0", b"", 0),
        (b"\1\0\0\0", b"", 0),
        (b"\1\0\0", b"", 0),
        (b"\0\1\0", b"a", 1),
        (b"\0\0\0", b"", 0),
        (b"\0\1\0\1\0", b"a", 1),
        (b"\0\0", b"a", 1),
        (b"\0\1\0\1", b"", 1),
        (b"\0\1\0\2", b"a", 2),
        (b"\0\1\0\1", b"ab", 2),
        (b"\0\1\1\1", b"a", 1),
        (b"\0\1\2\0", b"", 1),
        (b"\x80\0\0", b"", 0),
        (b"\0\x80", b"", 0),
        (b"\xff" * 7 + b"\1\0", b"", 0),
        (b"\xff" * 6 + b"\x7f\0", b"", 0),
        (bytes(NUMBERS_BYTES_MAX + 1), b"", 0),
    ],
)
def test_numbers_that_no_writer_makes_are_refused(numbers: bytes, values: bytes, size: int) -> None:
    with pytest.raises(FormatError):
        read_numbers(numbers, values, size)


@given(numbers=st.binary(max_size=40), values=st.binary(max_size=9), size=st.integers(0, 20))
@settings(max_examples=500, deadline=None)
def test_hostile_numbers_raise_only_format_errors(numbers: bytes, values: bytes, size: int) -> None:
    try:
        control, diff = read_numbers(numbers, values, size)
    except FormatError:
        return
    assert len(control) % 24 == 0
    assert len(diff) == size


def test_zero_runs_shorter_than_asked_stand_among_the_values() -> None:
    control = struct.pack("<QQQ", 20, 0, 0)
    for zeros, count in ((3, 1), (4, 2)):
        numbers, values = write_numbers(control, b"\1" + bytes(zeros) + b"\2" * 9, 4)
        assert numbers[4] == count
        assert len(values) == 10 + (zeros if count == 1 else 0)

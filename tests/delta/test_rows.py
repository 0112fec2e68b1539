"""Numbers and extents of the packed tables: one spelling each, and bounds."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError
from slipstream.delta.limits import IMAGE_BYTES_MAX
from slipstream.delta.rows import (
    read_choice,
    read_extents,
    read_number,
    write_extents,
    write_number,
)

NUMBER_MAX = (1 << 49) - 1


@dataclass
class At:
    position: int = 0
    source: int = 0


def number(value: int) -> bytes:
    rows = bytearray()
    write_number(rows, value)
    return bytes(rows)


@pytest.mark.parametrize(
    "value, raw",
    [
        (0, b"\x00"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (300, b"\xac\x02"),
        (NUMBER_MAX, b"\xff" * 6 + b"\x7f"),
    ],
)
def test_numbers_by_hand(value: int, raw: bytes) -> None:
    at = At(2)
    assert number(value) == raw
    assert read_number(b"xx" + raw + b"\xff", at) == value
    assert at.position == 2 + len(raw)


@pytest.mark.parametrize(
    "raw",
    [b"", b"\x80", b"\xff" * 7, b"\x85\x00", b"\x80\x00", b"\x80" * 6 + b"\x00", b"\xff" * 7 + b"\1"],
    ids=["nothing", "cut short", "no end", "two for one", "two for none", "seven for one", "eight"],
)  # fmt: skip
def test_other_spellings_of_numbers_are_refused(raw: bytes) -> None:
    at = At()
    with pytest.raises(FormatError, match="number"):
        read_number(raw, at)
    assert at.position == 0


@given(st.binary(max_size=9))
def test_hostile_numbers_are_refused_or_have_one_spelling(raw: bytes) -> None:
    at = At()
    try:
        value = read_number(raw, at)
    except FormatError:
        return
    assert number(value) == raw[: at.position]


def test_choices_are_below_their_count() -> None:
    at = At()
    assert read_choice(b"\x02", at, 3, "colour") == 2
    with pytest.raises(FormatError, match="cut short"):
        read_choice(b"\x02", at, 3, "colour")
    with pytest.raises(FormatError, match=r"unknown colour; expected 0\.\.1, got 2"):
        read_choice(b"\x02", At(), 2, "colour")


EXTENTS = st.lists(
    st.builds(
        lambda offset, size: ByteRange(offset, min(size, IMAGE_BYTES_MAX - offset)),
        st.integers(0, IMAGE_BYTES_MAX),
        st.integers(0, IMAGE_BYTES_MAX),
    ),
    max_size=5,
)


@given(first=EXTENTS, second=EXTENTS)
def test_extents_count_from_the_extent_before_also_of_another_row(
    first: list[ByteRange], second: list[ByteRange]
) -> None:
    rows = bytearray()
    end = write_extents(rows, second, write_extents(rows, first, 0))
    at = At()
    assert read_extents(bytes(rows), at, 5) == tuple(first)
    assert read_extents(bytes(rows), at, 5) == tuple(second)
    assert (at.position, at.source) == (len(rows), end)


def test_the_count_is_refused_before_the_extents_are_read() -> None:
    with pytest.raises(FormatError, match="too many source extents; expected at most 4, got 5"):
        read_extents(b"\x05", At(), 4)


@pytest.mark.parametrize("folded, size", [(1, 5), (2 * IMAGE_BYTES_MAX, 1), (0, NUMBER_MAX)])
def test_extents_outside_of_all_images_are_refused(folded: int, size: int) -> None:
    with pytest.raises(FormatError, match="out of bounds"):
        read_extents(b"\x01" + number(folded) + number(size), At(), 4)

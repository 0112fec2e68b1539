"""Part: the bytes of its range, and nothing outside it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.delta.errors import FormatError
from slipstream.delta.filesystem.part import Part
from tests.delta.filesystem.packed_images import MemoryImage

DATA = bytes(range(100))


@given(st.integers(-5, 105), st.integers(-5, 105), st.integers(-5, 105), st.integers(-5, 105))
def test_a_part_is_a_slice_or_an_error(start: int, size: int, offset: int, length: int) -> None:
    image = MemoryImage(DATA)
    if start < 0 or size < 0 or start + size > len(DATA):
        with pytest.raises(FormatError, match="part outside"):
            Part(image, start, size)
        return
    part = Part(image, start, size)
    assert part.size == size
    if offset < 0 or length < 0 or offset + length > size:
        with pytest.raises(FormatError, match="ends before"):
            part.read(offset, length)
        return
    assert part.read(offset, length) == DATA[start : start + size][offset : offset + length]


def test_a_part_of_a_part() -> None:
    assert Part(Part(MemoryImage(DATA), 10, 50), 5, 20).read(2, 3) == bytes((17, 18, 19))

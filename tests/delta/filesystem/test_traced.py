"""A part that remembers what was read of it."""

import pytest

from slipstream.delta.errors import FormatError
from slipstream.delta.filesystem.traced import TracedPart
from tests.delta.filesystem.packed_images import MemoryImage


@pytest.mark.parametrize(
    "reads, runs",
    [
        ([], []),
        ([(0, 0)], []),
        ([(0, 1)], [(0, 10)]),
        ([(9, 2)], [(0, 20)]),
        ([(50, 5), (3, 1), (14, 1), (3, 1)], [(0, 20), (50, 10)]),
        ([(91, 4)], [(90, 5)]),
    ],
)
def test_runs_are_the_blocks_that_were_read(
    reads: list[tuple[int, int]], runs: list[tuple[int, int]]
) -> None:
    part = TracedPart(MemoryImage(bytes(range(95))), 0, 95, 10)
    for offset, size in reads:
        assert part.read(offset, size) == bytes(range(offset, offset + size))
    assert list(part.runs()) == runs


def test_what_is_not_there_was_not_read() -> None:
    part = TracedPart(MemoryImage(bytes(95)), 0, 95, 10)
    with pytest.raises(FormatError):
        part.read(90, 6)
    assert list(part.runs()) == []

"""A part of an image that remembers which blocks of it were read."""

from collections.abc import Iterator

from slipstream.delta.filesystem.part import Part
from slipstream.delta.reader import Reader


class TracedPart(Part):
    """A Part whose reader reads nothing but metadata through it: so that is what `runs` finds."""

    def __init__(self, image: Reader, offset: int, size: int, block_size: int) -> None:
        super().__init__(image, offset, size)
        self._block_size = block_size
        self._blocks: set[int] = set()

    def read(self, offset: int, size: int) -> bytes:
        """As Part.read."""
        data = super().read(offset, size)
        if size:
            end = (offset + size - 1) // self._block_size + 1
            self._blocks.update(range(offset // self._block_size, end))
        return data

    def runs(self) -> Iterator[tuple[int, int]]:
        """Place and size of every run of whole blocks that were read in part or whole, by place."""
        first = last = -1
        for block in sorted(self._blocks):
            if block != last + 1 or first < 0:
                if first >= 0:
                    yield self._run(first, last)
                first = block
            last = block
        if first >= 0:
            yield self._run(first, last)

    def _run(self, first: int, last: int) -> tuple[int, int]:
        place = first * self._block_size
        return place, min((last + 1) * self._block_size, self.size) - place

"""A range of bytes as a value that cannot be wrong."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from slipstream.delta.errors import FormatError
from slipstream.delta.limits import IMAGE_BYTES_MAX


@dataclass(frozen=True, slots=True, order=True)
class ByteRange:
    """`size` bytes from `offset` on. Both are at least 0 and the end is at most 16 TiB."""

    offset: int
    size: int

    def __post_init__(self) -> None:
        if self.offset < 0 or self.size < 0 or self.offset + self.size > IMAGE_BYTES_MAX:
            raise FormatError(
                "byte range out of bounds",
                expected=f"within 0..{IMAGE_BYTES_MAX}",
                got=f"offset {self.offset}, size {self.size}",
            )

    @property
    def end(self) -> int:
        """First byte behind the range."""
        return self.offset + self.size

    def overlaps(self, other: "ByteRange") -> bool:
        """Whether the two share at least one byte."""
        return self.offset < other.end and other.offset < self.end


def merge_ranges(ranges: Iterable[ByteRange]) -> list[ByteRange]:
    """The same bytes in rising ranges that do not touch."""
    merged: list[ByteRange] = []
    for one in sorted(ranges):
        if merged and one.offset <= merged[-1].end:
            first = merged.pop()
            one = ByteRange(first.offset, max(first.end, one.end) - first.offset)
        merged.append(one)
    return merged


def outside(one: ByteRange, rising: Iterable[ByteRange]) -> Iterator[ByteRange]:
    """What of a range is in none of some rising ones."""
    position = one.offset
    for other in rising:
        if other.offset > position:
            end = min(other.offset, one.end)
            if end > position:
                yield ByteRange(position, end - position)
        position = max(position, other.end)
    if one.end > position:
        yield ByteRange(position, one.end - position)

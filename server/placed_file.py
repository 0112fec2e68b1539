"""Files of an image by where their bytes stand in the space of a build (server/workspace.py)."""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import NamedTuple, Protocol

from slipstream.delta.byterange import ByteRange
from slipstream.delta.filemap import Entry, Extent
from slipstream.delta.limits import STREAM_SOURCES_MAX

_ELF = b"\x7fELF"

AddressOf = Callable[[Extent], int | None]


class Space(Protocol):
    """Random access to bytes by address."""

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes."""
        ...


class PlacedFile(NamedTuple):
    """A file whose `pieces` are (offset in the file, place), rising; what they leave out are zeros.
    Large modules have such holes."""

    size: int
    pieces: tuple[tuple[int, ByteRange], ...]

    def read(self, space: Space) -> bytes:
        """All of it."""
        data = bytearray(self.size)
        for offset, place in self.pieces:
            data[offset : offset + place.size] = space.read(place.offset, place.size)
        return bytes(data)

    def part(self, begin: int, end: int) -> tuple[ByteRange, ...]:
        """Where the bytes from `begin` to `end` stand; nothing if some are in holes, or two of them
        in one place, as files of some file systems share blocks with themselves."""
        parts = []
        for offset, place in self.pieces:
            low, high = max(begin, offset), min(end, offset + place.size)
            if low < high:
                parts.append(ByteRange(place.offset + low - offset, high - low))
        if sum(one.size for one in parts) != end - begin:
            return ()
        shared = any(one.end > after.offset for one, after in pairwise(sorted(parts)))
        return () if shared else tuple(parts)

    def is_elf(self, space: Space) -> bool:
        """Whether it begins as an ELF file does."""
        first = self.part(0, len(_ELF))
        return b"".join(space.read(one.offset, one.size) for one in first) == _ELF


def place_file(entry: Entry, address_of: AddressOf) -> PlacedFile | None:
    """A file that can be read; None otherwise. Extents that touch are one."""
    pieces: list[tuple[int, ByteRange]] = []
    for extent in entry.extents:
        address = address_of(extent)
        if address is None or extent.offset + extent.size > entry.size:
            return None
        last = pieces[-1] if pieces else None
        if last and last[1].end == address and last[0] + last[1].size == extent.offset:
            pieces[-1] = last[0], ByteRange(last[1].offset, last[1].size + extent.size)
        else:
            pieces.append((extent.offset, ByteRange(address, extent.size)))
    return PlacedFile(entry.size, tuple(pieces)) if len(pieces) <= STREAM_SOURCES_MAX else None


class TakenPlaces:
    """Places that are moved already: bytes that two files have in common are moved for one of them."""

    def __init__(self) -> None:
        self._taken: list[ByteRange] = []  # rising, not overlapping

    def take(self, places: Iterable[ByteRange]) -> bool:
        """Take places, all or none, of which no two share a byte: whether none was taken before."""
        new = list(places)
        if any(self._holds(one) for one in new):
            return False
        for one in new:
            insort(self._taken, one)
        return True

    def _holds(self, place: ByteRange) -> bool:
        number = bisect_left(self._taken, place.end, key=lambda one: one.offset) - 1
        return number >= 0 and self._taken[number].end > place.offset

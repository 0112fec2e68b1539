"""Source bytes that resemble target bytes because their files do (build machine).

Files are paired by name (pairing.py); here a stretch of a target file becomes the stretch of its
source file at about the same place. Addresses are those of the work space.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from slipstream.delta.byterange import ByteRange
from slipstream.delta.filemap import Entry, Extent
from slipstream.delta.limits import KIB
from slipstream.delta.pairing import pair_entries

_WHOLE_BYTES_MAX = 128 * KIB  # of a smaller source file all bytes are alike enough to look at
# On both sides of the same place: as much as the stretch itself, within limits, and as much as the
# sizes differ. In a kernel of 66 MB, 2 KB longer than the one before, code stands up to some 100 KB
# elsewhere, with hardly 32 equal bytes on end.
_MARGIN_BYTES_MIN = 8 * KIB
_MARGIN_BYTES_MAX = 384 * KIB

_NEAR_BYTES = 256 * KIB  # beside a stretch whose anchors say where its like is, too

AddressOf = Callable[[Extent], int | None]
# Between which distances content of a target range stands in a source range, by its anchors.
Shifts = Callable[[ByteRange, ByteRange], tuple[int, int] | None]


class _Stretch(NamedTuple):
    address: int
    size: int
    entry: int
    offset: int  # in the file


class SimilarFiles:
    """Pairs of entries of two images, asked by target address."""

    def __init__(
        self,
        sources: Sequence[Entry],
        targets: Sequence[Entry],
        source_address: AddressOf,
        target_address: AddressOf,
        shifts: Shifts,
    ) -> None:
        """Two functions give the address of an extent's first byte, None where it is not opened;
        the last is `Pairs.shifts`."""
        self._sources = sources
        self._targets = targets
        self._paired = pair_entries(sources, targets)
        self._stretches = sorted(_stretches(targets, target_address))
        self._starts = [one.address for one in self._stretches]
        self._source_address = source_address
        self._shifts = shifts

    def ranges(self, content: ByteRange) -> Iterator[ByteRange]:
        """Source ranges like the target bytes in `content`."""
        first = max(0, bisect_right(self._starts, content.offset) - 1)
        for stretch in self._stretches[first : bisect_left(self._starts, content.end)]:
            low = max(stretch.address, content.offset)
            high = min(stretch.address + stretch.size, content.end)
            number = self._paired[stretch.entry]
            if low < high and number is not None:
                offset = stretch.offset + low - stretch.address
                place = ByteRange(low, high - low)
                moved = self._moved(self._sources[number], place)
                yield from moved or self._like(stretch.entry, number, offset, high - low)

    def _moved(self, source: Entry, place: ByteRange) -> tuple[ByteRange, ...]:
        """Where anchors say that a stretch of a large file is now; nothing where they do not.

        Tables have few, and stand where the code before and behind them went.
        """
        if source.size <= _WHOLE_BYTES_MAX:
            return ()
        span = self._span(source)
        near = ByteRange(max(0, place.offset - _NEAR_BYTES), place.size + 2 * _NEAR_BYTES)
        shifts = None if span is None else self._shifts(near, span)
        if span is None or shifts is None:
            return ()
        low = max(span.offset, place.offset + shifts[0] - _MARGIN_BYTES_MAX)
        high = min(span.end, place.end + shifts[1] + _MARGIN_BYTES_MAX)
        return (ByteRange(low, high - low),) if low < high else ()

    def _span(self, source: Entry) -> ByteRange | None:
        """The addresses of a file that stands in one piece."""
        first = self._source_address(source.extents[0])
        last = self._source_address(source.extents[-1])
        if first is None or last is None:
            return None
        end = last + source.extents[-1].size
        return ByteRange(first, end - first) if end - first == source.size else None

    def _like(self, target: int, source: int, offset: int, size: int) -> Iterator[ByteRange]:
        entry, whole = self._sources[source], self._targets[target].size
        low, high = 0, entry.size
        if entry.size > _WHOLE_BYTES_MAX:
            margin = min(max(_MARGIN_BYTES_MIN, size), _MARGIN_BYTES_MAX)
            margin += min(abs(entry.size - whole), _MARGIN_BYTES_MAX)
            low = max(0, offset - margin)
            high = min(entry.size, offset + size + margin)
        first = max(0, bisect_right(entry.extents, low, key=lambda one: one.offset) - 1)
        for extent in entry.extents[first:]:
            if extent.offset >= high:
                break
            address = self._source_address(extent)
            begin, end = max(low, extent.offset), min(high, extent.offset + extent.size)
            if address is not None and begin < end:
                yield ByteRange(address + begin - extent.offset, end - begin)


def _stretches(entries: Sequence[Entry], address_of: AddressOf) -> Iterator[_Stretch]:
    for number, entry in enumerate(entries):
        for extent in entry.extents:
            address = address_of(extent)
            if address is not None:
                yield _Stretch(address, extent.size, number, extent.offset)

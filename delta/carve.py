"""Compressed files inside an image (build machine).

What a file's first bytes say decides: .gz documents, modules, firmware, an initrd. Kernels and
unified kernel images hold streams further inside, and an initrd may stand behind an uncompressed
archive: these are searched for magic numbers. Whatever is found here only may be a stream;
unpacking proves it (server/expand.py).
"""

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from slipstream.delta.byterange import ByteRange
from slipstream.delta.filemap import Entry, EntryKind, Extent, Packing
from slipstream.delta.limits import CARVED_MAX, KIB, MIB

_STARTS = (
    (b"\x1f\x8b\x08", Packing.GZIP),
    (b"\xfd7zXZ\x00", Packing.XZ),
    (b"\x28\xb5\x2f\xfd", Packing.ZSTD),
)
# Deflate is the only method, and the three flag bits above 4 are reserved: RFC 1952, 2.3.1.
_INSIDE = re.compile(
    rb"\x1f\x8b\x08[\x00-\x1f]|\xfd7zXZ\x00\x00[\x00\x01\x04\x0a]|\x28\xb5\x2f\xfd"
)
_CONTAINERS = (b"MZ", b"070701", b"070702")  # PE files, bzImage among them, and cpio archives
_HEAD_BYTES = 6
_FILE_BYTES_MIN = 64  # what a smaller file could save is less than what saying so takes
_INSIDE_BYTES_MIN = 64 * KIB  # of a stream inside a file: up to the end of the file
_SEARCH_BYTES = MIB
_OVERLAP_BYTES = 8


class Space(Protocol):
    """Random access to bytes by address."""

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes."""
        ...


class Carved(NamedTuple):
    """What may be a stream: it begins at the first byte of `places` and ends within them.

    `name` is the file's path, with the number of the candidate in it.
    """

    packing: Packing
    places: tuple[ByteRange, ...]
    name: str


def carve_files(
    space: Space, entries: Sequence[Entry], address_of: Callable[[Extent], int | None]
) -> Iterator[Carved]:
    """Candidates in files, in the order of the entries; at most CARVED_MAX.

    The function says where an extent begins in `space`; None where it cannot be read, and then the
    file is left out, as is one with holes. Errors of reading pass.
    """
    count = 0
    for entry in entries:
        if entry.kind is not EntryKind.FILE or entry.size < _FILE_BYTES_MIN:
            continue
        places = _places(entry, address_of)
        for one in _carve_file(space, places, entry.path) if places else ():
            yield one
            count += 1
            if count == CARVED_MAX:
                return


def carve_bytes(space: Space, place: ByteRange) -> Iterator[Carved]:
    """Candidates in bytes that are no file system: a kernel, an initrd, a unified kernel image."""
    if place.size:
        yield from _carve_file(space, (place,), "")


def _places(entry: Entry, address_of: Callable[[Extent], int | None]) -> tuple[ByteRange, ...]:
    """Where all bytes of a file stand; stretches of the image itself are joined."""
    places: list[ByteRange] = []
    covered = 0
    for extent in entry.extents:
        address = address_of(extent)
        if address is None or extent.offset != covered:
            return ()
        covered += extent.size
        if extent.block is None and places and places[-1].end == address:
            first = places.pop().offset
            places.append(ByteRange(first, address + extent.size - first))
        else:
            places.append(ByteRange(address, extent.size))
    return tuple(places) if covered == entry.size else ()


def _carve_file(image: Space, places: tuple[ByteRange, ...], path: str) -> Iterator[Carved]:
    head = image.read(places[0].offset, min(_HEAD_BYTES, places[0].size))
    for start, packing in _STARTS:
        if head.startswith(start):
            yield Carved(packing, places, f"{path}#1")
            return
    if head.startswith(_CONTAINERS):
        for count, (packing, inside) in enumerate(_carve_inside(image, places), 1):
            yield Carved(packing, inside, f"{path}#{count}")


def _carve_inside(
    image: Space, places: tuple[ByteRange, ...]
) -> Iterator[tuple[Packing, tuple[ByteRange, ...]]]:
    for number, place in enumerate(places):
        behind = sum(one.size for one in places[number + 1 :])
        for first in range(place.offset, place.end, _SEARCH_BYTES):
            size = min(_SEARCH_BYTES + _OVERLAP_BYTES, place.end - first)
            for match in _INSIDE.finditer(image.read(first, size)):
                at = first + match.start()
                if match.start() >= _SEARCH_BYTES or place.end - at + behind < _INSIDE_BYTES_MIN:
                    continue
                packing = next(
                    packing for start, packing in _STARTS if match.group().startswith(start)
                )
                yield packing, (ByteRange(at, place.end - at), *places[number + 1 :])

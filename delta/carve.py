"""Compressed files inside an image whose file system does not compress (build machine).

What a file's first bytes say decides: .gz documents, modules, firmware, an initrd. Kernels and
unified kernel images hold streams further inside, and an initrd may stand behind an uncompressed
archive: these are searched for magic numbers. Whatever is found here only may be a stream;
unpacking proves it (server/expand.py).
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from slipstream.delta.byterange import ByteRange
from slipstream.delta.filemap import Entry, EntryKind, FileMap, Packing
from slipstream.delta.limits import CARVED_MAX, KIB, MIB
from slipstream.delta.match import Reader

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


class Carved(NamedTuple):
    """What may be a stream: it begins at the first byte of `places` and ends within them."""

    packing: Packing
    places: tuple[ByteRange, ...]


def carve(image: Reader, found: FileMap) -> Iterator[Carved]:
    """Candidates in the files of an image, or in the whole of one that holds no file system.

    In the order of the entries; at most CARVED_MAX. Errors of the Reader pass.
    """
    entries: Sequence[Entry] = found.entries
    if not entries:
        whole = (ByteRange(0, image.size),)
        yield from _carve_file(image, whole)
        return
    count = 0
    for entry in entries:
        places = _places(entry)
        if entry.kind is not EntryKind.FILE or entry.size < _FILE_BYTES_MIN or not places:
            continue
        for one in _carve_file(image, places):
            yield one
            count += 1
            if count == CARVED_MAX:
                return


def _places(entry: Entry) -> tuple[ByteRange, ...]:
    """Where all bytes of a file stand, if they stand plain in the image, without holes."""
    places: list[ByteRange] = []
    covered = 0
    for extent in entry.extents:
        if extent.block is not None or extent.offset != covered:
            return ()
        covered += extent.size
        if places and places[-1].end == extent.place:
            first = places.pop().offset
            places.append(ByteRange(first, extent.place + extent.size - first))
        else:
            places.append(ByteRange(extent.place, extent.size))
    return tuple(places) if covered == entry.size else ()


def _carve_file(image: Reader, places: tuple[ByteRange, ...]) -> Iterator[Carved]:
    head = image.read(places[0].offset, min(_HEAD_BYTES, places[0].size))
    for start, packing in _STARTS:
        if head.startswith(start):
            yield Carved(packing, places)
            return
    if head.startswith(_CONTAINERS):
        yield from _carve_inside(image, places)


def _carve_inside(image: Reader, places: tuple[ByteRange, ...]) -> Iterator[Carved]:
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
                yield Carved(packing, (ByteRange(at, place.end - at), *places[number + 1 :]))

"""Opens the archives that stand compressed in an image, to name the files in them: an initrd.

Only cpio archives in one compressed stream, whose bytes stand in the image as they are. What the
map of a file system says is all there is for other files. Nothing here is needed to make or apply
a payload: whatever cannot be read is left alone.
"""

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import IO, NamedTuple

from slipstream.delta.byterange import ByteRange
from slipstream.delta.carve import Carved, carve_bytes, carve_files
from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Entry, EntryKind, Extent, FileMap
from slipstream.delta.filesystem.cpio import MAGICS, read_cpio
from slipstream.delta.limits import (
    KIB,
    LONG_STREAM_BYTES_FREE,
    LONG_STREAM_RATIO_MAX,
    MIB,
    UNPACK_MEMORY_BYTES_MAX,
)
from slipstream.delta.packing.unpack import UnpackCursor
from slipstream.delta.reader import Reader

_FILE_BYTES_MIN = 64 * KIB  # packed: what a smaller archive costs needs no list of files


class Archive(NamedTuple):
    """An archive in an image. `begin` is where its stream begins, gzip header included; `files`
    have one extent each, in the unpacked content."""

    begin: int
    files: list[Entry]


def find_archives(image: Reader, found: FileMap) -> list[Archive]:
    """The archives in files of a map, or in an image without one; rising by place.

    OSError, and what `image` raises.
    """
    if found.entries:
        plain = [
            one
            for one in found.entries
            if one.size >= _FILE_BYTES_MIN and all(extent.block is None for extent in one.extents)
        ]
        carved = carve_files(image, plain, lambda extent: extent.place)
    else:
        carved = carve_bytes(image, ByteRange(0, image.size))
    return sorted(_opened(image, carved), key=lambda one: one.begin)


def _opened(image: Reader, carved: Iterable[Carved]) -> Iterator[Archive]:
    for one in carved:
        with suppress(FormatError), tempfile.TemporaryFile() as content:
            if _unpack(image, one, content):
                path = one.name.rpartition("#")[0]
                files = [
                    Entry(EntryKind.FILE, f"{path}/{name}" if path else name, size, (extent,))
                    for name, offset, size in read_cpio(_Content(content))
                    for extent in (Extent(0, size, offset),)
                ]
                yield Archive(one.places[0].offset, files)


def _unpack(image: Reader, one: Carved, content: IO[bytes]) -> bool:
    """Unpack all of a stream that begins as an archive does; False where it does not. FormatError."""
    cursor = UnpackCursor(one.packing, UNPACK_MEMORY_BYTES_MAX)
    made = fed = 0
    for piece in _pieces(image, one.places):
        fed += len(piece)
        while some := cursor.feed(piece, MIB):
            if not made and not some.startswith(MAGICS):
                return False
            content.write(some)
            made += len(some)
            piece = b""
            if made > max(LONG_STREAM_BYTES_FREE, LONG_STREAM_RATIO_MAX * fed):
                raise FormatError("stream that unpacks to impossibly much", got=made)
        if cursor.eof:
            return True
    return False


def _pieces(image: Reader, places: Iterable[ByteRange]) -> Iterator[bytes]:
    for place in places:
        for offset in range(place.offset, place.end, MIB):
            yield image.read(offset, min(MIB, place.end - offset))


class _Content:
    """Unpacked content in a file, as a Reader."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = file.tell()

    def read(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

"""Collects the entries of a map, and enforces every limit that a map has.

A hostile image can name the same bytes, or the same long folder, again and again; what a reader
may gather from it is therefore counted here, for all readers alike. Knows no format.
"""

from collections.abc import Iterable, Sequence

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Entry, EntryKind, Extent
from slipstream.delta.limits import (
    IMAGE_BYTES_MAX,
    MAP_EXTENTS_MAX,
    MAP_NAMES_MAX,
    MAP_PATH_CHARS_MAX,
    MAP_PATHS_CHARS_MAX,
    MAP_REPEATS_MAX,
)


class Collector:
    """Entries of an image of `image_size` bytes. Everything raises FormatError beyond a limit."""

    def __init__(self, image_size: int) -> None:
        self._image_size = image_size
        self._files: list[Entry] = []
        self._tables: list[Entry] = []
        self._names = 0
        self._path_chars = 0
        self._extents = 0
        self._bytes = 0

    @property
    def entries(self) -> list[Entry]:
        """Tables in the order they were added, then files by path."""
        return self._tables + sorted(self._files, key=lambda file: file.path)

    def extents(self, runs: Iterable[Extent], size: int) -> tuple[Extent, ...]:
        """The extents of a file of `size` bytes: plain runs joined where they go on, cut at its end.

        Raises FormatError for runs that overlap, do not rise, or leave the image.
        """
        if size > IMAGE_BYTES_MAX:
            raise FormatError("file size", expected=f"<= {IMAGE_BYTES_MAX}", got=size)
        joined: list[Extent] = []
        offset = length = place = 0
        for run in runs:
            if run.offset == offset + length and run.place == place + length:
                length += run.size
                continue
            if run.offset < offset + length:
                raise FormatError(
                    "extents of a file overlap", expected=f">= {offset + length}", got=run.offset
                )
            self._append(joined, offset, min(length, size - offset), place)
            offset, length, place, _ = run
        self._append(joined, offset, min(length, size - offset), place)
        return tuple(joined)

    def _append(self, extents: list[Extent], offset: int, size: int, place: int) -> None:
        if size <= 0:  # none yet, or preallocated behind the end of the file
            return
        if not 0 <= place <= place + size <= self._image_size:
            raise FormatError(
                "extent outside the image",
                expected=f"within 0..{self._image_size}",
                got=f"offset {place}, size {size}",
            )
        self._extents += 1
        self._bytes += size
        _limit("extents of the map", self._extents, MAP_EXTENTS_MAX)
        _limit("bytes of all files", self._bytes, MAP_REPEATS_MAX * self._image_size)
        extents.append(Extent(offset, size, place))

    def path(self, folder: str, name: str) -> str:
        """The path of a name in a folder; the root folder is the empty string."""
        path = f"{folder}/{name}" if folder else name
        self._names += 1
        self._path_chars += len(path)
        _limit("names of the file system", self._names, MAP_NAMES_MAX)
        _limit("characters of a path", len(path), MAP_PATH_CHARS_MAX)
        _limit("characters of all paths", self._path_chars, MAP_PATHS_CHARS_MAX)
        return path

    def add_file(self, path: str, size: int, extents: tuple[Extent, ...]) -> None:
        """A file whose path and extents were made here."""
        self._files.append(Entry(EntryKind.FILE, path, size, extents))

    def add_directory(self, path: str, size: int, extents: tuple[Extent, ...]) -> None:
        """The blocks of a directory as a table; the root's path is the empty string."""
        if extents:
            self._tables.append(Entry(EntryKind.TABLE, f"directory /{path}", size, extents))

    def add_table(self, name: str, pieces: Sequence[tuple[int, int]]) -> None:
        """A table whose pieces (place, size) follow each other; nothing if there is none."""
        runs, size = [], 0
        for place, length in pieces:
            runs.append(Extent(size, length, place))
            size += length
        if size:
            name = self.path("", name)
            self._tables.append(Entry(EntryKind.TABLE, name, size, self.extents(runs, size)))


def _limit(what: str, count: int, maximum: int) -> None:
    if count > maximum:
        raise FormatError(f"too many {what}", expected=f"<= {maximum}", got=count)

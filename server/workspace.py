"""The work space of a build: source image, target image, and unpacked content, by address.

The addresses are those that a payload's frames use (docs/format.md, 4.4): the source from 0 on,
the target behind it, then the contents of opened blocks, in a scratch file. So nothing has to be
translated when frames are written.
"""

import weakref
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from slipstream.delta.byterange import ByteRange
from slipstream.server.image import ImageFile


@dataclass(frozen=True, slots=True)
class WorkFiles:
    """The files of a build, by path: what a worker, in whatever process, has to open. Sizes in bytes."""

    source: Path | None
    target: Path
    scratch: Path | None
    source_size: int
    target_size: int

    @property
    def base(self) -> int:
        """Address of the first opened content."""
        return self.source_size + self.target_size


class WorkSpace:
    """Open files of a build; reads by address, from several threads at once.

    They are closed when nothing refers to it any more, so that a thread that still reads never
    finds another file under its descriptor.
    """

    def __init__(self, files: WorkFiles) -> None:
        """OSError; UsageError where an image is no file."""
        self.files = files
        opened = ExitStack()
        self._close = weakref.finalize(self, opened.close)
        source, target, scratch = (
            None if path is None else opened.enter_context(ImageFile(path))
            for path in (files.source, files.target, files.scratch)
        )
        self._areas = (
            (0, files.source_size, source),
            (files.source_size, files.base, target),
            (files.base, 1 << 62, scratch),
        )

    def read(self, offset: int, size: int) -> bytes:
        """The bytes at an address; a range may reach over several files."""
        pieces = []
        for begin, end, image in self._areas:
            low, high = max(offset, begin), min(offset + size, end)
            if low < high and image is not None:
                pieces.append(image.read(low - begin, high - low))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def read_all(self, ranges: Iterable[ByteRange]) -> bytes:
        """The bytes of several ranges, joined."""
        return b"".join(self.read(one.offset, one.size) for one in ranges)

    def close(self) -> None:
        """Close the files."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

"""Images as files: regular files and block devices alike (build machine)."""

import os
import stat
from pathlib import Path
from types import TracebackType
from typing import Self

from slipstream.delta.errors import UsageError


class ImageFile:
    """An image opened for reading, by pread: usable from several threads at once. A `Reader`."""

    def __init__(self, path: Path) -> None:
        """UsageError for what is neither file nor block device; OSError."""
        self.path = path
        self._file = path.open("rb", buffering=0)
        mode = os.fstat(self._file.fileno()).st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
            self._file.close()
            raise UsageError("neither a regular file nor a block device", where=path)
        self.is_device = stat.S_ISBLK(mode)
        # stat says 0 for a block device.
        self.size = self._file.seek(0, os.SEEK_END)

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes; UsageError where the file has become shorter meanwhile."""
        data = os.pread(self._file.fileno(), size, offset)
        while len(data) < size:
            more = os.pread(self._file.fileno(), size - len(data), offset + len(data))
            if not more:
                raise UsageError(
                    "file ended early",
                    where=self.path,
                    expected=f"{offset + size} bytes",
                    got=offset + len(data),
                )
            data += more
        return data

    def close(self) -> None:
        """Close the file; again is fine."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

"""Images as files: regular files and block devices alike (build machine)."""

import os
import stat
from collections.abc import Iterable
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


def check_output(output: Path, inputs: Iterable[Path | None], *, device: bool) -> None:
    """Refuse, before the first byte, an output that cannot be written or that is an input.

    `device`: the output may be a block device. Links are followed. UsageError, OSError.
    """
    if not output.parent.is_dir():
        raise UsageError(
            f"the folder {output.parent} does not exist",
            where=output,
            hint="Make it, or name another output",
        )
    try:
        there = output.stat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(there.st_mode) and not (device and stat.S_ISBLK(there.st_mode)):
        # A rename would put a file in the place of /dev/null, of a pipe, or of a device's node.
        kinds = "neither a regular file nor a block device" if device else "not a regular file"
        raise UsageError(f"output is {kinds}", where=output, hint="Name another output")
    for path in inputs:
        if path is not None and path.exists() and _is_same(there, path.stat()):
            raise UsageError(
                "output is also an input, which would be destroyed",
                where=output,
                expected=f"something other than {path}",
                hint="Name another output",
            )


def _is_same(one: os.stat_result, other: os.stat_result) -> bool:
    if stat.S_ISBLK(one.st_mode) and stat.S_ISBLK(other.st_mode):
        return one.st_rdev == other.st_rdev  # one device may have several nodes
    return os.path.samestat(one, other)

"""The operations on the boot partition, one system call's worth each.

Every change that the adapter makes goes through here, so that a test can cut the power before
and after each of them, and so that an OSError becomes a DeviceFault that says what to do in one
place. The folder is a mounted FAT file system (or a plain folder in simulations). It must not
be mounted with `sync` or `dirsync`: measured, that turns the one-sector rename into six writes
with cross-linked states between them (docs/boot.md).
"""

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from slipstream.delta.durable import sync_folder
from slipstream.delta.errors import DeviceFault
from slipstream.installer.blocking import GoOn, unasked

COPY_BYTES = 1 << 20  # boot files are tens of MB: one piece in memory
SLACK_BYTES = 1 << 20  # FAT folders grow by clusters; a full ESP also breaks the counter's rename

_MENDS = {
    errno.ENOSPC: "Free space on the boot partition, then install again",
    errno.EROFS: "Mount the boot partition read-write (default options, no sync or dirsync)",
    errno.EIO: "The medium fails: check it (dmesg, fsck.vfat), replace it if it goes on",
    errno.ENOENT: "Is the boot partition mounted, and is [boot] esp its folder?",
    errno.EACCES: "Run as root, or give the service access to the boot partition",
}


@contextmanager
def translated(what: str, where: Path) -> Iterator[None]:
    """OSError becomes DeviceFault with the mend."""
    try:
        yield
    except OSError as error:
        raise DeviceFault(
            f"{what}: {error.strerror or error}",
            where=where,
            hint=_MENDS.get(error.errno or 0, "Check the boot partition (dmesg, fsck.vfat)"),
        ) from error


class Esp:
    """A boot partition, mounted at `root`. Raises DeviceFault only."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def make_folder(self, folder: Path) -> None:
        """Make a folder and its parents; their names are durable."""
        missing = []
        while not self.is_folder(folder) and folder != self.root:
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            with translated("cannot make folder", path):
                path.mkdir()
            self.sync_folder(path.parent)

    def copy(self, source: Path, target: Path, go_on: GoOn = unasked) -> None:
        """Write the bytes of `source` into the new or emptied file `target`. Not yet durable.

        `go_on` is asked before each piece: some partitions take a MB/s.
        """

        def read() -> bytes:
            go_on()
            return reader.read(COPY_BYTES)

        with translated(f"cannot copy {source}", target), source.open("rb") as reader:
            self._write(target, read)

    def write(self, target: Path, data: bytes) -> None:
        """Write a small file. Not yet durable."""
        pieces = iter([data])
        with translated("cannot write", target):
            self._write(target, lambda: next(pieces, b""))

    def _write(self, target: Path, read: Callable[[], bytes]) -> None:
        with target.open("wb") as writer:
            while piece := read():
                writer.write(piece)

    def sync_file(self, path: Path) -> None:
        """The bytes of the file are durable, and the next read comes from the medium."""
        with translated("cannot sync", path), path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def sync_folder(self, folder: Path) -> None:
        """The names in the folder are durable."""
        with translated("cannot sync", folder):
            sync_folder(folder)

    def rename(self, old: Path, new: Path) -> None:
        """Rename within a folder, never over another file. Not yet durable."""
        # Checked rather than renameat2(RENAME_NOREPLACE): one installer holds the lock, and the
        # boot loader, the only other writer, does not run now.
        if os.path.lexists(new):
            raise DeviceFault(
                "will not rename over a file",
                where=new,
                got=f"another file for {old.name}",
                hint="Run `slipstream device doctor`, which says how to mend it; remove neither by hand",
            )
        with translated(f"cannot rename {old.name}", new):
            os.rename(old, new)

    def unlink(self, path: Path) -> None:
        """Remove a file; one that is not there is fine. Not yet durable."""
        with translated("cannot remove", path):
            path.unlink(missing_ok=True)

    def remove(self, paths: Iterable[Path]) -> None:
        """Remove files of one folder durably, and only then free their clusters.

        They are held open meanwhile: vfat frees the clusters at the last close. Otherwise the
        freed chain may be on the medium before the name is gone, and Linux makes a file system
        read-only on which it meets such a name (docs/boot.md). A cut before the close costs room
        only, until fsck.vfat.
        """
        with ExitStack() as held:
            folder = None
            for path in paths:
                with translated("cannot remove", path):
                    if os.path.lexists(path):
                        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
                        held.callback(os.close, descriptor)
                self.unlink(path)
                folder = path.parent
            if folder is not None:
                self.sync_folder(folder)

    def remove_folder(self, folder: Path) -> None:
        """Remove an empty folder; one that is not there is fine. Not yet durable."""
        with translated("cannot remove folder", folder):
            if folder.is_dir():
                folder.rmdir()

    # --- reading

    def is_file(self, path: Path) -> bool:
        """Whether there is a file of that name."""
        with translated("cannot look for", path):
            return path.is_file()

    def is_folder(self, path: Path) -> bool:
        """Whether there is a folder of that name."""
        with translated("cannot look for", path):
            return path.is_dir()

    def names(self, folder: Path) -> tuple[str, ...]:
        """The names in a folder, sorted; none if there is no such folder."""
        with translated("cannot list", folder):
            try:
                return tuple(sorted(os.listdir(folder)))
            except FileNotFoundError:
                return ()

    def equal(self, left: Path, right: Path, go_on: GoOn = unasked) -> bool:
        """Whether two files hold the same bytes; False if `right` is not there."""
        with translated(f"cannot compare with {right}", left):
            if not right.is_file() or left.stat().st_size != right.stat().st_size:
                return False
            with left.open("rb") as a, right.open("rb") as b:
                while piece := a.read(COPY_BYTES):
                    go_on()
                    if piece != b.read(COPY_BYTES):
                        return False
            return True

    def size(self, path: Path) -> int:
        """Bytes of a file."""
        with translated("cannot read", path):
            return path.stat().st_size

    def free_bytes(self) -> int:
        """Bytes that may still be written. A read-only mount is a fault."""
        with translated("cannot read the boot partition", self.root):
            info = os.statvfs(self.root)
        if info.f_flag & os.ST_RDONLY:
            raise DeviceFault(
                "boot partition is mounted read-only", where=self.root, hint=_MENDS[errno.EROFS]
            )
        return info.f_bavail * info.f_frsize

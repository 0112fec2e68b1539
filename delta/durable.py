"""Durable files: the one home of temporary file, fsync, rename, fsync of the folder.

The only file of delta/ that touches the operating system. It is here because both the
publisher and the device need it, and the two never import each other.
"""

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace the file at `path` with `data`: after a power cut it holds the old or the new bytes.

    Raises OSError; the old file is then untouched, and no half of the new one is left.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    # Whatever stands there is a killed write's, or a link that somebody made: a state folder may
    # be writable to others, and its writer may be root. O_EXCL goes through no link.
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, mode)
    try:
        try:
            os.fchmod(descriptor, mode)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        rename_durably(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def reserved_file(path: Path, size: int, *, mode: int = 0o644) -> Iterator[Callable[[bytes], None]]:
    """A new file with room for `size` bytes, for what can be had only once.

    What the block gives to the function that it gets becomes, durably, all of the file. The file
    is there before the block begins, so that it can be written afterwards; a block that raises
    without having given anything takes it away again. OSError; FileExistsError if there is one.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    given = False

    def give(data: bytes) -> None:
        nonlocal given
        given = True
        done = 0
        while done < len(data):
            done += os.pwrite(descriptor, data[done:], done)
        os.ftruncate(descriptor, len(data))
        os.fsync(descriptor)

    try:
        try:
            os.fchmod(descriptor, mode)
            os.posix_fallocate(descriptor, 0, size)
            os.fsync(descriptor)
            sync_folder(path.parent)
            yield give
        except BaseException:
            if not given:
                path.unlink(missing_ok=True)
            raise
    finally:
        os.close(descriptor)


def rename_durably(source: Path, target: Path) -> None:
    """Rename a file whose bytes are already durable, and make the name durable."""
    os.rename(source, target)
    sync_folder(target.parent)


def remove_durably(path: Path) -> None:
    """Remove a file; one that is not there is fine."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_filesystem(folder: Path) -> None:
    """Write out everything of the file system that holds `folder`: names, inodes and contents.

    Python has no syncfs(2) of its own. Raises OSError.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            syncfs = ctypes.CDLL(None, use_errno=True).syncfs
        except (OSError, AttributeError):  # no such C library: all file systems, then
            os.sync()
            return
        if syncfs(descriptor):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)

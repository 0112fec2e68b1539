"""Durable files: the one home of temporary file, fsync, rename, fsync of the folder.

The only file of delta/ that touches the operating system. It is here because both the
publisher and the device need it, and the two never import each other.
"""

import os
from pathlib import Path


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace the file at `path` with `data`: after a power cut it holds the old or the new bytes.

    Raises OSError; the old file is then untouched.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    rename_durably(temporary, path)


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

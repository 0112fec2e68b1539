"""Images of file systems without compression, made by the tools that people make them with."""

import os
import subprocess
from pathlib import Path

from slipstream.delta.filemap import EntryKind, FileMap
from tests.delta.filesystem.packed_images import MemoryImage

MIB = 1 << 20


class CountingImage:
    """A Reader that counts what is read: the bound of another reader's work, without a clock."""

    def __init__(self, data: bytes) -> None:
        self._image = MemoryImage(data)
        self.size = len(data)
        self.reads = 0
        self.bytes_read = 0

    def read(self, offset: int, size: int) -> bytes:
        self.reads += 1
        self.bytes_read += size
        return self._image.read(offset, size)


def make_ext(path: Path, folder: Path, options: str, size: int = 64 * MIB) -> Path:
    """An image of `folder` by mke2fs, e.g. with the options `-t ext4 -b 1024`."""
    path.unlink(missing_ok=True)
    with path.open("wb") as image:
        image.truncate(size)
    run("mke2fs", "-q", "-F", "-d", str(folder), *options.split(), str(path))
    return path


def debugfs(path: Path, *commands: str) -> None:
    """Change an ext image without mounting it. debugfs exits with 0 whatever it says."""
    for command in commands:
        said = run("debugfs", "-w", "-R", command, str(path)).stderr
        assert said.count("\n") == 1, said  # its version


def make_fat(path: Path, folder: Path, options: str, size: int) -> Path:
    """An image of what is in `folder` by mkfs.vfat, e.g. with the options `-F 32`."""
    path.unlink(missing_ok=True)
    with path.open("wb") as image:
        image.truncate(size)
    run("mkfs.vfat", *options.split(), str(path))
    run("mcopy", "-s", "-i", str(path), *map(str, sorted(folder.iterdir())), "::/")
    return path


def run(
    *command: str, stdin: str | None = None, check: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a tool; they are where users other than root do not look."""
    environment = os.environ | {
        "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin",
        "LC_ALL": "C.UTF-8",  # mtools replaces what the locale does not have
    }
    return subprocess.run(
        command, check=check, capture_output=True, text=True, input=stdin, env=environment
    )


def patched(data: bytes, offset: int, new: bytes) -> MemoryImage:
    """An image with other bytes at `offset`."""
    assert offset + len(new) <= len(data)
    return MemoryImage(data[:offset] + new + data[offset + len(new) :])


def table_places(found: FileMap) -> list[range]:
    """Where the tables stand: bytes that a reader interprets."""
    return [
        range(extent.place, extent.place + extent.size)
        for entry in found.entries
        if entry.kind is EntryKind.TABLE and entry.path != "journal"
        for extent in entry.extents
    ]

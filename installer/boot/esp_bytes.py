"""The boot partition's own bytes, below the file system that the kernel makes of them. Reads only.

Where the boot partition is a mounted FAT, they are its block device's; a simulation may name an
image file ([boot] esp_device). A plain folder has none, and that is a value of its own (NoBytes):
whoever needs the bytes says so rather than skip a check in silence.

What a raw read sees. Folders and the allocation table of a mounted vfat live in the page cache of
its block device, which a read of the device shares. Size and first cluster of a file live in its
inode and reach the folder only when the inode is written; contents of files have a cache of their
own. So the file system is synced first (syncfs), and the device's clean pages are dropped after
that, or an old copy of a block that belonged to another file may be read again.
Source: Linux, fs/fat/inode.c (__fat_write_inode), fs/sync.c.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slipstream.delta.durable import sync_filesystem
from slipstream.delta.errors import FormatError
from slipstream.delta.filesystem.fat_volume import FatVolume, Read, read_fat_volume
from slipstream.installer.boot.esp import translated
from slipstream.installer.boot.mount import Mount, find_mount


@dataclass(frozen=True, slots=True)
class NoBytes:
    """There are no bytes to read, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class EspBytes:
    """Where the bytes are. `folder` is the mounted one, to be synced before; None for an image."""

    device: Path
    folder: Path | None
    mount: Mount | None

    @contextmanager
    def open(self) -> Iterator[tuple[Read, int]]:
        """`read(offset, size)` and the volume's size in bytes.

        `read` raises FormatError beyond the end, everything raises DeviceFault.
        """
        if self.folder is not None:
            with translated("cannot sync", self.folder):
                sync_filesystem(self.folder)
        with translated("cannot read the boot partition", self.device):
            descriptor = os.open(self.device, os.O_RDONLY | os.O_CLOEXEC)
        try:
            with translated("cannot read the boot partition", self.device):
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                size = os.lseek(descriptor, 0, os.SEEK_END)

            def read(offset: int, length: int) -> bytes:
                with translated("cannot read the boot partition", self.device):
                    data = os.pread(descriptor, length, offset)
                    while len(data) < length and (
                        more := os.pread(descriptor, length - len(data), offset + len(data))
                    ):
                        data += more
                if len(data) < length:
                    raise FormatError(
                        "the volume ends before what it points to",
                        where=self.device,
                        expected=f"within 0..{size}",
                        got=f"offset {offset}, size {length}",
                    )
                return data

            yield read, size
        finally:
            os.close(descriptor)

    def read_volume(self) -> FatVolume:
        """All of it but the contents of files. Raises FormatError and DeviceFault."""
        with self.open() as (read, size):
            return read_fat_volume(read, size)


def find_esp_bytes(esp: Path, device: Path | None = None) -> EspBytes | NoBytes:
    """Where the bytes of the boot partition at `esp` are; `device` where it is configured.

    Raises DeviceFault.
    """
    mount = find_mount(esp)
    is_mounted = mount is not None and mount.is_fat and mount.point == esp.resolve()
    if device is not None:
        return EspBytes(device, esp if is_mounted else None, mount if is_mounted else None)
    if mount is None or not is_mounted:
        kind = "nothing" if mount is None else f"{mount.kind}, from {mount.point} on"
        return NoBytes(f"{esp} is not a mounted FAT file system ({kind})")
    return EspBytes(mount.block_device, esp, mount)

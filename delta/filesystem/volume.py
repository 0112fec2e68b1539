"""Finds the one file system of a partition, or of an image without partitions, by its magic.

Not here: disks (probe.py, disk.py), and any parsing.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import FileMap
from slipstream.delta.filesystem.erofs import read_erofs
from slipstream.delta.filesystem.ext import read_ext
from slipstream.delta.filesystem.ext_layout import MAGIC as EXT_MAGIC
from slipstream.delta.filesystem.ext_layout import MAGIC_OFFSET as EXT_MAGIC_OFFSET
from slipstream.delta.filesystem.fat import read_fat
from slipstream.delta.filesystem.fat_layout import SIGNATURE as FAT_SIGNATURE
from slipstream.delta.filesystem.fat_layout import SIGNATURE_OFFSET as FAT_SIGNATURE_OFFSET
from slipstream.delta.filesystem.squashfs import read_squashfs
from slipstream.delta.reader import Reader


class Format(NamedTuple):
    """What stands in an image that has `magic` at `offset`. `read` raises FormatError.

    In an image that begins with `chance`, the magic alone says nothing.
    """

    name: str
    offset: int
    magic: bytes
    read: Callable[[Reader], FileMap]
    chance: bytes = b""


def _refuse(reason: str) -> Callable[[Reader], FileMap]:
    def read(_: Reader) -> FileMap:
        raise FormatError(reason)

    return read


_NOT_READ = _refuse("no reader for this file system; equal bytes are found all the same")

# A PE file. A kernel that firmware can start is one, and has the signature of a boot sector besides.
EXECUTABLE = b"MZ"

VOLUMES = (
    Format("squashfs", 0, b"hsqs", read_squashfs),
    Format("erofs", 1024, b"\xe2\xe1\xf5\xe0", read_erofs),
    Format("ext", EXT_MAGIC_OFFSET, EXT_MAGIC, read_ext),
    Format("LUKS", 0, b"LUKS\xba\xbe", _refuse("encrypted: nothing in it can be seen")),
    Format("btrfs", 0x10040, b"_BHRfS_M", _NOT_READ),
    Format("XFS", 0, b"XFSB", _NOT_READ),
    Format("F2FS", 1024, b"\x10\x20\xf5\xf2", _NOT_READ),
    Format("exFAT", 3, b"EXFAT   ", _NOT_READ),
    Format("NTFS", 3, b"NTFS    ", _NOT_READ),
    # Last: the signature of a boot sector says least.
    Format("FAT", FAT_SIGNATURE_OFFSET, FAT_SIGNATURE, read_fat, EXECUTABLE),
)


def read_volume(image: Reader) -> FileMap:
    """The map of the file system in an image without partitions; as `read_first`."""
    return read_first(image, VOLUMES)


def read_first(image: Reader, formats: Sequence[Format]) -> FileMap:
    """The map of the first format whose magic is there and whose content is sound.

    Never raises for content: where no format reads it, the map has the kind `raw`, and notes say
    why. Errors of the image's own Reader (OSError, UsageError) pass.
    """
    notes = []
    for one in formats:
        if not _has(image, one.offset, one.magic):
            continue
        try:
            return one.read(image)
        except FormatError as error:
            if not one.chance or not _has(image, 0, one.chance):
                notes.append(
                    f"{one.name} cannot be read: {error}."
                    " It is taken as plain bytes: a payload may be much larger"
                )
    return FileMap("raw", notes=notes or ["no file system or partition table is known here"])


def _has(image: Reader, offset: int, magic: bytes) -> bool:
    end = offset + len(magic)
    return image.size >= end and image.read(offset, len(magic)) == magic

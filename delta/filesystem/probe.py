"""Finds what stands in an image: a file system, a disk with partitions, or neither.

The way into this package. Whatever the bytes are, there is an answer: what cannot be read is a
map of the kind `raw`, and an image without a map still gets a delta by its content.
"""

from slipstream.delta.filemap import FileMap
from slipstream.delta.filesystem.disk import read_disk
from slipstream.delta.filesystem.fat_layout import SIGNATURE, SIGNATURE_OFFSET
from slipstream.delta.filesystem.volume import EXECUTABLE, VOLUMES, Format, read_first
from slipstream.delta.reader import Reader

# Behind the volumes: the boot sector of a FAT has the same signature as a partition table, but
# the parameters of a FAT are hard to hit by chance.
_FORMATS = (*VOLUMES, Format("disk", SIGNATURE_OFFSET, SIGNATURE, read_disk, EXECUTABLE))


def read_filesystem(image: Reader) -> FileMap:
    """The map of an image: its file system's, or those of all its partitions as one.

    Never raises for content: what cannot be parsed, encrypted, cut off or hostile images included,
    gives a map of the kind `raw` whose notes say why. Errors of the Reader itself (OSError,
    UsageError) pass.
    """
    return read_first(image, _FORMATS)

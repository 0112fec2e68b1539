"""The records of ext directory blocks: a name and an inode number each.

The index of a hashed directory hides in records without an inode, so reading the blocks one after
the other finds every name once.

Source: the kernel's fs/ext4/ext4.h (ext4_dir_entry_2, ext4_rec_len_from_disk).
"""

import struct
from collections.abc import Iterator

from slipstream.delta.errors import FormatError

_RECORD = struct.Struct("<IHB")  # inode, record length, name length
_HEAD_BYTES = 8  # with the file type, which old file systems do not have
_WHOLE_BLOCK = 65536  # does not fit the length's 16 bits


def read_names(block: bytes) -> Iterator[tuple[str, int]]:
    """Names and inode numbers of one block, or of an inline piece, without `.` and `..`."""
    at = 0
    while at + _HEAD_BYTES <= len(block):
        inode, length, name_length = _RECORD.unpack_from(block, at)
        if len(block) == _WHOLE_BLOCK:
            length = (length & 0xFFFC | (length & 3) << 16) if 0 < length < 0xFFFF else _WHOLE_BLOCK
        if length < _HEAD_BYTES + name_length or length & 3 or at + length > len(block):
            raise FormatError(
                "broken directory record",
                where=f"byte {at} of a block of {len(block)}",
                got=f"length {length}, name {name_length}",
            )
        name = block[at + _HEAD_BYTES : at + _HEAD_BYTES + name_length]
        if inode and name not in (b".", b".."):
            if not name or b"/" in name or b"\0" in name:
                raise FormatError("directory with an impossible name", got=name)
            yield name.decode("utf-8", "surrogateescape"), inode
        at += length

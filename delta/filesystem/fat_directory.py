"""The records of a FAT directory: 32 bytes each, long names in records before the short one.

Names are as Linux shows them: the long name where it belongs to the record, else the short one
in the case that its flags ask for.

Source: Microsoft's "FAT File System Specification" (2005), 6 and 7; the kernel's fs/fat/dir.c.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from slipstream.delta.errors import FormatError

RECORD_BYTES = 32

# Name and extension, attributes, case flags, cluster (high), cluster (low), size.
_RECORD = struct.Struct("<8s3sBB7xH4xHI")
_LONG = struct.Struct("<B10s2xB12s2x4s")  # sequence, characters, checksum, characters, characters
_ATTRIBUTES_OFFSET = 11
_LONG_NAME, _LONG_NAME_MASK = 0x0F, 0x3F
_LABEL, _DIRECTORY = 0x08, 0x10
_END, _DELETED, _ESCAPED = 0x00, 0xE5, 0x05  # first byte of a name; 0x05 stands for 0xE5
_LOWER_NAME, _LOWER_EXTENSION = 0x08, 0x10
_LAST_PIECE, _SEQUENCE_MASK = 0x40, 0x1F
_PIECES_MAX = 20  # 255 characters, 13 in a record


class Record(NamedTuple):
    """A file or directory: `size` in bytes is 0 for a directory, `cluster` starts its chain."""

    name: str
    is_directory: bool
    cluster: int
    size: int


def read_records(content: bytes) -> Iterator[Record]:
    """The files and directories of a directory, without `.` and `..`; FormatError."""
    pieces: dict[int, bytes] = {}
    checksum = -1
    for at in range(0, len(content) - RECORD_BYTES + 1, RECORD_BYTES):
        first, attributes = content[at], content[at + _ATTRIBUTES_OFFSET]
        if first == _END:
            return
        if first != _DELETED and attributes & _LONG_NAME_MASK == _LONG_NAME:
            sequence, head, piece_checksum, middle, tail = _LONG.unpack_from(content, at)
            if sequence & _LAST_PIECE:
                pieces, checksum = {}, piece_checksum
            if piece_checksum == checksum:
                pieces[sequence & _SEQUENCE_MASK] = head + middle + tail
            continue
        long_pieces, pieces = pieces, {}
        if first == _DELETED or attributes & _LABEL:
            continue
        name, extension, _, case, high, low, size = _RECORD.unpack_from(content, at)
        if name.startswith(b"."):
            continue
        text = None
        if long_pieces and checksum == _checksum(name + extension):
            text = _long_name(long_pieces)
        text = text or _short_name(name, extension, case)
        if not text or "/" in text or "\0" in text:
            raise FormatError("directory with an impossible name", got=text)
        is_directory = bool(attributes & _DIRECTORY)
        yield Record(text, is_directory, high << 16 | low, 0 if is_directory else size)


def _checksum(short_name: bytes) -> int:
    """Ties the records of a long name to their short one."""
    checksum = 0
    for byte in short_name:
        checksum = ((checksum & 1) << 7 | checksum >> 1) + byte & 0xFF
    return checksum


def _long_name(pieces: dict[int, bytes]) -> str | None:
    """The name of pieces 1 to n; None if one is missing."""
    if sorted(pieces) != list(range(1, len(pieces) + 1)) or len(pieces) > _PIECES_MAX:
        return None
    text = b"".join(pieces[number] for number in sorted(pieces)).decode("utf-16-le", "replace")
    return text.split("\0", 1)[0]


def _short_name(name: bytes, extension: bytes, case: int) -> str:
    if name[0] == _ESCAPED:
        name = bytes([_DELETED]) + name[1:]
    stem = name.decode("cp437").rstrip(" ")
    ending = extension.decode("cp437").rstrip(" ")
    if case & _LOWER_NAME:
        stem = stem.lower()
    if case & _LOWER_EXTENSION:
        ending = ending.lower()
    return f"{stem}.{ending}" if ending else stem

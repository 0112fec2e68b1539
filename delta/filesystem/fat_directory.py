"""The records of a FAT directory: 32 bytes each, long names in records before the short one.

A slot is the place of 32 bytes, counted from 0 in its directory.

Names are as Linux shows them: the long name where it belongs to the record, else the short one
in the case that its flags ask for.

Source: Microsoft's "FAT File System Specification" (2005), 6 and 7; the kernel's fs/fat/dir.c.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from slipstream.delta.errors import FormatError
from slipstream.delta.filesystem.fat_layout import RECORD_BYTES

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
    """A file or directory: `size` in bytes as recorded, `cluster` starts its chain.

    It takes `slot_count` slots from `slot` on, the short name in the last of them. Behind the
    first record that says that no more follow, firmware does not look; Linux does.
    """

    name: str
    short_name: str
    is_directory: bool
    cluster: int
    size: int
    slot: int
    slot_count: int
    is_behind_end: bool

    @property
    def slots(self) -> range:
        """Its slots."""
        return range(self.slot, self.slot + self.slot_count)


class Slots(NamedTuple):
    """The slots of a directory, a byte for each: 0 where it is free, as Linux looks for room.

    `used` is how many of them are or were taken: firmware looks no further.
    """

    taken: bytes
    records: tuple[Record, ...]
    strays: tuple[int, ...]  # taken by pieces of long names that belong to no record
    used: int


def read_records(content: bytes) -> Iterator[Record]:
    """The files and directories of a directory, without `.` and `..`; FormatError."""
    for record in read_slots(content).records:
        if record.is_behind_end:
            return
        if not record.name or "/" in record.name or "\0" in record.name:
            raise FormatError("directory with an impossible name", got=record.name)
        yield record._replace(size=0) if record.is_directory else record


def read_slots(content: bytes) -> Slots:
    """All slots of a directory, and what stands in them: `.`, `..` and labels are no records."""
    taken = bytearray(len(content) // RECORD_BYTES)
    records: list[Record] = []
    strays: list[int] = []
    pieces: dict[int, bytes] = {}
    piece_slots: list[int] = []
    checksum = -1
    is_behind_end = False
    used = len(taken)
    for slot in range(len(taken)):
        at = slot * RECORD_BYTES
        first, attributes = content[at], content[at + _ATTRIBUTES_OFFSET]
        if first in (_END, _DELETED):
            if first == _END and not is_behind_end:
                is_behind_end, used = True, slot
            strays += piece_slots
            pieces, piece_slots = {}, []
            continue
        taken[slot] = 1
        if attributes & _LONG_NAME_MASK == _LONG_NAME:
            sequence, head, piece_checksum, middle, tail = _LONG.unpack_from(content, at)
            if sequence & _LAST_PIECE:
                strays += piece_slots
                pieces, piece_slots, checksum = {}, [], piece_checksum
            piece_slots.append(slot)
            if piece_checksum == checksum:
                pieces[sequence & _SEQUENCE_MASK] = head + middle + tail
            continue
        long_pieces, pieces = pieces, {}
        long_slots, piece_slots = piece_slots, []
        name, extension, _, case, high, low, size = _RECORD.unpack_from(content, at)
        short_name = _short_name(name, extension, case)
        text = None
        if not attributes & _LABEL and not name.startswith(b"."):
            if long_pieces and checksum == _checksum(name + extension):
                text = _long_name(long_pieces)
            start = slot - len(long_slots) if text else slot
            records.append(
                Record(
                    name=text or short_name,
                    short_name=short_name,
                    is_directory=bool(attributes & _DIRECTORY),
                    cluster=high << 16 | low,
                    size=size,
                    slot=start,
                    slot_count=slot - start + 1,
                    is_behind_end=is_behind_end,
                )
            )
        if not text:
            strays += long_slots
    return Slots(bytes(taken), tuple(records), tuple(strays + piece_slots), used)


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

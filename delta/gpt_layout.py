"""The bytes of a GUID partition table: fields of its headers and rows, checksums, labels.

Nothing here is judged but lengths and the magic: gpt_copy.py says what a sound copy is. The lenient
reader for payloads (filesystem/disk.py) shares this.

Source: UEFI specification 2.10, 5.3.
"""

import struct
import uuid
import zlib
from dataclasses import dataclass
from typing import NamedTuple

from slipstream.delta.errors import FormatError

MAGIC = b"EFI PART"
SECTOR_SIZES = (512, 4096)
PRIMARY_SECTOR = 1
REVISION = 0x00010000
HEADER_BYTES = 92
ENTRY_BYTES = 128  # the only size that Linux reads
LABEL_UNITS_MAX = 36  # UTF-16 code units of a row's name
NO_TYPE = bytes(16)
NO_HEADER = "no GPT header"

# signature, revision, header size, header CRC, reserved; this sector, the other copy's, first and
# last usable; disk GUID; first sector of the rows, their number and size, their CRC (UEFI table 5-5)
HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_CRC_AT = 16
_ENTRIES_CRC_AT = 88
# type GUID, unique GUID, first and last sector, attributes, label (UEFI table 5-6)
ENTRY = struct.Struct("<16s16sQQQ72s")


class HeaderFields(NamedTuple):
    """What a header says, unchecked. Places are sectors."""

    magic: bytes
    revision: int
    header_bytes: int
    crc: int
    reserved: int
    sector: int
    other_sector: int
    first_usable: int
    last_usable: int
    disk_guid: bytes
    entries_sector: int
    entry_count: int
    entry_bytes: int
    entries_crc: int


@dataclass(frozen=True, slots=True)
class Row:
    """A partition. `number` counts from 1, as Linux does; `first` and `last` are sectors, both in it.

    `uuid` is the PARTUUID as text shows it; on disk its first three fields are little-endian.
    """

    number: int
    type: uuid.UUID
    uuid: uuid.UUID
    first: int
    last: int
    attributes: int
    label: str


def parse_header_fields(raw: bytes) -> HeaderFields:
    """The fields of a header's first 92 bytes: nothing is checked but the length and the magic."""
    if len(raw) < HEADER_BYTES or raw[:8] != MAGIC:
        raise FormatError(NO_HEADER)
    return HeaderFields._make(HEADER.unpack_from(raw))


def parse_row(number: int, raw: bytes) -> Row:
    """The partition that a row of 128 bytes describes."""
    kind, unique, first, last, attributes, label = ENTRY.unpack(raw)
    return Row(
        number,
        uuid.UUID(bytes_le=kind),
        uuid.UUID(bytes_le=unique),
        first,
        last,
        attributes,
        parse_label(label),
    )


def split_rows(entries: bytes) -> list[bytes]:
    """The rows, unused ones too."""
    return [entries[at : at + ENTRY_BYTES] for at in range(0, len(entries), ENTRY_BYTES)]


def parse_label(raw: bytes) -> str:
    """A row's name: UTF-16LE, ended by a zero or by its 72 bytes. What is no text is replaced."""
    return raw.decode("utf-16-le", "replace").split("\0", 1)[0]


def dump_label(label: str) -> bytes:
    """The 72 bytes of a row's name; FormatError for one that has no room, or an end of its own."""
    raw = label.encode("utf-16-le")
    if len(raw) > 2 * LABEL_UNITS_MAX or "\0" in label:
        raise FormatError(
            "not a partition label",
            expected=f"at most {LABEL_UNITS_MAX} UTF-16 units",
            got=repr(label),
        )
    return raw.ljust(2 * LABEL_UNITS_MAX, b"\0")


def header_crc(header: bytes, size: int) -> int:
    """The checksum of a header of `size` bytes, taken with zeros in its own place."""
    return zlib.crc32(header[:_CRC_AT] + bytes(4) + header[_CRC_AT + 4 : size])


def seal_header(header: bytes, entries: bytes) -> bytes:
    """The header's sector with both checksums made anew."""
    made = bytearray(header)
    made[_ENTRIES_CRC_AT : _ENTRIES_CRC_AT + 4] = zlib.crc32(entries).to_bytes(4, "little")
    crc = header_crc(bytes(made), HeaderFields._make(HEADER.unpack_from(made)).header_bytes)
    made[_CRC_AT : _CRC_AT + 4] = crc.to_bytes(4, "little")
    return bytes(made)

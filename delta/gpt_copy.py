"""One copy of a GUID partition table: read and checked, its rows renamed, dumped.

Pure: what is on the disk comes through a `Disk` to read from, what must be written is given back
as bytes with their places. Only the label and the unique GUID of a row are ever changed: places,
types, attributes, the order of rows and the reserved bytes of the header stay as they are. A copy of
which only some sectors are new is not valid: its checksums cover all rows.

Source: UEFI specification 2.10, 5.3; Linux, block/partitions/efi.c (is_gpt_valid).
"""

import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

from slipstream.delta.errors import FormatError
from slipstream.delta.gpt_layout import (
    ENTRY_BYTES,
    HEADER_BYTES,
    NO_TYPE,
    PRIMARY_SECTOR,
    REVISION,
    HeaderFields,
    Row,
    dump_label,
    header_crc,
    parse_header_fields,
    parse_row,
    seal_header,
    split_rows,
)
from slipstream.delta.limits import PARTITIONS_MAX


class Disk(Protocol):
    """Random access to a whole disk, or to an image of one."""

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes; the range is within the disk."""
        ...


class Identity(NamedTuple):
    """By what a partition is found: its label, at most 36 UTF-16 units, and its PARTUUID."""

    label: str
    uuid: uuid.UUID


@dataclass(frozen=True, slots=True)
class GptCopy:
    """One copy that is valid in itself: its header's sector, and its rows as they stand on disk."""

    sector_size: int
    header: bytes
    entries: bytes

    @property
    def fields(self) -> HeaderFields:
        return parse_header_fields(self.header)

    @property
    def is_primary(self) -> bool:
        return self.fields.sector == PRIMARY_SECTOR

    @property
    def rows(self) -> tuple[Row, ...]:
        """The partitions, in the table's order; unused rows are left out."""
        return tuple(
            parse_row(number, raw)
            for number, raw in enumerate(split_rows(self.entries), 1)
            if raw[:16] != NO_TYPE
        )

    def row_at(self, offset: int, size: int) -> Row | None:
        """The partition that takes exactly these bytes of the disk; None if there is none."""
        for row in self.rows:
            span = (row.last + 1 - row.first) * self.sector_size
            if (row.first * self.sector_size, span) == (offset, size):
                return row
        return None

    def renamed(self, identities: Mapping[int, Identity]) -> "GptCopy":
        """This copy with other labels and GUIDs in some rows, by number; all else as it is.

        Raises FormatError for a label that is too long, a row that is not there, or a GUID that
        another row has.
        """
        rows = {row.number: row for row in self.rows}
        entries = bytearray(self.entries)
        for number, identity in identities.items():
            if number not in rows:
                raise FormatError("no such partition", where=f"partition {number}")
            begin = (number - 1) * ENTRY_BYTES
            entries[begin + 16 : begin + 32] = identity.uuid.bytes_le
            entries[begin + 56 : begin + ENTRY_BYTES] = dump_label(identity.label)
        made = GptCopy(self.sector_size, seal_header(self.header, bytes(entries)), bytes(entries))
        for number, identity in identities.items():
            for row in made.rows:
                if row.uuid == identity.uuid and row.number != number:
                    raise FormatError(
                        "two partitions would have one unique GUID",
                        where=f"partitions {number} and {row.number}",
                        got=identity.uuid,
                    )
        return made

    def dump(self) -> tuple[tuple[int, bytes], tuple[int, bytes]]:
        """What to write, in this order: place in bytes and the rows, place and the header's sector."""
        fields = self.fields
        return (
            (fields.entries_sector * self.sector_size, self.entries),
            (fields.sector * self.sector_size, self.header),
        )

    @property
    def span(self) -> tuple[int, int]:
        """First byte and number of bytes of all that belongs to the copy, header and rows."""
        places = [(at, at + len(raw)) for at, raw in self.dump()]
        begin = min(at for at, _ in places)
        return begin, max(end for _, end in places) - begin


def read_copy(disk: Disk, sector_size: int, sector: int) -> GptCopy:
    """The copy whose header stands in a sector, valid in itself; FormatError."""
    header, fields = read_header(disk, sector_size, sector)
    size = fields.entry_count * ENTRY_BYTES
    entries = disk.read(fields.entries_sector * sector_size, size)
    if fields.entries_crc != (crc := zlib.crc32(entries)):
        raise FormatError(
            "wrong checksum of the rows", expected=f"{fields.entries_crc:08x}", got=f"{crc:08x}"
        )
    copy = GptCopy(sector_size, header, entries)
    _check_rows(copy)
    return copy


def read_header(disk: Disk, sector_size: int, sector: int) -> tuple[bytes, HeaderFields]:
    """The header's sector and what it says, checked; its rows are within the disk."""
    count = disk.size // sector_size
    if not PRIMARY_SECTOR <= sector < count:
        raise FormatError("outside the disk", expected=f"1..{count - 1}", got=f"sector {sector}")
    header = disk.read(sector * sector_size, sector_size)
    fields = parse_header_fields(header)
    if fields.revision != REVISION or not HEADER_BYTES <= fields.header_bytes <= sector_size:
        raise FormatError(
            "a GPT header of another kind",
            expected=f"revision 1.0, {HEADER_BYTES}..{sector_size} bytes",
            got=f"revision {fields.revision:#x}, {fields.header_bytes} bytes",
        )
    if fields.crc != (crc := header_crc(header, fields.header_bytes)):
        raise FormatError(
            "wrong checksum of the header", expected=f"{fields.crc:08x}", got=f"{crc:08x}"
        )
    if fields.sector != sector:
        raise FormatError("the header of another sector", expected=sector, got=fields.sector)
    check_places(fields, sector_size, count)
    return header, fields


def check_places(fields: HeaderFields, sector_size: int, count: int) -> None:
    """Header, rows and partitions take different sectors of the disk: writing one of them can hurt
    none of the others."""
    if fields.entry_bytes != ENTRY_BYTES or not 1 <= fields.entry_count <= PARTITIONS_MAX:
        raise FormatError(
            "GPT rows of another kind",
            expected=f"1..{PARTITIONS_MAX} of {ENTRY_BYTES} bytes",
            got=f"{fields.entry_count} of {fields.entry_bytes}",
        )
    begin = fields.entries_sector
    end = begin + -(-fields.entry_count * ENTRY_BYTES // sector_size)
    usable = fields.first_usable, fields.last_usable + 1
    if fields.sector == PRIMARY_SECTOR:
        sound = PRIMARY_SECTOR < begin < end <= usable[0] < usable[1] <= count
    else:
        sound = PRIMARY_SECTOR < usable[0] < usable[1] <= begin < end <= fields.sector
    if not sound or fields.sector == fields.other_sector:
        raise FormatError(
            "the GPT's own places overlap",
            where=f"header in sector {fields.sector}",
            got=f"rows in {begin}..{end - 1}, partitions in {usable[0]}..{fields.last_usable}",
        )


def _check_rows(copy: GptCopy) -> None:
    fields = copy.fields
    rows = sorted(copy.rows, key=lambda row: row.first)
    for row in rows:
        if not fields.first_usable <= row.first <= row.last <= fields.last_usable:
            raise FormatError(
                "a partition outside the usable sectors",
                where=f"partition {row.number}",
                expected=f"within {fields.first_usable}..{fields.last_usable}",
                got=f"{row.first}..{row.last}",
            )
    for before, after in pairwise(rows):
        if after.first <= before.last:
            raise FormatError(
                "partitions overlap", where=f"partitions {before.number} and {after.number}"
            )


def sectors_of(entries: bytes, sector_size: int) -> int:
    """How many sectors rows take."""
    return -(-len(entries) // sector_size)

"""The GUID Partition Table: both copies read and checked, rows renamed, copies dumped.

Pure: what is on the disk comes through a `Disk` to read from, what must be written is given back
as bytes with their places. Only the label and the unique GUID of a row are ever changed: places,
types, attributes, the order of rows, the reserved bytes of the header and the protective MBR stay
as they are.

A disk holds the table twice. The primary copy (header in sector 1, rows behind it) counts where it
is valid; the backup (header in the last sector, rows before it) where the primary is not: EDK2
does so always, Linux with `gpt` on its command line. So one of them is written, made durable and
read back before the other is touched. A copy of which only some sectors are new is not valid: its
checksums cover all rows.

Source: UEFI specification 2.10, 5.3; Linux, block/partitions/efi.c (is_gpt_valid, find_valid_gpt).
Not here: MBR disks, and the lenient reader for payloads (filesystem/disk.py), which shares the
layout.
"""

import struct
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

from slipstream.delta.errors import FormatError
from slipstream.delta.limits import PARTITIONS_MAX

MAGIC = b"EFI PART"
SECTOR_SIZES = (512, 4096)
LABEL_UNITS_MAX = 36  # UTF-16 code units of a row's name
ENTRY_BYTES = 128  # the only size that Linux reads
NO_TYPE = bytes(16)

_HEADER_BYTES = 92
_NO_HEADER = "no GPT header"
_PRIMARY_SECTOR = 1
_REVISION = 0x00010000
# signature, revision, header size, header CRC, reserved; this sector, the other copy's, first and
# last usable; disk GUID; first sector of the rows, their number and size, their CRC (UEFI table 5-5)
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_CRC_AT = 16
_ENTRIES_CRC_AT = 88
# type GUID, unique GUID, first and last sector, attributes, label (UEFI table 5-6)
ENTRY = struct.Struct("<16s16sQQQ72s")


class Disk(Protocol):
    """Random access to a whole disk, or to an image of one."""

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        ...

    def read(self, offset: int, size: int) -> bytes:
        """Exactly `size` bytes; the range is within the disk."""
        ...


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


class Identity(NamedTuple):
    """By what a partition is found: its label, at most 36 UTF-16 units, and its PARTUUID."""

    label: str
    uuid: uuid.UUID


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
        return self.fields.sector == _PRIMARY_SECTOR

    @property
    def rows(self) -> tuple[Row, ...]:
        """The partitions, in the table's order; unused rows are left out."""
        return tuple(
            _parse_row(number, raw)
            for number, raw in enumerate(_split(self.entries), 1)
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
            entries[begin + 56 : begin + ENTRY_BYTES] = _dump_label(identity.label)
        made = _sealed(self.sector_size, self.header, bytes(entries))
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


@dataclass(frozen=True, slots=True)
class Gpt:
    """Both copies as they stand: each is a value, or why it is none. At least one is valid.

    `primary_rows_at` is the sector of the primary's rows, where its header is sound, be its rows
    or not: a boot ROM may want the sectors that rows have elsewhere.
    """

    sector_size: int
    sector_count: int
    primary: GptCopy | FormatError
    backup: GptCopy | FormatError
    primary_rows_at: int | None = None

    @property
    def counting(self) -> GptCopy:
        """The copy that firmware and kernel go by."""
        copy = self.primary if isinstance(self.primary, GptCopy) else self.backup
        assert isinstance(copy, GptCopy)  # read_gpt raises where there is none
        return copy

    @property
    def backup_is_last(self) -> bool:
        """Whether the backup's header stands in the last sector, where it is looked for when the
        primary is lost. It does not after a disk or its image has grown."""
        return not isinstance(self.backup, GptCopy) or (
            self.backup.fields.sector == self.sector_count - 1
        )

    def differing(self) -> tuple[int, ...]:
        """Numbers of the rows in which two valid copies differ."""
        if isinstance(self.primary, FormatError) or isinstance(self.backup, FormatError):
            return ()
        pairs = zip(_split(self.primary.entries), _split(self.backup.entries), strict=True)
        return tuple(number for number, (ours, theirs) in enumerate(pairs, 1) if ours != theirs)

    def mended(self) -> GptCopy | None:
        """The copy that is missing, made from the valid one; None if both are there.

        A primary gets its rows where its own header says, if that is sound, else behind it; a
        backup goes to the end of the disk. Raises FormatError if there is no room for it, or if the
        primary says that its backup is elsewhere: it would not be found.
        """
        if isinstance(self.primary, GptCopy) and isinstance(self.backup, GptCopy):
            return None
        good = self.counting
        fields = good.fields
        sectors = _sectors_of(good.entries, self.sector_size)
        if good.is_primary:
            sector, other = self.sector_count - 1, _PRIMARY_SECTOR
            entries_sector = sector - sectors
            if fields.other_sector != sector:
                raise FormatError(
                    "the primary table has its backup elsewhere than at the end of the disk",
                    expected=f"sector {sector}",
                    got=f"sector {fields.other_sector}",
                )
        else:
            sector, other = _PRIMARY_SECTOR, fields.sector
            entries_sector = self.primary_rows_at or _PRIMARY_SECTOR + 1
        moved = fields._replace(sector=sector, other_sector=other, entries_sector=entries_sector)
        header = _HEADER.pack(*moved) + good.header[_HEADER_BYTES:]
        made = _sealed(self.sector_size, header, good.entries)
        _check_places(made.fields, self.sector_size, self.sector_count)
        return made


def read_gpt(disk: Disk, sector_size: int | None = None) -> Gpt:
    """Both copies of the table on `disk`; FormatError if neither is valid, or if they are copies of
    two different tables.

    `sector_size` in bytes where the disk says it; else the one at which a copy is found.
    """
    sizes = SECTOR_SIZES if sector_size is None else (sector_size,)
    found = [_read_both(disk, size) for size in sizes]
    for one in found:
        if isinstance(one, Gpt):
            return one
    errors = [one for one in found if isinstance(one, FormatError)]
    raise next((one for one in errors if one.what != _NO_HEADER), errors[0])


def parse_header_fields(raw: bytes) -> HeaderFields:
    """The fields of a header's first 92 bytes: nothing is checked but the length and the magic."""
    if len(raw) < _HEADER_BYTES or raw[:8] != MAGIC:
        raise FormatError(_NO_HEADER)
    return HeaderFields._make(_HEADER.unpack_from(raw))


def parse_label(raw: bytes) -> str:
    """A row's name: UTF-16LE, ended by a zero or by its 72 bytes. What is no text is replaced."""
    return raw.decode("utf-16-le", "replace").split("\0", 1)[0]


# --- reading


def _read_both(disk: Disk, sector_size: int) -> Gpt | FormatError:
    count = disk.size // sector_size
    primary = _try_copy(disk, sector_size, _PRIMARY_SECTOR)
    last = count - 1
    if isinstance(primary, GptCopy):
        last = primary.fields.other_sector  # Linux looks where a valid primary says
    backup = _try_copy(disk, sector_size, last)
    if isinstance(primary, FormatError) and isinstance(backup, FormatError):
        return primary
    if isinstance(primary, GptCopy) and isinstance(backup, GptCopy):
        ours, theirs = primary.fields, backup.fields
        if _shared(ours) != _shared(theirs):
            return FormatError(
                "the two copies are of two different tables",
                expected=f"disk {uuid.UUID(bytes_le=ours.disk_guid)}, {ours.entry_count} rows",
                got=f"disk {uuid.UUID(bytes_le=theirs.disk_guid)}, {theirs.entry_count} rows",
            )
    try:
        rows_at = _read_header(disk, sector_size, _PRIMARY_SECTOR)[1].entries_sector
    except FormatError:
        rows_at = None
    return Gpt(sector_size, count, primary, backup, rows_at)


def _shared(fields: HeaderFields) -> tuple[object, ...]:
    """What both headers say alike."""
    return (fields.disk_guid, fields.first_usable, fields.last_usable, fields.entry_count)


def _try_copy(disk: Disk, sector_size: int, sector: int) -> GptCopy | FormatError:
    try:
        return _read_copy(disk, sector_size, sector)
    except FormatError as error:
        name = "primary" if sector == _PRIMARY_SECTOR else "backup"
        return error.at(f"{name} partition table (sector {sector})")


def _read_copy(disk: Disk, sector_size: int, sector: int) -> GptCopy:
    header, fields = _read_header(disk, sector_size, sector)
    size = fields.entry_count * ENTRY_BYTES
    entries = disk.read(fields.entries_sector * sector_size, size)
    if fields.entries_crc != (crc := zlib.crc32(entries)):
        raise FormatError(
            "wrong checksum of the rows", expected=f"{fields.entries_crc:08x}", got=f"{crc:08x}"
        )
    copy = GptCopy(sector_size, header, entries)
    _check_rows(copy)
    return copy


def _read_header(disk: Disk, sector_size: int, sector: int) -> tuple[bytes, HeaderFields]:
    """The header's sector and what it says, checked; its rows are within the disk."""
    count = disk.size // sector_size
    if not _PRIMARY_SECTOR <= sector < count:
        raise FormatError("outside the disk", expected=f"1..{count - 1}", got=f"sector {sector}")
    header = disk.read(sector * sector_size, sector_size)
    fields = parse_header_fields(header)
    if fields.revision != _REVISION or not _HEADER_BYTES <= fields.header_bytes <= sector_size:
        raise FormatError(
            "a GPT header of another kind",
            expected=f"revision 1.0, {_HEADER_BYTES}..{sector_size} bytes",
            got=f"revision {fields.revision:#x}, {fields.header_bytes} bytes",
        )
    if fields.crc != (crc := _header_crc(header, fields.header_bytes)):
        raise FormatError(
            "wrong checksum of the header", expected=f"{fields.crc:08x}", got=f"{crc:08x}"
        )
    if fields.sector != sector:
        raise FormatError("the header of another sector", expected=sector, got=fields.sector)
    _check_places(fields, sector_size, count)
    return header, fields


def _check_places(fields: HeaderFields, sector_size: int, count: int) -> None:
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
    if fields.sector == _PRIMARY_SECTOR:
        sound = _PRIMARY_SECTOR < begin < end <= usable[0] < usable[1] <= count
    else:
        sound = _PRIMARY_SECTOR < usable[0] < usable[1] <= begin < end <= fields.sector
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


def _split(entries: bytes) -> list[bytes]:
    return [entries[at : at + ENTRY_BYTES] for at in range(0, len(entries), ENTRY_BYTES)]


def _parse_row(number: int, raw: bytes) -> Row:
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


# --- writing


def _sealed(sector_size: int, header: bytes, entries: bytes) -> GptCopy:
    """A copy with both checksums made anew."""
    made = bytearray(header)
    made[_ENTRIES_CRC_AT : _ENTRIES_CRC_AT + 4] = zlib.crc32(entries).to_bytes(4, "little")
    crc = _header_crc(bytes(made), HeaderFields._make(_HEADER.unpack_from(made)).header_bytes)
    made[_CRC_AT : _CRC_AT + 4] = crc.to_bytes(4, "little")
    return GptCopy(sector_size, bytes(made), entries)


def _header_crc(header: bytes, size: int) -> int:
    return zlib.crc32(header[:_CRC_AT] + bytes(4) + header[_CRC_AT + 4 : size])


def _sectors_of(entries: bytes, sector_size: int) -> int:
    return -(-len(entries) // sector_size)


def _dump_label(label: str) -> bytes:
    raw = label.encode("utf-16-le")
    if len(raw) > 2 * LABEL_UNITS_MAX or "\0" in label:
        raise FormatError(
            "not a partition label",
            expected=f"at most {LABEL_UNITS_MAX} UTF-16 units",
            got=repr(label),
        )
    return raw.ljust(2 * LABEL_UNITS_MAX, b"\0")

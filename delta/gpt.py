"""The GUID Partition Table: both copies as they stand on a disk, and the one that is lost made anew.

A disk holds the table twice. The primary copy (header in sector 1, rows behind it) counts where it
is valid; the backup (header in the last sector, rows before it) where the primary is not: EDK2
does so always, Linux with `gpt` on its command line. So one of them is written, made durable and
read back before the other is touched. What one copy is stands in gpt_copy.py.

Source: UEFI specification 2.10, 5.3; Linux, block/partitions/efi.c (find_valid_gpt).
Not here: the protective MBR, which stays as it is, and MBR disks.
"""

import uuid
from contextlib import suppress
from dataclasses import dataclass

from slipstream.delta.errors import FormatError
from slipstream.delta.gpt_copy import (
    Disk,
    GptCopy,
    check_places,
    read_copy,
    read_header,
    sectors_of,
)
from slipstream.delta.gpt_layout import (
    HEADER,
    HEADER_BYTES,
    NO_HEADER,
    NO_TYPE,
    PRIMARY_SECTOR,
    SECTOR_SIZES,
    HeaderFields,
    seal_header,
    split_rows,
)


@dataclass(frozen=True, slots=True)
class Gpt:
    """Both copies as they stand: each is a value, or why it is none. At least one is valid.

    `rows_at` is the first sector of the rows of the copy that is none, where that is known: a boot ROM
    may want the sectors that rows have elsewhere.
    """

    sector_size: int
    sector_count: int
    primary: GptCopy | FormatError
    backup: GptCopy | FormatError
    rows_at: int | None = None

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
        pairs = zip(split_rows(self.primary.entries), split_rows(self.backup.entries), strict=True)
        return tuple(number for number, (ours, theirs) in enumerate(pairs, 1) if ours != theirs)

    def mended(self) -> GptCopy | None:
        """The copy that is missing, made from the valid one; None if both are there.

        Its rows go where its own header says, if that is sound, or where they are seen to stand; a
        backup's header goes to the end of the disk. Raises FormatError if there is no room for it, if
        it is not known where its rows belong, or if the primary says that its backup is elsewhere: it
        would not be found.
        """
        if isinstance(self.primary, GptCopy) and isinstance(self.backup, GptCopy):
            return None
        good = self.counting
        fields = good.fields
        sectors = sectors_of(good.entries, self.sector_size)
        if good.is_primary:
            sector, other = self.sector_count - 1, PRIMARY_SECTOR
            entries_sector = sector - sectors if self.rows_at is None else self.rows_at
            if fields.other_sector != sector:
                raise FormatError(
                    "the primary table has its backup elsewhere than at the end of the disk",
                    expected=f"sector {sector}",
                    got=f"sector {fields.other_sector}",
                )
        else:
            sector, other = PRIMARY_SECTOR, fields.sector
            if self.rows_at is None:
                raise FormatError(
                    "where the primary table has its rows is not known: its header is damaged, and "
                    "what stands behind it is no table",
                    expected=f"rows or zeros in sectors {PRIMARY_SECTOR + 1}..{PRIMARY_SECTOR + sectors}",
                )
            entries_sector = self.rows_at
        moved = fields._replace(sector=sector, other_sector=other, entries_sector=entries_sector)
        header = HEADER.pack(*moved) + good.header[HEADER_BYTES:]
        made = GptCopy(self.sector_size, seal_header(header, good.entries), good.entries)
        check_places(made.fields, self.sector_size, self.sector_count)
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
    raise next((one for one in errors if one.what != NO_HEADER), errors[0])


def _read_both(disk: Disk, sector_size: int) -> Gpt | FormatError:
    count = disk.size // sector_size
    primary = _try_copy(disk, sector_size, PRIMARY_SECTOR)
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
    rows_at = None
    if isinstance(primary, FormatError) and isinstance(backup, GptCopy):
        rows_at = _find_rows(disk, sector_size, PRIMARY_SECTOR, backup)
    elif isinstance(primary, GptCopy) and isinstance(backup, FormatError):
        rows_at = _find_rows(disk, sector_size, last, primary)
    return Gpt(sector_size, count, primary, backup, rows_at)


def _find_rows(disk: Disk, sector_size: int, sector: int, good: GptCopy) -> int | None:
    """Where the rows of a copy belong whose header stands, or should, in `sector`: None if nothing
    says so. `good` is the other copy.

    With the header damaged, a primary's rows are where at least one partition still has its row, or
    where they have room at one place only. Some boot ROMs read their code from the sectors behind the
    header, and the rows are elsewhere (`sgdisk --move-main-table`); but zeros are no code.
    """
    with suppress(FormatError):
        return read_header(disk, sector_size, sector)[1].entries_sector
    if sector != PRIMARY_SECTOR:
        return None
    sectors, first_usable = sectors_of(good.entries, sector_size), good.fields.first_usable
    usual, highest = PRIMARY_SECTOR + 1, first_usable - sectors
    if usual >= highest:
        return usual
    for at in (usual, highest):
        found = split_rows(disk.read(at * sector_size, len(good.entries)))
        if any(
            ours[:16] != NO_TYPE and (ours[:16], ours[32:48]) == (theirs[:16], theirs[32:48])
            for ours, theirs in zip(found, split_rows(good.entries), strict=True)
        ):
            return at
    zeros = not any(disk.read(usual * sector_size, sectors * sector_size))
    return usual if zeros else None


def _shared(fields: HeaderFields) -> tuple[object, ...]:
    """What both headers say alike."""
    return (fields.disk_guid, fields.first_usable, fields.last_usable, fields.entry_count)


def _try_copy(disk: Disk, sector_size: int, sector: int) -> GptCopy | FormatError:
    try:
        return read_copy(disk, sector_size, sector)
    except FormatError as error:
        name = "primary" if sector == PRIMARY_SECTOR else "backup"
        return error.at(f"{name} partition table (sector {sector})")

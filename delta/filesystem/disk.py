"""Reads a disk with partitions, GPT or MBR: one map of all its file systems.

Paths start with the partition's name (GPT) or number, so that the same file in two slots is two
entries. A partition that cannot be read, or stands outside the image, is a note. The second copy
of a GPT and all checksums are ignored: a wrong map costs payload size only.

Source: UEFI specification 2.10, chapter 5; the kernel's block/partitions/efi.c and msdos.c.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from slipstream.delta.byterange import ByteRange
from slipstream.delta.errors import FormatError
from slipstream.delta.filemap import Block, Entry, FileMap
from slipstream.delta.filesystem.fat_layout import SIGNATURE, SIGNATURE_OFFSET
from slipstream.delta.filesystem.part import Part
from slipstream.delta.filesystem.volume import read_volume
from slipstream.delta.gpt_layout import (
    ENTRY,
    MAGIC,
    NO_TYPE,
    SECTOR_SIZES,
    parse_header_fields,
    parse_label,
)
from slipstream.delta.limits import MAP_NAMES_MAX, MAP_PATHS_CHARS_MAX, PARTITIONS_MAX
from slipstream.delta.reader import Reader

_GPT_ENTRY_BYTES_MAX = 4096

_MBR_SECTOR = 512
_MBR_TABLE_OFFSET = 446
_MBR_ENTRY = struct.Struct("<4xB3xII")  # type, first sector, sectors
_MBR_PRIMARY = 4
_MBR_EXTENDED = (0x05, 0x0F, 0x85)
_MBR_PROTECTIVE = 0xEE  # says: the GPT counts


class _Partition(NamedTuple):
    """A partition as its table says, in bytes; `name` is unique on the disk."""

    name: str
    offset: int
    size: int


def read_disk(image: Reader) -> FileMap:
    """The maps of all partitions as one; FormatError for a table that is not sound."""
    part = Part(image, 0, image.size)
    for sector in SECTOR_SIZES:
        if part.size >= 2 * sector and part.read(sector, len(MAGIC)) == MAGIC:
            table, partitions = "GPT", list(_read_gpt(part, sector))
            break
    else:
        table, partitions = "MBR", list(_read_mbr(part))
    if not partitions:
        raise FormatError(f"a {table} disk without partitions")
    partitions.sort(key=lambda partition: partition.offset)
    whole = FileMap("")
    kinds = []
    end = path_chars = 0
    for partition in partitions:
        if partition.offset < end:
            raise FormatError("partitions overlap", where=f"partition {partition.name}")
        end = partition.offset + partition.size
        if end > part.size:
            whole.notes.append(f"{partition.name}: the image ends before this partition does")
            continue
        inner = read_volume(Part(part, partition.offset, partition.size))
        kinds.append(f"{partition.name}: {inner.kind}")
        _add(whole, inner, partition)
        path_chars += sum(len(entry.path) for entry in inner.entries)
        if len(whole.entries) > MAP_NAMES_MAX or path_chars > MAP_PATHS_CHARS_MAX:
            raise FormatError(
                "too many names on all partitions",
                expected=f"<= {MAP_NAMES_MAX} of {MAP_PATHS_CHARS_MAX} characters",
                got=f"{len(whole.entries)} of {path_chars} characters",
            )
    whole.kind = f"{table} disk ({'; '.join(kinds)})"
    return whole


def _add(whole: FileMap, inner: FileMap, partition: _Partition) -> None:
    """Add the map of a partition: places shifted, blocks renumbered, paths below its name."""
    first_block = len(whole.blocks)
    for block in inner.blocks:
        place = ByteRange(block.place.offset + partition.offset, block.place.size)
        whole.blocks.append(Block(block.packing, place, block.size))
    for entry in inner.entries:
        extents = tuple(
            extent._replace(place=extent.place + partition.offset)
            if extent.block is None
            else extent._replace(block=extent.block + first_block)
            for extent in entry.extents
        )
        path = f"{partition.name}/{entry.path}"
        whole.entries.append(Entry(entry.kind, path, entry.size, extents))
    for name, value in inner.hints.items():
        whole.hints.setdefault(name, value)  # slots of one disk are packed alike
    whole.notes.extend(f"{partition.name}: {note}" for note in inner.notes)


def _read_gpt(image: Part, sector: int) -> Iterator[_Partition]:
    header = parse_header_fields(image.read(sector, sector))
    count, size = header.entry_count, header.entry_bytes
    if count > PARTITIONS_MAX or not ENTRY.size <= size <= _GPT_ENTRY_BYTES_MAX:
        raise FormatError(
            "GPT entries",
            expected=f"<= {PARTITIONS_MAX} of {ENTRY.size}..{_GPT_ENTRY_BYTES_MAX} bytes",
            got=f"{count} of {size}",
        )
    entries = image.read(header.entries_sector * sector, count * size)
    taken: set[str] = set()
    for index in range(count):
        type_id, _, first, last, _, raw_name = ENTRY.unpack_from(entries, index * size)
        if type_id == NO_TYPE:
            continue
        if last < first:
            raise FormatError("GPT partition ends before it starts", where=f"partition {index + 1}")
        name = parse_label(raw_name).replace("/", "_") or str(index + 1)
        while name in taken:
            name = f"{name}-{index + 1}"
        taken.add(name)
        yield _Partition(name, first * sector, (last + 1 - first) * sector)


def _read_mbr(image: Part) -> Iterator[_Partition]:
    """Primary partitions 1 to 4, and logical ones from 5 on, as Linux counts."""
    logical = _MBR_PRIMARY
    for number, (kind, first, count) in enumerate(_mbr_entries(image, 0), 1):
        if kind == _MBR_PROTECTIVE:
            raise FormatError("a protective MBR without its GPT")
        if kind in _MBR_EXTENDED:
            for offset, size in _read_logical(image, first * _MBR_SECTOR):
                logical += 1
                yield _Partition(str(logical), offset, size)
        elif kind and count:
            yield _Partition(str(number), first * _MBR_SECTOR, count * _MBR_SECTOR)


def _read_logical(image: Part, base: int) -> Iterator[tuple[int, int]]:
    """Offsets and sizes of the logical partitions: a chain of tables, each names the next."""
    table = base
    for _ in range(PARTITIONS_MAX):
        (kind, first, count), (next_kind, next_first, _), *_ = _mbr_entries(image, table)
        if kind and count:
            yield table + first * _MBR_SECTOR, count * _MBR_SECTOR
        if next_kind not in _MBR_EXTENDED:
            return
        table = base + next_first * _MBR_SECTOR
    raise FormatError("too many logical partitions", expected=f"<= {PARTITIONS_MAX}")


def _mbr_entries(image: Part, offset: int) -> list[tuple[int, int, int]]:
    sector = image.read(offset, _MBR_SECTOR)
    if sector[SIGNATURE_OFFSET:] != SIGNATURE:
        raise FormatError("no partition table", where=f"byte {offset}")
    return list(_MBR_ENTRY.iter_unpack(sector[_MBR_TABLE_OFFSET:SIGNATURE_OFFSET]))

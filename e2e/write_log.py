"""What a guest's disk was asked to do, in order: QEMU's blklogwrites, read and looked through.

The format is dm-log-writes' (kernel: Documentation/admin-guide/device-mapper/log-writes.rst; QEMU:
block/blklogwrites.c): a superblock in the first sector, then for each request an entry in a sector
of its own, and its data. Integers are little-endian, places and sizes in sectors.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from e2e.disk import PARTITIONS, SECTOR, offset_of
from slipstream.delta.errors import FormatError

MAGIC, VERSION = 0x6A736677736872, 1
FLUSH, DISCARD = 1, 4
_SUPERBLOCK, _ENTRY = struct.Struct("<QQQI"), struct.Struct("<QQQQ")
# Where a record of a long name has its 13 UTF-16 characters (Microsoft's FAT specification, 7).
_LONG_NAME = ((1, 5), (14, 6), (28, 2))
RECORD_BYTES, ATTRIBUTE, LONG = 32, 11, 0x0F


@dataclass(frozen=True, slots=True)
class Write:
    """One request, by its place in the log. `data` is empty for a flush. Offset in bytes of the disk."""

    number: int
    offset: int
    data: bytes
    flush: bool

    @property
    def partition(self) -> str:
        """The partition it goes to, "table" for what is none; "" for a flush."""
        if not self.data:
            return ""
        return next(
            (
                one.name
                for one in PARTITIONS
                if 0 <= self.offset - offset_of(one.name) < one.size_mib << 20
            ),
            "table",
        )


@dataclass(slots=True)
class Window:
    """What was written between two flushes: sectors that changed, by partition."""

    first: int
    last: int = 0
    writes: int = 0
    changed: dict[str, list[int]] = field(default_factory=dict)

    def describe(self) -> str:
        """In words, for people."""
        parts = [f"{len(sectors)} sectors of {name}" for name, sectors in self.changed.items()]
        return f"{self.writes} writes, changed: {', '.join(parts) or 'nothing'}"


def read_write_log(path: Path) -> Iterator[Write]:
    """All requests but discards, in order. FormatError where it is no such log."""
    with path.open("rb") as file:
        magic, version, count, sector = _SUPERBLOCK.unpack(file.read(_SUPERBLOCK.size))
        if (magic, version, sector) != (MAGIC, VERSION, SECTOR):
            raise FormatError("no log of writes", where=path, got=(magic, version, sector))
        for number in range(count):
            file.seek(-file.tell() % SECTOR, 1)
            head = file.read(_ENTRY.size)
            if len(head) < _ENTRY.size:
                raise FormatError("the log ends early", where=path, expected=count, got=number)
            where, sectors, flags, _ = _ENTRY.unpack(head)
            if flags & DISCARD:
                continue
            file.seek(SECTOR - _ENTRY.size, 1)
            yield Write(number, where * SECTOR, file.read(sectors * SECTOR), bool(flags & FLUSH))


def windows_of(log: Path, base: Path, names: Mapping[str, str]) -> dict[str, Window]:
    """For each file name on the ESP: the window between two flushes in which it appears first.

    `names` gives file names by what they are called in the result; each has 13 characters at most.
    `base` is the raw disk as it was before the log. Only sectors whose bytes differ count.
    """
    sectors: dict[int, bytes] = {}
    found: dict[str, Window] = {}
    window, appeared = Window(0), list[str]()
    with base.open("rb") as disk:
        for one in read_write_log(log):
            if one.flush:
                window.last = one.number
                found |= dict.fromkeys(appeared, window)
                window, appeared = Window(one.number + 1), []
            window.writes += bool(one.data)
            for at in range(0, len(one.data), SECTOR):
                place, data = one.offset + at, one.data[at : at + SECTOR]
                if place not in sectors:
                    disk.seek(place)
                    sectors[place] = disk.read(SECTOR)
                if sectors[place] == data:
                    continue
                sectors[place] = data
                window.changed.setdefault(one.partition, []).append(place)
                if one.partition == "esp":
                    there = long_names(data)
                    appeared += [k for k, v in names.items() if v in there and k not in found]
    return found


def long_names(sector: bytes) -> set[str]:
    """Names of up to 13 characters that a sector of a FAT folder holds, those in use."""
    found = set()
    for at in range(0, len(sector), RECORD_BYTES):
        record = sector[at : at + RECORD_BYTES]
        if record[0] == 0x41 and record[ATTRIBUTE] == LONG:  # the last part, and the first
            raw = b"".join(record[start : start + 2 * count] for start, count in _LONG_NAME)
            found.add(raw.decode("utf-16-le", "replace").split("\0")[0].rstrip("\uffff"))
    return found

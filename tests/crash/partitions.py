"""Partitions as they are found while a release boots: the judge's own reader, with nothing of delta/.

    disk bytes -> tables(disk) -> find_root(disk, cmdline) -> first byte of data and of the hash tree

Firmware takes the primary copy of the table, or the backup where that is not valid (UEFI 2.10,
5.3.2; EDK2, PartitionDxe/Gpt.c). Linux does so only with `gpt` on its command line
(block/partitions/efi.c, find_valid_gpt). Then the initrd looks for the PARTUUIDs that follow from
the root hash (systemd, src/veritysetup/veritysetup-generator.c).
"""

import hashlib
import struct
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

SECTOR = 512
BLOCK = 4096  # of dm-verity, data and hashes
ESP_TYPE = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")


class NotFound(Exception):
    """What boots would find no partition, or more than one."""


@dataclass(frozen=True, slots=True)
class Row:
    """A partition: its type, its PARTUUID, its first byte and its bytes."""

    type: uuid.UUID
    uuid: uuid.UUID
    offset: int
    size: int
    label: str


Table = tuple[Row, ...]


def tables(disk: bytes) -> tuple[Table | None, Table | None]:
    """The primary and the backup copy; None for one that is not valid."""
    last = len(disk) // SECTOR - 1
    primary, backup = _header(disk, 1), _header(disk, last)
    return (
        None if primary is None else _rows(disk, primary),
        None if backup is None else _rows(disk, backup),
    )


def _header(disk: bytes, sector: int) -> tuple[int, int, int] | None:
    """Sector of the rows, their number, their checksum; None for a header that is not valid."""
    raw = disk[sector * SECTOR : (sector + 1) * SECTOR]
    magic, revision, size, crc = struct.unpack_from("<8sIII", raw)
    mine, _, first, last = struct.unpack_from("<QQQQ", raw, 24)
    if magic != b"EFI PART" or revision != 0x10000 or not 92 <= size <= SECTOR:
        return None
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:size]) != crc or mine != sector or first > last:
        return None
    entries, count, entry_bytes, entries_crc = struct.unpack_from("<QIII", raw, 72)
    return None if entry_bytes != 128 else (entries, count, entries_crc)


def _rows(disk: bytes, header: tuple[int, int, int]) -> Table | None:
    at, count, crc = header
    raw = disk[at * SECTOR : at * SECTOR + count * 128]
    if zlib.crc32(raw) != crc:
        return None
    found = []
    for number in range(count):
        kind, name, first, last, _, label = struct.unpack_from("<16s16sQQQ72s", raw, number * 128)
        if any(kind):
            text = label.decode("utf-16-le", "replace").split("\0")[0]
            found.append(Row(uuid.UUID(bytes_le=kind), uuid.UUID(bytes_le=name),
                             first * SECTOR, (last + 1 - first) * SECTOR, text))  # fmt: skip
    return tuple(found)


def find_root(disk: bytes, cmdline: str) -> tuple[int, int]:
    """First byte of the partitions of data and of the hash tree. Raises NotFound.

    In every copy of the table that is valid: the other one may be lost tomorrow.
    """
    words = cmdline.split()
    root = next((word[9:] for word in words if word.startswith("roothash=")), "")
    copies = tables(disk)
    if copies == (None, None):
        raise NotFound("neither copy of the partition table is valid")
    if copies[0] is None and "gpt" not in words:
        raise NotFound("Linux does not look at the backup of the partition table")
    places = set()
    for name, table in zip(("primary", "backup"), copies, strict=True):
        if table is None:
            continue
        if [row.type for row in table].count(ESP_TYPE) != 1:
            raise NotFound(f"the firmware finds no ESP in the {name} table")
        found = []
        for half in (root[:32], root[32:]):
            rows = [row for row in table if row.uuid.hex == half]
            if len(rows) != 1:
                raise NotFound(f"{len(rows)} partitions of the {name} table have PARTUUID {half}")
            found.append(rows[0].offset)
        places.add((found[0], found[1]))
    if len(places) != 1:
        raise NotFound("the two copies of the partition table name two places")
    return places.pop()


def named_places(disk: bytes, roots: Mapping[str, int]) -> Iterator[tuple[int, int]]:
    """Release and first byte of every partition, in either copy, that is called as a release's data."""
    for table in tables(disk):
        for row in table or ():
            for root, counter in roots.items():
                if row.uuid.hex == root[:32]:
                    yield counter, row.offset


def hash_tree(image: bytes, salt: bytes) -> bytes:
    """The dm-verity tree of an image of whole blocks, root level first: type 1, SHA-256.

    Source: Linux, Documentation/admin-guide/device-mapper/verity.rst; cryptsetup's on-disk format.
    """
    levels: list[bytes] = []
    level = image
    while len(level) > BLOCK or not levels:
        digests = b"".join(
            hashlib.sha256(salt + level[at : at + BLOCK]).digest()
            for at in range(0, len(level), BLOCK)
        )
        level = digests.ljust(-(-len(digests) // BLOCK) * BLOCK, b"\0")
        levels.append(level)
    return b"".join(reversed(levels))


def is_superblock(raw: bytes, blocks: int, salt: bytes) -> bool:
    """Whether veritysetup reads this tree's parameters from the first block; its UUID is free."""
    head = struct.pack("<8sII", b"verity", 1, 1)
    rest = struct.pack("<32sIIQH6x256s", b"sha256", BLOCK, BLOCK, blocks, len(salt), salt)
    return raw[:BLOCK] == (head + raw[16:32] + rest).ljust(BLOCK, b"\0")

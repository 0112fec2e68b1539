"""A FAT32 volume as sectors: made, and read the way a boot loader or a kernel reads it.

A volume is a dictionary from sector number to 512 bytes; what is not in it is zeros. The reader is
independent of the one in delta/: it is the judge's, and it reads damaged volumes too.

Source: Microsoft's "FAT File System Specification" (2005); where readers differ, fs/fat/dir.c of
Linux and FatPkg/EnhancedFatDxe/DirectoryManage.c of EDK2.
"""

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

SECTOR = 512
RECORD = 32
RESERVED = 32
INFO = 1  # the sector of FSINFO
FIRST = 2  # cluster number; also the root's
END = 0x0FFFFFFF
CLUSTERS = 65600  # a little above what makes a volume FAT32

Sectors = dict[int, bytes]
_ZEROS = bytes(SECTOR)
_LONG = 0x0F  # attributes of a record that holds a piece of a long name
_FOLDER = 0x10
_VOLUME_LABEL = 0x08


@dataclass(frozen=True, slots=True)
class Layout:
    """Where things stand, in sectors."""

    cluster_sectors: int
    fat_sectors: int

    @property
    def data(self) -> int:
        return RESERVED + 2 * self.fat_sectors

    def sector_of(self, cluster: int) -> int:
        return self.data + (cluster - FIRST) * self.cluster_sectors

    def fat_place(self, cluster: int) -> tuple[int, int]:
        """Sector in the first table, and the offset in it."""
        return RESERVED + cluster * 4 // SECTOR, cluster * 4 % SECTOR


def make_volume(cluster_sectors: int = 1) -> Sectors:
    """An empty FAT32, as mkfs.vfat -F 32 makes it, without a label."""
    fat_sectors = -(-(CLUSTERS + FIRST) * 4 // SECTOR)
    total = RESERVED + 2 * fat_sectors + CLUSTERS * cluster_sectors
    boot = bytearray(SECTOR)
    boot[:3], boot[3:11] = b"\xeb\x58\x90", b"mkfs.fat"
    struct.pack_into("<HBHBHHBHHHII", boot, 11, SECTOR, cluster_sectors, RESERVED, 2, 0, 0, 0xF8,
                     0, 32, 8, 0, total)  # fmt: skip
    struct.pack_into("<IHHIHH", boot, 36, fat_sectors, 0, 0, FIRST, INFO, 6)
    struct.pack_into("<BBBI11s8s", boot, 64, 0x80, 0, 0x29, 1, b"NO NAME    ", b"FAT32   ")
    boot[510:] = b"\x55\xaa"
    info = bytearray(SECTOR)
    info[:4], info[484:488], info[510:] = b"RRaA", b"rrAa", b"\x55\xaa"
    struct.pack_into("<II", info, 488, CLUSTERS - 1, FIRST)
    table = bytearray(SECTOR)
    struct.pack_into("<III", table, 0, 0x0FFFFFF8, END, END)
    return {
        0: bytes(boot),
        INFO: bytes(info),
        6: bytes(boot),
        7: bytes(info),
        RESERVED: bytes(table),
        RESERVED + fat_sectors: bytes(table),
    }


def layout_of(sectors: Mapping[int, bytes]) -> Layout:
    boot = sectors[0]
    assert struct.unpack_from("<HBHB", boot, 11)[::2] == (SECTOR, RESERVED)
    return Layout(boot[13], struct.unpack_from("<I", boot, 36)[0])


def dump_volume(sectors: Sectors, size: int = 0) -> bytes:
    """The image of a volume, for fsck.vfat and mtools."""
    total = struct.unpack_from("<I", sectors[0], 32)[0]
    raw = bytearray(max(size, total * SECTOR))
    for number, data in sectors.items():
        raw[number * SECTOR : (number + 1) * SECTOR] = data
    return bytes(raw)


def reader_of(sectors: Sectors) -> tuple[Callable[[int, int], bytes], int]:
    """The volume as a device: a function of offset and size, and its size, in bytes."""

    def read(offset: int, size: int) -> bytes:
        first, last = offset // SECTOR, -(-(offset + size) // SECTOR)
        raw = b"".join(sectors.get(number, _ZEROS) for number in range(first, last))
        return raw[offset - first * SECTOR :][:size]

    return read, struct.unpack_from("<I", sectors[0], 32)[0] * SECTOR


def digest_of(sectors: Sectors) -> bytes:
    """Of every sector: 8 bytes."""
    hasher = hashlib.blake2b(digest_size=8)
    for number in sorted(sectors):
        hasher.update(struct.pack("<I", number) + sectors[number])
    return hasher.digest()


@dataclass(frozen=True, slots=True)
class Node:
    """A file or folder as a reader finds it.

    `clusters` are those of its chain, `damaged` says that the chain ends before the size does, or
    leads nowhere; `data` is what can be read, then zeros up to the size. `records` are the places
    (sector, offset) of its long name's pieces and of its short record, which is the last.
    """

    path: str
    is_folder: bool
    start: int
    size: int
    clusters: tuple[int, ...]
    damaged: bool
    data: bytes
    records: tuple[tuple[int, int], ...]


def fat_entry(sectors: Mapping[int, bytes], layout: Layout, cluster: int) -> int:
    sector, offset = layout.fat_place(cluster)
    raw = sectors.get(sector, _ZEROS)
    return int(struct.unpack_from("<I", raw, offset)[0]) & END


def is_cluster(number: int) -> bool:
    return FIRST <= number < CLUSTERS + FIRST


def chain_of(
    sectors: Mapping[int, bytes], layout: Layout, start: int, count: int | None
) -> tuple[tuple[int, ...], bool]:
    """Up to `count` clusters of a chain, all to its end for None; and whether it is damaged."""
    clusters: list[int] = []
    seen = set()
    number = start
    while count is None or len(clusters) < count:
        if number >= 0x0FFFFFF8 and clusters:
            return tuple(clusters), count is not None
        if not is_cluster(number) or number in seen:
            return tuple(clusters), True
        clusters.append(number)
        seen.add(number)
        number = fat_entry(sectors, layout, number)
    return tuple(clusters), False


def read_volume(sectors: Mapping[int, bytes], *, firmware: bool) -> dict[str, Node]:
    """Every file and folder by path. Pieces of long names that do not fit are passed over.

    Firmware ends a folder at its first empty record, Linux reads on.
    """
    layout = layout_of(sectors)
    found: dict[str, Node] = {}
    waiting = [("", FIRST)]
    while waiting:
        folder, start = waiting.pop()
        clusters, _ = chain_of(sectors, layout, start, None)
        for name, raw, records in _records(sectors, layout, clusters, firmware):
            path = f"{folder}/{name}" if folder else name
            is_folder = bool(raw[11] & _FOLDER)
            low, high = struct.unpack_from("<H", raw, 26)[0], struct.unpack_from("<H", raw, 20)[0]
            first, size = high << 16 | low, struct.unpack_from("<I", raw, 28)[0]
            cluster_bytes = layout.cluster_sectors * SECTOR
            if is_folder:
                chain, damaged = chain_of(sectors, layout, first, None)
                data = b""
                if path.count("/") < 8 and path not in found:
                    waiting.append((path, first))
            else:
                chain, damaged = chain_of(sectors, layout, first, -(-size // cluster_bytes))
                data = _content(sectors, layout, chain)[:size].ljust(min(size, 1 << 24), b"\0")
            # The first of two records with one name is the file, for both readers.
            found.setdefault(
                path, Node(path, is_folder, first, size, chain, damaged, data, records)
            )
    return found


def _content(sectors: Mapping[int, bytes], layout: Layout, clusters: tuple[int, ...]) -> bytes:
    return b"".join(
        sectors.get(layout.sector_of(cluster) + index, _ZEROS)
        for cluster in clusters
        for index in range(layout.cluster_sectors)
    )


def _records(
    sectors: Mapping[int, bytes], layout: Layout, clusters: tuple[int, ...], firmware: bool
) -> Iterator[tuple[str, bytes, tuple[tuple[int, int], ...]]]:
    """Name, short record, places of all its records."""
    pieces: list[tuple[bytes, tuple[int, int]]] = []
    for place, raw in folder_records(sectors, layout, clusters):
        if raw[0] == 0 and firmware:
            return
        if raw[0] in (0, 0xE5):
            pieces = []
        elif raw[11] == _LONG:
            if raw[0] & 0x40:
                pieces = []
            pieces.append((raw, place))
        else:
            name = _long_name([piece for piece, _ in pieces], raw)
            places = tuple(at for _, at in pieces) if name is not None else ()
            pieces = []
            if raw[11] & _VOLUME_LABEL or raw[0:1] == b".":
                continue
            yield name or short_name(raw), raw, (*places, place)


def folder_records(
    sectors: Mapping[int, bytes], layout: Layout, clusters: tuple[int, ...]
) -> Iterator[tuple[tuple[int, int], bytes]]:
    """Every record of a folder with its place, free ones too."""
    for cluster in clusters:
        first = layout.sector_of(cluster)
        for sector in range(first, first + layout.cluster_sectors):
            raw = sectors.get(sector, _ZEROS)
            for offset in range(0, SECTOR, RECORD):
                yield (sector, offset), raw[offset : offset + RECORD]


def checksum(short: bytes) -> int:
    """Of the 11 bytes of a short name: every piece of its long name carries it."""
    value = 0
    for byte in short[:11]:
        value = ((value & 1) << 7) + (value >> 1) + byte & 0xFF
    return value


def short_name(raw: bytes) -> str:
    base = raw[:8].rstrip(b" ").decode("ascii", "replace")
    extension = raw[8:11].rstrip(b" ").decode("ascii", "replace")
    return f"{base}.{extension}" if extension else base


def _long_name(pieces: list[bytes], short: bytes) -> str | None:
    """The name that the pieces make; None if they are not whole, or not this record's."""
    numbers = [piece[0] & 0x3F for piece in pieces]
    if not pieces or not pieces[0][0] & 0x40 or numbers != list(range(len(pieces), 0, -1)):
        return None
    if any(piece[13] != checksum(short) for piece in pieces):
        return None
    raw = b"".join(piece[1:11] + piece[14:26] + piece[28:32] for piece in reversed(pieces))
    return raw.decode("utf-16-le", "replace").split("\0")[0].rstrip("\uffff")


def dump_records(name: str, short: bytes, attributes: int) -> list[bytes]:
    """The records of a new name: pieces of the long name, last first, then the short record."""
    text = name.encode("utf-16-le")
    count = -(-len(name) // 13)
    if len(name) % 13:
        text += b"\0\0"
    text = text.ljust(count * 26, b"\xff")
    records = []
    for number in range(count, 0, -1):
        piece = text[(number - 1) * 26 : number * 26]
        order = number | (0x40 if number == count else 0)
        records.append(
            bytes([order]) + piece[:10] + bytes([_LONG, 0, checksum(short)])
            + piece[10:22] + b"\0\0" + piece[22:]
        )  # fmt: skip
    records.append(short + bytes([attributes]) + bytes(20))
    return records

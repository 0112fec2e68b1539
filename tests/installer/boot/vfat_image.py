"""Linux's vfat on an image file, as far as names go: which slots and clusters an operation takes.

A second implementation, after the kernel's sources rather than after slot_plan.py, which it checks:
fs/fat/dir.c (fat_add_entries, fat_remove_entries), namei_vfat.c (vfat_create_shortname,
vfat_rename), fatent.c (fat_alloc_clusters). Every operation is on the medium at once. Compared with
Linux 6.1 itself once, see docs/boot.md.
"""

import struct
from pathlib import Path

from slipstream.delta.filesystem.fat_directory import Record
from slipstream.delta.filesystem.fat_volume import FatFolder, read_file
from slipstream.installer.blocking import GoOn, unasked
from slipstream.installer.boot.esp import Esp
from tests.installer.boot.esp_images import END, EspImage

_REPLACED = "+,;=[]"
_SKIPPED = ". "


class VfatImage:
    """Operations on one image of FAT16 or FAT32; paths relative to its root."""

    def __init__(self, image: EspImage) -> None:
        self.image = image
        self.last_cluster = 2  # where the search for a free cluster goes on

    def create(self, path: str) -> None:
        self._add(path, 0x20, 0, 0)

    def mkdir(self, path: str) -> None:
        cluster = self._allocate(0)
        self._zero(cluster)
        self._add(path, 0x10, cluster, 0)
        layout = self.image.layout
        dots = _record(b".          ", 0x10, cluster, 0) + _record(b"..         ", 0x10, 0, 0)
        self.image.patch(layout.cluster_offset(cluster), dots)

    def write(self, path: str, data: bytes) -> None:
        """A file with other content; made if it is not there."""
        if self.image.volume().find(path) is None:
            self.create(path)
        layout = self.image.layout
        self._free(path)
        first = previous = 0
        for at in range(0, len(data), layout.cluster_size):
            cluster = self._allocate(previous)
            self.image.patch(layout.cluster_offset(cluster), data[at : at + layout.cluster_size])
            first, previous = first or cluster, cluster
        self.image.set_start(path, first)
        self.image.set_size(path, len(data))

    def read(self, path: str) -> bytes:
        volume = self.image.volume()
        return read_file(self.image.reader(), volume.layout, self.image.file(path))

    def unlink(self, path: str) -> None:
        self._free(path)
        self._remove(path, self.image.file(path).record)

    def firmware_rename(self, old: str, new: str) -> None:
        """EDK2's: the old name goes, the new one is put behind the last (docs/boot.md)."""
        record = self.image.file(old).record
        self._remove(old, record)
        self._add(new, 0x20, record.cluster, record.size, behind=True)

    def rename(self, old: str, new: str) -> None:
        """The new name first, in the first run that is long enough; then the old one goes."""
        record = self.image.file(old).record
        self._add(new, 0x20, record.cluster, record.size)
        self._remove(old, record)

    # --- names

    def _add(
        self, path: str, attributes: int, cluster: int, size: int, *, behind: bool = False
    ) -> None:
        folder_path, _, name = path.rpartition("/")
        folder = self._folder(folder_path)
        records = _records(name, [one.short_name for one in folder.slots.records])
        raw = [*records[:-1], _record(records[-1][:11], attributes, cluster, size)]
        free = 0
        slot = folder.slots.used if behind else 0
        while free < len(raw):
            if slot == len(folder.slots.taken):
                assert folder.chain is not None, "the root of a FAT16 is full"
                last = folder.chain.runs[-1]
                self._zero(self._allocate(last.first + last.length - 1))
                folder = self._folder(folder_path)
            free = 0 if folder.slots.taken[slot] else free + 1
            slot += 1
        layout = self.image.layout
        for number, data in enumerate(raw):
            self.image.patch(folder.offset_of(slot - free + number, layout), data)

    def _remove(self, path: str, record: Record) -> None:
        folder, layout = self._folder(path.rpartition("/")[0]), self.image.layout
        for slot in record.slots:
            self.image.patch(folder.offset_of(slot, layout), b"\xe5")

    def _folder(self, path: str) -> FatFolder:
        folder = self.image.volume().folder(path)
        assert folder is not None
        return folder

    # --- clusters

    def _allocate(self, previous: int) -> int:
        """The next free cluster after the last one that was allocated, behind `previous`."""
        layout, read = self.image.layout, self.image.reader()
        width = layout.bits // 8
        table = read(layout.table_offset, layout.cluster_end * width)
        for step in range(layout.cluster_count):
            cluster = 2 + (self.last_cluster - 1 + step) % layout.cluster_count
            if not any(table[cluster * width : (cluster + 1) * width]):
                self.image.set_next(cluster, END)
                if previous:
                    self.image.set_next(previous, cluster)
                self.last_cluster = cluster
                return cluster
        raise AssertionError("full")

    def _zero(self, cluster: int) -> None:
        layout = self.image.layout
        self.image.patch(layout.cluster_offset(cluster), bytes(layout.cluster_size))

    def _free(self, path: str) -> None:
        for run in self.image.file(path).chain.runs:
            for cluster in range(run.first, run.first + run.length):
                self.image.set_next(cluster, 0)


def _records(name: str, taken: list[str]) -> list[bytes]:
    """The slots of a new name: pieces of the long one, last first, then the short one."""
    stem, dot, ending = name.rpartition(".")
    if not dot or not stem.strip(_SKIPPED):
        stem, ending = name, ""
    short = len(stem) <= 8 and len(ending) <= 3 and not set(name) & set(_REPLACED + " ")
    short = short and "." not in stem
    base = "".join("_" if c in _REPLACED else c for c in stem if c not in _SKIPPED).upper()
    extension = "".join("_" if c in _REPLACED else c for c in ending if c not in _SKIPPED).upper()
    if short and name == name.upper():  # shortname=mixed: made as Windows 95 does
        return [base.ljust(8).encode() + extension.ljust(3).encode() + b"\x20"]
    if short and f"{base}.{extension}".rstrip(".") not in taken:
        return [*_pieces(name, base.ljust(8).encode() + extension.ljust(3).encode())]
    alias = ""
    for number in range(1, 10):
        alias = f"{base[:6]}~{number}"
        if f"{alias}.{extension[:3]}".rstrip(".") not in taken:
            break
    raw = alias.ljust(8).encode() + extension[:3].ljust(3).encode()
    return _pieces(name, raw)


def _pieces(name: str, raw: bytes) -> list[bytes]:
    checksum = 0
    for byte in raw:
        checksum = ((checksum << 7 | checksum >> 1) + byte) & 0xFF
    units = name.encode("utf-16-le")
    count = -(-len(units) // 26)
    if len(units) % 26:
        units = (units + b"\0\0").ljust(count * 26, b"\xff")
    pieces = []
    for number in range(count, 0, -1):
        piece = units[(number - 1) * 26 : number * 26]
        sequence = number | (0x40 if number == count else 0)
        head = bytes([sequence]) + piece[:10] + bytes([0x0F, 0, checksum])
        pieces.append(head + piece[10:22] + b"\0\0" + piece[22:])
    return [*pieces, raw + b"\x20"]


def _record(name: bytes, attributes: int, cluster: int, size: int) -> bytes:
    return struct.pack("<11sB8xH4xHI", name, attributes, cluster >> 16, cluster & 0xFFFF, size)


class ImageEsp(Esp):
    """A folder, and an image that every change is made to as well; `renames` are counted by the
    sectors of the folder that each of them changed.
    """

    def __init__(self, root: Path, vfat: VfatImage) -> None:
        super().__init__(root)
        self.vfat = vfat
        self.renames: list[tuple[str, str, int]] = []

    def _name(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def make_folder(self, folder: Path) -> None:
        for path in [*reversed(folder.relative_to(self.root).parents), folder]:
            name = path.as_posix() if not path.is_absolute() else self._name(path)
            if name != "." and self.vfat.image.volume().find(name) is None:
                self.vfat.mkdir(name)
        super().make_folder(folder)

    def copy(self, source: Path, target: Path, go_on: GoOn = unasked) -> None:
        super().copy(source, target, go_on)
        self.vfat.write(self._name(target), source.read_bytes())

    def write(self, target: Path, data: bytes) -> None:
        super().write(target, data)
        self.vfat.write(self._name(target), data)

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        before = self.vfat.image.path.read_bytes()
        self.vfat.rename(self._name(old), self._name(new))
        after = self.vfat.image.path.read_bytes()
        changed = [
            at for at in range(0, len(after), 512) if before[at : at + 512] != after[at : at + 512]
        ]
        self.renames.append((old.name, new.name, len(changed)))

    def unlink(self, path: Path) -> None:
        if path.exists():
            self.vfat.unlink(self._name(path))
        super().unlink(path)

    def remove_folder(self, folder: Path) -> None:
        if folder.is_dir():
            self.vfat.unlink(self._name(folder))
        super().remove_folder(folder)

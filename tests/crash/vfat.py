"""What reaches the medium of an ESP, and when: Linux's vfat with its default mount, and EDK2.

Pure: operations in, sectors out. Linux changes buffers of sectors in memory; a buffer may be
written at any moment, in any order, and must be written at an fsync that covers it:

    fsync of a file     its data; its record (size, first cluster) with the whole sector that it
                        stands in; both allocation tables; then a flush of the medium
    fsync of a folder   the sectors of the folder that changed; the folder's own record; both tables

A new name is a record without size and clusters. Those are the inode's: they go into the record
when the inode is written, at an fsync of the file or whenever the kernel likes. `when` decides that.

Sources: fs/fat/namei_vfat.c, dir.c, file.c, fatent.c, inode.c of Linux 6.1;
FatPkg/EnhancedFatDxe/DirectoryManage.c and Info.c of EDK2. Writes of Linux 6.1 and of OVMF were
measured with QEMU's blklogwrites (docs/boot.md).
"""

import errno
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.crash.record import Kind, Op
from tests.crash.volume import (
    CLUSTERS,
    END,
    FIRST,
    INFO,
    RECORD,
    SECTOR,
    Node,
    Sectors,
    chain_of,
    dump_records,
    fat_entry,
    folder_records,
    layout_of,
    read_volume,
)

_ZEROS = bytes(SECTOR)
_FAT = "fat"
_INFO = "info"
_FOLDER = 0x10
_ARCHIVE = 0x20


def lazily() -> bool:
    """The kernel writes an inode when it must."""
    return False


def eagerly() -> bool:
    """The kernel writes an inode at once."""
    return True


@dataclass(eq=False, slots=True)
class _Inode:
    """A file or folder in the kernel's memory. `records` are the places of its name's records."""

    parent: "_Inode | None"
    is_folder: bool
    start: int
    size: int
    records: tuple[tuple[int, int], ...]
    clusters: list[int]
    damaged: bool = False
    names: "dict[str, _Inode]" = field(default_factory=dict)
    dirty: bool = False


@dataclass
class Vfat:
    """A mounted volume. `durable` is on the medium for certain; `pending` holds, for every sector
    that is dirty, what the medium may hold instead, oldest first.
    """

    durable: Sectors
    when: Callable[[], bool] = lazily
    pending: dict[int, list[bytes]] = field(default_factory=dict)
    readonly: bool = False  # vfat's errors=remount-ro, after a damaged chain

    def __post_init__(self) -> None:
        self.cache = dict(self.durable)
        self._layout = layout_of(self.durable)
        self._owners: dict[int, set[object]] = {}
        self._held: dict[str, int] = {}  # first cluster of files that are removed and still open
        self.mount()

    def mount(self) -> None:
        """Read the names anew, from what the cache holds."""
        self._root = _Inode(None, True, FIRST, 0, (), list(self._chain(FIRST)))
        self._free_count, self._next = struct.unpack_from("<II", self.cache[INFO], 488)
        self.readonly = False
        inodes = {"": self._root}
        for path, node in sorted(read_volume(self.cache, firmware=False).items()):
            folder, _, name = path.rpartition("/")
            parent = inodes[folder]
            inode = _Inode(parent, node.is_folder, node.start, node.size, node.records,
                           list(node.clusters), node.damaged)  # fmt: skip
            inodes[path] = parent.names[name] = inode

    def nodes(self) -> dict[str, Node]:
        """What the running system sees, once every inode is written."""
        return read_volume(self.cache, firmware=False)

    def is_damaged(self, path: str) -> bool:
        inode = self._find(path)
        return inode is not None and inode.damaged

    # --- operations

    def allow(self, op: Op) -> None:
        """Raise what the kernel would. Unlinking a damaged chain succeeds, and ends writing."""
        changes = op.kind not in (Kind.SYNC, Kind.SYNC_FOLDER)
        if changes and self.readonly:
            raise OSError(errno.EROFS, "Read-only file system (simulated)", op.path)

    def allow_reading(self, path: str) -> None:
        if self.is_damaged(path):
            self.readonly = True
            raise OSError(errno.EIO, "Input/output error (simulated: damaged chain)", path)

    def apply(self, op: Op) -> None:
        """Do what an operation does."""
        if op.kind in (Kind.SYNC_ALL, Kind.SYNC_FS):
            self.sync_all()
            return
        if op.kind is Kind.BUMP:
            self.bump(op.path, op.new)
            return
        if op.kind is Kind.CLOSE:
            self._free(self._held.pop(op.path))
            return
        inode = self._find(op.path)
        match op.kind:
            case Kind.CREATE:
                inode = self._create(op.path, False, 0)
            case Kind.MKDIR:
                inode = self._mkdir(op.path)
            case Kind.WRITE if inode is not None:
                self._write(inode, op.offset, op.data)
            case Kind.TRUNCATE if inode is not None:
                self._truncate(inode, op.offset)
            case Kind.RENAME if inode is not None:
                self._rename(inode, op.path, op.new)
            case Kind.UNLINK | Kind.RMDIR if inode is not None:
                self._unlink(inode, op.path, held=op.new == "held")
                return
            case Kind.SYNC if inode is not None:
                self._sync_file(inode)
            case Kind.SYNC_FOLDER if inode is not None:
                self._sync_folder(inode)
            case _:
                raise AssertionError(f"no such file: {op}")
        if inode is not None and inode.dirty and self.when():
            self._write_inode(inode)

    def sync_all(self) -> None:
        """syncfs, or an unmount."""
        self._write_inodes(self._root)
        for sector in list(self.pending):
            self._settle(sector)

    def _write_inodes(self, inode: _Inode) -> None:
        for child in inode.names.values():
            if child.dirty:
                self._write_inode(child)
            self._write_inodes(child)

    def bump(self, old: str, new: str) -> None:
        """EDK2's rename: remove the records, make new ones behind the last; each sector once.

        With size and cluster in them: firmware keeps no inodes. One flush follows, so until the
        next operation of the log any of these sectors may be missing. Mount anew afterwards.
        """
        before = dict(self.cache)
        inode = self._find(old)
        assert inode is not None
        assert inode.parent is not None
        name = new.rpartition("/")[2]
        self._mark_deleted(inode)
        records = dump_records(name, self._short(inode.parent, name), _ARCHIVE)
        records[-1] = _with_inode(records[-1], inode)
        self._place(inode.parent, records, at_end=True)
        changed = [number for number, raw in self.cache.items() if before.get(number) != raw]
        self.pending = {number: [self.cache[number]] for number in changed}
        self._owners = {}

    # --- names

    def _find(self, path: str) -> _Inode | None:
        inode = self._root
        for part in path.split("/") if path else ():
            child = inode.names.get(part)
            if child is None:
                return None
            inode = child
        return inode

    def _parent_of(self, path: str) -> tuple[_Inode, str]:
        folder, _, name = path.rpartition("/")
        parent = self._find(folder)
        assert parent is not None, path
        return parent, name

    def _create(self, path: str, is_folder: bool, start: int) -> _Inode:
        parent, name = self._parent_of(path)
        short = self._short(parent, name)
        raw = dump_records(name, short, _FOLDER if is_folder else _ARCHIVE)
        inode = _Inode(parent, is_folder, start, 0, (), [start] if start else [])
        raw[-1] = _with_inode(raw[-1], inode)
        inode.records = self._place(parent, raw, at_end=False)
        parent.names[name] = inode
        return inode

    def _mkdir(self, path: str) -> _Inode:
        parent, _ = self._parent_of(path)
        start = self._allocate([])
        first = self._layout.sector_of(start)
        for index in range(self._layout.cluster_sectors):
            self._put(first + index, _ZEROS, parent)
        dots = b"".join(
            _with_inode(
                name.ljust(11) + bytes([_FOLDER]) + bytes(20),
                _Inode(None, True, cluster, 0, (), []),
            )
            for name, cluster in (
                (b".", start),
                (b"..", 0 if parent is self._root else parent.start),
            )
        )
        self._put(first, dots.ljust(SECTOR, b"\0"), parent)
        return self._create(path, True, start)

    def _rename(self, inode: _Inode, old: str, new: str) -> None:
        """A record without size and clusters; the inode moves there; the old records go."""
        parent, name = self._parent_of(new)
        old_parent, old_name = self._parent_of(old)
        assert name not in parent.names, f"vfat model: rename over {new}"
        short = self._short(parent, name)
        places = self._place(parent, dump_records(name, short, _ARCHIVE), at_end=False)
        self._mark_deleted(inode)
        inode.records, inode.parent, inode.dirty = places, parent, True
        del old_parent.names[old_name]
        parent.names[name] = inode

    def _unlink(self, inode: _Inode, path: str, *, held: bool) -> None:
        """The clusters are free at the last close."""
        parent, name = self._parent_of(path)
        self._mark_deleted(inode)
        del parent.names[name]
        if held:
            self._held[path] = inode.start
        else:
            self._free(inode.start)

    def _mark_deleted(self, inode: _Inode) -> None:
        """The short record first, then back through its long name; a sector at a time."""
        for sector in dict.fromkeys(sector for sector, _ in reversed(inode.records)):
            raw = bytearray(self.cache[sector])
            for place, offset in inode.records:
                if place == sector:
                    raw[offset] = 0xE5
            self._put(sector, bytes(raw), inode.parent)

    def _short(self, parent: _Inode, name: str) -> bytes:
        """The alias, as vfat makes it (shortname=mixed) and EDK2 nearly so."""
        base, dot, extension = name.lstrip(".").rpartition(".")
        if not dot:
            base, extension = extension, ""
        fits = not name.startswith(".") and len(base) <= 8 and len(extension) <= 3
        plain = "".join(c if c.isalnum() or c in "_-~" else "_" for c in base.upper())
        tail = "".join(c if c.isalnum() or c in "_-" else "_" for c in extension.upper())[:3]
        fits = fits and plain == base.upper()
        taken = {
            raw[:11]
            for _, raw in folder_records(self.cache, self._layout, tuple(parent.clusters))
            if raw[0] not in (0, 0xE5)
        }
        names = [plain] if fits else []
        names += [f"{plain[:6]}~{number}" for number in range(1, 10)]
        for candidate in names:
            short = candidate.ljust(8).encode() + tail.ljust(3).encode()
            if short not in taken:
                return short
        raise AssertionError(f"no alias for {name}")

    def _place(
        self, folder: _Inode, records: list[bytes], *, at_end: bool
    ) -> tuple[tuple[int, int], ...]:
        """Write records into free ones: the first run that is long enough (Linux), or behind the
        last that is or was used (EDK2). The folder grows by a cluster where there is none.
        """
        places: list[tuple[int, int]] = []
        for place, raw in folder_records(self.cache, self._layout, tuple(folder.clusters)):
            free = raw[0] == 0 if at_end else raw[0] in (0, 0xE5)
            places = [*places, place] if free else []
            if len(places) == len(records):
                break
        if len(places) < len(records):
            cluster = self._allocate(folder.clusters)
            first = self._layout.sector_of(cluster)
            for sector in range(first, first + self._layout.cluster_sectors):
                self._put(sector, _ZEROS, folder)
            places += [
                (first + offset // SECTOR, offset % SECTOR)
                for offset in range(0, self._layout.cluster_sectors * SECTOR, RECORD)
            ]
            folder.clusters.append(cluster)
        places = places[: len(records)]
        for sector in dict.fromkeys(sector for sector, _ in places):
            mine = [n for n, place in enumerate(places) if place[0] == sector]
            # One copy of all records that stand in a sector.
            joined = b"".join(records[n] for n in mine)
            self._patch(sector, places[mine[0]][1], joined, folder)
        return tuple(places)

    # --- bytes

    def _write(self, inode: _Inode, offset: int, data: bytes) -> None:
        assert offset <= inode.size, "vfat model: a write behind the end"
        cluster_bytes = self._layout.cluster_sectors * SECTOR
        end = offset + len(data)
        while len(inode.clusters) * cluster_bytes < end:
            cluster = self._allocate(inode.clusters)
            if not inode.clusters:
                inode.start = cluster
            inode.clusters.append(cluster)
        while data:
            cluster = inode.clusters[offset // cluster_bytes]
            sector = self._layout.sector_of(cluster) + offset % cluster_bytes // SECTOR
            within = offset % SECTOR
            piece, data = data[: SECTOR - within], data[SECTOR - within :]
            if within or offset + SECTOR <= inode.size:
                self._patch(sector, within, piece, inode)
            else:
                # A page that was never read: zeros behind the end of the file.
                self._put(sector, piece.ljust(SECTOR, b"\0"), inode)
            offset += len(piece)
        inode.size, inode.dirty = max(inode.size, end), True

    def _truncate(self, inode: _Inode, size: int) -> None:
        assert size == 0, "vfat model: only to nothing"
        if inode.start:
            self._free(inode.start)
        inode.start, inode.clusters, inode.size, inode.dirty = 0, [], 0, True
        inode.damaged = False

    def _allocate(self, chain: list[int]) -> int:
        """The next free cluster behind the one that was given last, at the end of a chain."""
        for number in range(self._next, self._next + CLUSTERS):
            cluster = (number - FIRST) % CLUSTERS + FIRST
            if fat_entry(self.cache, self._layout, cluster) == 0:
                break
        else:
            raise OSError(errno.ENOSPC, "No space left (simulated)")
        self._next = cluster + 1
        self._link(cluster, END)
        if chain:
            self._link(chain[-1], cluster)
        self._free_count -= 1
        self._note_free()
        return cluster

    def _free(self, start: int) -> None:
        if not start:
            return
        number = start
        while number < 0x0FFFFFF8:
            following = fat_entry(self.cache, self._layout, number)
            if following == 0:
                self.readonly = True  # "deleting FAT entry beyond EOF"
                return
            self._link(number, 0)
            self._free_count += 1
            number = following
        self._note_free()

    def _link(self, cluster: int, to: int) -> None:
        sector, offset = self._layout.fat_place(cluster)
        for copy in (0, self._layout.fat_sectors):
            self._patch(sector + copy, offset, struct.pack("<I", to), _FAT)

    def _note_free(self) -> None:
        self._patch(INFO, 488, struct.pack("<II", self._free_count, self._next), _INFO)

    def _chain(self, start: int) -> tuple[int, ...]:
        return chain_of(self.cache, self._layout, start, None)[0]

    # --- buffers

    def _patch(self, sector: int, offset: int, data: bytes, owner: object) -> None:
        raw = self.cache.get(sector, _ZEROS)
        self._put(sector, raw[:offset] + data + raw[offset + len(data) :], owner)

    def _put(self, sector: int, raw: bytes, owner: object) -> None:
        if self.cache.get(sector, _ZEROS) == raw and sector not in self.pending:
            return
        self.cache[sector] = raw
        self.pending.setdefault(sector, []).append(raw)
        self._owners.setdefault(sector, set()).add(owner)

    def _settle(self, sector: int) -> None:
        """The sector is on the medium, as it is now."""
        if self.pending.pop(sector, None) is not None:
            self.durable[sector] = self.cache[sector]
            self._owners.pop(sector, None)

    def _settle_of(self, owner: object) -> None:
        for sector in [one for one, owners in self._owners.items() if owner in owners]:
            self._settle(sector)

    def _write_inode(self, inode: _Inode) -> None:
        sector, offset = inode.records[-1]
        raw = self.cache[sector][offset : offset + RECORD]
        self._patch(sector, offset, _with_inode(raw, inode), "inode")
        inode.dirty = False

    def _sync_file(self, inode: _Inode) -> None:
        self._settle_of(inode)
        if inode.dirty:
            self._write_inode(inode)
        self._settle(inode.records[-1][0])
        self._settle_of(_FAT)

    def _sync_folder(self, inode: _Inode) -> None:
        self._settle_of(inode)
        if inode.records:
            self._settle(inode.records[-1][0])
        self._settle_of(_FAT)


def _with_inode(raw: bytes, inode: _Inode) -> bytes:
    """A short record with an inode's first cluster and size."""
    high, low = struct.pack("<H", inode.start >> 16), struct.pack("<H", inode.start & 0xFFFF)
    return raw[:20] + high + raw[22:26] + low + struct.pack("<I", inode.size)

"""Reads a whole FAT volume as it is, sound or not: every name, its slots, its chain of clusters.

Unlike fat.py, which refuses what is not sound, this reader goes on and says what it found: chains
that loop, end early or share clusters, copies of the table that differ, clusters of no file. Only a
volume that cannot be walked at all is an error. The work is bounded: each cluster is followed a few
times at most, folders that share clusters with other folders are not entered again.

Pure: bytes come from a `read(offset, size)`. Nothing is decided here: what a finding means for an
update, installer/doctor/ says. Not here: exFAT, contents of files but by `read_file`.

Source: as in fat_layout.py; which slots are free and how Linux looks for room, fs/fat/dir.c
(fat_add_entries).
"""

from array import array
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from slipstream.delta.errors import FormatError
from slipstream.delta.filesystem.fat_directory import Record, Slots, read_slots
from slipstream.delta.filesystem.fat_layout import (
    BOOT_SECTOR_BYTES,
    FIRST_CLUSTER,
    RECORD_BYTES,
    FatLayout,
    FatTable,
    FreeHint,
    parse_fat_layout,
    parse_free_hint,
)
from slipstream.delta.limits import (
    FAT_DIRECTORY_BYTES_MAX,
    FAT_FILES_MAX,
    FAT_FOLLOWED_MAX,
    FAT_RUNS_MAX,
    KIB,
    MAP_PATH_CHARS_MAX,
)

Read = Callable[[int, int], bytes]  # offset and size in bytes: exactly so many, or an error

_COMPARED_BYTES = 256 * KIB
_STATE_32_OFFSET = 65  # differs from its copy while the volume is mounted


class ChainEnd(Enum):
    """How a chain of clusters ends."""

    END = "ends"  # with the mark of an end, as it should
    LOOP = "comes back to one of its own clusters"
    FREE = "leads to a cluster that is marked as free"
    BAD = "leads to a cluster that is marked as bad"
    OUTSIDE = "leads to a cluster that the volume does not have"


class ClusterRun(NamedTuple):
    """`length` clusters that follow each other, from `first` on."""

    first: int
    length: int


class Chain(NamedTuple):
    """The clusters of a file or folder in order; none for an empty file."""

    runs: tuple[ClusterRun, ...]
    end: ChainEnd

    @property
    def length(self) -> int:
        """How many clusters."""
        return sum(run.length for run in self.runs)


@dataclass(frozen=True, slots=True)
class FatFile:
    """A file or folder. `path` is relative to the volume's root; `size` in bytes as recorded."""

    path: str
    folder: str
    record: Record
    chain: Chain

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def size(self) -> int:
        return self.record.size

    @property
    def is_folder(self) -> bool:
        return self.record.is_directory


@dataclass(frozen=True, slots=True)
class FatFolder:
    """The slots of a folder, and where each stands."""

    path: str
    slots: Slots
    chain: Chain | None  # None: the root of FAT12 and FAT16, which does not grow

    def offset_of(self, slot: int, layout: FatLayout) -> int:
        """Byte of the volume at which a slot begins."""
        at = slot * RECORD_BYTES
        if self.chain is None:
            return layout.root_offset + at
        for run in self.chain.runs:
            size = run.length * layout.cluster_size
            if at < size:
                return layout.cluster_offset(run.first) + at
            at -= size
        raise IndexError(f"slot {slot} is not in folder /{self.path}")


@dataclass(frozen=True, slots=True)
class Shared:
    """Files and folders that have clusters in common: freeing one's takes the others' away."""

    paths: tuple[str, ...]
    clusters: int


@dataclass(frozen=True, slots=True)
class FatVolume:
    """A volume as it was read. Paths as Linux shows them; the root folder is the empty string."""

    layout: FatLayout
    files: tuple[FatFile, ...]
    folders: Mapping[str, FatFolder]
    shared: tuple[Shared, ...]
    free_clusters: int
    bad_clusters: int
    lost_clusters: int  # taken, and of no file
    hint: FreeHint | None  # None: no FSINFO, or one without its signatures
    was_shut_down: bool  # as firmware notes it, in the table
    had_no_errors: bool
    copies_differ_at: int | None  # first cluster at which the copies of the table differ
    backup_differs: bool  # of the boot sector

    @property
    def free_bytes(self) -> int:
        return self.free_clusters * self.layout.cluster_size

    def find(self, path: str) -> FatFile | None:
        """The file or folder of that path, in whatever case; the first one where there are two."""
        wanted = path.lower()
        return next((file for file in self.files if file.path.lower() == wanted), None)

    def folder(self, path: str) -> FatFolder | None:
        """The folder of that path, in whatever case."""
        wanted = path.lower()
        return next((one for name, one in self.folders.items() if name.lower() == wanted), None)

    def partners(self, path: str) -> tuple[str, ...]:
        """The other paths that share clusters with this one."""
        wanted = path.lower()
        for shared in self.shared:
            lower = [one.lower() for one in shared.paths]
            if wanted in lower:
                others = list(shared.paths)
                del others[lower.index(wanted)]
                return tuple(others)
        return ()


def read_fat_volume(read: Read, size: int) -> FatVolume:
    """A volume of `size` bytes.

    FormatError where there is no walking it: no boot sector, a root folder that is not there, more
    names or longer folders than a boot partition can have.
    """
    sector = read(0, BOOT_SECTOR_BYTES)
    layout = parse_fat_layout(sector, size)
    raw = read(layout.table_offset, layout.table_size)
    table = FatTable(layout, raw)
    differing = _first_difference(layout, raw, read)
    del raw  # up to 64 MiB
    walk = _Walk(read, layout, table)
    walk.run()
    free, bad = table.count()
    return FatVolume(
        layout=layout,
        files=tuple(walk.files),
        folders=walk.folders,
        shared=walk.shared(),
        free_clusters=free,
        bad_clusters=bad,
        lost_clusters=max(layout.cluster_count - free - bad - walk.claimed, 0),
        hint=_read_hint(layout, read),
        was_shut_down=table.was_shut_down,
        had_no_errors=table.had_no_errors,
        copies_differ_at=differing,
        backup_differs=_backup_differs(layout, sector, read),
    )


def read_file(
    read: Read, layout: FatLayout, file: FatFile, offset: int = 0, size: int | None = None
) -> bytes:
    """`size` bytes of a file from `offset` on: fewer where it, or its chain, ends before."""
    wanted = file.size if size is None else min(offset + size, file.size)
    pieces = []
    at = 0
    for run in file.chain.runs:
        length = run.length * layout.cluster_size
        begin, end = max(offset, at), min(wanted, at + length)
        if begin < end:
            pieces.append(read(layout.cluster_offset(run.first) + begin - at, end - begin))
        at += length
    return b"".join(pieces)


class _Walk:
    """One volume being walked."""

    def __init__(self, read: Read, layout: FatLayout, table: FatTable) -> None:
        self._read = read
        self._layout = layout
        self._table = table
        # Who claimed each cluster last: 0 nobody, else a number of `_paths`, from 1 on.
        self._owners = array("I", bytes(4 * layout.cluster_end))
        self._paths: list[str] = []
        self._leaders: dict[int, int] = {}  # of those that share: number -> one found before it
        self._shared: dict[int, int] = {}  # clusters found shared, by the later one's number
        self._followed_max = FAT_FOLLOWED_MAX * layout.cluster_count
        self._followed = 0
        self._runs = 0
        self.claimed = 0  # clusters of at least one chain
        self.files: list[FatFile] = []
        self.folders: dict[str, FatFolder] = {}

    def run(self) -> None:
        """Walk all folders, outermost first."""
        layout = self._layout
        if layout.bits == 32:
            chain, _ = self._claim("", layout.root_cluster)
            if not chain.length:
                raise FormatError("no root folder", got=f"cluster {layout.root_cluster}")
            waiting = [("", chain)]
        else:
            content = self._read(layout.root_offset, layout.root_size)
            waiting = self._enter("", content, None)
        while waiting:
            path, chain = waiting.pop()
            content = b"".join(
                self._read(layout.cluster_offset(run.first), run.length * layout.cluster_size)
                for run in chain.runs
            )
            waiting += self._enter(path, content, chain)

    def _enter(self, path: str, content: bytes, chain: Chain | None) -> list[tuple[str, Chain]]:
        """Take in a folder; the folders in it that are still to be walked."""
        slots = read_slots(content)
        self.folders[path] = FatFolder(path, slots, chain)
        waiting = []
        for record in slots.records:
            name = f"{path}/{record.name}" if path else record.name
            if len(self.files) >= FAT_FILES_MAX or len(name) > MAP_PATH_CHARS_MAX:
                raise FormatError(
                    "too many names on the volume, or one that is too long",
                    where=f"/{path}",
                    expected=f"<= {FAT_FILES_MAX} names, <= {MAP_PATH_CHARS_MAX} characters",
                )
            below, is_shared = self._claim(name, record.cluster)
            self.files.append(FatFile(name, path, record, below))
            if record.is_directory and not is_shared and name not in self.folders:
                if below.length * self._layout.cluster_size > FAT_DIRECTORY_BYTES_MAX:
                    raise FormatError(
                        "directory size",
                        where=f"/{name}",
                        expected=f"<= {FAT_DIRECTORY_BYTES_MAX}",
                        got=below.length * self._layout.cluster_size,
                    )
                waiting.append((name, below))
        return waiting

    def _claim(self, path: str, cluster: int) -> tuple[Chain, bool]:
        """The chain from a cluster on (0: none), and whether another one has a part of it."""
        self._paths.append(path)
        number = len(self._paths)
        if not cluster:
            return Chain((), ChainEnd.END), False
        runs: list[ClusterRun] = []
        first = count = shared = 0
        partner = 0  # whom the last cluster belonged to
        while True:
            if not FIRST_CLUSTER <= cluster < self._layout.cluster_end:
                ended = count and self._table.is_end(cluster)
                end = ChainEnd.END if ended else ChainEnd.OUTSIDE
                break
            owner, value = self._owners[cluster], self._table.next(cluster)
            if owner == number:
                end = ChainEnd.LOOP
            elif not value:
                end = ChainEnd.FREE
            elif self._table.is_bad(value):
                end = ChainEnd.BAD
            else:
                if owner != partner and owner:
                    self._join(number, owner)
                partner = owner
                shared += owner != 0
                self.claimed += owner == 0
                self._owners[cluster] = number
                self._count_step()
                if count and cluster == first + count:
                    count += 1
                else:
                    self._add_run(runs, first, count)
                    first, count = cluster, 1
                cluster = value
                continue
            break
        self._add_run(runs, first, count)
        if shared:
            self._shared[number] = shared
        return Chain(tuple(runs), end), shared > 0

    def _add_run(self, runs: list[ClusterRun], first: int, count: int) -> None:
        if count:
            runs.append(ClusterRun(first, count))
            self._runs += 1
            if self._runs > FAT_RUNS_MAX:
                raise FormatError("too many pieces of files", expected=f"<= {FAT_RUNS_MAX}")

    def _count_step(self) -> None:
        self._followed += 1
        if self._followed > self._followed_max:
            raise FormatError(
                "too many files share clusters",
                expected=f"<= {self._followed_max} clusters in all chains",
            )

    def _join(self, number: int, owner: int) -> None:
        """Note that two chains share clusters."""
        a, b = self._leader(number), self._leader(owner)
        self._leaders[max(a, b)] = min(a, b)

    def _leader(self, number: int) -> int:
        """The first of those that a chain shares with, over any number of steps."""
        leader = self._leaders.setdefault(number, number)
        while self._leaders[leader] != leader:
            self._leaders[leader] = leader = self._leaders[self._leaders[leader]]
        self._leaders[number] = leader
        return leader

    def shared(self) -> tuple[Shared, ...]:
        """The groups of paths that share clusters, each in the order they were found."""
        members: dict[int, set[int]] = {}
        for number in tuple(self._leaders):
            members.setdefault(self._leader(number), set()).add(number)
        return tuple(
            Shared(
                tuple(self._paths[number - 1] for number in sorted(numbers)),
                max(self._shared.get(number, 0) for number in numbers),
            )
            for _, numbers in sorted(members.items())
        )


def _first_difference(layout: FatLayout, first: bytes, read: Read) -> int | None:
    """The first cluster at which another copy of the table differs from the first one."""
    size = -(-layout.cluster_end * layout.bits // 8)
    for copy in range(1, layout.table_count):
        for at in range(0, size, _COMPARED_BYTES):
            length = min(_COMPARED_BYTES, size - at)
            other = read(layout.table_offset + copy * layout.table_size + at, length)
            if other != first[at : at + length]:
                index = _first_unequal(first[at : at + length], other)
                return (at + index) * 8 // layout.bits
    return None


def _first_unequal(left: bytes, right: Iterable[int]) -> int:
    return next(i for i, (a, b) in enumerate(zip(left, right, strict=True)) if a != b)


def _read_hint(layout: FatLayout, read: Read) -> FreeHint | None:
    if layout.info_offset is None:
        return None
    try:
        return parse_free_hint(read(layout.info_offset, BOOT_SECTOR_BYTES))
    except FormatError:
        return None


def _backup_differs(layout: FatLayout, sector: bytes, read: Read) -> bool:
    """Whether the boot sector's copy differs in more than the note that it is mounted."""
    if layout.backup_offset is None:
        return False
    backup = read(layout.backup_offset, BOOT_SECTOR_BYTES)
    at = _STATE_32_OFFSET
    return (backup[:at], backup[at + 1 :]) != (sector[:at], sector[at + 1 :])

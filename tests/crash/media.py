"""What the other two media may hold after a power cut: the slots, and the state folder.

Pure: operations in, contents out. Both promise no more than POSIX does.

Slot, a block device: what was written since its last fdatasync is there or not, each 512-byte sector
for itself; a sector is never torn (disks and eMMC promise that much).

State folder, a journaling file system (ext4, data=ordered): names change in order. Of what was not
synced, the journal may hold any number of the steps so far; at least those up to the last one in a
folder that was synced. `weak` is as POSIX is: each folder is behind for itself, and a sync of one
says nothing of another. Bytes that were not synced are there, missing, zeros, cut anywhere, or there
in some sectors only.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.crash.record import DISK, Kind, Op
from tests.crash.repository import region_of, region_synced

SECTOR = 512

Tree = dict[str, bytes | None]  # path -> content; None is a folder


@dataclass(slots=True)
class Slots:
    """The slots' block devices, by name."""

    durable: dict[str, bytes]
    _cache: dict[str, bytearray] = field(default_factory=dict)
    _dirty: dict[str, list[int]] = field(default_factory=dict)  # sectors in the order of writing

    def __post_init__(self) -> None:
        self._cache = {name: bytearray(data) for name, data in self.durable.items()}
        self._dirty = {name: [] for name in self.durable}

    def apply(self, op: Op) -> None:
        match op.kind:
            case Kind.WRITE:
                end = op.offset + len(op.data)
                self._cache[op.path][op.offset : end] = op.data
                self._dirty[op.path] += range(op.offset // SECTOR, -(-end // SECTOR))
            case Kind.SYNC if op.path == DISK:
                region = region_synced(op.source)
                self._settle(op.path, lambda sector: region_of(sector * SECTOR) == region)
            case Kind.SYNC:
                self._settle(op.path)
            case Kind.SYNC_ALL | Kind.SYNC_FS:
                for name in self.durable:
                    self._settle(name)
            case _:
                raise AssertionError(f"slot model: {op}")

    def _settle(self, name: str, reached: Callable[[int], bool] = lambda _: True) -> None:
        mine = [sector for sector in self._dirty[name] if reached(sector)]
        if len(mine) == len(self._dirty[name]):
            self.durable[name] = bytes(self._cache[name]) if mine else self.durable[name]
        elif mine:
            raw = bytearray(self.durable[name])
            for sector in mine:
                at = slice(sector * SECTOR, (sector + 1) * SECTOR)
                raw[at] = self._cache[name][at]
            self.durable[name] = bytes(raw)
        self._dirty[name] = [sector for sector in self._dirty[name] if not reached(sector)]

    def is_clean(self) -> bool:
        return not any(self._dirty.values())

    def now(self) -> dict[str, bytes]:
        """What the running system sees."""
        return {name: bytes(data) for name, data in self._cache.items()}

    def cut(self, chance: random.Random) -> dict[str, bytes]:
        """One of the things that the media may hold."""
        held = {}
        for name, sectors in self._dirty.items():
            if not sectors:
                held[name] = self.durable[name]
                continue
            unit = chance.choice((1, 1, 8, 64))  # sectors that come or go together
            style = chance.randrange(4)
            kept = {sector // unit for sector in sectors}
            if style == 0:
                kept = {one for one in kept if chance.random() < 0.5}
            elif style == 1:
                kept = {sector // unit for sector in sectors[: chance.randrange(len(sectors) + 1)]}
            elif style == 2:
                kept -= set(chance.sample(sorted(kept), min(len(kept), chance.randrange(1, 4))))
            else:
                kept = set(chance.sample(sorted(kept), min(len(kept), chance.randrange(3))))
            raw = bytearray(self.durable[name])
            cache = self._cache[name]
            for one in kept:
                raw[one * unit * SECTOR : (one + 1) * unit * SECTOR] = cache[
                    one * unit * SECTOR : (one + 1) * unit * SECTOR
                ]
            held[name] = bytes(raw)
        return held


@dataclass(slots=True)
class _File:
    durable: bytes
    now: bytes
    dirty: bool = False
    kept: int = 0  # bytes that stood all the time since the last sync: no truncate went below

    def settle(self) -> None:
        self.durable, self.dirty, self.kept = self.now, False, len(self.now)


@dataclass(frozen=True, slots=True)
class _Step:
    """A change of names. `file` is the file that gets the name `path`, or None for a folder."""

    kind: Kind
    path: str
    new: str = ""
    file: _File | None = None

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


@dataclass(slots=True)
class State:
    """A journaling file system."""

    tree: Tree
    weak: bool = False
    _names: dict[str, _File | None] = field(default_factory=dict)  # as the running system sees
    _durable: dict[str, _File | None] = field(default_factory=dict)  # as the journal has it
    _steps: list[_Step] = field(default_factory=list)  # since

    def __post_init__(self) -> None:
        self._names = {
            p: None if raw is None else _File(raw, raw, kept=len(raw))
            for p, raw in self.tree.items()
        }
        self._durable = dict(self._names)

    def apply(self, op: Op) -> None:
        match op.kind:
            case Kind.CREATE:
                self._step(_Step(op.kind, op.path, file=_File(b"", b"")))
            case Kind.MKDIR | Kind.UNLINK | Kind.RMDIR | Kind.RENAME:
                self._step(_Step(op.kind, op.path, op.new))
            case Kind.WRITE | Kind.TRUNCATE:
                file = self._names[op.path]
                assert file is not None
                if op.kind is Kind.TRUNCATE:
                    file.now = file.now[: op.offset].ljust(op.offset, b"\0")
                    file.kept = min(file.kept, op.offset)
                else:
                    file.kept = min(file.kept, op.offset)
                    base = file.now.ljust(op.offset, b"\0")
                    file.now = base[: op.offset] + op.data + base[op.offset + len(op.data) :]
                file.dirty = True
            case Kind.SYNC:
                file = self._names[op.path]
                assert file is not None
                file.settle()
            case Kind.SYNC_FOLDER if self.weak:
                for step in self._steps:
                    if step.folder == op.path:
                        _do(self._durable, step)
                self._steps = [step for step in self._steps if step.folder != op.path]
            case Kind.SYNC_FOLDER:
                mine = [n for n, step in enumerate(self._steps, 1) if step.folder == op.path]
                if mine:
                    # In order: what came before in other folders is in the journal, too.
                    for step in self._steps[: mine[-1]]:
                        _do(self._durable, step)
                    del self._steps[: mine[-1]]
            case Kind.SYNC_ALL | Kind.SYNC_FS:
                for step in self._steps:
                    _do(self._durable, step)
                self._steps = []
                for file in self._names.values():
                    if file is not None:
                        file.settle()
            case _:
                raise AssertionError(f"state model: {op}")

    def _step(self, step: _Step) -> None:
        self._steps.append(step)
        _do(self._names, step)

    def is_clean(self) -> bool:
        return not self._steps and not any(f is not None and f.dirty for f in self._names.values())

    def now(self) -> Tree:
        return {path: None if file is None else file.now for path, file in self._names.items()}

    def certain(self) -> Tree:
        """What is durable, and nothing of what is not."""
        return _reachable(self._durable, lambda file: file.durable)

    def cut(self, chance: random.Random) -> Tree:
        """One of the things that the medium may hold."""
        names = dict(self._durable)
        if self.weak:
            ends: dict[str, int] = {}
            for step in self._steps:
                ends[step.folder] = ends.get(step.folder, 0) + 1
            # From none to all of each folder's steps.
            left = {folder: chance.randrange(end + 1) for folder, end in ends.items()}
            for step in self._steps:
                if left[step.folder] > 0:
                    left[step.folder] -= 1
                    _do(names, step)
        else:
            for step in self._steps[: chance.randrange(len(self._steps) + 1)]:
                _do(names, step)
        return _reachable(names, lambda file: _content(file, chance))


def _reachable(names: dict[str, _File | None], content: Callable[[_File], bytes]) -> Tree:
    """What the names lead to: one in a folder that is not there is nowhere."""
    tree: Tree = {}
    for path in sorted(names):
        file = names[path]
        folder = path.rpartition("/")[0]
        if not folder or folder in tree:
            tree[path] = None if file is None else content(file)
    return tree


def _do(names: dict[str, _File | None], step: _Step) -> None:
    """Change names. A step whose ground is missing changes nothing."""
    match step.kind:
        case Kind.CREATE:
            names[step.path] = step.file
        case Kind.MKDIR:
            names.setdefault(step.path, None)
        case Kind.UNLINK | Kind.RMDIR:
            names.pop(step.path, None)
        case Kind.RENAME:
            if step.path in names:
                names[step.new] = names.pop(step.path)


def _content(file: _File, chance: random.Random) -> bytes:
    """Bytes of a file that may be dirty."""
    old, new = file.durable, file.now
    if old == new:
        return new
    kept = min(file.kept, len(new))
    match chance.randrange(6):
        case 0 | 1:
            return new
        case 2:
            return old
        case 3:  # the size is there, its bytes are not
            return new[:kept].ljust(len(new), b"\0")
        case 4:
            return new[: chance.randrange(kept, len(new) + 1)]
        case _:
            missing = old[: len(new)].ljust(len(new), b"\0")
            return b"".join(
                (new if chance.random() < 0.5 else missing)[at : at + SECTOR]
                for at in range(0, len(new), SECTOR)
            )

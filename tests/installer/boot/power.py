"""Power cuts on the boot partition: what a FAT folder may hold after one.

`RecordingEsp` notes every operation that the adapter makes. `states_after` says what the medium
may hold when the power goes after a number of them: a file that was not synced may be empty, cut
in half or whole; one that was renamed and not synced since may be empty; a name that was not synced may be there or not; a rename may be undone, done,
torn into neither name or into both (measured where the names straddle two sectors, docs/boot.md).
"""

import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from slipstream.installer.blocking import GoOn, unasked
from slipstream.installer.boot.esp import Esp

Names = dict[str, int]  # path on the ESP -> file number; -1 a folder
Op = tuple[str, ...]


class RecordingEsp(Esp):
    """Does what it is told and keeps the list. `before` is called before each operation."""

    def __init__(self, root: Path, before: Callable[[int], None] = lambda _: None) -> None:
        super().__init__(root)
        self.log: list[tuple[str, str, bytes | str]] = []
        self._before = before

    def _note(self, kind: str, path: Path, data: bytes | str = b"") -> None:
        self._before(len(self.log))
        self.log.append((kind, str(path.relative_to(self.root)), data))

    def make_folder(self, folder: Path) -> None:
        if not folder.is_dir():
            self._note("folder", folder)
        super().make_folder(folder)

    def copy(self, source: Path, target: Path, go_on: GoOn = unasked) -> None:
        self._note("write", target, source.read_bytes())
        super().copy(source, target, go_on)

    def write(self, target: Path, data: bytes) -> None:
        self._note("write", target, data)
        super().write(target, data)

    def sync_file(self, path: Path) -> None:
        self._note("sync file", path)
        super().sync_file(path)

    def sync_folder(self, folder: Path) -> None:
        self._note("sync folder", folder)
        super().sync_folder(folder)

    def rename(self, old: Path, new: Path) -> None:
        self._note("rename", old, str(new.relative_to(self.root)))
        super().rename(old, new)

    def unlink(self, path: Path) -> None:
        assert path.stat().st_nlink == 1, f"{path}: unlinked while its double lives"
        self._note("unlink", path)
        super().unlink(path)

    def remove_folder(self, folder: Path) -> None:
        self._note("remove folder", folder)
        super().remove_folder(folder)


@dataclass
class Medium:
    """What is durable, and what is only in the page cache."""

    names: Names = field(default_factory=dict)
    contents: list[list[bytes]] = field(default_factory=list)  # possible bytes of each file
    pending: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)  # by folder
    cached: Names = field(default_factory=dict)  # the names as the running system sees them

    @classmethod
    def read(cls, root: Path) -> "Medium":
        medium = cls()
        for path in sorted(root.rglob("*")):
            name = str(path.relative_to(root))
            if path.is_dir():
                medium.names[name] = -1
            else:
                medium.names[name] = len(medium.contents)
                medium.contents.append([path.read_bytes()])
        medium.cached = dict(medium.names)
        return medium

    def do(self, kind: str, path: str, data: bytes | str) -> None:
        folder = str(Path(path).parent)
        match kind:
            case "folder":  # make_folder syncs by itself
                for part in [*reversed(Path(path).parents), Path(path)]:
                    if str(part) not in (".", "") and str(part) not in self.names:
                        self.names[str(part)] = self.cached[str(part)] = -1
            case "write":
                assert isinstance(data, bytes)
                if path not in self.cached:
                    self.cached[path] = len(self.contents)
                    self.contents.append([b""])
                    self.pending.setdefault(folder, []).append(("add", path, ""))
                self.contents[self.cached[path]] = [data, data[: len(data) // 2], b""]
            case "sync file":
                number = self.cached[path]
                self.contents[number] = self.contents[number][:1]
            case "rename":
                assert isinstance(data, str)
                number = self.cached[data] = self.cached.pop(path)
                # vfat gives the new name its clusters with the file's inode: until that is synced,
                # the file may be empty (measured on Linux 6.1, docs/boot.md).
                self.contents[number] = [*self.contents[number], b""]
                self.pending.setdefault(folder, []).append(("rename", path, data))
            case "unlink" | "remove folder":
                self.cached.pop(path, None)
                self.pending.setdefault(folder, []).append(("remove", path, ""))
            case "sync folder":
                for step in self.pending.pop(path, []):
                    self._apply(self.names, step, 1)

    def _apply(self, names: Names, step: tuple[str, str, str], outcome: int) -> None:
        """Outcomes: 0 not done, 1 done, 2 neither name, 3 both names."""
        kind, path, new = step
        if kind == "add" and outcome == 1:
            number = self.cached.get(path)
            names[path] = self._number_of(path) if number is None else number
        elif kind == "remove" and outcome == 1:
            for name in [name for name in names if name == path or name.startswith(f"{path}/")]:
                del names[name]  # a folder takes what is in it along
        elif kind == "rename" and path in names and outcome:
            if outcome != 2:
                names[new] = names[path]
            if outcome != 3:
                del names[path]

    def _number_of(self, path: str) -> int:
        """The file that was written under a name which the page cache has renamed since."""
        for steps in self.pending.values():
            for kind, old, new in steps:
                if kind == "rename" and old == path:
                    return self.cached[new]
        raise AssertionError(f"{path} was written and is gone")

    def states(self) -> Iterator[tuple[Names, list[bytes]]]:
        """Every combination of what the medium may hold now."""
        steps = [step for folder in self.pending.values() for step in folder]
        outcomes = [range(4) if kind == "rename" else range(2) for kind, _, _ in steps]
        for chosen in itertools.product(*outcomes):
            names = dict(self.names)
            for step, outcome in zip(steps, chosen, strict=True):
                self._apply(names, step, outcome)
            for contents in itertools.product(*self.contents):
                yield names, list(contents)


def states_after(
    before: Medium, log: list[tuple[str, str, bytes | str]], count: int
) -> Iterator[tuple[Names, list[bytes]]]:
    """What the medium may hold when the power goes after `count` operations of the log."""
    medium = Medium(
        dict(before.names), [list(one) for one in before.contents], {}, dict(before.cached)
    )
    for kind, path, data in log[:count]:
        medium.do(kind, path, data)
    seen = set()
    for names, contents in medium.states():
        key = tuple(sorted((name, contents[n] if n >= 0 else None) for name, n in names.items()))
        if key not in seen:
            seen.add(key)
            yield names, contents


def make(root: Path, names: Names, contents: list[bytes]) -> None:
    """A folder that holds such a state; two names of one file are hard links."""
    first: dict[int, Path] = {}
    for name, number in sorted(names.items(), key=lambda item: (item[1] != -1, item[0])):
        path = root / name
        if number == -1:
            path.mkdir(parents=True, exist_ok=True)
        elif number in first:
            os.link(first[number], path)
        else:
            path.write_bytes(contents[number])
            first[number] = path

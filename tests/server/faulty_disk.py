"""A disk that fails at its n-th operation, before or after doing it."""

from collections.abc import Callable
from pathlib import Path

from slipstream.server.disk import Disk


class PowerCut(BaseException):
    """Nothing catches this, as nothing catches a power cut."""


class FaultyDisk(Disk):
    """Does `good` operations, then cuts: in place of the next one, or right after it."""

    def __init__(self, good: int, *, after: bool = False, cut: Callable[[], None] | None = None):
        self.good = good
        self.after = after
        self.done = 0
        self._cut = cut

    def _count(self, operation: Callable[[], None]) -> None:
        if self.done == self.good and not self.after:
            self._fail()
        operation()
        self.done += 1
        if self.done == self.good + 1:
            self._fail()

    def _fail(self) -> None:
        if self._cut is not None:
            self._cut()
        raise PowerCut

    def write(self, path: Path, data: bytes, *, mode: int = 0o644) -> None:
        self._count(lambda: Disk.write(self, path, data, mode=mode))

    def rename(self, source: Path, target: Path) -> None:
        self._count(lambda: Disk.rename(self, source, target))

    def remove(self, path: Path) -> None:
        self._count(lambda: Disk.remove(self, path))

    def make_folder(self, path: Path, *, mode: int = 0o755) -> None:
        if not path.is_dir():
            self._count(lambda: Disk.make_folder(self, path, mode=mode))

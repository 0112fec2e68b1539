"""The agent's whole story under faults, in SQLite's manner: operation 1, 2, 3, ... fails.

The story: install by delta, reboot, health, confirm, give up again, fall back. In every round one
call of the operating system, whichever it is, fails once: the medium (EIO), a full disk (ENOSPC), a
read-only file system (EROFS). The agent then says an error of ours that tells what to do, what boots
is whole, and the story, gone on with, comes to its end. Short reads and writes, and calls that
signals interrupt (EINTR), are no errors at all.

Some calls of each kind are tried; SLIPSTREAM_FAULTS=all tries every one.
"""

import asyncio
import errno
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from slipstream.delta.errors import SlipstreamError
from slipstream.delta.limits import CHUNK_BYTES
from slipstream.delta.tree import tree_of
from slipstream.installer import by_hand
from slipstream.installer.boot import chooser
from slipstream.installer.states import Idle, Outcome
from tests.installer.lab import SALT, change, make_image
from tests.installer.test_agent import Rig

READS = ("stat", "scandir", "listdir", "pread", "preadv")
WRITES = (
    "write", "pwrite", "fsync", "fdatasync", "rename", "unlink", "mkdir", "ftruncate",
    "posix_fallocate", "truncate",
)  # fmt: skip
OPENS = ("open", "io.open")
KINDS = {
    errno.EIO: (*READS, *WRITES, *OPENS),
    errno.ENOSPC: ("write", "pwrite", "mkdir", "rename", "posix_fallocate", "open"),
    errno.EROFS: ("rename", "unlink", "mkdir", "open", "truncate"),
}
TRIED = 10**9 if os.environ.get("SLIPSTREAM_FAULTS") == "all" else 7
ROUNDS_MAX = 14
IMAGE = make_image(1, CHUNK_BYTES + 5000)


@dataclass
class Faults:
    """Fails the `number`-th of the calls in `names`, on files below `folder`; counts them all."""

    folder: Path
    names: tuple[str, ...]
    number: int
    code: int
    count: int = 0
    hit: str = ""
    on: bool = False  # while the program works, not the test
    lock: threading.Lock = field(default_factory=threading.Lock)

    def wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **rest: Any) -> Any:
            if self.on and name in self.names and self._is_ours(arguments, rest):
                with self.lock:
                    self.count += 1
                    if self.count == self.number:
                        self.hit = f"{name} {arguments[0]}"
                        raise OSError(self.code, os.strerror(self.code))
            return real(*arguments, **rest)

        return call

    def _is_ours(self, arguments: tuple[Any, ...], rest: dict[str, Any]) -> bool:
        first = arguments[0] if arguments else "."
        if isinstance(first, int):
            try:
                first = _readlink(f"/proc/self/fd/{first}")
            except OSError:
                return False
        if rest.get("dir_fd") is not None:
            return False
        return os.fspath(first).startswith(str(self.folder))


_readlink = os.readlink


@contextmanager
def wrapped(names: tuple[str, ...], wrap: Callable[[str, Any], Any]) -> Iterator[None]:
    """Calls of `os` and `io.open` go through `wrap`, for as long."""
    places = [(io if name == "io.open" else os, name.removeprefix("io.")) for name in names]
    real = [getattr(module, name) for module, name in places]
    try:
        for name, (module, attribute), function in zip(names, places, real, strict=True):
            setattr(module, attribute, wrap(name, function))
        yield
    finally:
        for (module, attribute), function in zip(places, real, strict=True):
            setattr(module, attribute, function)


class Story:
    """A device that runs 1.0 and shall come to 2.0, and back again."""

    def __init__(self, folder: Path, faults: Faults | None = None) -> None:
        self.faults = faults
        self.rig = Rig(folder, None)
        self.errors: list[SlipstreamError] = []
        self.rig.lab.publish("1.0", 1, IMAGE)
        self.rig.round()
        self.rig.boot()
        self.rig.round()
        self.rig.lab.publish("2.0", 2, change(IMAGE, 700_000, 300_000), source=IMAGE)

    def tell(self) -> None:
        """From 1.0 to 2.0 and back: each step as often as it takes."""
        self.take(self.is_confirmed)
        self.take(self.is_given_up, self.give_up)
        self.take(self.is_back)

    def take(self, done: Callable[[], bool], act: Callable[[], None] | None = None) -> None:
        for _ in range(ROUNDS_MAX):
            try:
                self.work(act or self.rig.round)
            except SlipstreamError as error:
                self.errors.append(error)
                if act is None:
                    continue
            if act is None and self.rig.said and self.rig.said[-1].startswith("rebooting"):
                self.boot()
            try:
                if done():
                    return
            except SlipstreamError as error:
                self.errors.append(error)
        raise AssertionError(f"no end; said {self.rig.said[-8:]}")

    def work(self, act: Callable[[], object]) -> None:
        """Something that the program does: here calls may fail."""
        if self.faults is None:
            act()
            return
        self.faults.on = True
        try:
            act()
        finally:
            self.faults.on = False

    def boot(self) -> None:
        """Restart; what is started must stand whole in its slot."""
        choice = chooser.boot(self.rig.folder / "esp")
        assert choice is not None
        assert choice.loadable
        for release in self.rig.lab.releases.values():
            image = release.images["rootfs"]
            if image.tree.tuple.root.hex in choice.cmdline:
                data = self.rig.lab.slot(choice.entry.id[4]).read_bytes()[: len(image.data)]
                assert tree_of([data], SALT).tuple.root == image.tree.tuple.root
        (self.rig.folder / "cmdline").write_text(choice.cmdline)
        (self.rig.folder / "selected").write_text(choice.entry.id)
        try:
            self.work(self.rig.restart)
        except SlipstreamError as error:  # the service manager starts it again
            self.errors.append(error)
            self.rig.restart()

    def give_up(self) -> None:
        asyncio.run(by_hand.rollback(self.rig.device))

    def is_confirmed(self) -> bool:
        # Not by what was said: the record may stand, and only its last fsync have failed.
        state = self.rig.device.journal.state
        return (
            isinstance(state, Idle)
            and state.last is not None
            and state.last.outcome is Outcome.CONFIRMED
            and state.last.transaction.release == "2.0"
        )

    def is_given_up(self) -> bool:
        return not isinstance(self.rig.device.journal.state, Idle)

    def is_back(self) -> bool:
        state = self.rig.device.journal.state
        return (
            isinstance(state, Idle)
            and state.last is not None
            and state.last.outcome is Outcome.FELL_BACK
            and self.rig.device.boot.booted().counter == 1
        )


def spread(count: int) -> list[int]:
    """Calls to try, of 1..count: all, or some evenly spread with the first and the last."""
    if count <= TRIED:
        return list(range(1, count + 1))
    return sorted({1 + (count - 1) * n // (TRIED - 1) for n in range(TRIED)})


@pytest.mark.parametrize("code", KINDS, ids=errno.errorcode.get)
def test_a_fault_anywhere_in_the_story(tmp_path: Path, code: int) -> None:
    names = KINDS[code]
    counted = Faults(tmp_path, names, 0, code)
    story = Story(tmp_path / "counted", counted)
    with wrapped(names, counted.wrap):
        story.tell()
    assert not story.errors
    assert counted.count > 20
    for number in spread(counted.count):
        faults = Faults(tmp_path, names, number, code)
        story = Story(tmp_path / f"device-{number}", faults)
        with wrapped(names, faults.wrap):
            try:
                story.tell()
            except Exception as error:
                error.add_note(f"call {number}: {faults.hit}")
                raise
        assert faults.hit
        helpless = [str(error) for error in story.errors if not error.hint]
        assert helpless == [], f"what shall be done? call {number}: {faults.hit}"


def test_short_reads_and_writes_are_no_errors(tmp_path: Path) -> None:
    def shorten(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(descriptor: int, data: Any, *rest: Any) -> Any:
            if not _readlink(f"/proc/self/fd/{descriptor}").startswith(str(tmp_path)):
                return real(descriptor, data, *rest)
            if name == "pread":
                return real(descriptor, min(data, 1 + data // 2), *rest)
            return real(descriptor, memoryview(data)[: 1 + len(data) // 2], *rest)

        return call

    story = Story(tmp_path / "device")
    with wrapped(("pread", "write", "pwrite"), shorten):
        story.tell()
    assert not story.errors


def test_interrupted_calls_are_no_errors(tmp_path: Path) -> None:
    """A signal each millisecond: what the kernel breaks off is taken up again."""
    story = Story(tmp_path / "device")
    heard = 0

    def hear(*_: object) -> None:
        nonlocal heard
        heard += 1

    before = signal.signal(signal.SIGALRM, hear)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        story.tell()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert heard > 20
    assert not story.errors

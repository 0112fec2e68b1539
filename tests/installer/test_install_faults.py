"""Fault loops, in SQLite's manner: every operation of an install fails, once and for ever, at its
first, second, ... n-th call; and the process is killed, and the power goes, at each.

Whatever happens, the boot loader then boots a release whose slot's bytes give its root; and the
install, run again, completes. The operations are the operating system's, the network's and the
boot control's. The boot loader is the real adapter on a folder, and the simulated chooser.

Every call of every operation is tried; SLIPSTREAM_FAULTS=few tries four of each, evenly spread.
"""

import asyncio
import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from slipstream.delta.errors import SlipstreamError, Unavailable
from slipstream.delta.limits import CHUNK_BYTES
from slipstream.delta.tree import tree_of
from slipstream.installer.boot.chooser import boot
from slipstream.installer.states import Committed
from tests.installer.lab import SALT, Killed, Lab, LabRelease, change, make_image

OS_CALLS = (
    "open",
    "pread",
    "preadv",
    "pwrite",
    "write",
    "fsync",
    "fdatasync",
    "rename",
    "unlink",
    "mkdir",
    "ftruncate",
    "posix_fallocate",
)
BOOT_CALLS = ("check", "entries", "booted", "retire", "stage", "publish")
CALLS_TRIED = 4 if os.environ.get("SLIPSTREAM_FAULTS") == "few" else 10**9
IMAGE = make_image(1, 2 * CHUNK_BYTES + 5000)


class Shim:
    """The operations of one install: counts them, and fails, kills or cuts the power at one.

    `fsync` does not sync here: what a power cut loses is simulated. `cut` undoes what was
    written to the slots and not synced since.
    """

    def __init__(self, folder: Path, name: str, number: int, how: str) -> None:
        self.folder = folder
        self.counts: Counter[str] = Counter()
        self.dead = False
        self._name, self._number, self._how = name, number, how
        self._lock = threading.Lock()
        self._real = {name: getattr(os, name) for name in OS_CALLS}
        self._unsynced: list[tuple[str, int, bytes]] = []

    def call(self, name: str) -> None:
        """Before an operation: raise what shall happen at it."""
        with self._lock:
            if self.dead:
                raise Killed
            self.counts[name] += 1
            count = self.counts[name]
            if name != self._name:
                return
            if self._how in ("kill", "power") and count == self._number:
                self.dead = True
                raise Killed
            hit = count == self._number if self._how == "once" else count >= self._number
            if hit and self._how in ("once", "ever"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))

    def os_call(self, name: str) -> Callable[..., Any]:
        real = self._real[name]

        def shimmed(*arguments: Any, **rest: Any) -> Any:
            if not self._is_ours(name, arguments):
                return real(*arguments, **rest)
            self.call(name)
            if name == "pwrite":
                self._remember(*arguments)
            if name in ("fsync", "fdatasync"):
                path = os.readlink(f"/proc/self/fd/{arguments[0]}")
                self._unsynced = [one for one in self._unsynced if one[0] != path]
                return None
            return real(*arguments, **rest)

        return shimmed

    def cut(self) -> None:
        for path, offset, before in reversed(self._unsynced):
            with Path(path).open("r+b") as file:
                file.seek(offset)
                file.write(before)

    def _is_ours(self, name: str, arguments: tuple[Any, ...]) -> bool:
        first = arguments[0]
        if isinstance(first, int):
            path = os.readlink(f"/proc/self/fd/{first}")
        else:
            path = os.fspath(first)
            if name == "open" and path.startswith("/proc/self/fd"):
                path = os.readlink(path)
        return str(path).startswith(str(self.folder))

    def _remember(self, descriptor: int, data: Any, offset: int) -> None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        with open(path, "rb") as file:
            file.seek(offset)
            self._unsynced.append((path, offset, file.read(len(data))))


class ShimmedBoot:
    """A BootControl whose every call may fail or die, before or after it is done."""

    def __init__(self, inner: Any, shim: Shim) -> None:
        self._inner, self._shim = inner, shim

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._inner, name)

        def call(*arguments: Any) -> Any:
            try:
                self._shim.call(f"boot.{name}")
            except OSError as error:
                raise SlipstreamError(f"{name} failed") from error
            return real(*arguments)

        return call


@contextmanager
def faulted(lab: Lab, name: str, number: int, how: str) -> Iterator[Shim]:
    shim = Shim(lab.folder, name, number, how)
    real = {one: getattr(os, one) for one in OS_CALLS}

    def hook(_: str) -> None:
        try:
            shim.call("net")
        except OSError as error:
            raise Unavailable("the link is gone") from error

    lab.fetcher.hook = hook
    try:
        for one in OS_CALLS:
            setattr(os, one, shim.os_call(one))
        yield shim
    finally:
        for one, function in real.items():
            setattr(os, one, function)
        lab.fetcher.hook = lambda _: None


def install_under(lab: Lab, shim: Shim) -> bool:
    """Whether the install came through."""
    inner = lab.boot
    try:
        # The adapter behind the shim is the one of the configuration.
        lab.boot = ShimmedBoot(lab.device().boot, shim)
        asyncio.run(lab.install())
    except (Killed, SlipstreamError):
        return False
    finally:
        lab.boot = inner
    return True


def reboot(lab: Lab) -> LabRelease:
    """What the boot loader starts; its slot must hold it whole."""
    choice = boot(lab.folder / "esp")
    assert choice is not None, "nothing boots"
    (lab.folder / "cmdline").write_text(choice.entry.cmdline)
    for release in lab.releases.values():
        root = release.images["rootfs"].tree.tuple.root
        if root.hex in choice.entry.cmdline:
            size = len(release.images["rootfs"].data)
            slots = [lab.slot(name).read_bytes()[:size] for name in "ab"]
            assert root in [tree_of([data], SALT).tuple.root for data in slots], "a torn release"
            return release
    raise AssertionError(choice.entry.cmdline)


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """A device that runs release 1.0, and an update by delta to 2.0 on offer."""
    lab = Lab(tmp_path_factory.mktemp("faults") / "device", real_boot=True)
    lab.publish("1.0", 1, IMAGE)
    asyncio.run(lab.install())
    assert reboot(lab).manifest.release == "1.0"
    device = lab.device()
    device.boot.confirm("a", 1)
    (lab.folder / "state" / "tx.json").unlink()
    lab.publish("2.0", 2, change(IMAGE, 700_000, 1_048_000), source=IMAGE)
    return lab


@pytest.fixture(scope="module")
def calls(before: Lab, tmp_path_factory: pytest.TempPathFactory) -> Counter[str]:
    """How often an undisturbed install makes each call."""
    lab = before.fork(tmp_path_factory.mktemp("count") / "device")
    with faulted(lab, "", 0, "") as shim:
        assert install_under(lab, shim)
    assert reboot(lab).manifest.release == "2.0"
    return shim.counts


def spread(count: int) -> list[int]:
    """Calls to try, of 1..count: all, or some evenly spread with the first and the last."""
    if count <= CALLS_TRIED:
        return list(range(1, count + 1))
    return sorted({1 + (count - 1) * n // (CALLS_TRIED - 1) for n in range(CALLS_TRIED)})


@pytest.mark.parametrize("how", ["once", "ever", "kill", "power"])
@pytest.mark.parametrize("name", [*OS_CALLS, "net", *(f"boot.{call}" for call in BOOT_CALLS)])
def test_a_fault_never_costs_the_device(
    before: Lab, calls: Counter[str], tmp_path: Path, name: str, how: str
) -> None:
    assert calls[name], f"the install never calls {name}"
    for number in spread(calls[name]):
        lab = before.fork(tmp_path / f"device-{number}")
        with faulted(lab, name, number, how) as shim:
            through = install_under(lab, shim)
        if how == "power":
            shim.cut()
        context = f"{name} {how} at call {number}"

        first = reboot(lab).manifest.release
        assert first == "2.0" or not through, context
        if first == "2.0":
            continue
        with faulted(lab, "", 0, ""):
            asyncio.run(lab.install())
        assert isinstance(lab.device().journal.state, Committed), context
        assert reboot(lab).manifest.release == "2.0", context


def test_the_loops_meet_every_operation(calls: Counter[str]) -> None:
    wanted = {*OS_CALLS, "net", *(f"boot.{call}" for call in BOOT_CALLS)}
    assert wanted <= set(calls)

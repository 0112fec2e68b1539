"""A simulated device: the real installer between simulated media, with a boot loader that boots it.

    machine = Machine(folder, lab, snapshot)      power on, with what the media hold
    machine.drive()                               boot, settle, install, reboot, until nothing is left

The installer works in a folder; every change is recorded and applied to the models of the media, so
that the ESP is sectors of a FAT throughout: what the firmware boots is read from those.
"""

import asyncio
import hashlib
import os
import random
import re
import shutil
import uuid
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from slipstream.delta import trust
from slipstream.delta.errors import NothingToDo, SlipstreamError
from slipstream.delta.filesystem.fat_volume import FatVolume, read_fat_volume
from slipstream.installer import hash_area, pipe, scan, slot, sources, staging, stream, trial
from slipstream.installer.boot import esp_slots
from slipstream.installer.boot.chooser import Listed, choose, list_entries
from slipstream.installer.boot.entry import Suffix, bump_name
from slipstream.installer.boot.esp_bytes import NoBytes
from slipstream.installer.health import HealthResult
from slipstream.installer.install import install
from slipstream.installer.reboots import note_reboot
from slipstream.installer.states import Committed, Refused
from tests.crash.fsck import run_fsck
from tests.crash.media import Tree
from tests.crash.record import Kind, Medium, Op, Recorder
from tests.crash.repository import Dead, Repository
from tests.crash.vfat import Vfat, lazily
from tests.crash.volume import Node, Sectors, read_volume, reader_of

BOOTS_MAX = 14
CHECKPOINT_BYTES = 128 * 1024  # for 32 MiB: several checkpoints in a small image
DOWN = HealthResult("app", False, "health check app exited with 1: app is down", "", 1)


_ASIDE = re.compile(r"/\.[^/]+\.old\d+\Z")


class Stuck(Exception):
    """The device boots, and its update does not come to an end."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What all media hold while the power is off."""

    esp: Sectors
    state: Tree
    slots: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class Start:
    """What the firmware starts: the entry's file, how it is called after the count, and what is in it."""

    path: str
    counted: str
    id: str
    cmdline: str
    boots: tuple[bytes, ...]  # the UKI, or kernel and initrd
    tries_left: int | None
    # every entry that is listed: name, command line, what it boots
    menu: tuple[tuple[str, str, tuple[bytes, ...]], ...]


@dataclass
class Machine:
    """One device. `sick` are releases whose health check fails, `hung` those that never come up."""

    folder: Path
    repository: Repository
    snapshot: Snapshot
    when: Callable[[], bool] = lazily
    sources: bool = True  # whether the log says who called
    is_known: Callable[["Machine"], bool] = lambda _: False  # asked at each reboot: then it may end
    sick: frozenset[int] = frozenset()
    hung: frozenset[int] = frozenset()
    esp_device: bool = False  # whether the installer reads the ESP's bytes below its file system
    checked: bool = False  # whether the first boot runs fsck.vfat before the installer
    log: list[Op] = field(default_factory=list)
    booted: list[int] = field(default_factory=list)  # counters, boot by boot
    faults: list[str] = field(default_factory=list)  # what rounds failed with
    running: int = 0

    def __post_init__(self) -> None:
        self.vfat = Vfat(dict(self.snapshot.esp), self.when)
        # Another one after each cut: a name that is drawn again is a new one.
        self.chance = random.Random(zlib.crc32(b"".join(self.snapshot.slots.values())))
        self.fetcher = self.repository.fetcher(self._fetched)
        self._lay()
        self.recorder = Recorder(self.folder, self, sources=self.sources)
        self.recorder.log = self.log

    # --- media

    def _lay(self) -> None:
        """The folder, as the running system would see the media."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.repository.lay(self.folder)
        self._lay_esp()
        for path, data in sorted(self.snapshot.state.items()):
            if data is None:
                (self.folder / "state" / path).mkdir(parents=True)
            else:
                (self.folder / "state" / path).write_bytes(data)
        for name, data in self.snapshot.slots.items():
            (self.folder / name).write_bytes(data)

    def _lay_esp(self) -> None:
        shutil.rmtree(self.folder / "esp", ignore_errors=True)
        (self.folder / "esp").mkdir()
        for path, node in sorted(self.vfat.nodes().items()):
            if node.is_folder:
                (self.folder / "esp" / path).mkdir()
            else:
                (self.folder / "esp" / path).write_bytes(node.data)

    def allow(self, op: Op) -> None:
        """record.Guard."""
        if op.medium is Medium.ESP:
            self.vfat.allow(op)

    def done(self, op: Op) -> None:
        """record.Guard."""
        if op.medium is Medium.ESP:
            self.vfat.apply(op)

    def allow_reading(self, medium: Medium, path: str) -> None:
        """record.Guard."""
        if medium is Medium.ESP:
            self.vfat.allow_reading(path)

    def _fetched(self, total: int) -> None:
        self.log.append(Op(Kind.FETCHED, Medium.STATE, "", offset=total))

    @property
    def esp_bytes(self) -> "NoBytes | _EspBytes":
        """What the installer may read below the file system: of a plain folder, nothing."""
        return _EspBytes(self) if self.esp_device else NoBytes("a folder stands for it")

    def state(self) -> Tree:
        """The state folder as it stands."""
        root = self.folder / "state"
        return {
            str(path.relative_to(root)): None if path.is_dir() else path.read_bytes()
            for path in root.rglob("*")
        }

    def slots(self) -> dict[str, bytes]:
        return {name: (self.folder / name).read_bytes() for name in self.snapshot.slots}

    def now(self) -> Snapshot:
        """What the running system sees on all media."""
        return Snapshot(dict(self.vfat.cache), self.state(), self.slots())

    def check_esp(self) -> None:
        """The files in the folder are those on the FAT, byte for byte. Raises Dead.

        They differ where one name's clusters were freed or written under another name. What was set
        aside is what was damaged: nobody reads it.
        """
        self.vfat.sync_all()
        for path, node in self.vfat.nodes().items():
            there = self.folder / "esp" / path
            if node.is_folder or _ASIDE.search(path):
                continue
            if node.damaged or not there.is_file() or there.read_bytes() != node.data:
                raise Dead(f"{path} was damaged through another name of its clusters")

    # --- boots

    def restart(self) -> None:
        """A clean reboot: everything is written, the boot loader counts and starts. Raises Dead."""
        self.log += [Op(Kind.SYNC_ALL, medium, "") for medium in Medium]
        self.vfat.sync_all()
        self.power_on()

    def power_on(self) -> None:
        """The boot loader counts and starts. Raises Dead."""
        start = self.repository.check_start(start_of(self.vfat.cache), self.slots().__getitem__)
        if start.counted != start.path:
            self.log.append(Op(Kind.BUMP, Medium.ESP, start.path, start.counted))
            self.vfat.bump(start.path, start.counted)
            self.vfat.sync_all()
            self.log.append(Op(Kind.SYNC_ALL, Medium.ESP, ""))
            os.rename(self.folder / "esp" / start.path, self.folder / "esp" / start.counted)
        if self.checked:
            self.vfat = Vfat(run_fsck(self.vfat.cache), self.when)
            self._lay_esp()
            self.checked = False
        self.vfat.mount()
        (self.folder / "cmdline").write_text(start.cmdline)
        (self.folder / "selected").write_text(start.id)
        self.running = self.repository.counter_of(start.boots)
        self.booted.append(self.running)

    # --- the agent's rounds

    def drive(self) -> None:
        """Boot and do what the agent does, until there is nothing left. Raises Dead, Stuck.

        Ends at a reboot from a state that `is_known`.
        """
        self.power_on()
        failures = 0
        while len(self.booted) <= BOOTS_MAX:
            if self.running in self.hung:
                self.restart()  # by the watchdog
                continue
            try:
                with in_order(self), self.recorder.installed():
                    again = asyncio.run(self._round())
            except SlipstreamError as error:
                self.faults.append(f"{type(error).__name__}: {error}")
                failures += 1
                if failures == 2:
                    self.restart()  # someone pulls the plug
                elif failures > 3:
                    raise Stuck(self.faults[-1]) from error
                continue
            if not again:
                return
            if self.is_known(self):
                return
            self.restart()
        raise Stuck(f"boots without an end: {self.booted}")

    async def _round(self) -> bool:
        """As Agent.round, without a server to report to. True: reboot."""
        device = self.repository.device(self.folder, self.fetcher)
        outcome = await trial.settle(device)
        reboot = outcome.reboot_wanted
        if not reboot:
            try:
                await install(device)
                reboot = True
            except (NothingToDo, Refused):
                return False
        if isinstance(device.journal.state, Committed):
            note_reboot(device)
        return reboot


@dataclass(frozen=True, slots=True)
class _EspBytes:
    """As esp_bytes.EspBytes of a mounted partition: what is read was synced before."""

    machine: Machine

    def read_volume(self) -> FatVolume:
        machine = self.machine
        machine.log.append(Op(Kind.SYNC_FS, Medium.ESP, ""))
        machine.vfat.sync_all()
        return read_fat_volume(*reader_of(machine.vfat.cache))


@cache
def _parsed(raw: bytes, kind: Any, where: str) -> Any:
    return _PARSE(raw, kind, where)


_PARSE = trust.parse_metadata
_CHECK = trust.check_signed
_CHECKED: set[tuple[int, str, int]] = set()


def _checked(delegator: Any, role_name: str, metadata: Any) -> None:
    """A signature that was found valid is not computed again: `_parsed` keeps both values alive."""
    key = (id(delegator), role_name, id(metadata))
    if key not in _CHECKED:
        _CHECK(delegator, role_name, metadata)
        _CHECKED.add(key)


_STARTS: dict[bytes, Start | None] = {}


def start_of(sectors: Sectors) -> Start | None:
    """What systemd-boot on EDK2's FAT driver starts from these sectors; None: nothing."""
    nodes = read_volume(sectors, firmware=True)
    key = _key_of(nodes)
    if key not in _STARTS:
        if len(_STARTS) > 20_000:
            _STARTS.clear()
        _STARTS[key] = _start_of(nodes)
    return _STARTS[key]


def _key_of(nodes: dict[str, Node]) -> bytes:
    hasher = hashlib.blake2b(digest_size=16)
    for path, node in nodes.items():
        hasher.update(f"{path}\0{node.is_folder}{node.damaged}{node.size}\0".encode())
        hasher.update(node.data)
    return hasher.digest()


def _start_of(nodes: dict[str, Node]) -> Start | None:
    """Through the product's simulation of systemd-boot, which works on a folder."""
    folder = Path("/dev/shm" if os.path.isdir("/dev/shm") else "/tmp") / f"esp-{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        for path, node in nodes.items():
            place = folder / path
            place.parent.mkdir(parents=True, exist_ok=True)
            if node.is_folder:
                place.mkdir(exist_ok=True)
            else:
                # EDK2 refuses to open a file whose chain is damaged.
                place.write_bytes(b"" if node.damaged else node.data)
        choice = choose(folder)
        if choice is None:
            return None
        path = str(choice.path.relative_to(folder))
        counted = path
        if choice.entry.counted:
            name = bump_name(choice.path.name, choice.entry.suffix)
            # EDK2 renames over no other file, and systemd-boot starts the entry all the same.
            if not choice.path.with_name(name).exists():
                counted = str(choice.path.with_name(name).relative_to(folder))
        boots = _boots(folder, choice.entry) if choice.loadable else ()
        tries = choice.entry.tries
        menu = tuple(
            (one.path.name, one.cmdline, _boots(folder, one)) for one in list_entries(folder)
        )
        return Start(path, counted, choice.entry.id, choice.cmdline, boots,
                     None if tries is None else tries.left, menu)  # fmt: skip
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _boots(esp: Path, entry: Listed) -> tuple[bytes, ...]:
    """The files that an entry starts, as far as they are there."""
    if entry.suffix is Suffix.UKI:
        return (entry.path.read_bytes(),)
    words = [line.split(None, 1) for line in entry.path.read_text("utf-8", "replace").splitlines()]
    paths = [esp / word[1].lstrip("/") for word in words if word[:1] in (["linux"], ["initrd"])]
    return tuple(path.read_bytes() for path in paths if path.is_file())


class _InOrder(Executor):
    """What is submitted is done at once: a recording is the same each time."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def submit(self, fn: Callable[..., Any], /, *args: Any, **more: Any) -> "Future[Any]":
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **more))
        except BaseException as error:
            future.set_exception(error)
        return future


@contextmanager
def in_order(machine: Machine) -> Iterator[None]:
    """Threads run in the order in which they were started, and health is the story's.

    The same metadata is parsed and verified once in a process: that is pure, and most of the time.
    """

    async def in_thread(work: Callable[[Callable[[], None]], Any]) -> Any:
        return work(lambda: None)

    async def to_thread(fn: Callable[..., Any], /, *args: Any, **more: Any) -> Any:
        return fn(*args, **more)

    async def run_health(_: object) -> tuple[HealthResult, ...]:
        return (DOWN,) if machine.running in machine.sick else ()

    replaced: list[tuple[Any, str, Any]] = [
        (asyncio, "to_thread", to_thread),
        (stream, "in_thread", in_thread),
        (hash_area, "in_thread", in_thread),
        (sources, "in_thread", in_thread),
        (staging, "in_thread", in_thread),
        (esp_slots, "find_esp_bytes", lambda *_: machine.esp_bytes),
        (slot, "_mounted_devices", tuple),
        (trial, "run_health", run_health),
        (pipe, "CHECKPOINT_TARGET_BYTES", CHECKPOINT_BYTES),
        (trust, "parse_metadata", _parsed),
        (trust, "check_signed", _checked),
        (uuid, "uuid4", lambda: uuid.UUID(bytes=machine.chance.randbytes(16), version=4)),
        *((module, "ThreadPoolExecutor", _InOrder) for module in (pipe, scan, slot)),
    ]
    before = [(where, name, getattr(where, name)) for where, name, _ in replaced]
    for where, name, value in replaced:
        setattr(where, name, value)
    try:
        yield
    finally:
        for where, name, value in before:
            setattr(where, name, value)

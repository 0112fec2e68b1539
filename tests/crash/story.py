"""The stories that are recorded: what a device goes through, from one resting place to the next.

All start from a device as two updates left it: release 1 in slot a, release 2 in slot b, running and
confirmed. Release 3 goes to slot a, so that it has to be retired first.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from tests.crash.machine import Machine, Snapshot, in_order
from tests.crash.media import Slots, State
from tests.crash.record import Kind, Medium, Op
from tests.crash.repository import KERNEL, PARTITIONS, PLAIN, Design, Repository
from tests.crash.vfat import Vfat, eagerly, lazily
from tests.crash.volume import make_volume

OLD, NEW = 2, 3


@dataclass(frozen=True, slots=True)
class Layout:
    """An ESP: sectors of a cluster, and foreign files beside ours in the folders of entries.

    Every name of ours takes two records of the 16 in a sector. A foreign one of 14 characters takes
    three, so that one of ours stands in two sectors if nobody plans it. `device`: the installer can
    read the partition below its file system, and so plans where names go.
    """

    cluster_sectors: int
    foreign: tuple[str, ...] = ()
    device: bool = False


SMALL, LARGE = "cluster of 512 bytes", "cluster of 4 KiB"
ACROSS = "names across sectors"  # the installer's, if it did not plan them
COUNTED = (
    "counted names across sectors"  # the firmware's, if the installer did not make way for them
)
LAYOUTS: dict[str, Layout] = {
    SMALL: Layout(1),
    LARGE: Layout(8),
    ACROSS: Layout(
        8,
        ("other-os-1.efi", "another-operating-system-2.efi", "another-operating-system-3.efi"),
        device=True,
    ),
    COUNTED: Layout(8, ("other-os-1.efi",), device=True),
}
AGAIN = " then "  # in names, before the second power cut
SCHEDULES = ("lazy", "eager", "mixed")


def schedule(name: str, seed: str) -> Callable[[], bool]:
    """When the kernel writes an inode that it need not write yet."""
    if name == "mixed":
        chance = random.Random(seed)
        return lambda: chance.random() < 0.5
    return {"lazy": lazily, "eager": eagerly}[name]


@dataclass(frozen=True, slots=True)
class Story:
    """A recording: where it starts, and every operation up to where it rests again.

    `fetched_bytes` is what it fetched of payloads. `origin` is the state after a power cut that it
    starts from, where it is such a story; `lost`, whether that was in the firmware's rename.
    """

    name: str
    layout: str
    repository: Repository
    snapshot: Snapshot
    log: tuple[Op, ...]
    end: Snapshot
    booted: tuple[int, ...]
    sick: frozenset[int] = frozenset()
    hung: frozenset[int] = frozenset()
    origin: str = ""
    lost: bool = False

    @property
    def is_good(self) -> bool:
        """Whether the new release comes up and is healthy."""
        return not self.sick and not self.hung

    @property
    def title(self) -> str:
        """What its states are counted under."""
        return f"{self.name}, cut again" if self.origin else self.name

    def path(self, schedule_name: str) -> str:
        """How the names of its states begin."""
        if self.origin:
            return f"{self.origin}{AGAIN}{schedule_name}"
        return f"{self.name}/{self.layout}/{schedule_name}"

    def machine(self, folder: Path, snapshot: Snapshot, **more: Any) -> Machine:
        """The story's device, with these media."""
        return Machine(folder, self.repository, snapshot, sick=self.sick, hung=self.hung,
                       esp_device=LAYOUTS[self.layout].device, **more)  # fmt: skip

    @property
    def fetched_bytes(self) -> int:
        return max((op.offset for op in self.log if op.kind is Kind.FETCHED), default=0)


@dataclass
class Replay:
    """The models of the three media, fed with a log."""

    snapshot: Snapshot
    when: Callable[[], bool]
    weak: bool = False  # whether the state folder promises no more than POSIX does
    fetched: int = 0  # bytes of payloads that came
    fetched_durably: int = 0  # of those, which the code made durable, or thinks so
    bumping: bool = False  # the firmware has renamed, and not flushed for certain
    vfat: Vfat = field(init=False)
    state: State = field(init=False)
    slots: Slots = field(init=False)

    def __post_init__(self) -> None:
        self.vfat = Vfat(dict(self.snapshot.esp), self.when)
        self.state = State(self.snapshot.state, self.weak)
        self.slots = Slots(dict(self.snapshot.slots))

    def apply(self, op: Op) -> None:
        if op.kind is Kind.FETCHED:
            self.fetched = op.offset
            return
        if op.kind in (Kind.SYNC, Kind.OMITTED) and op.path.startswith("spool/"):
            self.fetched_durably = self.fetched  # as far as the code knows
        if op.kind is Kind.OMITTED:
            return
        match op.medium:
            case Medium.ESP:
                self.vfat.apply(op)
                self.bumping = op.kind is Kind.BUMP
                if op.kind is Kind.SYNC_ALL:
                    self.vfat.mount()
            case Medium.STATE:
                self.state.apply(op)
            case Medium.SLOT:
                self.slots.apply(op)

    def is_clean(self) -> bool:
        """Whether nothing is pending: the media can hold only one thing."""
        return not self.vfat.pending and self.state.is_clean() and self.slots.is_clean()

    def now(self) -> Snapshot:
        """What the running system sees."""
        return Snapshot(dict(self.vfat.cache), self.state.now(), self.slots.now())


def repositories(
    design: Design = PLAIN,
) -> tuple[Repository, Repository, Repository, Repository]:
    """Up to release 1, 2, 3 in full, and 3 with a delta."""
    one = Repository(design)
    one.publish(1)
    two = Repository(design)
    for counter in (1, 2):
        two.publish(counter)
    full, delta = Repository(design), Repository(design)
    for counter in (1, 2, 3):
        full.publish(counter)
        delta.publish(counter, delta=counter == NEW)
    return one, two, full, delta


def _factory(layout: str, repository: Repository) -> Snapshot:
    esp = Vfat(make_volume(LAYOUTS[layout].cluster_sectors))
    for path in ("EFI", "EFI/Linux", "loader", "loader/entries"):
        esp.apply(Op(Kind.MKDIR, Medium.ESP, path))
        for name in LAYOUTS[layout].foreign if "/" in path else ():
            esp.apply(Op(Kind.CREATE, Medium.ESP, f"{path}/{name}"))
    esp.sync_all()
    return Snapshot(esp.durable, {}, repository.blank())


_repository = cache(repositories)


@cache
def resting(folder: Path, layout: str, design: Design = PLAIN) -> Snapshot:
    """Release 1 in slot a, release 2 in slot b, running and confirmed."""
    one, two, _, _ = _repository(design)
    return rest_after(folder, layout, one, two)


def rest_after(folder: Path, layout: str, one: Repository, two: Repository) -> Snapshot:
    """The same, of repositories up to release 1 and 2."""
    device = LAYOUTS[layout].device
    machine = Machine(folder, one, _factory(layout, one), esp_device=device)
    with in_order(machine), machine.recorder.installed():
        asyncio.run(machine._round())  # the first install: nothing boots before it
    first = Machine(folder, one, machine.now(), esp_device=device)
    first.drive()
    second = Machine(folder, two, first.now(), esp_device=device)
    second.drive()
    assert second.booted == [1, 2]
    return second.now()


def _record(
    folder: Path,
    name: str,
    layout: str,
    repository: Repository,
    snapshot: Snapshot,
    sick: frozenset[int] = frozenset(),
    hung: frozenset[int] = frozenset(),
) -> Story:
    story = Story(name, layout, repository, snapshot, (), snapshot, (), sick, hung)
    machine = story.machine(folder, snapshot)
    machine.drive()
    machine.check_esp()
    return replace(story, log=tuple(machine.log), end=machine.now(), booted=tuple(machine.booted))


def full_update(folder: Path, layout: str) -> Story:
    """Install from a full payload, reboot, confirm."""
    return _record(folder, "full update", layout, _repository(PLAIN)[2], resting(folder, layout))


def delta_update(folder: Path, layout: str) -> Story:
    """Install from a delta, reboot, confirm."""
    return _record(folder, "delta update", layout, _repository(PLAIN)[3], resting(folder, layout))


def resumed_update(folder: Path, layout: str) -> Story:
    """An install that was cut at two thirds of its writing, taken up again."""
    story = full_update(folder, layout)
    spooled = [n for n, op in enumerate(story.log) if op.source.startswith("spool.py")]
    replay = Replay(story.snapshot, lazily)
    for op in story.log[: spooled[len(spooled) * 2 // 3]]:
        replay.apply(op)
    chance = random.Random("resume")
    cut = Snapshot(
        dict(replay.vfat.durable), replay.state.cut(chance), replay.slots.cut(chance),
    )  # fmt: skip
    return _record(folder, "resumed update", layout, story.repository, cut)


def confirm(folder: Path, layout: str) -> Story:
    """A release in its second boot on trial: counted, found healthy, confirmed."""
    story = full_update(folder, layout)
    bump = next(n for n, op in enumerate(story.log) if op.kind is Kind.BUMP)
    replay = Replay(story.snapshot, lazily)
    for op in story.log[: bump + 2]:
        replay.apply(op)
    return _record(folder, "confirm", layout, story.repository, replay.now())


def rollback(folder: Path, layout: str) -> Story:
    """Install, reboot, found unhealthy: condemned, the old release again, denied and reported."""
    start = resting(folder, layout)
    return _record(folder, "rollback", layout, _repository(PLAIN)[2], start, sick=frozenset({NEW}))


def fallback(folder: Path, layout: str) -> Story:
    """Install, reboot into a release that never comes up: three tries, then the old one."""
    start = resting(folder, layout)
    return _record(folder, "fall back", layout, _repository(PLAIN)[2], start, hung=frozenset({NEW}))


def by_root_hash(folder: Path, layout: str) -> Story:
    """A full update on one disk: partitions of the slot and its hash tree lose their names and get
    new ones.
    """
    start = resting(folder, layout, PARTITIONS)
    return _record(folder, BY_ROOT_HASH, layout, _repository(PARTITIONS)[2], start)


def kernel_and_initrd(folder: Path, layout: str) -> Story:
    """A full update to a kernel and an initrd beside their boot entry."""
    start = resting(folder, layout, KERNEL)
    return _record(folder, "kernel and initrd", layout, _repository(KERNEL)[2], start)


def kernel_rolled_back(folder: Path, layout: str) -> Story:
    """The same, found unhealthy."""
    start = resting(folder, layout, KERNEL)
    return _record(folder, "kernel and initrd, rollback", layout, _repository(KERNEL)[2], start,
                   sick=frozenset({NEW}))  # fmt: skip


BY_ROOT_HASH = "partitions by root hash"
STORIES: dict[str, Callable[[Path, str], Story]] = {
    "full update": full_update,
    "delta update": delta_update,
    "resumed update": resumed_update,
    "confirm": confirm,
    "rollback": rollback,
    "fall back": fallback,
    BY_ROOT_HASH: by_root_hash,
    "kernel and initrd": kernel_and_initrd,
    "kernel and initrd, rollback": kernel_rolled_back,
}

_ON_FEW = {
    ACROSS: ("full update", "rollback", "fall back", "kernel and initrd"),
    COUNTED: ("fall back",),
}
TASKS: tuple[tuple[str, str], ...] = tuple(
    (name, layout) for name in STORIES for layout in LAYOUTS if name in _ON_FEW.get(layout, STORIES)
)
"""What is explored: story and layout. Where names stand is the ESP's business: those stories in which
entries are renamed.
"""

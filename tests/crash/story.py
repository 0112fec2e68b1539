"""The stories that are recorded: what a device goes through, from one resting place to the next.

All start from a device as two updates left it: release 1 in slot a, release 2 in slot b, running and
confirmed. Release 3 goes to slot a, so that it has to be retired first.
"""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.crash.machine import Machine, Snapshot, in_order
from tests.crash.media import Slots, State
from tests.crash.record import Kind, Medium, Op
from tests.crash.repository import SLOT_BYTES, Repository
from tests.crash.vfat import Vfat, eagerly, lazily
from tests.crash.volume import make_volume

OLD, NEW = 2, 3

# How the names stand in the folder of the UKIs: sectors of a cluster, and foreign files beside ours.
# Every name of ours takes two records of the 16 in a sector. A foreign one of 14 characters takes
# three, so that one of ours stands in two sectors.
LAYOUTS: dict[str, tuple[int, tuple[str, ...]]] = {
    "cluster of 512 bytes": (1, ()),
    "cluster of 4 KiB": (8, ()),
}
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

    `fetched_bytes` is what it fetched of payloads.
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


def repositories() -> tuple[Repository, Repository, Repository, Repository]:
    """Up to release 1, 2, 3 in full, and 3 with a delta."""
    one = Repository()
    one.publish(1)
    two = Repository()
    for counter in (1, 2):
        two.publish(counter)
    full, delta = Repository(), Repository()
    for counter in (1, 2, 3):
        full.publish(counter)
        delta.publish(counter, delta=counter == NEW)
    return one, two, full, delta


def _factory(layout: str) -> Snapshot:
    sectors, foreign = LAYOUTS[layout]
    esp = Vfat(make_volume(sectors))
    for path in ("EFI", "EFI/Linux"):
        esp.apply(Op(Kind.MKDIR, Medium.ESP, path))
    for name in foreign:
        esp.apply(Op(Kind.CREATE, Medium.ESP, f"EFI/Linux/{name}"))
    esp.sync_all()
    return Snapshot(esp.durable, {}, {f"slot-{name}.img": bytes(SLOT_BYTES) for name in "ab"})


_repository = cache(repositories)


@cache
def resting(folder: Path, layout: str) -> Snapshot:
    """Release 1 in slot a, release 2 in slot b, running and confirmed."""
    one, two, _, _ = _repository()
    return rest_after(folder, layout, one, two)


def rest_after(folder: Path, layout: str, one: Repository, two: Repository) -> Snapshot:
    """The same, of repositories up to release 1 and 2."""
    machine = Machine(folder, one, _factory(layout))
    with in_order(machine), machine.recorder.installed():
        asyncio.run(machine._round())  # the first install: nothing boots before it
    first = Machine(folder, one, machine.now())
    first.drive()
    second = Machine(folder, two, first.now())
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
    machine = Machine(folder, repository, snapshot, sick=sick, hung=hung)
    machine.drive()
    machine.check_esp()
    return Story(name, layout, repository, snapshot, tuple(machine.log), machine.now(),
                 tuple(machine.booted), sick, hung)  # fmt: skip


def full_update(folder: Path, layout: str) -> Story:
    """Install from a full payload, reboot, confirm."""
    return _record(folder, "full update", layout, _repository()[2], resting(folder, layout))


def delta_update(folder: Path, layout: str) -> Story:
    """Install from a delta, reboot, confirm."""
    return _record(folder, "delta update", layout, _repository()[3], resting(folder, layout))


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
    return _record(folder, "rollback", layout, _repository()[2], start, sick=frozenset({NEW}))


def fallback(folder: Path, layout: str) -> Story:
    """Install, reboot into a release that never comes up: three tries, then the old one."""
    start = resting(folder, layout)
    return _record(folder, "fall back", layout, _repository()[2], start, hung=frozenset({NEW}))


STORIES: dict[str, Callable[[Path, str], Story]] = {
    "full update": full_update,
    "delta update": delta_update,
    "resumed update": resumed_update,
    "confirm": confirm,
    "rollback": rollback,
    "fall back": fallback,
}

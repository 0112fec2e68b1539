"""Walk a story's log, cut the power everywhere, judge what the media may hold.

A state has a name, from which it can be made again:

    full update/cluster of 512 bytes/lazy/117/5    story, layout, schedule, operations done, number

Number 0 is what is durable for certain, number 1 what the running system saw, the others are drawn
with the name as seed; where the sectors that are pending on the ESP have few versions, all their
combinations come in turn.

    .../117/5 then eager/44/3    the installer starts on that state, and is cut again
    .../117/5/fsck-first         fsck.vfat -a, then the boot loader, then the installer
    .../117/5/fsck-later         the boot loader, fsck.vfat -a, the installer: what systemd-fsck does
"""

import itertools
import math
import os
import random
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cache
from pathlib import Path

from tests.crash.fsck import run_fsck
from tests.crash.judge import Cut, Failure, Outcome, judge, key_of, view_of
from tests.crash.machine import Snapshot
from tests.crash.record import Kind, Op
from tests.crash.story import AGAIN, STORIES, Replay, Story, schedule
from tests.crash.vfat import Vfat
from tests.crash.volume import Sectors

COMBINATIONS_MAX = 4096  # of an ESP's pending sectors: below it, all of them come in turn
DUPLICATES_MAX = 12  # in a row: then the cut holds nothing new


def scratch() -> Path:
    """A folder in memory, for this process."""
    base = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path("/tmp")
    return base / f"crash-{os.getpid()}"


def replay_of(story: Story, schedule_name: str) -> Replay:
    """The models at the start of a story. A schedule is what the kernels' file systems are like:

    lazy     vfat writes inodes when it must; names in the state folder are journaled in order
    eager    vfat writes inodes at once; the state folder promises no more than POSIX does
    mixed    vfat writes inodes when chance says so; the same
    """
    when = schedule(schedule_name, story.path(schedule_name))
    return Replay(story.snapshot, when, weak=schedule_name != "lazy")


def state_of(replay: Replay, name: str, number: int) -> Snapshot:
    """What the media may hold now: the state of that name and number."""
    if number == 1:
        return replay.now()
    chance = random.Random(f"{name}/{number}")
    esp = _esp_cut(replay.vfat, chance, number)
    if number == 0:
        return Snapshot(esp, replay.state.certain(), dict(replay.slots.durable))
    return Snapshot(
        esp,
        replay.state.cut(chance),
        replay.slots.cut(chance),
    )


def _esp_cut(vfat: Vfat, chance: random.Random, number: int) -> Sectors:
    sectors = dict(vfat.durable)
    pending = sorted(vfat.pending.items())
    if number == 0 or not pending:
        return sectors
    combinations = 1
    for _, versions in pending:
        combinations *= len(versions) + 1
    if combinations <= COMBINATIONS_MAX:
        # In strides, so that the first few are spread over all.
        index = (number - 2) * _stride(combinations) % combinations
        for sector, versions in pending:
            index, chosen = divmod(index, len(versions) + 1)
            if chosen:
                sectors[sector] = versions[chosen - 1]
        return sectors
    density = chance.choice((0.1, 0.5, 0.9))
    for sector, versions in pending:
        if chance.random() < density:
            last = chance.random() < 0.7
            sectors[sector] = versions[-1] if last else chance.choice(versions)
    return sectors


@cache
def _stride(combinations: int) -> int:
    """Near the golden section, and without a common divisor: so every number comes once."""
    stride = max(1, round(combinations * 0.618))
    while math.gcd(stride, combinations) > 1:
        stride += 1
    return stride


class Fsck(StrEnum):
    """Whether fsck.vfat -a runs after the cut, and when: the end of a state's name."""

    NONE = ""
    FIRST = "/fsck-first"
    LATER = "/fsck-later"

    @property
    def title(self) -> str:
        return "fsck, boot loader" if self is Fsck.FIRST else "boot loader, fsck"


@dataclass
class Findings:
    """What an exploration found. `media` and `seen` are digests: of all bytes, of what is visible."""

    media: set[bytes] = field(default_factory=set)
    visited: set[tuple[str, bytes]] = field(
        default_factory=set
    )  # what it is counted under, and digest
    seen: set[bytes] = field(default_factory=set)
    outcomes: Counter[tuple[str, Outcome]] = field(default_factory=Counter)
    failures: list[tuple[str, str]] = field(
        default_factory=list
    )  # name of the state, what is wrong
    judged: int = 0

    def add(self, other: "Findings") -> None:
        self.media |= other.media
        self.visited |= other.visited
        self.seen |= other.seen
        self.outcomes += other.outcomes
        self.failures += other.failures
        self.judged += other.judged


@dataclass
class Explorer:
    """Judges states, each that looks the same only once."""

    folder: Path
    findings: Findings = field(default_factory=Findings)
    known: dict[tuple[str, bytes], Outcome | Failure] = field(default_factory=dict)
    finished: dict[tuple[str, bytes], bool] = field(default_factory=dict)

    def another(self) -> "Explorer":
        """With findings of its own, that judges nothing again."""
        return Explorer(self.folder, known=self.known, finished=self.finished)

    def walk(
        self,
        story: Story,
        schedule_name: str,
        numbers: Sequence[int],
        *,
        log: Sequence[Op] | None = None,
        cuts: Container[int] | None = None,
        judged_max: int | None = None,
        fsck: Fsck = Fsck.NONE,
    ) -> None:
        """The states of these numbers at every cut of a story's log, or of another one.

        `judged_max`: so many may be judged, and the first failure is enough.
        """
        base = story.path(schedule_name)
        replay = replay_of(story, schedule_name)
        for count, op in enumerate(story.log if log is None else log, 1):
            replay.apply(op)
            if op.kind is Kind.FETCHED or (cuts is not None and count not in cuts):
                continue
            if story.lost and replay.bumping:
                continue  # the firmware loses the entry twice: the release is denied
            self._cut(story, replay, f"{base}/{count}", numbers, fsck, judged_max is not None)
            if judged_max is not None and self.is_enough(judged_max):
                return

    def is_enough(self, judged_max: int) -> bool:
        """For a seeded bug: it is shown, or it was looked for in so many states."""
        return bool(self.findings.failures) or self.findings.judged >= judged_max

    def _cut(
        self,
        story: Story,
        replay: Replay,
        name: str,
        numbers: Sequence[int],
        fsck: Fsck,
        once: bool,
    ) -> None:
        duplicates = 0
        title = f"{story.title}, {fsck.title}" if fsck else story.title
        for number in numbers:
            if number and replay.is_clean():
                return
            cut = cut_of(story, replay, name, number, fsck)
            if cut is None:
                continue
            whole, visible = key_of(cut.media)
            if (title, whole) in self.findings.visited:
                duplicates += 1
                if duplicates > DUPLICATES_MAX:
                    return
                continue
            duplicates = 0
            self.findings.visited.add((title, whole))
            self.findings.media.add(whole)
            outcome = self._judge(story, cut, visible)
            if isinstance(outcome, Failure):
                self.findings.failures.append((f"{name}/{number}{fsck}", str(outcome)))
                if once:
                    return
            else:
                self.findings.outcomes[title, outcome] += 1

    def _judge(self, story: Story, cut: Cut, visible: bytes) -> Outcome | Failure:
        # What the judge takes into account beside the media.
        again = bool(story.origin)
        key = (f"{story.name} {again} {cut.may_fetch} {cut.bumping} {cut.checked}", visible)
        if key not in self.known:
            self.findings.seen.add(visible)
            self.findings.judged += 1
            try:
                self.known[key] = judge(story, cut, self.folder, self.finished)
            except Failure as failure:
                self.known[key] = failure
        return self.known[key]


def cut_of(
    story: Story, replay: Replay, name: str, number: int, fsck: Fsck = Fsck.NONE
) -> Cut | None:
    """The state of that number; None where fsck.vfat mends nothing in it that a reader sees."""
    media = state_of(replay, name, number)
    may_fetch = story.fetched_bytes - replay.fetched_durably
    bumping = replay.bumping or story.lost
    if not fsck:
        return Cut(media, may_fetch, bumping)
    mended = run_fsck(media.esp)
    if view_of(mended) == view_of(media.esp):
        return None
    if fsck is Fsck.FIRST:
        return Cut(replace(media, esp=mended), may_fetch, bumping)
    return Cut(media, may_fetch, bumping, checked=True)


def cut_again(story: Story, cut: Cut, name: str, folder: Path) -> Story:
    """The installer started on a state: a story that begins with a power cut, to be cut again."""
    machine = story.machine(folder, cut.media)
    machine.drive()
    return replace(story, snapshot=cut.media, log=tuple(machine.log), end=machine.now(),
                   booted=tuple(machine.booted), origin=name, lost=cut.bumping)  # fmt: skip


def recall(name: str, folder: Path) -> tuple[Story, Cut]:
    """The state of that name. Raises ValueError for a name that is none."""
    first, _, second = name.partition(AGAIN)
    if second:
        before, cut = recall(first, folder)
        story = cut_again(before, cut, first, folder)
        schedule_name, count, number, *more = second.split("/")
    else:
        story_name, layout, schedule_name, count, number, *more = name.split("/")
        story = STORIES[story_name](folder, layout)
    replay = replay_of(story, schedule_name)
    for op in itertools.islice(story.log, int(count)):
        replay.apply(op)
    fsck = Fsck("".join(f"/{word}" for word in more))
    found = cut_of(story, replay, f"{story.path(schedule_name)}/{count}", int(number), fsck)
    if found is None:
        raise ValueError(f"{name}: fsck.vfat has nothing to mend")
    return story, found


def numbered(log: Sequence[Op]) -> Iterator[str]:
    """The operations as lines, for people."""
    for count, op in enumerate(log, 1):
        yield f"{count:4d} {op}"

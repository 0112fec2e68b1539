"""Walk a story's log, cut the power everywhere, judge what the media may hold.

A state has a name, from which it can be made again:

    full update/cluster of 512 bytes/lazy/117/5    story, layout, schedule, operations done, number

Number 0 is what is durable for certain, number 1 what the running system saw, the others are drawn
with the name as seed; where the sectors that are pending on the ESP have few versions, all their
combinations come in turn.
"""

import itertools
import math
import os
import random
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from tests.crash.judge import Cut, Failure, Outcome, judge, key_of
from tests.crash.machine import Snapshot
from tests.crash.record import Kind, Op
from tests.crash.story import STORIES, Replay, Story, schedule
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
    seed = f"{story.name}/{story.layout}/{schedule_name}"
    return Replay(story.snapshot, schedule(schedule_name, seed), weak=schedule_name != "lazy")


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


@dataclass
class Findings:
    """What an exploration found. `media` and `seen` are digests: of all bytes, of what is visible."""

    media: set[bytes] = field(default_factory=set)
    visited: set[tuple[str, bytes]] = field(default_factory=set)  # story and digest
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
        numbers: range,
        *,
        log: Sequence[Op] | None = None,
        cuts: Container[int] | None = None,
        judged_max: int | None = None,
    ) -> None:
        """The states of these numbers at every cut of a story's log, or of another one.

        `judged_max`: so many may be judged, and the first failure is enough.
        """
        base = f"{story.name}/{story.layout}/{schedule_name}"
        replay = replay_of(story, schedule_name)
        for count, op in enumerate(story.log if log is None else log, 1):
            replay.apply(op)
            if op.kind is Kind.FETCHED or (cuts is not None and count not in cuts):
                continue
            self._cut(story, replay, f"{base}/{count}", numbers, judged_max is not None)
            if judged_max is not None and self.is_enough(judged_max):
                return

    def is_enough(self, judged_max: int) -> bool:
        """For a seeded bug: it is shown, or it was looked for in so many states."""
        return bool(self.findings.failures) or self.findings.judged >= judged_max

    def _cut(self, story: Story, replay: Replay, name: str, numbers: range, once: bool) -> None:
        duplicates = 0
        for number in numbers:
            if number and replay.is_clean():
                return
            media = state_of(replay, name, number)
            whole, visible = key_of(media)
            if (story.name, whole) in self.findings.visited:
                duplicates += 1
                if duplicates > DUPLICATES_MAX:
                    return
                continue
            duplicates = 0
            self.findings.visited.add((story.name, whole))
            self.findings.media.add(whole)
            outcome = self._judge(
                story, Cut(media, replay.fetched_durably, replay.bumping), visible
            )
            if isinstance(outcome, Failure):
                self.findings.failures.append((f"{name}/{number}", str(outcome)))
                if once:
                    return
            else:
                self.findings.outcomes[story.name, outcome] += 1

    def _judge(self, story: Story, cut: Cut, visible: bytes) -> Outcome | Failure:
        # What the judge takes into account beside the media.
        key = (f"{story.name} {cut.fetched_durably} {cut.bumping}", visible)
        if key not in self.known:
            self.findings.seen.add(visible)
            self.findings.judged += 1
            try:
                self.known[key] = judge(story, cut, self.folder, self.finished)
            except Failure as failure:
                self.known[key] = failure
        return self.known[key]


def recall(name: str, folder: Path) -> tuple[Story, Cut]:
    """The state of that name. Raises ValueError for a name that is none."""
    story_name, layout, schedule_name, count, number = name.split("/")
    story = STORIES[story_name](folder, layout)
    base = f"{story_name}/{layout}/{schedule_name}"
    replay = replay_of(story, schedule_name)
    for op in itertools.islice(story.log, int(count)):
        replay.apply(op)
    media = state_of(replay, f"{base}/{count}", int(number))
    return story, Cut(media, replay.fetched_durably, replay.bumping)


def numbered(log: Sequence[Op]) -> Iterator[str]:
    """The operations as lines, for people."""
    for count, op in enumerate(log, 1):
        yield f"{count:4d} {op}"

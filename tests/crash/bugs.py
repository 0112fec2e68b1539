"""Seeded bugs: what would happen if the installer left out a sync, or took two steps in the wrong order.

A sync has no effect that the running program could see. So a log without it is exactly the log of
an installer without it, and the states that it allows are explored as any others. The same holds for
two steps that do not touch the same names, which stand in the other order.

A step is everything up to its last sync: what a file's content, its name and its place need to be
durable. Steps on one medium or on two are swapped; those that need each other cannot be.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

from tests.crash.explore import Explorer
from tests.crash.record import SYNCS, Kind, Medium, Op
from tests.crash.story import Story


class BugKind(StrEnum):
    CALL = "a call that syncs is left out"
    ORDER = "a step in the wrong place"
    SWAP = "two neighbouring operations in the other order"


# Calls whose sync another one covers: nothing relies on it in between.
COVERED = {
    "begin_checkpoints": "the journal's own write follows, and syncs the same folder, before anything "
    "is appended; and records of another transaction are passed over when they come back",
}


@dataclass(frozen=True, slots=True)
class Bug:
    """`log` is what the device would do; `at` (from, to) are the cuts that it can show at."""

    kind: BugKind
    name: str
    log: tuple[Op, ...]
    at: range


@dataclass(slots=True)
class Finding:
    """What became of a bug: the first state that shows it, or how many were judged without one."""

    kind: BugKind
    bug: str
    state: str = ""
    failure: str = ""
    judged: int = 0

    @property
    def caught(self) -> bool:
        return bool(self.failure)

    @property
    def covered(self) -> str:
        """Why it does no harm, for the calls of which that is known."""
        if self.kind is not BugKind.CALL:
            return ""
        return next((why for call, why in COVERED.items() if call in self.bug), "")


_WORDS = {Medium.ESP: "ESP", Medium.STATE: "state folder", Medium.SLOT: "slot"}


def removed_calls(story: Story) -> Iterator[Bug]:
    """The log without what one call in the code syncs, for each such call."""
    syncs = [(n, op) for n, op in enumerate(story.log) if op.kind in SYNCS[:2]]
    for site in dict.fromkeys((op.medium, op.source) for _, op in syncs):
        first = next(n for n, op in syncs if (op.medium, op.source) == site)
        left = tuple(
            replace(op, kind=Kind.OMITTED)
            if op.kind in SYNCS[:2] and (op.medium, op.source) == site
            else op
            for op in story.log
        )
        yield Bug(
            BugKind.CALL, f"{site[1]}, on the {_WORDS[site[0]]}", left, range(first, len(left) + 1)
        )


@dataclass(frozen=True, slots=True)
class Step:
    """Operations [start, end) of a log, of which the last is a sync."""

    start: int
    end: int
    names: frozenset[tuple[Medium, str]]
    title: str


def steps_of(log: Sequence[Op]) -> list[Step]:
    """The durable steps: one for each file that is replaced, written or removed, with its name."""
    steps: list[Step] = []
    start = 0
    for index, op in enumerate(log):
        if op.kind in (Kind.SYNC_ALL, Kind.BUMP):
            start = index + 1
            continue
        following = log[index + 1] if index + 1 < len(log) else None
        goes_on = following is not None and (
            following.kind in SYNCS[:2]
            or (following.kind is Kind.RENAME and following.path == op.path)
            or following.kind is Kind.CLOSE
        )
        ends = op.kind in SYNCS[:2] or op.kind is Kind.CLOSE
        if not ends or (goes_on and following is not None and following.medium is op.medium):
            continue
        mine = log[start : index + 1]
        names = {(one.medium, name) for one in mine for name in (one.path, one.new) if name}
        names = {one for one in names if one[1] != "held"}
        changes = [one for one in mine if one.kind not in (*SYNCS, Kind.FETCHED, Kind.CLOSE)]
        if changes:
            last = changes[-1]
            title = f"{last.medium}:{last.new if last.new not in ('', 'held') else last.path}"
            steps.append(Step(start, index + 1, frozenset(names), f"{title} ({last.kind})"))
        start = index + 1
    return steps


def swapped_steps(story: Story) -> Iterator[Bug]:
    """The log with two neighbouring steps in the other order, for each pair that can be."""
    log = story.log
    steps = steps_of(log)
    for first, second in itertools.pairwise(steps):
        if first.end != second.start or _depend(log, first, second):
            continue
        swapped = (
            log[: first.start]
            + log[second.start : second.end]
            + log[first.start : first.end]
            + log[second.end :]
        )
        yield Bug(
            BugKind.SWAP,
            f"{second.title} before {first.title}",
            swapped,
            range(first.start + 1, second.end + 1),
        )


def _depend(log: Sequence[Op], first: Step, second: Step) -> bool:
    """Whether the second uses a name that the first changed: then the swap is no program's log."""
    changed = {
        (op.medium, name)
        for op in log[first.start : first.end]
        if op.kind not in (*SYNCS, Kind.FETCHED)
        for name in (op.path, op.new)
        if name
    }
    return any(
        medium is other
        and (name == path or name.startswith(f"{path}/") or path.startswith(f"{name}/"))
        for medium, name in changed
        for other, path in second.names
    )


def look_for(story: Story, bug: Bug, folder: Path, per_cut: int) -> Finding:
    """Explore a bug's log where it can show, until it does."""
    explorer = Explorer(folder)
    for schedule in ("eager", "lazy"):
        explorer.walk(story, schedule, range(per_cut), log=bug.log, stop_at=1, cuts=bug.at)
        if explorer.findings.failures:
            break
    found = Finding(bug.kind, bug.name, judged=len(explorer.findings.media))
    if explorer.findings.failures:
        found.state, found.failure = explorer.findings.failures[0]
    return found

"""Seeded bugs: what would happen if the installer left out a sync, or took two steps in the wrong order.

A sync has no effect that the running program could see. So a log without it is exactly the log of
an installer without it, and the states that it allows are explored as any others. The same holds for
two steps that do not touch the same names, which stand in the other order.

A step is everything up to its last sync: what a file's content, its name and its place need to be
durable. Steps on one medium or on two are swapped; those that need each other cannot be.
"""

import itertools
import re
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from tests.crash.explore import Explorer
from tests.crash.record import SYNCS, Kind, Medium, Op
from tests.crash.story import Story


class BugKind(StrEnum):
    CALL = "a call that syncs is left out"
    ORDER = "a step in the wrong place"
    SWAP = "two neighbouring operations in the other order"


JUDGED_MAX = 300  # states that no other bug had

# What does no harm, and why: a pattern of bugs' names, and the reason. The first that fits counts.
COVERED: dict[BugKind, dict[str, str]] = {
    BugKind.CALL: {
        "begin_checkpoints": "the journal's own write syncs the same folder before anything is appended",
        # A partition has the zeros behind the image's end left: that is caught.
        "slot.py:read_back < scan.py.*state folder": "a boot file ends where its image does, and its last "
        "checkpoint comes behind all of it: the read-back has nothing left to sync",
        "remove_state": "the next state file syncs the same folder; a count of deaths or reboots that "
        "comes back until then is at most one too high",
        "journal.py:checkpoint": "a checkpoint that is lost, or torn (each has a CRC), costs reading: "
        "chunks that stand are found by their digests",
        "sync_folder.*(_write_reports|raise_to)": "the journal's last word comes after it, in the same "
        "folder, whose sync makes both durable",
    },
    BugKind.ORDER: {},
    BugKind.SWAP: {
        "attempts.json|reboots.json": "counts of deaths and reboots, at most one off; nothing else is "
        "decided by them",
        r"tx.log \(unlink": "old checkpoints are another transaction's, and passed over",
        r"spool.*\(mkdir": "an empty spool that no transaction needs goes with the next install",
        "slots.json.* before esp:EFI/Linux/0001a": "the journal is open: retiring is done again",
        "0001a.efi.* before state:tx.json": "the old release runs either way; retiring is done again",
        "tx.json.* before state:slots.json": "while the journal is open it speaks, not the slot's record, "
        "which is written again before anything is staged",
        "(slot-a.img|files/a/uki).* before state:spool": "a frame is spooled until it stands in its "
        "place; standing there, it is found by its digest",
        r"tx.log \(write\) before state:spool": "the checkpoint speaks of what stands in the slot",
        "slot-a.img.* before state:tx.log": "bytes behind those that the checkpoint speaks of",
        r"spool.*\(write\) before state:tx.log": "frames behind those that the checkpoint speaks of",
        r"spool.*\(unlink\) before state:tx.log": "what was spooled stands in its place, durably, and is "
        "found by its digest",
        "slots.json.* before esp:EFI/Linux/.0003a": "the record speaks of the images, which stand; "
        "staging is done again",
        "esp:EFI/Linux/.0003a.tmp.* before state:tx.json": "a hidden name: it is staged again",
        "events.jsonl.* before esp": "the next round publishes what the report says; it is queued once",
        "floor.1.* before state:floor.0": "two copies of one number: either is enough",
        "floor.0.* before esp": "the floor bars installs, and not boots; what it bars then is older than "
        "both slots",
        "events.jsonl.* before state:(floor.1|denied.json)": "both come before the journal's last word, "
        "and are done again until that is durable",
    },
}


@dataclass(frozen=True, slots=True)
class Bug:
    """`log` is what the device would do; `at` are the cuts that it can show at, `near` those where
    it probably does.
    """

    kind: BugKind
    name: str
    log: tuple[Op, ...]
    at: Container[int]
    near: frozenset[int]


@dataclass(slots=True)
class Finding:
    """What became of a bug: the first state that shows it, or how many were judged without one."""

    kind: BugKind
    bug: str
    state: str = ""
    failure: str = ""
    states: int = 0

    @property
    def caught(self) -> bool:
        return bool(self.failure)

    @property
    def covered(self) -> str:
        """Why it does no harm, for the calls of which that is known."""
        return next(
            (why for part, why in COVERED[self.kind].items() if re.search(part, self.bug)), ""
        )


_WORDS = {Medium.ESP: "ESP", Medium.STATE: "state folder", Medium.SLOT: "slot"}


def removed_calls(story: Story) -> Iterator[Bug]:
    """The log without what one call in the code syncs, for each such call."""
    syncs = [(n, op) for n, op in enumerate(story.log, 1) if op.kind in SYNCS[:2]]
    for site in dict.fromkeys((op.medium, op.source) for _, op in syncs):
        left_out = {n for n, op in syncs if (op.medium, op.source) == site}
        log = tuple(
            replace(op, kind=Kind.OMITTED) if n in left_out else op
            for n, op in enumerate(story.log, 1)
        )
        near = frozenset(n + more for n in left_out for more in range(4))
        name = f"{site[1]}, on the {_WORDS[site[0]]}"
        yield Bug(BugKind.CALL, name, log, range(min(left_out), len(log) + 1), near)


def misplaced_step(story: Story, right: Story, name: str) -> Bug:
    """What a mutant recorded: it can show from where its log leaves the right one's, to where they
    join again, and when the firmware renames: where that puts a name depends on what stood in the
    folder. Where the log only lacks something, up to the end.
    """
    same = [
        sum(1 for _ in itertools.takewhile(lambda pair: _act(pair[0]) == _act(pair[1]), pairs))
        for pairs in (
            zip(story.log, right.log, strict=False),
            zip(reversed(story.log), reversed(right.log), strict=False),
        )
    ]
    near = range(same[0] + 1, len(story.log) - same[1] + 2)
    bumps = {n for n, op in enumerate(story.log, 1) if op.kind is Kind.BUMP and n >= near.start}
    places = bumps.union(near)
    at = places if sum(same) < len(story.log) else range(near.start, len(story.log) + 1)
    return Bug(BugKind.ORDER, name, story.log, at, frozenset(places))


def _act(op: Op) -> Op:
    return replace(op, source="")


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
        elif steps and steps[-1].end == start:
            steps[-1] = replace(steps[-1], end=index + 1)  # one more sync of what is durable
        start = index + 1
    return steps


@dataclass(frozen=True, slots=True)
class Pairs:
    """Neighbouring steps: all, those of which the second needs a name that the first made or removed,
    and those with a reboot between them.
    """

    count: int
    dependent: int
    apart: int


def pairs_of(story: Story) -> Pairs:
    """How many pairs a story has."""
    pairs = list(itertools.pairwise(steps_of(story.log)))
    near = [(first, second) for first, second in pairs if first.end == second.start]
    dependent = sum(_depend(story.log, first, second) for first, second in near)
    return Pairs(len(pairs), dependent, len(pairs) - len(near))


def swapped_steps(story: Story) -> Iterator[Bug]:
    """The log with two neighbouring steps in the other order, for each pair that can be."""
    log = story.log
    for first, second in itertools.pairwise(steps_of(log)):
        if first.end != second.start or _depend(log, first, second):
            continue
        swapped = (
            log[: first.start]
            + log[second.start : second.end]
            + log[first.start : first.end]
            + log[second.end :]
        )
        at = range(first.start + 1, second.end + 1)
        name = f"{second.title} before {first.title}"
        yield Bug(BugKind.SWAP, name, swapped, at, frozenset(at))


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


def look_for(bugs: Sequence[tuple[Story, Bug]], explorer: Explorer) -> Finding:
    """Explore the log of a bug, in each story that has it, until a state shows it.

    First what is durable for certain, at every cut; then much at the cuts right behind what was left
    out; then some of everything.
    """
    finding = Finding(bugs[0][1].kind, bugs[0][1].name)
    mine = explorer.another()
    for story, bug, cuts, numbers in (
        *((story, bug, bug.at, range(2)) for story, bug in bugs),
        *((story, bug, bug.near, range(2, 18)) for story, bug in bugs),
        *((story, bug, bug.at, range(2, 6)) for story, bug in bugs),
    ):
        for schedule in ("eager", "lazy"):
            mine.walk(story, schedule, numbers, log=bug.log, cuts=cuts, judged_max=JUDGED_MAX)
            finding.states = len(mine.findings.media)
            if mine.findings.failures:
                finding.state, finding.failure = mine.findings.failures[0]
            if mine.is_enough(JUDGED_MAX):
                return finding
    return finding

"""make crash: cut the power everywhere, count, and write docs/crash-safety.md.

python -m tests.crash [--states 100000] [--no-report]      the benchmark run
python -m tests.crash --bugs                               the seeded bugs alone
python -m tests.crash --state NAME                         one state, told in words
python -m tests.crash --log STORY                          a story's operations, numbered
"""

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.crash.bugs import (
    Bug,
    BugKind,
    Finding,
    look_for,
    misplaced_step,
    pairs_of,
    removed_calls,
    swapped_steps,
)
from tests.crash.explore import (
    Explorer,
    Findings,
    Fsck,
    cut_again,
    numbered,
    recall,
    scratch,
)
from tests.crash.judge import Failure, clean, judge
from tests.crash.machine import Stuck
from tests.crash.mutants import MUTANTS, applied
from tests.crash.process import Watched, install_twice
from tests.crash.report import write_report
from tests.crash.repository import Dead
from tests.crash.story import (
    BY_ROOT_HASH,
    LAYOUTS,
    SCHEDULES,
    STORIES,
    TASKS,
    Story,
)

PROCESSES = 2
BATCH = 8  # numbers of states at every cut in the first round; doubled in each
ROUNDS_MAX = 7
FIRST_CUTS, SECOND_CUTS = 12, 8  # of each story: cuts, and cuts of each recovery
FSCK_EVERY = 3  # cuts of each story: after one of so many fsck.vfat runs
SWAPPED = ("full update", "rollback")  # stories whose steps change places: the others have no more
Task = tuple[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--states", type=int, default=100_000, metavar="N")
    parser.add_argument("--state", metavar="NAME")
    parser.add_argument("--log", metavar="STORY", choices=STORIES)
    parser.add_argument("--bugs", action="store_true")
    parser.add_argument("--no-report", action="store_true")
    options = parser.parse_args(arguments)
    try:
        if options.state is not None:
            return tell(options.state)
        if options.log is not None:
            print("\n".join(numbered(STORIES[options.log](scratch(), next(iter(LAYOUTS))).log)))
            return 0
        if options.bugs:
            return 0 if all(bug.caught or bug.covered for bug in hunt_all()[0]) else 1
        return run(options.states, report=not options.no_report)
    finally:
        clean(scratch())


def tell(name: str) -> int:
    """Judge one state again; 1 if it fails."""
    story, cut = recall(name, scratch())
    count = int(name.split("/")[3])
    for line in list(numbered(story.log))[max(0, count - 10) : count]:
        print(line)
    try:
        print(judge(story, cut, scratch()))
    except Failure as failure:
        print(f"fails: {failure}")
        return 1
    return 0


def run(states: int, *, report: bool) -> int:
    """The benchmark run: at least so many distinct states, then the seeded bugs."""
    began = time.process_time()
    # The short story has few states: the others share what it lacks.
    shares = [list(TASKS[n::PROCESSES]) for n in range(PROCESSES)]
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        found = Findings()
        seconds = 0.0
        for part, cost in pool.map(explore, [(one, states // PROCESSES) for one in shares]):
            found.add(part)
            seconds += cost
        print_outcomes(found)
    watched = watch_a_process()
    bugs, cost = hunt_all()
    seconds += cost
    seconds += time.process_time() - began
    if report:
        layout = next(iter(LAYOUTS))
        pairs = {name: pairs_of(STORIES[name](scratch(), layout)) for name in SWAPPED}
        write_report(found, bugs, pairs, watched, states, seconds)
    missed = [bug for bug in bugs if not (bug.caught or bug.covered)]
    short = len(found.media) < states
    if short:
        print(f"only {len(found.media)} distinct states were found", file=sys.stderr)
    return 1 if found.failures or missed or short or not watched.agree else 0


def explore(work: tuple[list[Task], int]) -> tuple[Findings, float]:
    """One process's share: some states of each kind, then rounds over its stories until it has seen its
    number of states.
    """
    tasks, states = work
    began = spent_s()
    folder = scratch()
    explorers = {task: Explorer(folder) for task in tasks}
    stories = {task: STORIES[task[0]](folder, task[1]) for task in tasks}
    total = Findings()
    for task, explorer in explorers.items():
        explore_again(stories[task], explorer)
        for fsck in (Fsck.FIRST, Fsck.LATER):
            cuts = range(0, len(stories[task].log) + 1, FSCK_EVERY)
            explorer.walk(stories[task], "eager", range(2, 5), cuts=cuts, fsck=fsck)
        print(f"{os.getpid()}: {len(explorer.findings.media)} states, {'/'.join(task)}", flush=True)
    start, size = 0, BATCH
    for _ in range(ROUNDS_MAX):
        for schedule in SCHEDULES:
            for task, explorer in explorers.items():
                if start and (task[0] == BY_ROOT_HASH or LAYOUTS[task[1]].device):
                    continue  # a state costs twice as much, or there are few: one round is enough
                explorer.walk(stories[task], schedule, range(start, start + size))
                media = set().union(*(one.findings.media for one in explorers.values()))
                print(f"{os.getpid()}: {len(media)} states, {'/'.join(task[:2])}", flush=True)
                if len(media) >= states:
                    break
            else:
                continue
            break
        else:
            start, size = start + size, size * 2
            continue
        break
    for explorer in explorers.values():
        total.add(explorer.findings)
    clean(folder)
    return total, spent_s() - began


def explore_again(story: Story, explorer: Explorer) -> None:
    """Second cuts, while the installer recovers from a first one."""
    chance = random.Random(story.path("again"))
    for _ in range(FIRST_CUTS):
        count, number = chance.randrange(1, len(story.log)), chance.randrange(2, 40)
        first = f"{story.path(chance.choice(SCHEDULES))}/{count}/{number}"
        again = cut_again(*recall(first, explorer.folder), first, explorer.folder)
        places = range(1, len(again.log) + 1)
        cuts = set(chance.sample(places, min(SECOND_CUTS, len(places))))
        explorer.walk(again, chance.choice(SCHEDULES), (chance.randrange(2), 2, 3), cuts=cuts)


def spent_s() -> float:
    """Seconds of processor time of this process and those that it has waited for."""
    return sum(os.times()[:4])


def watch_a_process() -> Watched:
    """The real program, as strace saw it, beside the recorder."""
    by_strace, by_recorder = install_twice(scratch())
    watched = Watched.of(by_strace, by_recorder)
    print(watched, flush=True)
    return watched


def hunt_all() -> tuple[list[Finding], float]:
    """Every seeded bug, and the seconds of processor time."""
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        parts = pool.map(hunt, range(PROCESSES))
    order = list(BugKind)
    bugs = sorted((bug for part, _ in parts for bug in part), key=lambda bug: order.index(bug.kind))
    return bugs, sum(cost for _, cost in parts)


def hunt(share: int) -> tuple[list[Finding], float]:
    """Every seeded bug of one process's share."""
    began = time.process_time()
    folder = scratch()
    layout = next(iter(LAYOUTS))
    stories = {name: STORIES[name](folder, layout) for name in STORIES}
    explorer = Explorer(folder)
    found: list[Finding] = []
    calls: dict[str, list[tuple[Story, Bug]]] = {}
    for story in stories.values():
        for bug in removed_calls(story):
            calls.setdefault(bug.name, []).append((story, bug))
    swaps: dict[str, list[tuple[Story, Bug]]] = {}
    for name in SWAPPED:
        for bug in swapped_steps(stories[name]):
            swaps.setdefault(bug.name, []).append((stories[name], bug))
    logs = [*calls.values(), *swaps.values()][share::PROCESSES]
    found += [tell_finding(look_for(one, explorer)) for one in logs]
    for mutant, (name, where) in list(MUTANTS.items())[share::PROCESSES]:
        right = STORIES[name](folder, where)
        judged = explorer if where == layout else Explorer(folder)
        title = (mutant.__doc__ or "").strip().splitlines()[0]
        try:
            with applied(mutant):
                story = STORIES[name](folder, where)
        except (Dead, Stuck) as error:
            finding = Finding(BugKind.ORDER, title, "while it is recorded", str(error))
        else:
            finding = look_for([(story, misplaced_step(story, right, title))], judged)
        found.append(tell_finding(finding))
    clean(folder)
    return found, time.process_time() - began


def tell_finding(bug: Finding) -> Finding:
    """As it comes: the list is long."""
    word = "caught" if bug.caught else "covered" if bug.covered else "NOT CAUGHT"
    print(f"{word}: {bug.bug}: {bug.failure or bug.covered} {bug.state} ({bug.states})", flush=True)
    return bug


def print_outcomes(found: Findings) -> None:
    print(f"{len(found.media)} distinct states, {len(found.seen)} of them distinct to a reader;"
          f" the installer was started {found.judged} times")  # fmt: skip
    for (story, outcome), count in sorted(found.outcomes.items(), key=str):
        print(f"{count:8d}  {story}: {outcome.boots} boots; {outcome.then}")
    for name, failure in found.failures[:20]:
        print(f"FAILURE  {failure}\n         python -m tests.crash --state '{name}'")
    print(f"{len(found.failures)} failures", flush=True)


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[2])
    sys.exit(main())

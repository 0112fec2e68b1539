"""make crash: cut the power everywhere, count, and write docs/crash-safety.md.

python -m tests.crash [--states 100000] [--no-report]      the benchmark run
python -m tests.crash --state NAME                         one state, told in words
python -m tests.crash --log STORY                          a story's operations, numbered
"""

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.crash.bugs import Bug, BugKind, Finding, look_for, removed_calls, swapped_steps
from tests.crash.explore import Explorer, Findings, numbered, recall, scratch
from tests.crash.judge import Failure, clean, judge
from tests.crash.machine import Stuck
from tests.crash.mutants import MUTANTS, applied
from tests.crash.report import write_report
from tests.crash.repository import Dead
from tests.crash.story import LAYOUTS, SCHEDULES, STORIES, Story

PROCESSES = 2
BATCH = 8  # numbers of states at every cut in the first round; doubled in each
ROUNDS_MAX = 7
BUG_STATES = 10  # at every cut of a seeded bug
Task = tuple[str, str]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--states", type=int, default=100_000, metavar="N")
    parser.add_argument("--state", metavar="NAME")
    parser.add_argument("--log", metavar="STORY", choices=STORIES)
    parser.add_argument("--no-report", action="store_true")
    options = parser.parse_args(arguments)
    try:
        if options.state is not None:
            return tell(options.state)
        if options.log is not None:
            print("\n".join(numbered(STORIES[options.log](scratch(), next(iter(LAYOUTS))).log)))
            return 0
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
    tasks = [(story, layout) for story in STORIES for layout in LAYOUTS]
    # The short story has few states: the others share what it lacks.
    shares = [tasks[n::PROCESSES] for n in range(PROCESSES)]
    with multiprocessing.get_context("fork").Pool(PROCESSES) as pool:
        found = Findings()
        seconds = 0.0
        for part, cost in pool.map(explore, [(one, states // PROCESSES) for one in shares]):
            found.add(part)
            seconds += cost
        print_outcomes(found)
        bugs: list[Finding] = []
        for part_bugs, cost in pool.map(hunt, range(PROCESSES)):
            bugs += part_bugs
            seconds += cost
    for bug in bugs:
        word = "caught" if bug.caught else "covered" if bug.covered else "not caught"
        print(f"{word}: {bug.bug}: {bug.failure or bug.covered}")
    seconds += time.process_time() - began
    if report:
        write_report(found, bugs, states, seconds)
    missed = [bug for bug in bugs if not (bug.caught or bug.covered or bug.kind is BugKind.SWAP)]
    short = len(found.media) < states
    if short:
        print(f"only {len(found.media)} distinct states were found", file=sys.stderr)
    return 1 if found.failures or missed or short else 0


def explore(work: tuple[list[Task], int]) -> tuple[Findings, float]:
    """One process's share: rounds over its stories until it has seen its number of states."""
    tasks, states = work
    began = time.process_time()
    folder = scratch()
    explorers = {task: Explorer(folder) for task in tasks}
    stories = {task: STORIES[task[0]](folder, task[1]) for task in tasks}
    total = Findings()
    start, size = 0, BATCH
    for _ in range(ROUNDS_MAX):
        for schedule in SCHEDULES:
            for task, explorer in explorers.items():
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
    return total, time.process_time() - began


def hunt(share: int) -> tuple[list[Finding], float]:
    """Every seeded bug of one process's share."""
    began = time.process_time()
    folder = scratch()
    layout = next(iter(LAYOUTS))
    found: list[Finding] = []
    bugs: list[tuple[Story, Bug]] = []
    for name in ("full update", "rollback"):
        story = STORIES[name](folder, layout)
        known = {bug.name for _, bug in bugs}
        bugs += [(story, bug) for bug in removed_calls(story) if bug.name not in known]
    for story, bug in bugs[share::PROCESSES]:
        found.append(look_for(story, bug, folder, BUG_STATES))
    for mutant, name in list(MUTANTS.items())[share::PROCESSES]:
        title = (mutant.__doc__ or "").strip().splitlines()[0]
        try:
            with applied(mutant):
                story = STORIES[name](folder, layout)
        except (Dead, Stuck) as error:
            found.append(Finding(BugKind.ORDER, title, "while it is recorded", str(error)))
            continue
        bug = Bug(BugKind.ORDER, title, story.log, range(1, len(story.log) + 1))
        found.append(look_for(story, bug, folder, BUG_STATES))
    story = STORIES["full update"](folder, layout)
    swaps = list(swapped_steps(story))[share::PROCESSES]
    found += [look_for(story, bug, folder, BUG_STATES) for bug in swaps]
    clean(folder)
    return found, time.process_time() - began


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

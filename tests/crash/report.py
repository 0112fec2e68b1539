"""docs/crash-safety.md: what is written by hand stays, what was counted is put between two marks."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.crash.bugs import BugKind, Finding, Pairs
from tests.crash.explore import Findings
from tests.crash.process import Watched

PAGE = Path("docs/crash-safety.md")
BEGIN, END = "<!-- counted: begin -->", "<!-- counted: end -->"


def write_report(
    found: Findings,
    bugs: Sequence[Finding],
    pairs: Mapping[str, Pairs],
    watched: Watched,
    asked: int,
    seconds: float,
) -> None:
    """Put the figures of a run into the page."""
    page = PAGE.read_text()
    head, _, rest = page.partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(
        f"{head}{BEGIN}\n{_figures(found, bugs, pairs, watched, asked, seconds)}{END}{tail}"
    )


def _figures(
    found: Findings,
    bugs: Sequence[Finding],
    pairs: Mapping[str, Pairs],
    watched: Watched,
    asked: int,
    seconds: float,
) -> str:
    lines = [
        (
            f"`make crash STATES={asked}`: **{len(found.media):,} distinct states** of all media,"
            f" {len(found.seen):,} of them distinct to a reader (the others differ in the second copy of"
            f" the FAT, in FSINFO and in clusters that are nobody's); the installer was started"
            f" {found.judged:,} times, on each of these; {seconds:,.0f} s of processor time."
            f" **{len(found.failures)} failures.** States are counted below once for each story that they"
            f" occur in."
        ),
        "",
        "| story | first boot | then | states |",
        "|---|---|---|---:|",
    ]
    for (story, outcome), count in sorted(found.outcomes.items(), key=str):
        lines.append(f"| {story} | {outcome.boots} | {outcome.then} | {count:,} |")
    for name, failure in found.failures[:20]:
        lines += ["", f"Fails: `python -m tests.crash --state '{name}'`: {failure}"]
    lines += ["", f"The real program: {watched}.", "", "### Seeded bugs", ""]
    for kind in BugKind:
        mine = [bug for bug in bugs if bug.kind is kind]
        words = Counter(_word(bug) for bug in mine)
        lines += [
            f"{kind.capitalize()}: " + ", ".join(f"{n} {word}" for word, n in words.items()) + ".",
            "",
            "| bug | | what shows it |",
            "|---|---|---|",
            *(f"| {_short(bug.bug)} | {_word(bug)} | {_shown(bug)} |" for bug in mine),
            "",
        ]
    lines += [
        f"Of the {one.count} neighbouring pairs of {name}, {one.dependent} cannot change places, since the "
        f"second step needs what the first made, and {one.apart} have a reboot between them."
        for name, one in pairs.items()
    ]
    return "\n".join(lines) + "\n"


def _word(bug: Finding) -> str:
    if bug.caught:
        return "caught"
    if bug.covered:
        return "covered"
    return "NOT CAUGHT"


def _shown(bug: Finding) -> str:
    if bug.caught:
        return f"{_short(bug.failure)} (`{_short(bug.state)}`)"
    if bug.covered:
        return f"{bug.covered}; {bug.states:,} states judged"
    return f"{bug.states:,} states judged, all right"


def _short(text: str) -> str:
    """Without what differs between machines, and in one cell of a table."""
    text = re.sub(r"(/dev/shm|/tmp)/crash-\d+/", "", text)
    text = re.sub(r"[0-9a-f]{60}([0-9a-f]{4})", r"…\1", text).replace("|", "/")
    return text if len(text) <= 160 else text[:157] + "…"

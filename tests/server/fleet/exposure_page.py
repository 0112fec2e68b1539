"""docs/exposure.md: what is written by hand stays, what was counted is put between two marks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.server.fleet.exposure import Exposure

PAGE = Path("docs/exposure.md")
BEGIN, END = "<!-- counted: begin -->", "<!-- counted: end -->"


@dataclass(frozen=True, slots=True)
class Hunt:
    """What became of one seeded fault: the steps until the machine noticed, or all that it made."""

    words: str
    steps: int
    evidence: str | None  # what the machine said; None: nothing


def write_page(asked: int, machine: type[Exposure], hunts: Sequence[Hunt], seconds: float) -> None:
    """Put the figures of a run into the page. `seconds` of processor time."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, tail = rest.partition(END)
    PAGE.write_text(f"{head}{BEGIN}\n{_figures(asked, machine, hunts, seconds)}{END}{tail}")


def _figures(asked: int, machine: type[Exposure], hunts: Sequence[Hunt], seconds: float) -> str:
    found = sum(hunt.evidence is not None for hunt in hunts)
    lines = [
        (
            f"`make bench-exposure STEPS={asked}`: **{machine.steps:,} steps**, each followed by a look at"
            f" every bound; none was broken. {machine.polls:,} polls; {machine.restarts:,} restarts,"
            f" {machine.kills:,} of them in the middle of a transaction; {seconds:,.0f} s of processor time."
        ),
        "",
        "| report | arrived |",
        "|---|---:|",
        *(f"| {kind} | {number:,} |" for kind, number in sorted(machine.reports.items())),
        f"| of all these, not for the first time | {machine.repeats:,} |",
        "",
        f"**{found} of {len(hunts)} seeded faults were found.**",
        "",
        "| fault | steps | what the machine said |",
        "|---|---:|---|",
        *(
            f"| {hunt.words} | {hunt.steps:,} | {hunt.evidence or '**not found**'} |"
            for hunt in hunts
        ),
    ]
    return "\n".join(lines) + "\n"

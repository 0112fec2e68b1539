"""What came of a simulated rollout, as values; and of several runs of it, in figures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from slipstream.server.rollout.judge import Tally
from slipstream.server.rollout.plan import AbortRule, FailureClass, Halting
from slipstream.server.rollout.record import Status


@dataclass(frozen=True, slots=True)
class Point:
    """How many devices there were at one time, all phases together. Seconds since the start."""

    at_s: int
    offered: int
    confirmed: int
    failed: int


@dataclass(frozen=True, slots=True)
class PhaseOutcome:
    """A phase that was opened. Times in seconds since the start of the rollout."""

    name: str
    members: int
    limit: int | None  # None: everybody who matches
    opened_s: int
    proved_s: int | None  # its success rule was met, for good or until the rollout stopped
    tally: Tally


@dataclass(frozen=True, slots=True)
class Stop:
    """The moment that a rollout was paused or aborted, and what had happened until then."""

    at_s: int
    halting: Halting
    phase: int  # index
    reason: str
    rule: AbortRule | None  # None: a phase before the newest one was not proved any more
    offered: int
    confirmed: int
    failed: int

    @property
    def in_flight(self) -> int:
        """Devices that were offered the release and had not said how it went."""
        return self.offered - self.confirmed - self.failed


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one run. Times in seconds since its start, which is `begin` seconds since 1970."""

    name: str
    release: str
    begin: int
    ended_s: int  # the last thing that happened
    status: Status
    reason: str  # of the status, or of what a rollout that did not end waits for
    devices: int  # the filter matched them, and they did not run the release
    phases: tuple[PhaseOutcome, ...]
    planned: tuple[str, ...]  # all phases, those that never opened too
    stop: Stop | None
    finished_s: int | None
    offered: int
    confirmed: int
    failures: Mapping[FailureClass, int]
    downloads_max: int  # devices that were fetching at once
    unavailable_max: int  # devices on their way at once
    curve: tuple[Point, ...]

    @property
    def failed(self) -> int:
        return sum(self.failures.values())

    @property
    def exposed(self) -> int:
        """Devices that had been offered the release when it stopped; all of them if it did not."""
        return self.offered if self.stop is None else self.stop.offered


@dataclass(frozen=True, slots=True)
class Figures:
    """The middle and the worst of a number over several runs."""

    least: float
    median: float
    most: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Several runs of one plan with different seeds."""

    runs: int
    stopped: int
    finished: int
    waiting: int  # neither: something is missing that never came
    exposed: Figures
    failed: Figures  # in the end, those on their way when it stopped included
    stopped_s: Figures | None
    finished_s: Figures | None


def summarize(outcomes: Sequence[Outcome]) -> Summary:
    """Figures over at least one outcome."""
    stops = [one.stop.at_s for one in outcomes if one.stop is not None]
    # One that finished may be paused later: by a device that regressed.
    done = [one.finished_s for one in outcomes if one.finished_s is not None and one.stop is None]
    exposed, failed = (
        figures([one.exposed for one in outcomes]),
        figures([one.failed for one in outcomes]),
    )
    assert exposed is not None
    assert failed is not None
    return Summary(
        len(outcomes),
        len(stops),
        len(done),
        len(outcomes) - len(stops) - len(done),
        exposed,
        failed,
        figures(stops),
        figures(done),
    )


def figures(values: Sequence[float]) -> Figures | None:
    """None of nothing."""
    return Figures(min(values), median(values), max(values)) if values else None


def span(seconds: float) -> str:
    """A time that passed, in two units at most: "45 s", "12 min", "3 h 20 min", "4 d 6 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    for large, small, unit, part in ((86_400, 3600, "d", "h"), (3600, 60, "h", "min")):
        if whole >= large:
            count, rest = divmod(round(whole / small), large // small)
            return f"{count} {unit} {rest} {part}" if rest else f"{count} {unit}"
    return f"{round(whole / 60)} min"

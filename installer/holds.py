"""Whether a step of an update may be taken now, and what it waits for if not. Pure.

Two steps can be held: the install (everything that is fetched and written) and the reboot into
what was installed. The way back from a release that failed is never held.

permission.py gathers the facts and runs the operator's command.
"""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from slipstream.delta.limits import CLOCK_S_MIN
from slipstream.delta.maintenance import Schedule

CHECK_S = 60.0  # inhibitors and the command are asked again after so long
WINDOW_SHARE = 0.9  # of an open window, for turns: the last one still has time to reboot
CLOCK_CHECK_S = 300.0  # no sleep is longer: the clock may be set in the meantime


class Step(StrEnum):
    """What may be held. INSTALL comes first: a hold of it holds the reboot as well."""

    INSTALL = "install"
    REBOOT = "reboot"


class HoldKind(StrEnum):
    """What a step waits for."""

    CLOCK = "clock"
    WINDOW = "window"
    INHIBITOR = "inhibitor"
    TURN = "turn"
    COMMAND = "command"
    SERVER = "server"


@dataclass(frozen=True, slots=True)
class Policy:
    """What the operator's configuration holds, and how.

    `window_holds` and `inhibit_holds` are the first step that windows, or inhibitor files and the
    command, hold. `reboot_spread_s`: planned reboots are spread by chance over so many seconds.
    """

    schedule: Schedule = field(default_factory=Schedule)
    window_holds: Step = Step.REBOOT
    inhibit_holds: Step = Step.REBOOT
    reboot_spread_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Facts:
    """The world at one moment.

    `clock` is the wall clock as it is; `signed` the latest time that was signed or built in: a
    clock before that is wrong, unless it is `synchronised`: then whoever signed was ahead.
    `inhibitors` are reasons, with the files that give them. `turn` is when this device's own
    reboot is due, of the spread; None before it is drawn.
    """

    clock: datetime
    signed: datetime
    inhibitors: tuple[str, ...] = ()
    turn: datetime | None = None
    synchronised: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """A step that waits. `reason` says for what; `until` when that comes, if it is known."""

    step: Step
    kind: HoldKind
    reason: str
    until: datetime | None = None

    def words(self, now: datetime) -> str:
        """Such as "the reboot waits for the window Sat 23:30-00:30 UTC, opens in 5 h"."""
        text = f"the {self.step} waits for {self.reason}"
        if self.until is None or self.until <= now:
            return text
        verb = "opens" if self.kind is HoldKind.WINDOW else "due"
        return f"{text}, {verb} in {span_words(self.until - now)}"


def find_hold(step: Step, policy: Policy, facts: Facts) -> Hold | None:
    """Why `step` may not be taken now; None if nothing but the command may still object."""
    if policy.schedule.windows and holds(policy.window_holds, step):
        if not clock_is_set(facts):
            reason = f"a clock that is set: it shows {facts.clock:%Y-%m-%d %H:%M}Z"
            return Hold(step, HoldKind.CLOCK, reason)
        if policy.schedule.open_at(facts.clock) is None:
            return _closed(step, policy.schedule, facts.clock)
    if facts.inhibitors and holds(policy.inhibit_holds, step):
        return Hold(step, HoldKind.INHIBITOR, "; ".join(facts.inhibitors))
    if step is Step.REBOOT and facts.turn is not None and facts.clock < facts.turn:
        return Hold(step, HoldKind.TURN, "its turn among other devices", facts.turn)
    return None


def holds(first: Step, step: Step) -> bool:
    """Whether what holds from `first` on holds `step`."""
    return first is Step.INSTALL or step is Step.REBOOT


def clock_is_set(facts: Facts) -> bool:
    """Whether the wall clock can be right: kept so, or no earlier than what was signed; and never
    earlier than this program."""
    if facts.clock.timestamp() < CLOCK_S_MIN:
        return False
    return facts.synchronised or facts.clock >= facts.signed


def draw_turn(policy: Policy, clock: datetime, chance: float) -> datetime:
    """When this device's planned reboot is due: within the spread, and while the window is open.

    `chance` is in [0, 1).
    """
    spread = timedelta(seconds=policy.reboot_spread_s)
    opening = policy.schedule.open_at(clock)
    if opening is not None:
        spread = min(spread, WINDOW_SHARE * (opening.end - clock))
    return clock + spread * chance


def stop_after_s(policy: Policy, clock: datetime) -> float | None:
    """Seconds until an install has to pause because the window closes; None if it need not."""
    if not policy.schedule.windows or policy.window_holds is not Step.INSTALL:
        return None
    opening = policy.schedule.open_at(clock)
    return 0.0 if opening is None else (opening.end - clock).total_seconds()


def recheck_s(hold: Hold, clock: datetime) -> float:
    """Seconds after which a hold is looked at again: at least 1."""
    if hold.until is None:
        return CHECK_S
    return min(max((hold.until - clock).total_seconds(), 1.0), CLOCK_CHECK_S)


def span_words(span: timedelta) -> str:
    """A span in its largest whole unit, rounded up: "3 days", "5 h", "12 min", "40 s"."""
    seconds = -(-span // timedelta(seconds=1))
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds > 2 * size:
            return f"{-(-seconds // size)} {unit}"
    return f"{seconds} s"


def _closed(step: Step, schedule: Schedule, clock: datetime) -> Hold:
    opening = schedule.next_after(clock)
    assert opening is not None  # every window has a day, and opens within eight
    reason = f"the window {opening.window} {schedule.zone_name}"
    return Hold(step, HoldKind.WINDOW, reason, opening.begin)

"""Numbers, times and states in words, and the mark that goes with a state. Pure."""

from datetime import UTC, datetime
from enum import StrEnum

from slipstream.server.rollout.plan import (
    AbortRule,
    FailureClass,
    Halting,
    Phase,
    Plan,
    SuccessRule,
    Urgency,
)
from slipstream.server.rollout.record import Status
from slipstream.server.rollout.track import State


class Mark(StrEnum):
    """What a state is like: each has a colour and a shape of its own (static/style.css)."""

    GOOD = "good"
    GOING = "going"
    WARN = "warn"
    BAD = "bad"
    NONE = "none"


STATUSES: dict[Status, tuple[str, Mark]] = {
    Status.WAITING: ("Waits for approval", Mark.WARN),
    Status.SCHEDULED: ("Scheduled", Mark.NONE),
    Status.RUNNING: ("Running", Mark.GOING),
    Status.PAUSED: ("Paused", Mark.WARN),
    Status.FINISHED: ("Finished", Mark.GOOD),
    Status.ABORTED: ("Aborted", Mark.BAD),
    Status.DENIED: ("Denied", Mark.NONE),
}
STATES: dict[State, tuple[str, Mark]] = {
    State.OFFERED: ("Offered", Mark.GOING),
    State.FETCHING: ("Downloading", Mark.GOING),
    State.INSTALLED: ("Installed, not confirmed yet", Mark.GOING),
    State.SILENT: ("Silent", Mark.WARN),
    State.CANCELLED: ("Taken back", Mark.NONE),
    State.FAILED: ("Failed", Mark.BAD),
    State.CONFIRMED: ("Confirmed", Mark.GOOD),
    State.FELL_BACK: ("Fell back", Mark.BAD),
    State.REGRESSED: ("Regressed", Mark.BAD),
}
FAILURES: dict[FailureClass, str] = {
    FailureClass.FETCH: "Could not download",
    FailureClass.REJECTED: "Refused by the device: signature, digest or rule",
    FailureClass.DEVICE: "Disk or boot loader",
    FailureClass.BOOT: "Tried it and fell back",
    FailureClass.ROOT: "Booted another root hash",
    FailureClass.SILENT: "Not heard of in time",
    FailureClass.REGRESSED: "Fell back after it was confirmed",
}
REPORTS: dict[str, tuple[str, Mark]] = {
    "installed": ("Installed {release}, not confirmed yet", Mark.GOING),
    "confirmed": ("Confirmed {release}", Mark.GOOD),
    "fell_back": ("Fell back from {release}", Mark.BAD),
    "failed": ("Could not install {release}", Mark.BAD),
    "progress": ("On its way to {release}", Mark.GOING),
}
EVENTS: dict[str, Mark] = {
    **{state.value: mark for state, (_, mark) in STATES.items()},
    "phase": Mark.GOING,
    "rollout": Mark.NONE,
    "lifted": Mark.NONE,
}
URGENCIES: dict[Urgency, str] = {
    Urgency.SOFT: "The device decides when",
    Urgency.FORCED: "At once: the device's own windows do not hold it",
    Urgency.TIME_FORCED: "The device decides until a moment, then at once",
}


def age_words(age_s: int) -> str:
    """An age in seconds, in words."""
    for seconds, word in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if age_s >= 2 * seconds:
            return f"{age_s // seconds} {word}s ago"
    return "just now" if age_s < 60 else f"{age_s} seconds ago"


def span_words(span_s: int) -> str:
    """A duration in seconds in its two largest units: 1 h 30 min."""
    if span_s < 60:
        return f"{max(0, span_s)} s"
    units = ((86400, "d"), (3600, "h"), (60, "min"))
    parts: list[str] = []
    left = span_s
    for seconds, word in units:
        number, left = divmod(left, seconds)
        if number or parts:
            parts.append(f"{number} {word}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 "))


def size_words(size: int) -> str:
    """A size in bytes, in words: 1.4 MB (powers of ten, as links are sold)."""
    if size < 1000:
        return f"{size} bytes"
    number = float(size)
    for unit in ("kB", "MB", "GB"):
        number /= 1000
        if number < 999.5:
            return f"{number:.1f} {unit}" if number < 99.95 else f"{number:.0f} {unit}"
    return f"{number / 1000:.1f} TB"


def count_words(number: int, one: str, many: str | None = None) -> str:
    """1 device, 12,345 devices."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def share_words(part: int, whole: int) -> str:
    """A share in percent; never rounded to 0 % or 100 % where it is neither."""
    if whole <= 0:
        return "0 %"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "< 0.1 %"
    if percent < 10 or 99 < percent < 100:
        return f"{min(percent, 99.9):.1f} %" if part else "0 %"
    return f"{percent:.0f} %"


def plain(value: object) -> str:
    """Any JSON value as text that a person can read."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(plain(one) for one in value)
        case dict():
            return "; ".join(f"{key} {plain(one)}" for key, one in value.items())
        case _:
            return str(value)


def moment_words(at: int) -> str:
    """A moment, in seconds since 1970: 2026-11-27 07:16 UTC."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def iso(at: int) -> str:
    """The same for machines: the `datetime` of an HTML `time`."""
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"


def phase_words(phase: Phase) -> str:
    """What a phase takes: 10 %, 50 devices, tag==canary."""
    return str(phase)


def rule_words(rule: AbortRule) -> str:
    """An abort rule as a sentence."""
    kinds = " or ".join(FAILURES[one].lower() for one in rule.classes)
    when: list[str] = []
    if rule.count is not None:
        when.append("at " + count_words(rule.count, "failure"))
    if rule.percent is not None:
        sample = f" of at least {count_words(rule.min_sample, 'device')}"
        when.append(f"above {rule.percent:g} %{sample}")
    act = "Pause" if rule.action is Halting.PAUSE else "Abort"
    return f"{act} {', or '.join(when)}" + (f" ({kinds})" if kinds else "")


def success_words(rule: SuccessRule) -> str:
    """A success rule as a sentence."""
    words = f"{rule.percent:g} % confirmed"
    if rule.min_sample > 1:
        words += f", at least {rule.min_sample:,}"
    return f"{words}, or {count_words(rule.count, 'device')}" if rule.count is not None else words


def plan_rows(plan: Plan) -> list[tuple[str, str]]:
    """A plan in words: (what, how) for each of its parts that says something."""
    rows = [
        ("Release", f"{plan.release}, no. {plan.counter}"),
        ("For", f"{plan.product}, channel {plan.channel}"),
        ("Devices", plan.filter or "all"),
        ("Order", f"even over {plan.stratify_by}, shuffled" if plan.stratify_by else "shuffled"),
        ("Silent after", span_words(plan.silent_after_s)),
        ("Urgency", URGENCIES[plan.urgency]),
    ]
    if plan.forced_at is not None:
        rows.append(("Forced from", moment_words(plan.forced_at)))
    if plan.download_only:
        rows.append(("Installs", "no: downloads only"))
    if plan.start_at is not None:
        rows.append(("Starts", moment_words(plan.start_at)))
    if plan.windows:
        rows.append(("Offers begin", f"{'; '.join(plan.windows)} ({plan.zone})"))
    rows.extend(
        (
            "At once",
            f"{count_words(one.max_unavailable, 'device')} with the same {one.label}",
        )
        for one in plan.budgets
    )
    if plan.max_downloads is not None:
        rows.append(("Downloads at once", f"{plan.max_downloads:,}"))
    return rows
